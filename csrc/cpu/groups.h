// Labels as small numbers, which the loops compare faster.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "host/check.h"

namespace fused_losses {

// The labels as numbers from 0 on: equal where they are. One that no column has is -1.
struct Groups {
  std::vector<int32_t> rows, columns;

  Groups(const int64_t* row_labels, int64_t n_rows, const int64_t* column_labels, int64_t n_columns) {
    if (n_columns > std::numeric_limits<int32_t>::max()) refuse("all pairs", "fewer than 2**31 rows, got more");
    std::vector<int64_t> known(column_labels, column_labels + n_columns);
    std::sort(known.begin(), known.end());
    known.erase(std::unique(known.begin(), known.end()), known.end());
    const auto number = [&](int64_t label) {
      const auto found = std::lower_bound(known.begin(), known.end(), label);
      return found != known.end() && *found == label ? static_cast<int32_t>(found - known.begin()) : -1;
    };
    for (int64_t i = 0; i < n_rows; ++i) rows.push_back(number(row_labels[i]));
    for (int64_t j = 0; j < n_columns; ++j) columns.push_back(number(column_labels[j]));
  }
};

}  // namespace fused_losses
