// y = gelu(x W1 + b1) W2 + b2 in float32: fused or not, vectorised, OpenMP.
//
// A scenario is `rows` inputs processed `batch` at a time, so every configuration does the same work. Register blocks
// are TILE_B rows of the batch by VECTOR_WIDTH outputs. Fused: TILE_H hidden units at a time are computed, activated
// and multiplied on, so the hidden activations of a whole layer are never written (Ivanov et al. 2021, "Data Movement
// Is All You Need", on why that matters). Not fused: one layer after the other.
//
// g++ -O3 -std=c++17 -fopenmp -Ikernels kernels/mlp/mlp.cpp kernels/mlp/reference.cpp kernels/harness.cpp -o mlp
#include "harness.h"
#include "mlp/reference.h"

#include <cmath>
#include <cstdint>

#ifndef FUSED
#define FUSED 0
#endif
#ifndef TILE_B
#define TILE_B 4
#endif
#ifndef VECTOR_WIDTH
#define VECTOR_WIDTH 8
#endif
#ifndef TILE_H
#define TILE_H 64  // hidden units at a time; fused only
#endif
#ifndef GELU
#define GELU 0  // 0 with tanhf, 1 with expf, 2 with a polynomial of our own
#endif
#ifndef UNROLL
#define UNROLL 1  // of the loop over the terms of a sum
#endif
#ifndef SCHEDULE
#define SCHEDULE static
#endif
#include "micro.h"  // after UNROLL

static_assert(TILE_H % VECTOR_WIDTH == 0, "hidden units come in whole vectors");

namespace {

using loops::Floats;
using loops::ceil_div;
using loops::min;

#if GELU == 2
// e^x for x <= 0, relative error below 3e-7: 2^n times a polynomial for 2^f, |f| <= 1/2 (Taylor terms of e^(f ln 2)).
inline float exp_poly(float x) {
  const float y = (x < -87.0f ? -87.0f : x) * 1.44269504f;
  const float n = static_cast<float>(static_cast<std::int32_t>(y - 0.5f));  // y <= 0: rounds to the nearest
  const float f = (y - n) * 0.693147182f;
  const float p =
      1.0f + f * (1.0f + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * (0.00833333333f + f * 0.00138888889f)))));
  const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}
#endif

// The tanh approximation of GELU. With u = sqrt(2/pi) (z + 0.044715 z^3): 0.5 (1 + tanh u) = 1 / (1 + e^(-2u)).
inline float gelu(float z) {
  const float u = 0.797884561f * (z + 0.044715f * z * z * z);
#if GELU == 0
  return 0.5f * z * (1.0f + tanhf(u));
#elif GELU == 1
  return z / (1.0f + expf(-2.0f * u < 80.0f ? -2.0f * u : 80.0f));  // finite: -ffast-math makes a NaN of 1 / infinity
#else
  const float e = exp_poly(-2.0f * (u < 0 ? -u : u));  // e^(-2|u|) <= 1: nothing overflows
  return z * (u < 0 ? e : 1.0f) / (1.0f + e);
#endif
}

struct Layers {
  long in, hidden, out, batch;
  long wide_h, wide_o;  // rounded up to whole vectors; the weights beyond are zeros
  Floats w1, b1, w2, b2, x, h, y;
  int threads;

  Layers(long in, long hidden, long out, long rows, long batch, int threads)
      : in(in), hidden(hidden), out(out), batch(batch), wide_h(ceil_div(hidden, TILE_H) * TILE_H),
        wide_o(ceil_div(out, VECTOR_WIDTH) * VECTOR_WIDTH), w1(in * wide_h), b1(wide_h), w2(wide_h * wide_o),
        b2(wide_o), x(rows * in), h(FUSED ? threads * TILE_B * (TILE_H + wide_o) : batch * wide_h), y(rows * out),
        threads(threads) {
    laid_out(w1, 1, in, hidden, wide_h, 2.0f / std::sqrt(static_cast<float>(in)));
    laid_out(b1, 2, 1, hidden, wide_h, 0.5f);
    laid_out(w2, 3, hidden, out, wide_o, 2.0f / std::sqrt(static_cast<float>(hidden)));
    laid_out(b2, 4, 1, out, wide_o, 0.5f);
    x.fill(5);
  }

  // A matrix (rows, columns) in rows of `wide`, the rest zeros.
  static void laid_out(Floats& to, unsigned seed, long rows, long columns, long wide, float scale) {
    Floats plain(rows * columns);
    plain.fill(seed);
    std::memset(to.data(), 0, to.size() * sizeof(float));
    for (long i = 0; i < rows; ++i)
      for (long j = 0; j < columns; ++j) to[i * wide + j] = scale * plain[i * columns + j];
  }

  // The rows from `first` on, `batch` of them.
  void forward(long first) { FUSED ? fused(first) : layered(first); }

  // hidden (rows, VECTOR_WIDTH) from unit j on = gelu(x W1 + b1)
  void hidden_block(long row, long rows, long j, float* to, long to_row) {
    float sums[TILE_B][VECTOR_WIDTH] = {};
    micro::block(sums, &x[row * in], in, 1, &w1[j], wide_h, 1, in, rows, VECTOR_WIDTH);
    for (long i = 0; i < rows; ++i)
      SIMD for (long v = 0; v < VECTOR_WIDTH; ++v) to[i * to_row + v] = gelu(sums[i][v] + b1[j + v]);
  }

