// 2-D convolution with bias and ReLU in float32 on a GPU, channels first or last.
//
// A block computes BLOCK_O output channels of BLOCK_P pixels, a thread THREAD_O of THREAD_P of them. ALGORITHM 0, an
// implicit matrix product (Chetlur et al. 2014, "cuDNN"): weights (terms, O) times receptive fields (terms, pixels) that
// are gathered into shared memory and never written elsewhere. ALGORITHM 1, direct: the input under TILE_W columns of
// pixels, border included, in shared memory, BLOCK_C channels at a time. Weights lie as they are read: (C, R, S, O), and
// (R, S, C, O) for the implicit product with channels last. Filter and stride are known when it is compiled.
//
// nvcc -std=c++17 -arch=sm_90 -Ikernels -cubin kernels/conv/conv.cu -o conv.cubin
#include "device.cuh"

#ifndef ALGORITHM
#define ALGORITHM 1  // 0 implicit matrix product, 1 direct
#endif
#ifndef LAYOUT
#define LAYOUT 0  // 0 channels first (N, C, H, W), 1 channels last (N, H, W, C)
#endif
#ifndef FILTER_H
#define FILTER_H 3
#endif
#ifndef FILTER_W
#define FILTER_W 3
#endif
#ifndef STRIDE
#define STRIDE 1
#endif
#ifndef BLOCK_O
#define BLOCK_O 4
#endif
#ifndef BLOCK_P
#define BLOCK_P 64
#endif
#ifndef THREAD_O
#define THREAD_O 1
#endif
#ifndef THREAD_P
#define THREAD_P 1
#endif
#ifndef BLOCK_K
#define BLOCK_K 16  // terms at a time; implicit product only
#endif
#ifndef BLOCK_C
#define BLOCK_C 4  // input channels at a time; direct only
#endif
#ifndef TILE_W
#define TILE_W 8  // columns of the block's pixels; direct only
#endif
#ifndef WEIGHTS
#define WEIGHTS 0  // 0 through shared memory, 1 from global memory and its caches; direct only
#endif
#ifndef VECTOR
#define VECTOR 1  // elements of a global load: of weights, and of channels that lie side by side
#endif
#ifndef STAGES
#define STAGES 1  // tiles in shared memory at a time; from 2 on copied asynchronously
#endif
#ifndef UNROLL
#define UNROLL 1  // of the loop over the terms of a sum
#endif
#ifndef PAD
#define PAD 0  // elements between lines of shared memory
#endif

#include "tile.cuh"  // after MIN_BLOCKS

