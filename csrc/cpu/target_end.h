// Closes the target that a header opened, where the compiler asks for it: the last line of a translation unit.
#if defined(__clang__) && defined(FL_HAS_AVX2)
#pragma clang attribute pop
#endif
