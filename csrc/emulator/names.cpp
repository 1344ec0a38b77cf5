// Names and lines of code addresses, for the messages of the emulator.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

#include "emulator/machine.h"

namespace fused_losses::emulator {
namespace {

// "void fused_losses::cuda::(anonymous namespace)::kernel<X>(Y)" without what goes without saying: kernel<X>.
std::string shortened(std::string name) {
  for (const char* part : {"fused_losses::cuda::", "(anonymous namespace)::", "fused_losses::"}) {
    for (size_t at; (at = name.find(part)) != std::string::npos;) name.erase(at, std::string(part).size());
  }
  if (name.starts_with("void ")) name.erase(0, 5);
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (name[i] == '(' && depth == 0) return name.substr(0, i);
  }
  return name;
}

// "at <folder>/csrc/cuda/x.cu:3 (discriminator 2)" as "csrc/cuda/x.cu:3".
std::string place_in_sources(std::string place) {
  const size_t folder = place.find("csrc/"), end = place.find(' ');
  if (end != std::string::npos) place.erase(end);
  return folder == std::string::npos ? place : place.substr(folder);
}

}  // namespace

std::string name_of(const void* address) {
  Dl_info library;
  if (!dladdr(address, &library)) return "unknown";
  std::ostringstream command;
  command << "addr2line -Cfi -e '" << library.dli_fname << "' " << std::hex << "0x"
          << reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(library.dli_fbase) << " 2>/dev/null";
  FILE* pipe = popen(command.str().c_str(), "r");
  if (!pipe) return "unknown";
  std::string output;
  for (char part[512]; fgets(part, sizeof(part), pipe);) output += part;
  pclose(pipe);
  std::istringstream lines(output);
  std::string text, function, place;
  while (std::getline(lines, function) && std::getline(lines, place)) {
    if (!text.empty()) text += ", called by ";
    text += shortened(function);
    if (place.find('?') == std::string::npos) text += " at " + place_in_sources(place);
  }
  return text.empty() ? "unknown" : text;
}

}  // namespace fused_losses::emulator
