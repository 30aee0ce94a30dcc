// Which weights of a matrix are dropped, and to which integers the others are rounded. Compiled once, apart from the
// knobs: a compiler's liberties with floating point must not change the model.
#pragma once

#include <cstdint>
#include <vector>

namespace decoder {

enum Pruning { DENSE = 0, MAGNITUDE = 1, TWO_OF_FOUR = 2, BLOCK = 3 };

// Sets the dropped weights of w (rows, cols) to zero; returns keep (rows, cols), 1 where a weight stays.
//   MAGNITUDE    the smallest `percent` of each row
//   TWO_OF_FOUR  the two smallest of every four neighbours of a row (a rest of less than four stays)
//   BLOCK        of every `lanes` neighbouring rows, the columns whose part there is smallest in the 2-norm, `percent`
// Of equals the one with the higher index is dropped.
std::vector<std::uint8_t> prune(std::vector<float>& w, long rows, long cols, Pruning how, long percent, long lanes);

// Symmetric integers of `bits` with one scale for each `group` neighbours of a row (the last group may be shorter).
struct Rounded {
  std::vector<std::int8_t> values;  // (rows, cols), from -(2^(bits-1) - 1) to 2^(bits-1) - 1
  std::vector<float> scales;        // (rows, groups)
};
Rounded round_to(const std::vector<float>& w, long rows, long cols, int bits, long group);

std::uint16_t to_bf16(float value);  // to nearest, ties to even

}  // namespace decoder
