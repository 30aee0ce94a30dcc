// Small tools that every kernel's loops use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif

#define LOOPS_TEXT(...) _Pragma(#__VA_ARGS__)
#define LOOPS_PRAGMA(...) LOOPS_TEXT(__VA_ARGS__)

// UNROLLED(4) for (...) ...: asks for a loop to be unrolled; 1 leaves it to the compiler.
#if defined(__clang__)
#define UNROLLED(count) LOOPS_PRAGMA(clang loop unroll_count(count))
#else
#define UNROLLED(count) LOOPS_PRAGMA(GCC unroll count)
#endif

// SIMD for (...) ...: the iterations are independent; SIMD_SUM(x) for (...) ...: but for a sum in x, taken in any order.
// Ignored where the compiler has no OpenMP.
#if defined(_OPENMP)
#define SIMD LOOPS_PRAGMA(omp simd)
#define SIMD_SUM(sum) LOOPS_PRAGMA(omp simd reduction(+ : sum))
#else
#define SIMD
#define SIMD_SUM(sum)
#endif

// PARALLEL_FOR(threads, static) for (...) ...: iterations shared among `threads` threads.
#if defined(_OPENMP)
#define PARALLEL_FOR(threads, ...) LOOPS_PRAGMA(omp parallel for num_threads(threads) schedule(__VA_ARGS__))
#else
#define PARALLEL_FOR(threads, ...) static_cast<void>(threads);
#endif

namespace loops {

constexpr std::size_t ALIGNMENT = 64;  // a cache line, and the widest vector register there is

// `count` floats, aligned, not initialised; throws std::bad_alloc.
class Floats {
 public:
  explicit Floats(std::size_t count = 0) : count_(count) {
    if (count > (static_cast<std::size_t>(-1) / 2) / sizeof(float)) throw std::bad_alloc();
    const std::size_t bytes = (count * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    data_ = static_cast<float*>(std::aligned_alloc(ALIGNMENT, bytes ? bytes : ALIGNMENT));
    if (!data_) throw std::bad_alloc();
  }
  ~Floats() { std::free(data_); }
  Floats(Floats&& other) noexcept : count_(other.count_), data_(other.data_) { other.data_ = nullptr; }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* data() { return data_; }
  const float* data() const { return data_; }
  std::size_t size() const { return count_; }
  float& operator[](std::size_t i) { return data_[i]; }
  float operator[](std::size_t i) const { return data_[i]; }

  // Every float a NaN: an element that a kernel forgets to write shows in the comparison. Written as bytes, because
  // under -ffast-math a compiler may take it that there are no NaNs.
  void poison() { std::memset(data_, 0xff, count_ * sizeof(float)); }

  // Numbers from -1 to 1, the same on every machine (Park and Miller's generator).
  void fill(unsigned seed) {
    unsigned long long state = seed * 2654435761ULL % 2147483647ULL + 1;
    for (std::size_t i = 0; i < count_; ++i) {
      state = state * 48271 % 2147483647;
      data_[i] = static_cast<float>(static_cast<double>(state) / 1073741823.5 - 1.0);
    }
  }

 private:
  std::size_t count_;
  float* data_;
};

// The number of this thread in a parallel loop.
inline long thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// A bfloat16 is the upper half of a float.
inline float from_bf16(std::uint16_t half) {
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  float out;
  __builtin_memcpy(&out, &bits, sizeof out);
  return out;
}

inline long ceil_div(long a, long b) { return (a + b - 1) / b; }
inline long min(long a, long b) { return a < b ? a : b; }

}  // namespace loops
