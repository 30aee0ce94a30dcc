// C(M, N) = A(M, K) B(K, N) in float32, row-major: blocked for caches and registers, vectorised, OpenMP.
//
// Three levels, after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): cache tiles
// of TILE_M x TILE_N x TILE_K, in them register blocks of MICRO_M x MICRO_N whose sums stay in registers while K runs,
// and optionally operands packed so that the innermost loop reads them one after another.
//
// g++ -O3 -std=c++17 -fopenmp -Ikernels kernels/gemm/gemm.cpp kernels/gemm/reference.cpp kernels/harness.cpp -o gemm
#include "harness.h"
#include "gemm/reference.h"

#ifndef TILE_M
#define TILE_M 64
#endif
#ifndef TILE_N
#define TILE_N 64
#endif
#ifndef TILE_K
#define TILE_K 64
#endif
#ifndef MICRO_M
#define MICRO_M 4
#endif
#ifndef MICRO_N
#define MICRO_N 8
#endif
#ifndef UNROLL
#define UNROLL 1  // of the loop over K in a register block
#endif
#ifndef LOOP_ORDER
#define LOOP_ORDER 0  // of the tiles: 0 m-n-k, 1 n-m-k, 2 m-k-n, 3 n-k-m
#endif
#ifndef PACK
#define PACK 0  // 0 nothing, 1 B, 2 A and B
#endif
#ifndef SCHEDULE
#define SCHEDULE static
#endif

#include "micro.h"  // after UNROLL

static_assert(TILE_M % MICRO_M == 0 && TILE_N % MICRO_N == 0, "a tile is made of whole register blocks");

namespace {

using loops::Floats;
using loops::ceil_div;
using loops::min;

struct Problem {
  const float *a, *b;
  float* c;
  long m, n, k;
};

// Panels of MICRO_M rows, the rows of a panel side by side: packed[panel][p][i].
void pack_a(const Problem& x, Floats& packed, int threads) {
  PARALLEL_FOR(threads, SCHEDULE)
  for (long panel = 0; panel < ceil_div(x.m, MICRO_M); ++panel) {
    float* out = packed.data() + panel * x.k * MICRO_M;
    for (long p = 0; p < x.k; ++p)
      for (long i = 0; i < MICRO_M; ++i) {
        const long row = panel * MICRO_M + i;
        out[p * MICRO_M + i] = row < x.m ? x.a[row * x.k + p] : 0.0f;
      }
  }
}

// Panels of MICRO_N columns: packed[panel][p][j].
void pack_b(const Problem& x, Floats& packed, int threads) {
  PARALLEL_FOR(threads, SCHEDULE)
  for (long panel = 0; panel < ceil_div(x.n, MICRO_N); ++panel) {
    float* out = packed.data() + panel * x.k * MICRO_N;
    for (long p = 0; p < x.k; ++p)
      for (long j = 0; j < MICRO_N; ++j) {
        const long column = panel * MICRO_N + j;
        out[p * MICRO_N + j] = column < x.n ? x.b[p * x.n + column] : 0.0f;
      }
  }
}

// The first tile along K sets the result, the others add to it.
inline void store(const float (&sums)[MICRO_M][MICRO_N], float* c, long c_row, long rows, long cols, bool first) {
  for (long i = 0; i < rows; ++i) {
    if (first) {
      SIMD for (long j = 0; j < cols; ++j) c[i * c_row + j] = sums[i][j];
    } else {
      SIMD for (long j = 0; j < cols; ++j) c[i * c_row + j] += sums[i][j];
    }
  }
}

// All register blocks of one cache tile. Packed operands are padded with zeros, so their blocks are always whole.
void tile(const Problem& x, const float* packed_a, const float* packed_b, long m0, long n0, long k0) {
  const long m1 = min(m0 + TILE_M, x.m), n1 = min(n0 + TILE_N, x.n), depth = min(TILE_K, x.k - k0);
  for (long j = n0; j < n1; j += MICRO_N)
    for (long i = m0; i < m1; i += MICRO_M) {
      const float* a = packed_a ? packed_a + (i / MICRO_M * x.k + k0) * MICRO_M : x.a + i * x.k + k0;
      const float* b = packed_b ? packed_b + (j / MICRO_N * x.k + k0) * MICRO_N : x.b + k0 * x.n + j;
      const long a_row = packed_a ? 1 : x.k, a_step = packed_a ? MICRO_M : 1, b_step = packed_b ? MICRO_N : x.n;
      const long rows = min(MICRO_M, m1 - i), cols = min(MICRO_N, n1 - j);
      float sums[MICRO_M][MICRO_N] = {};
      micro::block(sums, a, a_row, a_step, b, b_step, 1, depth, packed_a ? MICRO_M : rows, packed_b ? MICRO_N : cols);
      store(sums, x.c + i * x.n + j, x.n, rows, cols, k0 == 0);
    }
}

void gemm(const Problem& x, Floats& packed_a, Floats& packed_b, int threads) {
  if (PACK >= 1) pack_b(x, packed_b, threads);
  if (PACK >= 2) pack_a(x, packed_a, threads);
  const float* a = PACK >= 2 ? packed_a.data() : nullptr;
  const float* b = PACK >= 1 ? packed_b.data() : nullptr;
  const long tiles_m = ceil_div(x.m, TILE_M), tiles_n = ceil_div(x.n, TILE_N), tiles_k = ceil_div(x.k, TILE_K);
#if LOOP_ORDER == 0 || LOOP_ORDER == 2
  PARALLEL_FOR(threads, SCHEDULE)
  for (long i = 0; i < tiles_m; ++i) {
#if LOOP_ORDER == 0
    for (long j = 0; j < tiles_n; ++j)
      for (long p = 0; p < tiles_k; ++p) tile(x, a, b, i * TILE_M, j * TILE_N, p * TILE_K);
#else
    for (long p = 0; p < tiles_k; ++p)
      for (long j = 0; j < tiles_n; ++j) tile(x, a, b, i * TILE_M, j * TILE_N, p * TILE_K);
#endif
  }
#else
  PARALLEL_FOR(threads, SCHEDULE)
  for (long j = 0; j < tiles_n; ++j) {
#if LOOP_ORDER == 1
    for (long i = 0; i < tiles_m; ++i)
      for (long p = 0; p < tiles_k; ++p) tile(x, a, b, i * TILE_M, j * TILE_N, p * TILE_K);
#else
    for (long p = 0; p < tiles_k; ++p)
      for (long i = 0; i < tiles_m; ++i) tile(x, a, b, i * TILE_M, j * TILE_N, p * TILE_K);
#endif
  }
#endif
}

// One multiplication with its operands and buffers.
struct Multiplication {
  long m, n, k;
  Floats a, b, c, packed_a, packed_b;

