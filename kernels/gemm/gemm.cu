// C(M, N) = A(M, K) B(K, N), row-major, on a GPU: A and B in float, f16 or bf16, sums and C in float.
//
// A block computes a tile of BLOCK_M x BLOCK_N, BLOCK_K terms at a time (tile.cuh). The defaults are the textbook's tile
// of 16 x 16 threads with one sum each. How it is launched says launch.py, which also knows every size that is asserted.
//
// nvcc -std=c++17 -arch=sm_90 -Ikernels -cubin kernels/gemm/gemm.cu -o gemm.cubin
#include "device.cuh"

#ifndef BLOCK_M
#define BLOCK_M 16
#endif
#ifndef BLOCK_N
#define BLOCK_N 16
#endif
#ifndef BLOCK_K
#define BLOCK_K 16
#endif
#ifndef THREAD_M
#define THREAD_M 1  // sums of a thread: THREAD_M x THREAD_N; without tensor cores
#endif
#ifndef THREAD_N
#define THREAD_N 1
#endif
#ifndef VECTOR
#define VECTOR 1  // elements of a global load
#endif
#ifndef STAGES
#define STAGES 1  // tiles in shared memory at a time; from 2 on copied asynchronously
#endif
#ifndef UNROLL
#define UNROLL 1  // of the loop over the terms of a tile
#endif
#ifndef PAD
#define PAD 0  // elements between lines of shared memory
#endif
#ifndef PREFETCH
#define PREFETCH 0  // operands of the next term are read from shared memory before this one is multiplied
#endif
#ifndef LAYOUT_A
#define LAYOUT_A 0  // in shared memory: 0 terms side by side (as in A), 1 rows side by side (transposed)
#endif
#ifndef PRECISION
#define PRECISION 0  // of A and B: 0 float, 1 f16, 2 bf16
#endif
#ifndef TENSOR
#define TENSOR 0  // tensor cores; f16 and bf16
#endif
#ifndef WARP_M
#define WARP_M 16  // sums of a warp: WARP_M x WARP_N; with tensor cores
#endif
#ifndef WARP_N
#define WARP_N 8
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

constexpr int THREADS =
    TENSOR ? (BLOCK_M / WARP_M) * (BLOCK_N / WARP_N) * 32 : (BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N);
constexpr int BYTES = STAGES * (TileA::BYTES + TileB::BYTES);

#ifdef BLOCK_THREADS
static_assert(BLOCK_THREADS == THREADS, "launch.py and the tile disagree about the threads of a block");
#endif
#ifdef SHARED_BYTES
static_assert(SHARED_BYTES == BYTES, "launch.py and the tile disagree about shared memory");
#endif
static_assert(THREADS <= 1024, "a block has at most 1024 threads");
static_assert(TENSOR || (BLOCK_M % THREAD_M == 0 && BLOCK_N % THREAD_N == 0), "a tile is made of whole register tiles");
static_assert(!TENSOR || (PRECISION != 0 && BLOCK_M % WARP_M == 0 && BLOCK_N % WARP_N == 0 && WARP_M % 16 == 0 &&
                          WARP_N % 8 == 0 && BLOCK_K % 16 == 0),
              "tensor cores multiply 16 x 16 by 16 x 8 numbers of 16 bits");

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
    const int all = (k + BLOCK_K - 1) / BLOCK_K, each = (all + SPLIT_K - 1) / SPLIT_K;
    first = static_cast<int>(blockIdx.z) * each;
    tiles = first >= all ? 0 : first + each > all ? all - first : each;
  }
};

// Brings the operands of every stage and calls multiply(tile of A, tile of B).
template <class Multiply>
DEVICE void over_depth(const Matrices& x, int row, int column, Multiply multiply) {
  DYNAMIC_SHARED(T, shared);
  const Depth depth(x.k);
  tile::pipeline<STAGES>(
      depth.tiles,
      [&](int t, int stage) {
        T* a = shared + stage * TileA::SIZE;
        T* b = shared + STAGES * TileA::SIZE + stage * TileB::SIZE;
        const int k = (depth.first + t) * BLOCK_K;
        if constexpr (TileA::ALONG_DEPTH)
          tile::load<TileA, VECTOR, (STAGES > 1), THREADS>(a, x.a, x.m, x.k, row, k);
        else
          tile::load_transposed<TileA, VECTOR, (STAGES > 1), THREADS>(a, x.a, x.m, x.k, row, k);
        tile::load<TileB, VECTOR, (STAGES > 1), THREADS>(b, x.b, x.k, x.n, k, column);
      },
      [&](int stage) { multiply(shared + stage * TileA::SIZE, shared + STAGES * TileA::SIZE + stage * TileB::SIZE); });
}

// N neighbouring sums to C; what lies outside is left out.
template <int N>
DEVICE void put(const Matrices& x, int row, int column, const float* sums) {
  if (row < x.m)
    tile::store<N>(x.c + static_cast<long long>(row) * x.n + column, sums, x.n - column, x.n % N == 0);
}

#if TENSOR
DEVICE void compute(const Matrices& x, int row, int column) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_row = warp / (BLOCK_N / WARP_N) * WARP_M, warp_column = warp % (BLOCK_N / WARP_N) * WARP_N;
  float sums[WARP_M / 16][WARP_N / 8][4] = {};
  over_depth(x, row, column, [&](const T* a, const T* b) {
    tile::multiply_tensor<TileA, TileB>(sums, a, b, warp_row, warp_column);
  });
#pragma unroll
  for (int i = 0; i < WARP_M / 16; ++i)
#pragma unroll
    for (int j = 0; j < WARP_N / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; e += 2)
        put<2>(x, row + warp_row + i * 16 + lane / 4 + e * 4, column + warp_column + j * 8 + lane % 4 * 2, &sums[i][j][e]);
}
#else
DEVICE void compute(const Matrices& x, int row, int column) {
  using Rows = tile::Share<TileA, THREAD_M>;
  using Columns = tile::Share<TileB, THREAD_N>;
  const int thread = static_cast<int>(threadIdx.x);
  const int thread_row = thread / Columns::ACROSS, thread_column = thread % Columns::ACROSS;
  float sums[THREAD_M][THREAD_N] = {};
  over_depth(x, row, column, [&](const T* a, const T* b) {
    tile::multiply<TileA, TileB, UNROLL, PREFETCH != 0>(sums, a, b, thread_row, thread_column);
  });
#pragma unroll
  for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
    for (int j = 0; j < THREAD_N; j += Columns::GROUP)
      put<Columns::GROUP>(x, row + Rows::index(thread_row, i), column + Columns::index(thread_column, j), &sums[i][j]);
}
#endif

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
