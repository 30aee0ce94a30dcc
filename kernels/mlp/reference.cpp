#include "reference.h"

#include <cmath>
#include <vector>

namespace reference {

void mlp(const float* x, const float* w1, const float* b1, const float* w2, const float* b2, float* y, long rows,
         long in, long hidden, long out) {
  std::vector<double> h(static_cast<std::size_t>(hidden)), sums(static_cast<std::size_t>(out));
  for (long i = 0; i < rows; ++i) {
    for (long j = 0; j < hidden; ++j) h[j] = b1[j];
    for (long t = 0; t < in; ++t)
      for (long j = 0; j < hidden; ++j) h[j] += static_cast<double>(x[i * in + t]) * w1[t * hidden + j];
    for (double& z : h) z = 0.5 * z * (1 + std::tanh(0.79788456080286535588 * (z + 0.044715 * z * z * z)));
    for (long j = 0; j < out; ++j) sums[j] = b2[j];
    for (long t = 0; t < hidden; ++t)
      for (long j = 0; j < out; ++j) sums[j] += h[t] * w2[t * out + j];
    for (long j = 0; j < out; ++j) y[i * out + j] = static_cast<float>(sums[j]);
  }
}

}  // namespace reference