  Multiplication(long m, long n, long k)
      : m(m), n(n), k(k), a(m * k), b(k * n), c(m * n), packed_a(PACK >= 2 ? ceil_div(m, MICRO_M) * MICRO_M * k : 0),
        packed_b(PACK >= 1 ? ceil_div(n, MICRO_N) * MICRO_N * k : 0) {
    a.fill(1);
    b.fill(2);
  }
  void run(int threads) { gemm({a.data(), b.data(), c.data(), m, n, k}, packed_a, packed_b, threads); }
  double error(int threads) {
    c.poison();
    run(threads);
    Floats expected(c.size());
    reference::gemm(a.data(), b.data(), expected.data(), m, n, k);
    return harness::max_rel_error(c.data(), expected.data(), c.size());
  }
};

struct Gemm : harness::Kernel {
  explicit Gemm(const harness::Options& options)
      : timed(options.integer("m", 384, 1, 1 << 15), options.integer("n", 384, 1, 1 << 15),
              options.integer("k", 384, 1, 1 << 15)),
        threads(static_cast<int>(options.integer("threads", 1, 1, 1024))) {}

  harness::Facts facts() const override {
    const double m = timed.m, n = timed.n, k = timed.k;
    return {{"flop", 2 * m * n * k}, {"bytes_moved", 4 * (m * k + k * n + m * n)}};
  }

  harness::Check verify() override {
    Multiplication odd(37, 29, 41);  // remainders of every tile size
    Multiplication thin(5, 3, 131);
    // Summed in float32 in any order, a sum of K products errs by at most K * 2^-24 of the sum of their magnitudes;
    // with operands from -1 to 1 the largest result is some sqrt(K) / 3 of that, so errors stay near sqrt(K) * 2^-24.
    // K = 384 gives 1.2e-6; the bound leaves room for the re-association that -ffast-math allows, and for larger K.
    return {{{"max_rel_error", timed.error(threads)},
             {"max_rel_error_odd", odd.error(threads)},
             {"max_rel_error_thin", thin.error(threads)}},
            {{"max_rel_error", 2e-5}, {"max_rel_error_odd", 2e-5}, {"max_rel_error_thin", 2e-5}},
            {}};
  }

  void run(harness::Reading&) override { timed.run(threads); }

  Multiplication timed;
  int threads;
};

}  // namespace

std::unique_ptr<harness::Kernel> harness::make(const Options& options) { return std::make_unique<Gemm>(options); }
