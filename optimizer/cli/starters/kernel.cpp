// A kernel to begin with: the dot product of two vectors. What a kernel must provide is in harness.h of the package.
#include <cmath>
#include <memory>
#include <vector>

#include "harness.h"

#ifndef UNROLL
#define UNROLL 1
#endif

namespace {

struct Dot : harness::Kernel {
  std::vector<float> x, y;
  int threads;
  float answer = 0;

  explicit Dot(const harness::Options& options)
      : x(static_cast<std::size_t>(options.integer("n", 1 << 20, 8, 1 << 28)) / 8 * 8), y(x.size()),
        threads(static_cast<int>(options.integer("threads", 1, 1, 1024))) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = 1.0f + 0.001f * static_cast<float>(i % 97);
      y[i] = 1.0f + 0.001f * static_cast<float>(i % 89);
    }
  }

  // The reference is computed here in double precision; the answer may differ from it by this much, relative to it.
  harness::Check verify() override {
    harness::Reading reading;
    run(reading);
    double expected = 0;
    for (std::size_t i = 0; i < x.size(); ++i) expected += static_cast<double>(x[i]) * y[i];
    const float right = static_cast<float>(expected);
    return {{{"max_rel_error", harness::max_rel_error(&answer, &right, 1)}}, {{"max_rel_error", 1e-3}}, {}};
  }

  // What is timed.
  void run(harness::Reading&) override {
    const long n = static_cast<long>(x.size());
    double total = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : total)
    for (long block = 0; block < n / 1024; ++block) {
      float sums[UNROLL] = {};
      for (long i = block * 1024; i < (block + 1) * 1024; i += UNROLL)
        for (int u = 0; u < UNROLL; ++u) sums[u] += x[i + u] * y[i + u];
      for (float sum : sums) total += sum;
    }
    for (long i = n / 1024 * 1024; i < n; ++i) total += x[i] * y[i];
    answer = static_cast<float>(total);
  }
};

}  // namespace

std::unique_ptr<harness::Kernel> harness::make(const Options& options) { return std::make_unique<Dot>(options); }
