// What every .cu here is written with: half precision, asynchronous copies, tensor cores, vectors, sums over a warp.
//
// One text for three compilers: NVRTC and nvcc (sm_75 and later; no toolkit header is included, so NVRTC needs none), and
// g++, for which cuda_on_host.h runs the same kernel on the processor. What is native to CUDA (threadIdx, __syncthreads,
// __shfl_xor_sync, atomicAdd, float4, min, expf, ...) exists on the host under the same names; what differs is below.
// Alignment is asked for in front: `alignas(16) __shared__ float x[64];` is what all three take.
#pragma once

#if !defined(__CUDACC__) && !defined(__CUDACC_RTC__)
#include "cuda_on_host.h"
#else
#define ON_DEVICE 1
// Declares the block's dynamic shared memory, 16-byte aligned, as `type* name`.
#define DYNAMIC_SHARED(type, name)                              \
  extern __shared__ __align__(16) unsigned char dynamic_shared_[]; \
  type* name = reinterpret_cast<type*>(dynamic_shared_)
#endif

#define DEVICE __device__ __forceinline__

// ---- Half precision: storage only; arithmetic is done in float ----

struct f16 {
  unsigned short bits;
};
struct bf16 {
  unsigned short bits;
};

DEVICE float to_float(float value) { return value; }

DEVICE float to_float(bf16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }

DEVICE float to_float(f16 value) {
#ifdef ON_DEVICE
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return cuda_on_host::f16_to_float(value.bits);
#endif
}

// Rounds to nearest, ties to even.
template <class T>
DEVICE T from_float(float value);

template <>
DEVICE float from_float<float>(float value) {
  return value;
}

template <>
DEVICE f16 from_float<f16>(float value) {
  f16 result;
#ifdef ON_DEVICE
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
  result.bits = cuda_on_host::float_to_f16(value);
#endif
  return result;
}

template <>
DEVICE bf16 from_float<bf16>(float value) {
  bf16 result;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
  const unsigned bits = __float_as_uint(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  result.bits = static_cast<unsigned short>(nan ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
  return result;
}

// ---- Vectors: one load or store of N * sizeof(T) bytes (2, 4, 8 or 16), from an address aligned to as much ----

template <class T, int N>
struct alignas(N * sizeof(T)) Vector {
  T v[N];
};

template <int BYTES>
struct RawOf;
template <>
struct RawOf<1> {
  typedef unsigned char type;
};
template <>
struct RawOf<2> {
  typedef unsigned short type;
};
template <>
struct RawOf<4> {
  typedef unsigned type;
};
template <>
struct RawOf<8> {
  typedef uint2 type;
};
template <>
struct RawOf<16> {
  typedef uint4 type;
};

template <int N, class T>
DEVICE Vector<T, N> load_vector(const T* from) {
  typedef typename RawOf<N * sizeof(T)>::type Raw;
  const Raw raw = *reinterpret_cast<const Raw*>(from);
  Vector<T, N> result;
  memcpy(&result, &raw, sizeof raw);
  return result;
}

template <int N, class T>
DEVICE void store_vector(T* to, const Vector<T, N>& value) {
  typedef typename RawOf<N * sizeof(T)>::type Raw;
  Raw raw;
  memcpy(&raw, &value, sizeof raw);
  *reinterpret_cast<Raw*>(to) = raw;
}

// ---- Copies from global to shared memory that go on while the thread computes (cp.async, sm_80 and later) ----
//
// A thread's copies since its last commit are a group. copy_async_wait<N>() returns when all but the latest N groups are
// done, for this thread's own copies: a __syncthreads() after it makes them everyone's. On sm_75 the copy is done at once.

// Copies BYTES (4, 8 or 16; both addresses aligned to as much), or writes zeros and reads nothing where not `valid`.
template <int BYTES>
DEVICE void copy_async(void* shared, const void* global, bool valid = true) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
#if !defined(ON_DEVICE)
  cuda_on_host::copy_async(shared, global, BYTES, valid);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int read = valid ? BYTES : 0;
  if (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(read) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES), "r"(read)
                 : "memory");
  }
#else
  typedef typename RawOf<BYTES>::type Raw;
  *static_cast<Raw*>(shared) = valid ? *static_cast<const Raw*>(global) : Raw();
#endif
}

DEVICE void copy_async_commit() {
#if !defined(ON_DEVICE)
  cuda_on_host::copy_async_commit();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int PENDING>
DEVICE void copy_async_wait() {
#if !defined(ON_DEVICE)
  cuda_on_host::copy_async_wait(PENDING);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// ---- Over a whole warp: every lane must take part, every lane gets the result ----

DEVICE float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

DEVICE float warp_max(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

DEVICE float fast_exp(float x) { return expf(x); }
DEVICE float fast_tanh(float x) { return tanhf(x); }
DEVICE float rsqrt_(float x) { return rsqrtf(x); }

// ---- Tensor cores: d (16x8, float) += a (16x16, row major) * b (16x8, column major), one tile a warp ----
//
// Of lane l with g = l / 4 and t = l % 4 (PTX ISA, m16n8k16; the lower half of a register is the lower column or row):
//   a[0]: row g, columns 2t and 2t+1      a[1]: row g+8, the same columns      a[2], a[3]: the same rows, columns + 8
//   b[0]: rows 2t and 2t+1 of column g    b[1]: rows 2t+8 and 2t+9 of column g
//   d[0], d[1]: row g, columns 2t and 2t+1    d[2], d[3]: row g+8, the same columns

DEVICE void mma_16x8x16(float d[4], const unsigned a[4], const unsigned b[2]) {
#if !defined(ON_DEVICE)
  cuda_on_host::mma_16x8x16(d, a, b, cuda_on_host::f16_to_float);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int half = 0; half < 2; half++) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800  // sm_75 has no such instruction
DEVICE void mma_16x8x16_bf16(float d[4], const unsigned a[4], const unsigned b[2]) {
#if !defined(ON_DEVICE)
  cuda_on_host::mma_16x8x16(d, a, b, cuda_on_host::bf16_to_float);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#endif
