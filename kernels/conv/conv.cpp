// 2-D convolution with bias and ReLU in float32: direct or by im2col, channels first or last, vectorised, OpenMP.
//
// Every variant computes register blocks of TILE x VECTOR_WIDTH sums. Channels first (NCHW): TILE output channels by
// VECTOR_WIDTH neighbouring pixels of a row, weights broadcast. Channels last (NHWC): TILE pixels by VECTOR_WIDTH
// output channels, inputs broadcast. Direct reads a padded copy of the input; im2col (Chellapilla et al. 2006) first
// lays the receptive fields of TILE_P pixels side by side and then multiplies matrices. Copying is part of the time;
// the weights are laid out once, as a model's would be.
//
// g++ -O3 -std=c++17 -fopenmp -Ikernels kernels/conv/conv.cpp kernels/conv/reference.cpp kernels/harness.cpp -o conv
#include "harness.h"
#include "conv/reference.h"

#ifndef ALGORITHM
#define ALGORITHM 0  // 0 direct, 1 im2col
#endif
#ifndef LAYOUT
#define LAYOUT 0  // 0 channels first (N, C, H, W), 1 channels last (N, H, W, C)
#endif
#ifndef TILE
#define TILE 4
#endif
#ifndef VECTOR_WIDTH
#define VECTOR_WIDTH 8
#endif
#ifndef TILE_P
#define TILE_P 64  // pixels laid side by side at a time; im2col only
#endif
#ifndef UNROLL
#define UNROLL 1  // of the loop over the terms of a sum
#endif
#ifndef SCHEDULE
#define SCHEDULE static
#endif

#include "micro.h"  // after UNROLL

namespace {

using loops::Floats;
using loops::ceil_div;
using loops::min;
using Shape = reference::Conv;

constexpr bool CHANNELS_FIRST = LAYOUT == 0;

// One convolution with its weights and buffers.
struct Convolution {
  Shape d;
  long terms;        // C R S products make a sum
  long wide_o;       // output channels rounded up to whole vectors (channels last)
  long padded_h, padded_w;
  Floats x, w, bias, y;  // x and y in the layout; w (O, C, R, S) as the reference has it
  Floats laid_w;         // channels first: w itself (O, C, R, S); channels last: (R, S, C, O), O padded with zeros
  Floats padded;         // direct: the input with its border; rows long enough for whole vectors
  Floats columns;        // im2col: a strip of receptive fields for each thread
  int threads;

  Convolution(const Shape& d, int threads)
      : d(d), terms(d.c * d.r * d.s), wide_o(ceil_div(d.o, VECTOR_WIDTH) * VECTOR_WIDTH), padded_h(d.h + 2 * d.pad),
        padded_w(d.w + 2 * d.pad + VECTOR_WIDTH * d.stride), x(d.n * d.c * d.h * d.w), w(d.o * terms), bias(wide_o),
        y(d.n * d.o * d.p() * d.q()), laid_w(CHANNELS_FIRST ? d.o * terms : terms * wide_o),
        padded(ALGORITHM == 0 ? d.n * d.c * padded_h * padded_w : 0),
        columns(ALGORITHM == 1 ? threads * terms * (TILE_P + VECTOR_WIDTH) : 0), threads(threads) {
    x.fill(1);
    w.fill(2);
    bias.fill(3);
    std::memset(padded.data(), 0, padded.size() * sizeof(float));
    lay_out_weights();
  }

  void lay_out_weights() {
    if (CHANNELS_FIRST) {
      std::memcpy(laid_w.data(), w.data(), w.size() * sizeof(float));
      return;
    }
    std::memset(laid_w.data(), 0, laid_w.size() * sizeof(float));
    for (long o = 0; o < d.o; ++o)
      for (long c = 0; c < d.c; ++c)
        for (long r = 0; r < d.r; ++r)
          for (long s = 0; s < d.s; ++s)
            laid_w[((r * d.s + s) * d.c + c) * wide_o + o] = w[((o * d.c + c) * d.r + r) * d.s + s];
  }

  void run() { ALGORITHM == 0 ? direct() : im2col(); }

  // Writes a block of sums as outputs: bias, ReLU. Rows are output channels or pixels, as the layout has it.
  void store(const float (&sums)[TILE][VECTOR_WIDTH], long n, long pixel, long o, long rows, long cols) {
    const long pixels = d.p() * d.q();
    for (long i = 0; i < rows; ++i) {
      float* out = CHANNELS_FIRST ? &y[(n * d.o + o + i) * pixels + pixel] : &y[(n * pixels + pixel + i) * d.o + o];
      for (long j = 0; j < cols; ++j) {
        const float sum = sums[i][j] + bias[CHANNELS_FIRST ? o + i : o + j];
        out[j] = sum > 0.0f ? sum : 0.0f;
      }
    }
  }