namespace {

constexpr bool DIRECT = ALGORITHM == 1, CHANNELS_LAST = LAYOUT == 1, ASYNC = STAGES > 1;
constexpr int TERMS = DIRECT ? BLOCK_C * FILTER_H * FILTER_W : BLOCK_K;  // of a stage
constexpr int THREADS = (BLOCK_O / THREAD_O) * (BLOCK_P / THREAD_P);
constexpr int TIMES = UNROLL;  // nvcc expands no macro in a pragma of a lambda

using Weights = tile::Operand<float, BLOCK_O, TERMS, PAD, false>;
using Fields = tile::Operand<float, BLOCK_P, BLOCK_K, PAD, CHANNELS_LAST>;
using Channels = tile::Share<Weights, THREAD_O>;
using Pixels = tile::Share<Fields, THREAD_P>;

constexpr int TILE_H = BLOCK_P / TILE_W;
constexpr int PATCH_H = (TILE_H - 1) * STRIDE + FILTER_H, PATCH_W = (TILE_W - 1) * STRIDE + FILTER_W;
constexpr int PATCH_LINE = PATCH_W + PAD;
constexpr int PATCH = (BLOCK_C * PATCH_H * PATCH_LINE + 3) / 4 * 4;  // whole vectors
constexpr int WEIGHTS_SIZE = DIRECT && WEIGHTS == 1 ? 0 : Weights::SIZE;
constexpr int STAGE = WEIGHTS_SIZE + (DIRECT ? PATCH : Fields::SIZE);
constexpr int BYTES = 4 * (STAGES * STAGE + (DIRECT ? 0 : 3 * BLOCK_P));

ASSERT_LAUNCH(THREADS, BYTES);
static_assert(BLOCK_O % THREAD_O == 0 && BLOCK_P % THREAD_P == 0, "a tile is made of whole register tiles");
static_assert(!DIRECT || BLOCK_P % TILE_W == 0, "a block's pixels are whole rows");

struct Shape {
  int n, c, h, w, o, p, q, pad;  // p x q pixels an output image
};

// Neighbouring threads take what is side by side in y: channels or pixels.
constexpr int ACROSS_O = BLOCK_O / THREAD_O, ACROSS_P = BLOCK_P / THREAD_P;
DEVICE int thread_o() { return static_cast<int>(threadIdx.x) / (CHANNELS_LAST ? 1 : ACROSS_P) % ACROSS_O; }
DEVICE int thread_p() { return static_cast<int>(threadIdx.x) / (CHANNELS_LAST ? ACROSS_O : 1) % ACROSS_P; }

DEVICE float activated(float sum, const float* bias, int o) { return fmaxf(sum + bias[o], 0.0f); }

// Writes a thread's sums as outputs: bias, ReLU. pixel_of(j) is the number of its j-th pixel, counted through all images,
// and negative where there is none; GROUP of them are neighbours.
template <int GROUP, class PixelOf>
DEVICE void put(const float (&sums)[THREAD_O][THREAD_P], const float* bias, float* y, const Shape& d, int first_o,
                PixelOf pixel_of) {
  if constexpr (CHANNELS_LAST) {
    constexpr int TOGETHER = Channels::GROUP;
#pragma unroll
    for (int j = 0; j < THREAD_P; ++j) {
      const int pixel = pixel_of(j);
#pragma unroll
      for (int i = 0; i < THREAD_O; i += TOGETHER) {
        const int o = first_o + Channels::index(thread_o(), i);
        if (pixel < 0 || o >= d.o) continue;
        float group[TOGETHER];
#pragma unroll
        for (int e = 0; e < TOGETHER; ++e) group[e] = o + e < d.o ? activated(sums[i + e][j], bias, o + e) : 0.0f;
        tile::store<TOGETHER>(y + pixel * d.o + o, group, d.o - o, d.o % TOGETHER == 0);
      }
    }
  } else {
    const int pixels = d.p * d.q;  // of an image; a group lies in one where they are a multiple of it
#pragma unroll
    for (int i = 0; i < THREAD_O; ++i) {
      const int o = first_o + Channels::index(thread_o(), i);
      if (o >= d.o) continue;
#pragma unroll
      for (int j = 0; j < THREAD_P; j += GROUP) {
        float group[GROUP];
#pragma unroll
        for (int e = 0; e < GROUP; ++e) group[e] = activated(sums[i][j + e], bias, o);
        const int first = pixel_of(j);
        if (GROUP > 1 && pixels % GROUP == 0) {
          if (first >= 0) tile::store<GROUP>(y + (first / pixels * d.o + o) * pixels + first % pixels, group, GROUP, true);
        } else {
#pragma unroll
          for (int e = 0; e < GROUP; ++e)
            if (const int pixel = pixel_of(j + e); pixel >= 0)
              y[(pixel / pixels * d.o + o) * pixels + pixel % pixels] = group[e];
        }
      }
    }
  }
}

#if ALGORITHM == 0

// The pixels of a block: where the image of each begins, and its receptive field's corner there.
struct Corners {
  int *image, *top, *left;
};

// The term (c, r, s), or (r, s, c) with channels last, of a pixel's sum; 0 at the border and beyond the last pixel. Under
// neighbouring channels lie neighbouring terms, N of them.
template <int N>
DEVICE void gather(float* to, const float* x, const Shape& d, const Corners& corners, int pixel, int term) {
  const int place = CHANNELS_LAST ? term / d.c : term % (FILTER_H * FILTER_W);
  const int c = CHANNELS_LAST ? term - place * d.c : term / (FILTER_H * FILTER_W);
  const int i = corners.top[pixel] + place / FILTER_W, j = corners.left[pixel] + place % FILTER_W;
  const bool inside = term < d.c * FILTER_H * FILTER_W && i >= 0 && i < d.h && j >= 0 && j < d.w;
  const int from = corners.image[pixel] + (CHANNELS_LAST ? (i * d.w + j) * d.c + c : (c * d.h + i) * d.w + j);
  tile::copy<N, ASYNC>(to, x + from, inside ? N : 0, true);
}

DEVICE void gather_all(float* fields, const float* x, const Shape& d, const Corners& corners, int first) {
  if constexpr (CHANNELS_LAST) {
    if (VECTOR > 1 && d.c % VECTOR == 0) {
      tile::share<BLOCK_P, BLOCK_K, VECTOR, THREADS>([&](int pixel, int k) {
        gather<VECTOR>(fields + Fields::at(pixel, k), x, d, corners, pixel, first + k);
      });
    } else {
      tile::share<BLOCK_P, BLOCK_K, 1, THREADS>(
          [&](int pixel, int k) { gather<1>(fields + Fields::at(pixel, k), x, d, corners, pixel, first + k); });
    }
  } else {
    tile::share<BLOCK_K, BLOCK_P, 1, THREADS>(
        [&](int k, int pixel) { gather<1>(fields + Fields::at(pixel, k), x, d, corners, pixel, first + k); });
  }
}

DEVICE void convolve(const float* x, const float* w, const float* bias, float* y, const Shape& d) {
  DYNAMIC_SHARED(float, shared);
  int* const corner = reinterpret_cast<int*>(shared + STAGES * STAGE);
  const Corners corners{corner, corner + BLOCK_P, corner + 2 * BLOCK_P};
  const int first_pixel = static_cast<int>(blockIdx.x) * BLOCK_P, first_o = static_cast<int>(blockIdx.y) * BLOCK_O;
  const int pixels = d.n * d.p * d.q, terms = d.c * FILTER_H * FILTER_W;
  for (int i = static_cast<int>(threadIdx.x); i < BLOCK_P; i += THREADS) {
    const int pixel = first_pixel + i, image = pixel / (d.p * d.q), within = pixel % (d.p * d.q);
    corners.image[i] = image * d.c * d.h * d.w;
    corners.top[i] = pixel < pixels ? within / d.q * STRIDE - d.pad : d.h;  // below the image: all zeros
    corners.left[i] = within % d.q * STRIDE - d.pad;
  }
  __syncthreads();

  float sums[THREAD_O][THREAD_P] = {};
  tile::pipeline<STAGES>(
      (terms + BLOCK_K - 1) / BLOCK_K,
      [&](int t, int stage) {
        float* to = shared + stage * STAGE;
        tile::load<Weights, VECTOR, ASYNC, THREADS>(to, w, terms, d.o, t * BLOCK_K, first_o);
        gather_all(to + WEIGHTS_SIZE, x, d, corners, t * BLOCK_K);
      },
      [&](int stage) {
        const float* from = shared + stage * STAGE;
        tile::multiply<Weights, Fields, TIMES, false>(sums, from, from + WEIGHTS_SIZE, thread_o(),
                                                         thread_p());
      });

  put<Pixels::GROUP>(sums, bias, y, d, first_o, [&](int j) {
    const int pixel = first_pixel + Pixels::index(thread_p(), j);
    return pixel < pixels ? pixel : -1;
  });
}

#else

// The input channels from `first` on under the block's pixels, and the border; zeros beyond.
DEVICE void load_patch(float* patch, const float* x, const Shape& d, int image, int top, int left, int first) {
  constexpr int PIECES = BLOCK_C * PATCH_H * PATCH_W;
#pragma unroll 4
  for (int piece = static_cast<int>(threadIdx.x); piece < PIECES; piece += THREADS) {
    // in the order in which they lie in x
    const int c = CHANNELS_LAST ? piece % BLOCK_C : piece / (PATCH_H * PATCH_W);
    const int spot = CHANNELS_LAST ? piece / BLOCK_C : piece % (PATCH_H * PATCH_W);
    const int row = spot / PATCH_W, column = spot % PATCH_W, i = top + row, j = left + column, channel = first + c;
    const bool inside = channel < d.c && i >= 0 && i < d.h && j >= 0 && j < d.w;
    const int from = CHANNELS_LAST ? ((image * d.h + i) * d.w + j) * d.c + channel
                                   : ((image * d.c + channel) * d.h + i) * d.w + j;
    tile::copy<1, ASYNC>(patch + (c * PATCH_H + row) * PATCH_LINE + column, x + from, inside ? 1 : 0, true);
  }
}

// The weights of one term (c, r, s) for the thread's output channels.
DEVICE void read_weights(float (&to)[THREAD_O], const float* staged, const float* w, int o, int term, int first_term,
                         int first_o, const Shape& d) {
  if constexpr (WEIGHTS == 0) {
    Channels::read(to, staged, o, term);
  } else {
#pragma unroll
    for (int i = 0; i < THREAD_O; ++i) {
      const int channel = first_o + Channels::index(o, i);
      to[i] = channel < d.o ? __ldg(w + (first_term + term) * d.o + channel) : 0.0f;
    }
  }
}

DEVICE void convolve(const float* x, const float* w, const float* bias, float* y, const Shape& d) {
  DYNAMIC_SHARED(float, shared);
  const int tiles_w = (d.q + TILE_W - 1) / TILE_W;
  const int first_p = static_cast<int>(blockIdx.x) / tiles_w * TILE_H, first_q = static_cast<int>(blockIdx.x) % tiles_w * TILE_W;
  const int first_o = static_cast<int>(blockIdx.y) * BLOCK_O, image = static_cast<int>(blockIdx.z);
  int spot[THREAD_P];  // of a pixel's receptive field in the patch
#pragma unroll
  for (int j = 0; j < THREAD_P; ++j) {
    const int pixel = j * ACROSS_P + thread_p();
    spot[j] = pixel / TILE_W * STRIDE * PATCH_LINE + pixel % TILE_W * STRIDE;
  }

  float sums[THREAD_O][THREAD_P] = {};
  int chunk = 0;  // of channels, that is multiplied next
  tile::pipeline<STAGES>(
      (d.c + BLOCK_C - 1) / BLOCK_C,
      [&](int t, int stage) {
        float* to = shared + stage * STAGE;
        if constexpr (WEIGHTS == 0)
          tile::load<Weights, VECTOR, ASYNC, THREADS>(to, w, d.c * FILTER_H * FILTER_W, d.o, t * TERMS, first_o);
        load_patch(to + WEIGHTS_SIZE, x, d, image, first_p * STRIDE - d.pad, first_q * STRIDE - d.pad, t * BLOCK_C);
      },
      [&](int stage) {
        const float *staged = shared + stage * STAGE, *patch = staged + WEIGHTS_SIZE;
        const int channels = min(BLOCK_C, d.c - chunk * BLOCK_C);
#pragma unroll 1
        for (int c = 0; c < channels; ++c)
#pragma unroll TIMES
          for (int r = 0; r < FILTER_H; ++r)
#pragma unroll TIMES
            for (int s = 0; s < FILTER_W; ++s) {
              float weights[THREAD_O], inputs[THREAD_P];
              read_weights(weights, staged, w, thread_o(), (c * FILTER_H + r) * FILTER_W + s, chunk * TERMS, first_o, d);
#pragma unroll
              for (int j = 0; j < THREAD_P; ++j) inputs[j] = patch[(c * PATCH_H + r) * PATCH_LINE + s + spot[j]];
              tile::multiply_add(sums, weights, inputs);
            }
        ++chunk;
      });

  put<1>(sums, bias, y, d, first_o, [&](int j) {
    const int pixel = j * ACROSS_P + thread_p(), p = first_p + pixel / TILE_W, q = first_q + pixel % TILE_W;
    return p < d.p && q < d.q ? (image * d.p + p) * d.q + q : -1;
  });
}

#endif

}  // namespace

// Grid: implicit (tiles of all pixels, tiles of channels); direct (tiles of an image's pixels, tiles of channels, n).
extern "C" __global__ void LAUNCH_BOUNDS(THREADS)
    conv(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
         float* __restrict__ y, int n, int c, int h, int width, int o, int p, int q, int pad) {
  convolve(x, w, bias, y, {n, c, h, width, o, p, q, pad});
}
