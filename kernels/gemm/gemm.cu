// C(M, N) = A(M, K) B(K, N), row-major, on a GPU: A and B in float, f16 or bf16, sums and C in float.
//
// A block computes a tile of BLOCK_M x BLOCK_N, BLOCK_K terms at a time (tile.cuh). The defaults are the textbook's tile
// of 16 x 16 threads with one sum each. How it is launched says launch.py, which also knows every size that is asserted.
//
// nvcc -std=c++17 -arch=sm_90 -Ikernels -cubin kernels/gemm/gemm.cu -o gemm.cubin
#include "device.cuh"
#include "tile_knobs.cuh"

#ifndef PREFETCH
#define PREFETCH 0  // operands of the next term are read from shared memory before this one is multiplied
#endif
#ifndef LAYOUT_A
#define LAYOUT_A 0  // in shared memory: 0 terms side by side (as in A), 1 rows side by side (transposed)
#endif
#ifndef SWIZZLE
#define SWIZZLE 1  // rows of tiles that neighbouring blocks work on together, so that they find B in the L2 cache
#endif
#ifndef SPLIT_K
#define SPLIT_K 1  // blocks that share the terms of one tile
#endif

#include "tile.cuh"  // after MIN_BLOCKS

namespace {

using T = tile::Storage<PRECISION>::Type;
using TileA = tile::Operand<T, BLOCK_M, BLOCK_K, PAD, TENSOR || LAYOUT_A == 0>;
using TileB = tile::Operand<T, BLOCK_N, BLOCK_K, PAD, false>;

#if TENSOR
using Sums = tile::WarpSums<TileA, TileB, WARP_M, WARP_N, FRAGMENTS == 1>;
#else
using Sums = tile::ThreadSums<TileA, TileB, THREAD_M, THREAD_N, UNROLL, PREFETCH != 0>;
#endif
constexpr int THREADS = Sums::THREADS;
constexpr int BYTES = STAGES * (TileA::BYTES + TileB::BYTES);

ASSERT_LAUNCH(THREADS, BYTES);
static_assert(!TENSOR || PRECISION != 0, "tensor cores multiply numbers of 16 bits");

// The tile of C that a block computes. Blocks walk down SWIZZLE rows of tiles before they go to the next column.
DEVICE void place(int m, int n, int& row, int& column) {
  const int tiles_m = (m + BLOCK_M - 1) / BLOCK_M, tiles_n = (n + BLOCK_N - 1) / BLOCK_N;
  const int block = static_cast<int>(blockIdx.x);
  const int first = block / (SWIZZLE * tiles_n) * SWIZZLE;
  const int rows = tiles_m - first < SWIZZLE ? tiles_m - first : SWIZZLE, within = block % (SWIZZLE * tiles_n);
  row = (first + within % rows) * BLOCK_M;
  column = within / rows * BLOCK_N;
}

struct Matrices {
  const T *a, *b;
  float* c;
  int m, n, k;
};

// The terms of a block: whole tiles of the depth, shared evenly among SPLIT_K.
struct Depth {
  int first, tiles;
  DEVICE explicit Depth(int k) {
    const int all = (k + BLOCK_K - 1) / BLOCK_K, share = static_cast<int>(blockIdx.z);
    first = all * share / SPLIT_K;
    tiles = all * (share + 1) / SPLIT_K - first;
  }
};

DEVICE void compute(const Matrices& x, int row, int column) {
  DYNAMIC_SHARED(T, shared);
  T *const tiles_a = shared, *const tiles_b = shared + STAGES * TileA::SIZE;
  const Depth depth(x.k);
  Sums sums;
  tile::pipeline<STAGES>(
      depth.tiles,
      [&](int t, int stage) {
        T* a = tiles_a + stage * TileA::SIZE;
        const int k = (depth.first + t) * BLOCK_K;
        if constexpr (TileA::ALONG_DEPTH)
          tile::load<TileA, VECTOR, (STAGES > 1), THREADS>(a, x.a, x.m, x.k, row, k);
        else
          tile::load_transposed<TileA, VECTOR, (STAGES > 1), THREADS>(a, x.a, x.m, x.k, row, k);
        tile::load<TileB, VECTOR, (STAGES > 1), THREADS>(tiles_b + stage * TileB::SIZE, x.b, x.k, x.n, k, column);
      },
      [&](int stage) { sums.multiply(tiles_a + stage * TileA::SIZE, tiles_b + stage * TileB::SIZE); });
  sums.each([&](int i, int j, const float* group) {  // what lies outside of C is left out
    if (row + i < x.m)
      tile::store<Sums::GROUP>(x.c + static_cast<long long>(row + i) * x.n + column + j, group, x.n - column - j,
                               x.n % Sums::GROUP == 0);
  });
}

}  // namespace

// Grid: (tiles of C, 1, SPLIT_K). c is (SPLIT_K, m, n): the sums of every share of the terms.
extern "C" __global__ void LAUNCH_BOUNDS(THREADS)
    gemm(const T* __restrict__ a, const T* __restrict__ b, float* __restrict__ c, int m, int n, int k) {
  int row, column;
  place(m, n, row, column);
  compute({a, b, c + static_cast<long long>(blockIdx.z) * m * n, m, n, k}, row, column);
}

// c(count) = the sum of `parts` (SPLIT_K, count), in the order of the terms.
extern "C" __global__ void __launch_bounds__(256)
    gemm_sum(const float* __restrict__ parts, float* __restrict__ c, long long count) {
  for (long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x; i < count; i += 256LL * gridDim.x) {
    float sum = 0.0f;
#pragma unroll
    for (int part = 0; part < SPLIT_K; ++part) sum += parts[part * count + i];
    c[i] = sum;
  }
}
