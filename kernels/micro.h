// The innermost loops of every matrix product: a register block of sums. Define UNROLL before including it.
#pragma once

#include "loops.h"

namespace micro {

// sums(i, j) += Σ_t a[i * a_row + t * a_step] * b[t * b_step + j * b_next] for t < count: a is broadcast, b a vector.
// WHOLE: all rows and columns, so that the bounds are constants, the sums stay in registers and the loops vectorise.
template <bool WHOLE, int ROWS, int COLS>
inline void multiply_add(float (&sums)[ROWS][COLS], const float* __restrict a, long a_row, long a_step,
                         const float* __restrict b, long b_step, long b_next, long count, long edge_rows,
                         long edge_cols) {
  const long rows = WHOLE ? ROWS : edge_rows, cols = WHOLE ? COLS : edge_cols;
  UNROLLED(UNROLL)
  for (long t = 0; t < count; ++t)
    for (long i = 0; i < rows; ++i) {
      const float factor = a[i * a_row + t * a_step];
      SIMD for (long j = 0; j < cols; ++j) sums[i][j] += factor * b[t * b_step + j * b_next];
    }
}

// Of the first `rows` rows and `cols` columns; a stride of 1 is told to the compiler as a constant.
template <int ROWS, int COLS>
inline void block(float (&sums)[ROWS][COLS], const float* a, long a_row, long a_step, const float* b, long b_step,
                  long b_next, long count, long rows, long cols) {
  const bool whole = rows == ROWS && cols == COLS;
  if (whole && b_next == 1)
    multiply_add<true>(sums, a, a_row, a_step, b, b_step, 1, count, rows, cols);
  else if (whole)
    multiply_add<true>(sums, a, a_row, a_step, b, b_step, b_next, count, rows, cols);
  else
    multiply_add<false>(sums, a, a_row, a_step, b, b_step, b_next, count, rows, cols);
}

}  // namespace micro
