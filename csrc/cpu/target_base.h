// Opens the target of the "base" loops: everything included after this is compiled for it, in namespace base.
#pragma once

#include "cpu/loop_headers.h"

#define FL_ISA base