  // The input with a border of zeros: (N, C, padded_h, padded_w) or (N, padded_h, padded_w, C).
  void pad() {
    const long planes = CHANNELS_FIRST ? d.n * d.c : d.n, width = CHANNELS_FIRST ? 1 : d.c;
    PARALLEL_FOR(threads, SCHEDULE)
    for (long plane = 0; plane < planes; ++plane)
      for (long i = 0; i < d.h; ++i)
        std::memcpy(&padded[((plane * padded_h + i + d.pad) * padded_w + d.pad) * width],
                    &x[(plane * d.h + i) * d.w * width], d.w * width * sizeof(float));
  }

  void direct() {
    pad();
    const long rows = d.n * d.p();
    PARALLEL_FOR(threads, SCHEDULE)
    for (long row = 0; row < rows; ++row) {
      const long n = row / d.p(), p = row % d.p();
      CHANNELS_FIRST ? direct_row_first(n, p) : direct_row_last(n, p);
    }
  }

  void direct_row_first(long n, long p) {
    for (long o = 0; o < d.o; o += TILE)
      for (long q = 0; q < d.q(); q += VECTOR_WIDTH) {
        float sums[TILE][VECTOR_WIDTH] = {};
        const long rows = min(TILE, d.o - o);
        for (long c = 0; c < d.c; ++c)
          for (long r = 0; r < d.r; ++r) {
            const float* field = &padded[((n * d.c + c) * padded_h + p * d.stride + r) * padded_w + q * d.stride];
            micro::block(sums, &laid_w[o * terms + (c * d.r + r) * d.s], terms, 1, field, 1, d.stride, d.s, rows, VECTOR_WIDTH);
          }
        store(sums, n, p * d.q() + q, o, rows, min(VECTOR_WIDTH, d.q() - q));
      }
  }

  void direct_row_last(long n, long p) {
    for (long o = 0; o < d.o; o += VECTOR_WIDTH)
      for (long q = 0; q < d.q(); q += TILE) {
        float sums[TILE][VECTOR_WIDTH] = {};
        const long rows = min(TILE, d.q() - q);
        for (long r = 0; r < d.r; ++r) {
          // S times C neighbouring inputs of a row are contiguous: one run of terms
          const float* field = &padded[((n * padded_h + p * d.stride + r) * padded_w + q * d.stride) * d.c];
          micro::block(sums, field, d.stride * d.c, 1, &laid_w[r * d.s * d.c * wide_o + o], wide_o, 1, d.s * d.c, rows,
                         VECTOR_WIDTH);
        }
        store(sums, n, p * d.q() + q, o, rows, min(VECTOR_WIDTH, d.o - o));
      }
  }

  // The input that term (c, r, s) of an output pixel is multiplied with; 0 beyond the border.
  float input(long n, long c, long pixel, long r, long s) const {
    const long i = pixel / d.q() * d.stride + r - d.pad, j = pixel % d.q() * d.stride + s - d.pad;
    if (i < 0 || i >= d.h || j < 0 || j >= d.w) return 0.0f;
    return CHANNELS_FIRST ? x[((n * d.c + c) * d.h + i) * d.w + j] : x[((n * d.h + i) * d.w + j) * d.c + c];
  }

  void im2col() {
    const long pixels = d.p() * d.q(), strips = ceil_div(pixels, TILE_P);
    PARALLEL_FOR(threads, SCHEDULE)
    for (long task = 0; task < d.n * strips; ++task) {
      float* strip = columns.data() + loops::thread() * terms * (TILE_P + VECTOR_WIDTH);
      const long n = task / strips, first = task % strips * TILE_P, count = min(TILE_P, pixels - first);
      CHANNELS_FIRST ? strip_first(strip, n, first, count) : strip_last(strip, n, first, count);
    }
  }

  void strip_first(float* __restrict strip, long n, long first, long count) {  // (terms, count), rows of whole vectors
    const long width = ceil_div(count, VECTOR_WIDTH) * VECTOR_WIDTH;
    for (long c = 0; c < d.c; ++c)
      for (long r = 0; r < d.r; ++r)
        for (long s = 0; s < d.s; ++s) {
          float* row = strip + ((c * d.r + r) * d.s + s) * width;
          for (long j = 0; j < count; ++j) row[j] = input(n, c, first + j, r, s);
          for (long j = count; j < width; ++j) row[j] = 0.0f;
        }
    for (long o = 0; o < d.o; o += TILE)
      for (long j = 0; j < count; j += VECTOR_WIDTH) {
        float sums[TILE][VECTOR_WIDTH] = {};
        const long rows = min(TILE, d.o - o);
        micro::block(sums, &laid_w[o * terms], terms, 1, strip + j, width, 1, terms, rows, VECTOR_WIDTH);
        store(sums, n, first + j, o, rows, min(VECTOR_WIDTH, count - j));
      }
  }

