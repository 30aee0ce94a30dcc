// y = gelu(x W1 + b1) W2 + b2 on a GPU: two products, or one kernel whose hidden units never leave the multiprocessor.
//
// x (rows, in), W1 (in, hidden), W2 (hidden, out), row-major, in float, f16 or bf16; sums, biases and y in float. A block
// computes tiles of BLOCK_M rows by BLOCK_N units (tile.cuh). FUSED: it computes one tile of hidden units, keeps it in
// shared memory and multiplies it with its rows of W2 for all outputs, which blocks add up in y (Ivanov et al. 2021,
// "Data Movement Is All You Need", on why what is not written need not be read).
//
// nvcc -std=c++17 -arch=sm_90 -Ikernels -cubin kernels/mlp/mlp.cu -o mlp.cubin
#include "device.cuh"
#include "tile_knobs.cuh"

#ifndef FUSED
#define FUSED 0
#endif
#ifndef GELU
#define GELU 0  // 0 with tanh, 1 with exp, 2 with a polynomial of our own
#endif

#include "tile.cuh"  // after MIN_BLOCKS

namespace {

using T = tile::Storage<PRECISION>::Type;
using TileA = tile::Operand<T, BLOCK_M, BLOCK_K, PAD, true>;
using TileB = tile::Operand<T, BLOCK_N, BLOCK_K, PAD, false>;
using Hidden = tile::Operand<T, BLOCK_M, BLOCK_N, PAD, true>;  // fused: an operand of the second product

#if TENSOR
template <class A>
using Sums = tile::WarpSums<A, TileB, WARP_M, WARP_N, FRAGMENTS == 1>;
#else
template <class A>
using Sums = tile::ThreadSums<A, TileB, THREAD_M, THREAD_N, UNROLL, false>;
#endif
constexpr int THREADS = Sums<TileA>::THREADS;
constexpr int BYTES = STAGES * (TileA::BYTES + TileB::BYTES) + (FUSED ? Hidden::BYTES : 0);

ASSERT_LAUNCH(THREADS, BYTES);
static_assert(!TENSOR || PRECISION != 0, "tensor cores multiply numbers of 16 bits");
static_assert(!FUSED || BLOCK_N % BLOCK_K == 0, "a tile of hidden units is whole tiles of the second product's depth");

#if GELU == 2
// e^x for -87 <= x <= 0, relative error below 3e-7: 2^n times a polynomial for 2^f, |f| <= 1/2 (Taylor terms of e^(f ln 2)).
DEVICE float exp_poly(float x) {
  const float y = fmaxf(x, -87.0f) * 1.44269504f;
  const float n = static_cast<float>(static_cast<int>(y - 0.5f));  // y <= 0: rounds to the nearest
  const float f = (y - n) * 0.693147182f;
  const float p =
      1.0f + f * (1.0f + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * (0.00833333333f + f * 0.00138888889f)))));
  return p * __int_as_float((static_cast<int>(n) + 127) << 23);
}
#endif

// The tanh approximation of GELU. With u = sqrt(2/pi) (z + 0.044715 z^3): 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)).
DEVICE float gelu(float z) {
  const float u = 0.797884561f * (z + 0.044715f * z * z * z);
#if GELU == 0
  return 0.5f * z * (1.0f + fast_tanh(u));
#elif GELU == 1
  return z / (1.0f + fast_exp(fminf(-2.0f * u, 80.0f)));  // nothing overflows, in fast division neither
#else
  const float e = exp_poly(-2.0f * fabsf(u));  // e^(-2|u|) <= 1: nothing overflows
  return z * (u < 0.0f ? e : 1.0f) / (1.0f + e);
#endif
}

// sums = a part of a(rows, depth) b(depth, columns) that starts at (row, column).
DEVICE void product(Sums<TileA>& sums, T* shared, const T* a, const T* b, int rows, int depth, int columns, int row,
                    int column) {
  T* const tiles_b = shared + STAGES * TileA::SIZE;
  tile::pipeline<STAGES>(
      (depth + BLOCK_K - 1) / BLOCK_K,
      [&](int t, int stage) {
        const int k = t * BLOCK_K;
        tile::load<TileA, VECTOR, (STAGES > 1), THREADS>(shared + stage * TileA::SIZE, a, rows, depth, row, k);
        tile::load<TileB, VECTOR, (STAGES > 1), THREADS>(tiles_b + stage * TileB::SIZE, b, depth, columns, k, column);
      },
      [&](int stage) { sums.multiply(shared + stage * TileA::SIZE, tiles_b + stage * TileB::SIZE); });
}

