// How large the tile of a product is. Free of torch, so that the module can set it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace fused_losses {

// Bytes of a tile that a test has chosen; 0: what suits the device.
inline std::atomic<int64_t> chosen_tile_bytes{0};

// Rows of a tile, of which `all` are cut into equal parts; row_bytes: of all that is kept of one row.
template <class Device>
int64_t tile_rows(int64_t all, int64_t row_bytes) {
  const int64_t chosen = chosen_tile_bytes.load(std::memory_order_relaxed);
  const int64_t least = chosen > 0 ? 1 : Device::kLeastRows, bytes = chosen > 0 ? chosen : Device::kTileBytes;
  const int64_t most = std::max(least, bytes / std::max<int64_t>(row_bytes, 1));
  const int64_t parts = std::max<int64_t>((all + most - 1) / most, 1);
  return std::max<int64_t>((all + parts - 1) / parts, 1);
}

}  // namespace fused_losses
