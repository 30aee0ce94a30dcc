#include "softmax.h"

#include <algorithm>
#include <cmath>

#ifndef LANES
#define LANES 1 // partial sums, which a compiler may keep in one register
#endif

void softmax(float* x, int rows, int columns) {
  for (int r = 0; r < rows; ++r, x += columns) {
    const float most = *std::max_element(x, x + columns);
    float sums[LANES] = {};
    for (int c = 0; c < columns; c += LANES)
      for (int lane = 0; lane < LANES; ++lane) sums[lane] += x[c + lane] = std::exp(x[c + lane] - most);
    float sum = 0;
    for (float part : sums) sum += part;
    for (int c = 0; c < columns; ++c) x[c] /= sum;
  }
}