  void strip_last(float* __restrict strip, long n, long first, long count) {  // (count, terms)
    for (long i = 0; i < count; ++i)
      for (long r = 0; r < d.r; ++r)
        for (long s = 0; s < d.s; ++s)
          for (long c = 0; c < d.c; ++c) strip[i * terms + (r * d.s + s) * d.c + c] = input(n, c, first + i, r, s);
    for (long o = 0; o < d.o; o += VECTOR_WIDTH)
      for (long i = 0; i < count; i += TILE) {
        float sums[TILE][VECTOR_WIDTH] = {};
        const long rows = min(TILE, count - i);
        micro::block(sums, strip + i * terms, terms, 1, &laid_w[o], wide_o, 1, terms, rows, VECTOR_WIDTH);
        store(sums, n, first + i, o, rows, min(VECTOR_WIDTH, d.o - o));
      }
  }

  double error() {
    Floats nchw(x.size()), expected(y.size()), found(y.size());
    transposed(x.data(), nchw.data(), d.n, d.h * d.w, d.c);
    reference::conv(d, nchw.data(), w.data(), bias.data(), expected.data());
    y.poison();
    run();
    transposed(y.data(), found.data(), d.n, d.p() * d.q(), d.o);
    return harness::max_rel_error(found.data(), expected.data(), y.size());
  }

  // From the layout to (N, channels, pixels), which the reference has.
  static void transposed(const float* from, float* to, long n, long pixels, long channels) {
    for (long i = 0; i < n; ++i)
      for (long p = 0; p < pixels; ++p)
        for (long c = 0; c < channels; ++c)
          std::memcpy(&to[(i * channels + c) * pixels + p],
                      &from[CHANNELS_FIRST ? (i * channels + c) * pixels + p : (i * pixels + p) * channels + c],
                      sizeof(float));
  }
};

Shape shape_of(const harness::Options& options) {
  const Shape d{options.integer("n", 4, 1, 1024),      options.integer("c", 16, 1, 4096),
                options.integer("h", 56, 1, 4096),     options.integer("w", 56, 1, 4096),
                options.integer("o", 32, 1, 4096),     options.integer("r", 3, 1, 31),
                options.integer("s", 3, 1, 31),        options.integer("stride", 1, 1, 8),
                options.integer("pad", 1, 0, 15)};
  if (d.h + 2 * d.pad < d.r || d.w + 2 * d.pad < d.s)
    throw harness::Rejected("the filter --r x --s is larger than the padded image --h x --w");
  return d;
}

struct Conv : harness::Kernel {
  explicit Conv(const harness::Options& options)
      : timed(shape_of(options), static_cast<int>(options.integer("threads", 1, 1, 1024))) {}

  harness::Facts facts() const override {
    const Shape& d = timed.d;
    const double outputs = static_cast<double>(d.n) * d.o * d.p() * d.q();
    return {{"flop", 2 * outputs * timed.terms}, {"bytes_moved", 4.0 * (timed.x.size() + timed.w.size() + outputs)}};
  }

  harness::Check verify() override {
    Convolution odd({2, 5, 11, 13, 7, 3, 2, 1, 1}, timed.threads);      // remainders everywhere, R != S
    Convolution strided({1, 3, 17, 10, 9, 5, 3, 2, 2}, timed.threads);  // stride 2, a wide border
    // A sum of C R S products in float32 errs by at most C R S * 2^-24 of the sum of magnitudes (144 terms: 9e-6), and
    // typically by its square root; the bound allows any order of summation, as -ffast-math does.
    const double bound = 2e-5;
    return {{{"max_rel_error", timed.error()}, {"max_rel_error_odd", odd.error()}, {"max_rel_error_strided", strided.error()}},
            {{"max_rel_error", bound}, {"max_rel_error_odd", bound}, {"max_rel_error_strided", bound}},
            {}};
  }

  void run(harness::Reading& reading) override {
    timed.run();
    reading.inferences = static_cast<double>(timed.d.n);
  }

  Convolution timed;
};

}  // namespace

std::unique_ptr<harness::Kernel> harness::make(const Options& options) { return std::make_unique<Conv>(options); }
