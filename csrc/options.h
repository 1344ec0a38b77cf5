// Every option of every loss as a named number. A call's options travel as a list of doubles in the order that the
// table of losses (losses.h) gives their names; it is unpacked once, into `Options`, and read by name from there on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace fused_losses {

constexpr double kNoIndex = std::numeric_limits<double>::quiet_NaN();  // an ignore_index that equals nothing

// Those of a custom loss are numbered; count: the positions of a region, known to the host.
#ifdef FL_CUSTOM
#define FL_CUSTOM_OPTIONS(X) \
  X(count, 0)                \
  X(custom_0, 0)             \
  X(custom_1, 0) X(custom_2, 0) X(custom_3, 0) X(custom_4, 0) X(custom_5, 0) X(custom_6, 0) X(custom_7, 0)
#else
#define FL_CUSTOM_OPTIONS(X)
#endif

// X(name, the value that has no effect). A flag is 0 or 1, a choice the number of one, e.g. of an Activation.
#define FL_OPTIONS(X)       \
  X(absent, 0)              \
  X(activation, 0)          \
  X(alpha, -1)              \
  X(average, 0)             \
  X(base, 0)                \
  X(batch, 0)               \
  X(beta, 1)                \
  X(ce_weight, 0)           \
  X(class_weight_0, 1)      \
  X(class_weight_1, 1)      \
  X(delta, 1)               \
  X(dice_weight, 1)         \
  X(dim, 0)                 \
  X(epsilon, 0)             \
  X(first, 0)               \
  X(focal_activation, 0)    \
  X(focal_weight, 0)        \
  X(gamma, 0)               \
  X(ignore_index, kNoIndex) \
  X(include_background, 1)  \
  X(k, 0)                   \
  X(label_smoothing, 0)     \
  X(likelihood, 0)          \
  X(log_target, 0)          \
  X(margin, 1)              \
  X(max_order, 4)           \
  X(sigma, 1)               \
  X(smooth, 1)              \
  X(smooth_dr, 0)           \
  X(smooth_nr, 0)           \
  X(soft, 0)                \
  X(softcap, 0)             \
  X(squared, 0)             \
  X(temperature, 1)         \
  X(z_loss, 0)              \
  FL_CUSTOM_OPTIONS(X)

struct Options {
#define FL_MEMBER(name, none) double name = none;
  FL_OPTIONS(FL_MEMBER)
#undef FL_MEMBER

  bool ignores() const { return ignore_index == ignore_index; }
};

namespace detail {
struct OptionMember {
  std::string_view name;
  double Options::* member;
};
inline constexpr OptionMember kOptionMembers[] = {
#define FL_ENTRY(name, none) {#name, &Options::name},
    FL_OPTIONS(FL_ENTRY)
#undef FL_ENTRY
};
}  // namespace detail

// The options of one loss, in the order of their list: names separated by spaces. An unknown name does not compile.
class OptionNames {
 public:
  consteval explicit OptionNames(std::string_view names) : text_(names) {
    while (!names.empty()) {
      const size_t end = names.find(' ');
      const std::string_view name = names.substr(0, end);
      names = end == std::string_view::npos ? std::string_view() : names.substr(end + 1);
      members_[count_++] = find(name);
    }
  }

  constexpr size_t count() const { return count_; }
  constexpr std::string_view text() const { return text_; }

  // The list `given`, by name. `op` is for the message of a list of another length.
  Options read(std::string_view op, const std::vector<double>& given) const {
    if (given.size() != count_) {
      throw std::runtime_error(std::string(op) + ": expected " + std::to_string(count_) + " options (" +
                               std::string(text_) + "), got " + std::to_string(given.size()));
    }
    Options options;
    for (size_t i = 0; i < count_; ++i) options.*members_[i] = given[i];
    return options;
  }

 private:
  static consteval double Options::* find(std::string_view name) {
    for (const detail::OptionMember& option : detail::kOptionMembers) {
      if (option.name == name) return option.member;
    }
    throw std::logic_error("FL_OPTIONS has no such option");
  }

  std::string_view text_;
  size_t count_ = 0;
  std::array<double Options::*, 16> members_{};
};

}  // namespace fused_losses