// to(rows, columns) = a(rows, depth) b(depth, columns) + bias, activated or not. Grid: (tiles of columns, tiles of rows).
template <bool ACTIVATED, class To>
DEVICE void layer(const T* a, const T* b, const float* bias, To* to, int rows, int depth, int columns) {
  DYNAMIC_SHARED(T, shared);
  const int row = static_cast<int>(blockIdx.y) * BLOCK_M, column = static_cast<int>(blockIdx.x) * BLOCK_N;
  Sums<TileA> sums;
  product(sums, shared, a, b, rows, depth, columns, row, column);
  constexpr int GROUP = Sums<TileA>::GROUP;
  sums.each([&](int i, int j, const float* group) {
    if (row + i >= rows) return;
    float values[GROUP];
#pragma unroll
    for (int e = 0; e < GROUP; ++e) {
      const float sum = group[e] + (column + j + e < columns ? bias[column + j + e] : 0.0f);
      values[e] = ACTIVATED ? gelu(sum) : sum;
    }
    tile::store<GROUP>(to + static_cast<long long>(row + i) * columns + column + j, values, columns - column - j,
                       columns % GROUP == 0);
  });
}

}  // namespace

#if FUSED

// y(rows, out) = b2, to which the blocks of mlp_fused add.
extern "C" __global__ void __launch_bounds__(256) mlp_start(const float* __restrict__ b2, float* __restrict__ y, int rows, int out) {
  const long long count = static_cast<long long>(rows) * out;
  for (long long i = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x; i < count; i += 256LL * gridDim.x)
    y[i] = b2[i % out];
}

// Grid: (tiles of hidden units, tiles of rows).
extern "C" __global__ void LAUNCH_BOUNDS(THREADS)
    mlp_fused(const T* __restrict__ x, const T* __restrict__ w1, const float* __restrict__ b1, const T* __restrict__ w2,
              float* __restrict__ y, int rows, int in, int hidden, int out) {
  DYNAMIC_SHARED(T, shared);
  T *const tiles_b = shared + STAGES * TileA::SIZE, *const units = tiles_b + STAGES * TileB::SIZE;
  const int row = static_cast<int>(blockIdx.y) * BLOCK_M, first = static_cast<int>(blockIdx.x) * BLOCK_N;
  {
    Sums<TileA> sums;
    product(sums, shared, x, w1, rows, in, hidden, row, first);
    sums.each([&](int i, int j, const float* group) {
#pragma unroll
      for (int e = 0; e < Sums<TileA>::GROUP; ++e) {  // beyond the last unit: gelu(0) = 0
        const float sum = group[e] + (first + j + e < hidden ? b1[first + j + e] : 0.0f);
        units[Hidden::at(i, j + e)] = from_float<T>(gelu(sum));
      }
    });
  }
  // One pipeline over all outputs; the barrier before its first product makes the units everyone's.
  constexpr int STEPS = BLOCK_N / BLOCK_K;  // of the depth of a tile of outputs
  Sums<Hidden> sums;
  int step = 0, column = 0;
  tile::pipeline<STAGES>(
      (out + BLOCK_N - 1) / BLOCK_N * STEPS,
      [&](int t, int stage) {
        tile::load<TileB, VECTOR, (STAGES > 1), THREADS>(tiles_b + stage * TileB::SIZE, w2, hidden, out,
                                                         first + t % STEPS * BLOCK_K, t / STEPS * BLOCK_N);
      },
      [&](int stage) {
        sums.multiply(units + step * BLOCK_K, tiles_b + stage * TileB::SIZE);
        if (++step < STEPS) return;
        sums.each([&](int i, int j, const float* group) {
          if (row + i >= rows) return;
#pragma unroll
          for (int e = 0; e < Sums<Hidden>::GROUP; ++e)
            if (column + j + e < out) atomicAdd(y + static_cast<long long>(row + i) * out + column + j + e, group[e]);
        });
        sums.clear();
        step = 0;
        column += BLOCK_N;
      });
}

#else

extern "C" __global__ void LAUNCH_BOUNDS(THREADS)
    mlp_hidden(const T* __restrict__ x, const T* __restrict__ w1, const float* __restrict__ b1, T* __restrict__ units,
               int rows, int in, int hidden) {
  layer<true>(x, w1, b1, units, rows, in, hidden);
}

extern "C" __global__ void LAUNCH_BOUNDS(THREADS)
    mlp_out(const T* __restrict__ units, const T* __restrict__ w2, const float* __restrict__ b2, float* __restrict__ y,
            int rows, int hidden, int out) {
  layer<false>(units, w2, b2, y, rows, hidden, out);
}

#endif