  void layered(long first) {
    const long tasks_h = wide_h / VECTOR_WIDTH, tasks_o = wide_o / VECTOR_WIDTH, blocks = ceil_div(batch, TILE_B);
    PARALLEL_FOR(threads, SCHEDULE)
    for (long task = 0; task < blocks * tasks_h; ++task) {
      const long i = task / tasks_h * TILE_B, j = task % tasks_h * VECTOR_WIDTH;
      hidden_block(first + i, min(TILE_B, batch - i), j, &h[i * wide_h + j], wide_h);
    }
    PARALLEL_FOR(threads, SCHEDULE)
    for (long task = 0; task < blocks * tasks_o; ++task) {
      const long i = task / tasks_o * TILE_B, j = task % tasks_o * VECTOR_WIDTH, rows = min(TILE_B, batch - i);
      float sums[TILE_B][VECTOR_WIDTH] = {};
      micro::block(sums, &h[i * wide_h], wide_h, 1, &w2[j], wide_o, 1, hidden, rows, VECTOR_WIDTH);
      store(sums, first + i, j, rows);
    }
  }

  // Threads share the rows of a batch, not its outputs, so that no hidden unit is computed twice.
  void fused(long first) {
    PARALLEL_FOR(threads, SCHEDULE)
    for (long i = 0; i < batch; i += TILE_B) {
      float* strip = h.data() + loops::thread() * TILE_B * (TILE_H + wide_o);  // (TILE_B, TILE_H)
      float* outputs = strip + TILE_B * TILE_H;                                // (TILE_B, wide_o)
      const long rows = min(TILE_B, batch - i);
      std::memset(outputs, 0, TILE_B * wide_o * sizeof(float));
      for (long t = 0; t < wide_h; t += TILE_H) {
        for (long j = 0; j < TILE_H; j += VECTOR_WIDTH) hidden_block(first + i, rows, t + j, strip + j, TILE_H);
        for (long j = 0; j < wide_o; j += VECTOR_WIDTH) {
          float sums[TILE_B][VECTOR_WIDTH] = {};
          micro::block(sums, strip, TILE_H, 1, &w2[t * wide_o + j], wide_o, 1, min(TILE_H, hidden - t), rows, VECTOR_WIDTH);
          for (long r = 0; r < rows; ++r)
            SIMD for (long v = 0; v < VECTOR_WIDTH; ++v) outputs[r * wide_o + j + v] += sums[r][v];
        }
      }
      for (long r = 0; r < rows; ++r)
        for (long j = 0; j < out; ++j) y[(first + i + r) * out + j] = outputs[r * wide_o + j] + b2[j];
    }
  }

  void store(const float (&sums)[TILE_B][VECTOR_WIDTH], long row, long j, long rows) {
    for (long i = 0; i < rows; ++i)
      for (long v = 0; v < min(VECTOR_WIDTH, out - j); ++v) y[(row + i) * out + j + v] = sums[i][v] + b2[j + v];
  }

  void run() {
    const long rows = static_cast<long>(y.size()) / out;
    for (long first = 0; first < rows; first += batch) forward(first);
  }

  double error() {
    Floats plain_w1(in * hidden), plain_w2(hidden * out), expected(y.size());
    narrowed(w1, plain_w1, in, hidden, wide_h);
    narrowed(w2, plain_w2, hidden, out, wide_o);
    const long rows = static_cast<long>(y.size()) / out;
    reference::mlp(x.data(), plain_w1.data(), b1.data(), plain_w2.data(), b2.data(), expected.data(), rows, in, hidden, out);
    y.poison();
    h.poison();
    run();
    return harness::max_rel_error(y.data(), expected.data(), y.size());
  }

  static void narrowed(const Floats& from, Floats& to, long rows, long columns, long wide) {
    for (long i = 0; i < rows; ++i)
      for (long j = 0; j < columns; ++j) to[i * columns + j] = from[i * wide + j];
  }
};

struct Mlp : harness::Kernel {
  explicit Mlp(const harness::Options& options)
      : rows(options.integer("rows", 32, 1, 1 << 20)), batch(options.integer("batch", 4, 1, 1 << 20)),
        timed(options.integer("in", 256, 1, 1 << 15), options.integer("hidden", 512, 1, 1 << 15),
              options.integer("out", 256, 1, 1 << 15), rows, batch,
              static_cast<int>(options.integer("threads", 1, 1, 1024))) {
    if (rows % batch)
      throw harness::Rejected("--batch=" + std::to_string(batch) + " does not divide --rows=" + std::to_string(rows) +
                              ": every configuration must do the same work");
  }

  harness::Facts facts() const override {
    const double weights = static_cast<double>(timed.in) * timed.hidden + static_cast<double>(timed.hidden) * timed.out;
    const double moved = weights * (rows / batch) + static_cast<double>(timed.x.size()) + timed.y.size();
    return {{"flop", 2 * weights * rows}, {"bytes_moved", 4 * moved}, {"model_bytes", 4 * weights}};
  }

  harness::Check verify() override {
    Layers odd(7, 75, 13, 6, 3, timed.threads);  // remainders everywhere
    // Two sums of up to 512 products: 512 * 2^-24 = 3e-5 of the sum of magnitudes at worst, its square root as a rule;
    // tanhf and expf err by a few 2^-24, the polynomial by 3e-7.
    return {{{"max_rel_error", timed.error()}, {"max_rel_error_odd", odd.error()}},
            {{"max_rel_error", 5e-6}, {"max_rel_error_odd", 5e-6}},
            {}};
  }

  void run(harness::Reading& reading) override {
    timed.run();
    reading.inferences = static_cast<double>(batch);
    reading.batches = static_cast<double>(rows / batch);
  }

  long rows, batch;
  Layers timed;
};

}  // namespace

std::unique_ptr<harness::Kernel> harness::make(const Options& options) { return std::make_unique<Mlp>(options); }
