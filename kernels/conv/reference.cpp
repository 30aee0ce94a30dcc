#include "reference.h"

#include <algorithm>

namespace reference {

void conv(const Conv& d, const float* x, const float* w, const float* bias, float* y) {
  for (long n = 0; n < d.n; ++n)
    for (long o = 0; o < d.o; ++o)
      for (long p = 0; p < d.p(); ++p)
        for (long q = 0; q < d.q(); ++q) {
          double sum = bias[o];
          for (long c = 0; c < d.c; ++c)
            for (long r = 0; r < d.r; ++r)
              for (long s = 0; s < d.s; ++s) {
                const long i = p * d.stride + r - d.pad, j = q * d.stride + s - d.pad;
                if (i < 0 || i >= d.h || j < 0 || j >= d.w) continue;
                sum += static_cast<double>(x[((n * d.c + c) * d.h + i) * d.w + j]) * w[((o * d.c + c) * d.r + r) * d.s + s];
              }
          y[((n * d.o + o) * d.p() + p) * d.q() + q] = static_cast<float>(std::max(sum, 0.0));
        }
}

}  // namespace reference
