// What gemm must compute: plain, in double precision, compiled apart from the knobs.
#pragma once

namespace reference {

// C(M, N) = A(M, K) B(K, N), row-major.
void gemm(const float* a, const float* b, float* c, long m, long n, long k);

}  // namespace reference
