#include "reference.h"

#include <vector>

namespace reference {

void gemm(const float* a, const float* b, float* c, long m, long n, long k) {
  std::vector<double> row(static_cast<std::size_t>(n));
  for (long i = 0; i < m; ++i) {
    row.assign(row.size(), 0.0);
    for (long p = 0; p < k; ++p)
      for (long j = 0; j < n; ++j) row[j] += static_cast<double>(a[i * k + p]) * b[p * n + j];
    for (long j = 0; j < n; ++j) c[i * n + j] = static_cast<float>(row[j]);
  }
}

}  // namespace reference
