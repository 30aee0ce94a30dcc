#include "rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "parallel.h"

namespace decoder {
namespace {

// The indices of the `count` smallest in any order; of equals the higher index is smaller.
std::vector<long> smallest(const std::vector<double>& sizes, long count) {
  std::vector<long> order(sizes.size());
  std::iota(order.begin(), order.end(), 0L);
  std::nth_element(order.begin(), order.begin() + count, order.end(),
                   [&](long a, long b) { return sizes[a] != sizes[b] ? sizes[a] < sizes[b] : a > b; });
  order.resize(static_cast<std::size_t>(count));
  return order;
}

}  // namespace

std::vector<std::uint8_t> prune(std::vector<float>& w, long rows, long cols, Pruning how, long percent, long lanes) {
  std::vector<std::uint8_t> keep(w.size(), 1);
  if (how == MAGNITUDE) {
    in_parallel(rows, 8 * cols, [&](long i) {
      std::vector<double> sizes(static_cast<std::size_t>(cols));
      for (long j = 0; j < cols; ++j) sizes[j] = std::fabs(w[i * cols + j]);
      for (const long j : smallest(sizes, cols * percent / 100)) keep[i * cols + j] = 0;
    });
  } else if (how == TWO_OF_FOUR) {
    in_parallel(rows, 8 * cols, [&](long i) {
      std::vector<double> sizes(4);
      for (long j = 0; j + 4 <= cols; j += 4) {
        for (long k = 0; k < 4; ++k) sizes[k] = std::fabs(w[i * cols + j + k]);
        for (const long k : smallest(sizes, 2)) keep[i * cols + j + k] = 0;
      }
    });
  } else if (how == BLOCK) {
    in_parallel((rows + lanes - 1) / lanes, lanes * cols, [&](long block) {
      const long first = block * lanes, last = std::min(first + lanes, rows);
      std::vector<double> sizes(static_cast<std::size_t>(cols), 0.0);
      for (long i = first; i < last; ++i)
        for (long j = 0; j < cols; ++j) sizes[j] += static_cast<double>(w[i * cols + j]) * w[i * cols + j];
      for (const long j : smallest(sizes, cols * percent / 100))
        for (long i = first; i < last; ++i) keep[i * cols + j] = 0;
    });
  }
  for (std::size_t i = 0; i < w.size(); ++i)
    if (!keep[i]) w[i] = 0.0f;
  return keep;
}

Rounded round_to(const std::vector<float>& w, long rows, long cols, int bits, long group) {
  const long groups = (cols + group - 1) / group;
  const float most = static_cast<float>((1 << (bits - 1)) - 1);
  Rounded out{std::vector<std::int8_t>(w.size()), std::vector<float>(static_cast<std::size_t>(rows * groups))};
  in_parallel(rows, 4 * cols, [&](long i) {
    for (long g = 0; g < groups; ++g) {
      const long first = g * group, last = std::min(first + group, cols);
      float largest = 0;
      for (long j = first; j < last; ++j) largest = std::max(largest, std::fabs(w[i * cols + j]));
      const float scale = largest / most;
      out.scales[i * groups + g] = scale;
      for (long j = first; j < last; ++j)
        out.values[i * cols + j] =
            scale > 0 ? static_cast<std::int8_t>(std::nearbyint(w[i * cols + j] / scale)) : std::int8_t{0};
    }
  });
  return out;
}

std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace decoder
