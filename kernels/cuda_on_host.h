// CUDA's language for g++: a kernel's blocks run one after another on the processor, each thread of a block a fibre.
//
// Fibres change places only where threads wait for one another, in a random order (from a seed): a missing barrier gives
// wrong answers. Shared memory holds NaN patterns when a block begins. A copy_async is done at once or only when it is
// waited for, as a coin says. Barriers that some threads never reach end the program with a message, as do shuffles and
// tensor-core products that lanes of a warp do not take part in. cuda_on_host.cpp is the other half, and the only one
// that knows how a fibre works; out-of-bounds and misaligned accesses are left to the compiler's sanitizers.
//
// What it cannot show: races between threads whose every order gives the right answer here (a thread is never stopped
// between two waits), races between blocks, a __syncwarp left out beside a shuffle or a vote (which order memory here, but
// not on a GPU), the rounding of the GPU's own exp, tanh and tensor cores, and accesses beyond a static __shared__ array
// through a pointer. A __syncthreads that ended threads no longer reach is an error here, whatever a GPU makes of it.
#pragma once

#include <math.h>
#include <string.h>

#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static thread_local  // the program's only such variables: cuda_on_host.cpp finds them all
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(cuda_on_host::dynamic_shared)

// ---- Vector types ----

#define CUDA_ON_HOST_VECTOR(T, name, size2, size4)                                                               \
  struct alignas(size2) name##2 { T x, y; };                                                                     \
  struct name##3 { T x, y, z; };                                                                                 \
  struct alignas(size4) name##4 { T x, y, z, w; };                                                               \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                                     \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                             \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_ON_HOST_VECTOR(signed char, char, 2, 4)
CUDA_ON_HOST_VECTOR(unsigned char, uchar, 2, 4)
CUDA_ON_HOST_VECTOR(short, short, 4, 8)
CUDA_ON_HOST_VECTOR(unsigned short, ushort, 4, 8)
CUDA_ON_HOST_VECTOR(int, int, 8, 16)
CUDA_ON_HOST_VECTOR(unsigned, uint, 8, 16)
CUDA_ON_HOST_VECTOR(float, float, 8, 16)
#undef CUDA_ON_HOST_VECTOR

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace cuda_on_host {

struct Site {  // of a call in the kernel's source
  const char* file;
  int line;
};

struct Thread {
  uint3 index;
};

extern Thread* thread;  // the one that runs
extern uint3 block_index;
extern dim3 block_size, grid_size;
extern void* dynamic_shared;

void barrier(Site site);
void warp_barrier(unsigned mask, Site site);
int lane();
// Of the value that lane `source` gave to the same call, as bits; all ones where that lane is not in the mask.
unsigned long long shuffle(unsigned mask, unsigned long long bits, int source, Site site);
unsigned ballot(unsigned mask, bool vote, Site site);
// d += a b on one warp, in the layout of m16n8k16; `widened` gives an operand's value.
void mma(float* d, const unsigned* a, const unsigned* b, float (*widened)(unsigned short), Site site);
void start_copy(void* to, const void* from, int bytes, bool valid);
void copy_async_commit();
void copy_async_wait(int pending);
[[noreturn]] void fail(Site site, const char* message);

inline void mma_16x8x16(float* d, const unsigned* a, const unsigned* b, float (*widened)(unsigned short),
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  mma(d, a, b, widened, {file, line});
}

inline void copy_async(void* to, const void* from, int bytes, bool valid, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  const auto ends = [bytes](const void* p) {  // read here, where sanitizers can name the caller
    return static_cast<const volatile char*>(p)[0] + static_cast<const volatile char*>(p)[bytes - 1];
  };
  if (reinterpret_cast<unsigned long>(to) % bytes != 0 || (valid && reinterpret_cast<unsigned long>(from) % bytes != 0))
    fail({file, line}, "copy_async from or to an address that is not a multiple of its size");
  ends(to);
  if (valid) ends(from);
  start_copy(to, from, bytes, valid);
}

inline float f16_to_float(unsigned short half) {
  const unsigned sign = (half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 0x3ffu;
  if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 0x1p-24f;
  const unsigned bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline float bf16_to_float(unsigned short upper) {
  const unsigned bits = static_cast<unsigned>(upper) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline unsigned short float_to_f16(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  const unsigned sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<unsigned short>(sign | 0x7c00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {  // a subnormal, in units of 2^-24: adding 2^-1 makes the addition round to them
    const float sum = fabsf(value) + 0.5f;
    memcpy(&bits, &sum, sizeof bits);
    return static_cast<unsigned short>(sign | (bits - 0x3f000000u));
  }
  return static_cast<unsigned short>(sign | (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
}

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

template <class T>
inline T shuffled(unsigned mask, T value, int source, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle exchanges 4 or 8 bytes");
  unsigned long long bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = shuffle(mask, bits, source, site);
  memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace cuda_on_host

#define threadIdx (cuda_on_host::thread->index)
#define blockIdx (cuda_on_host::block_index)
#define blockDim (cuda_on_host::block_size)
#define gridDim (cuda_on_host::grid_size)
constexpr int warpSize = 32;

// ---- Waiting and exchanging ----

#define SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SITE) { cuda_on_host::barrier({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, SITE) { cuda_on_host::warp_barrier(mask, {file, line}); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, SITE) {
  const int first = cuda_on_host::lane() & ~(width - 1);
  return cuda_on_host::shuffled(mask, value, first | (source & (width - 1)), {file, line});
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int pattern, int width = 32, SITE) {
  const int lane = cuda_on_host::lane(), other = lane ^ pattern;
  return cuda_on_host::shuffled(mask, value, other <= (lane | (width - 1)) ? other : lane, {file, line});
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32, SITE) {
  const int lane = cuda_on_host::lane(), other = lane + static_cast<int>(distance);
  return cuda_on_host::shuffled(mask, value, other <= (lane | (width - 1)) ? other : lane, {file, line});
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32, SITE) {
  const int lane = cuda_on_host::lane(), other = lane - static_cast<int>(distance);
  return cuda_on_host::shuffled(mask, value, other >= (lane & ~(width - 1)) ? other : lane, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int vote, SITE) { return cuda_on_host::ballot(mask, vote, {file, line}); }
inline int __any_sync(unsigned mask, int vote, SITE) { return cuda_on_host::ballot(mask, vote, {file, line}) != 0; }
inline int __all_sync(unsigned mask, int vote, SITE) { return cuda_on_host::ballot(mask, !vote, {file, line}) == 0; }

#undef SITE

// Fibres change places nowhere else, so these are atomic as they stand.
template <class T>
inline T atomicAdd(T* at, std::common_type_t<T> value) { const T old = *at; *at = old + value; return old; }
template <class T>
inline T atomicMax(T* at, std::common_type_t<T> value) { const T old = *at; *at = old > value ? old : value; return old; }
template <class T>
inline T atomicMin(T* at, std::common_type_t<T> value) { const T old = *at; *at = old < value ? old : value; return old; }
template <class T>
inline T atomicExch(T* at, std::common_type_t<T> value) { const T old = *at; *at = value; return old; }
template <class T>
inline T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> value) {
  const T old = *at;
  if (old == expected) *at = value;
  return old;
}

// ---- Functions that CUDA has without a header ----

inline float __uint_as_float(unsigned bits) { return cuda_on_host::bits_as<float>(bits); }
inline float __int_as_float(int bits) { return cuda_on_host::bits_as<float>(bits); }
inline unsigned __float_as_uint(float value) { return cuda_on_host::bits_as<unsigned>(value); }
inline int __float_as_int(float value) { return cuda_on_host::bits_as<int>(value); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
inline T __ldg(const T* from) { return *from; }
template <class T>
inline T __ldcg(const T* from) { return *from; }
template <class T>
inline T __ldcs(const T* from) { return *from; }

// Sum of the products of four signed bytes.
inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 4; i++) sum += static_cast<signed char>(a >> 8 * i) * static_cast<signed char>(b >> 8 * i);
  return sum;
}

#define CUDA_ON_HOST_EXTREMES(T)                     \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; }
CUDA_ON_HOST_EXTREMES(int)
CUDA_ON_HOST_EXTREMES(unsigned)
CUDA_ON_HOST_EXTREMES(long)
CUDA_ON_HOST_EXTREMES(unsigned long)
CUDA_ON_HOST_EXTREMES(long long)
CUDA_ON_HOST_EXTREMES(unsigned long long)
#undef CUDA_ON_HOST_EXTREMES
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

// ---- A kernel as the runtime calls it ----

namespace cuda_on_host {

struct Parameter {
  char kind;  // p: pointer, i: integer, f: floating point, o: another
  int bytes;
};

struct Kernel {
  const char* name;
  int parameters;
  const Parameter* parameter;
  void (*call)(void* const* arguments);  // addresses of the arguments
};

template <auto FUNCTION>
struct Entry;

template <class... P, void (*FUNCTION)(P...)>
struct Entry<FUNCTION> {
  template <class T>
  static constexpr char kind() {
    if (std::is_pointer_v<T>) return 'p';
    if (std::is_integral_v<T>) return 'i';
    return std::is_floating_point_v<T> ? 'f' : 'o';
  }
  static constexpr Parameter parameter[] = {{kind<P>(), sizeof(P)}..., {'\0', 0}};

  template <std::size_t... I>
  static void apply(void* const* arguments, std::index_sequence<I...>) {
    FUNCTION(*static_cast<std::remove_const_t<P>*>(arguments[I])...);
  }
  static void call(void* const* arguments) { apply(arguments, std::index_sequence_for<P...>()); }
  static constexpr Kernel named(const char* name) { return {name, sizeof...(P), parameter, call}; }
};

extern const Kernel kernels[];  // ends with a null name; defined by the few lines that include the .cu
}  // namespace cuda_on_host
