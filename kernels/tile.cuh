// Block tiles of a matrix product on a GPU: operands in shared memory, stages in flight, sums in registers.
//
// A block of threads computes a tile of BM x BN sums over K, DEPTH terms at a time: a tile of each operand is copied to
// shared memory (pipeline), every thread multiplies on its own register tile (multiply) or every warp on tensor cores
// (multiply_tensor). After V. Volkov and J. Demmel, "Benchmarking GPUs to Tune Dense Linear Algebra" (2008), and NVIDIA's
// CUTLASS (2017) for the hierarchy block, warp, thread.
#pragma once

#include "device.cuh"

// Threads of a block, and how many blocks a multiprocessor must be able to hold (which bounds the registers).
#if defined(MIN_BLOCKS) && MIN_BLOCKS > 0
#define LAUNCH_BOUNDS(threads) __launch_bounds__(threads, MIN_BLOCKS)
#else
#define LAUNCH_BOUNDS(threads) __launch_bounds__(threads)
#endif

// What launch.py derived (BLOCK_THREADS, SHARED_BYTES, where it says them) is what the source needs and a GPU has.
#ifndef BLOCK_THREADS
#define AS_LAUNCHED_THREADS(threads) (threads)
#else
#define AS_LAUNCHED_THREADS(threads) BLOCK_THREADS
#endif
#ifndef SHARED_BYTES
#define AS_LAUNCHED_BYTES(bytes) (bytes)
#else
#define AS_LAUNCHED_BYTES(bytes) SHARED_BYTES
#endif
#define ASSERT_LAUNCH(threads, bytes) \
  static_assert(AS_LAUNCHED_THREADS(threads) == (threads), \
                "launch.py and the tile disagree about the threads of a block"); \
  static_assert(AS_LAUNCHED_BYTES(bytes) == (bytes), "launch.py and the tile disagree about shared memory"); \
  static_assert((threads) <= 1024 && (bytes) <= 227 * 1024, "no GPU runs such a block")

namespace tile {

// What the macro PRECISION stores operands as: 0 float, 1 f16, 2 bf16. Sums are always float.
template <int KIND>
struct Storage {
  using Type = float;
};
template <>
struct Storage<1> {
  using Type = f16;
};
template <>
struct Storage<2> {
  using Type = bf16;
};

// The tile of an operand in shared memory: EXTENT rows of A (columns of B) by DEPTH terms of the sums. ALONG_DEPTH: the
// terms lie side by side; otherwise the rows do. GAP elements between lines keep threads from meeting in one bank.
template <class T, int EXTENT_, int DEPTH_, int GAP, bool ALONG_DEPTH_>
struct Operand {
  using Type = T;
  static constexpr int EXTENT = EXTENT_, DEPTH = DEPTH_;
  static constexpr bool ALONG_DEPTH = ALONG_DEPTH_;
  static constexpr int LINES = ALONG_DEPTH ? EXTENT : DEPTH, LENGTH = ALONG_DEPTH ? DEPTH : EXTENT;
  static constexpr int PITCH = LENGTH + GAP;
  static constexpr int BYTES = (LINES * PITCH * static_cast<int>(sizeof(T)) + 15) / 16 * 16;  // whole vectors
  static constexpr int SIZE = BYTES / static_cast<int>(sizeof(T));
  static DEVICE int at(int i, int k) { return ALONG_DEPTH ? i * PITCH + k : k * PITCH + i; }
};

// Copies N neighbours, of which the first `valid` exist; zeros stand for the others. `aligned`: `from` is a multiple of
// N elements away from an aligned address wherever valid >= N.
template <int N, bool ASYNC, class T>
DEVICE void copy(T* to, const T* from, int valid, bool aligned) {
  constexpr int BYTES = N * static_cast<int>(sizeof(T));
  if constexpr (ASYNC && BYTES >= 4) {
    if (aligned && (valid >= N || valid <= 0)) {
      copy_async<BYTES>(to, from, valid >= N);
      return;
    }
  } else if constexpr (N > 1) {
    if (aligned && valid >= N) {
      store_vector<N>(to, load_vector<N>(from));
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = i < valid ? from[i] : from_float<T>(0.0f);
}

// Calls visit(line, first) for pieces of N neighbours that cover LINES x LENGTH, shared among THREADS threads.
template <int LINES, int LENGTH, int N, int THREADS, class Visit>
DEVICE void share(Visit visit) {
  constexpr int PER_LINE = LENGTH / N, PIECES = LINES * PER_LINE;
  static_assert(LENGTH % N == 0, "a line is made of whole vectors");
  constexpr int TURNS = (PIECES + THREADS - 1) / THREADS, AT_ONCE = TURNS <= 16 ? TURNS : 8;  // what registers hold
#pragma unroll AT_ONCE
  for (int i = 0; i < TURNS; ++i) {
    const int piece = i * THREADS + static_cast<int>(threadIdx.x);
    if (PIECES % THREADS == 0 || piece < PIECES) visit(piece / PER_LINE, piece % PER_LINE * N);
  }
}

// A part of a row-major matrix (lines, length) whose lines become the tile's lines; what lies outside becomes 0.
template <class O, int N, bool ASYNC, int THREADS>
DEVICE void load(typename O::Type* tile, const typename O::Type* matrix, int lines, int length,
                                     int first_line, int first) {
  static_assert(O::PITCH % N == 0, "lines of the tile start at whole vectors");
  const bool aligned = length % N == 0;
  share<O::LINES, O::LENGTH, N, THREADS>([&](int line, int at) {
    const int valid = first_line + line < lines ? length - first - at : 0;
    const long long from = static_cast<long long>(first_line + line) * length + first + at;
    copy<N, ASYNC>(tile + line * O::PITCH + at, matrix + from, valid, aligned);
  });
}

// The same for a matrix (extent, depth) whose lines become the tile's columns: read in vectors, written one by one.
template <class O, int N, bool ASYNC, int THREADS>
DEVICE void load_transposed(typename O::Type* tile, const typename O::Type* matrix, int extent,
                                                int depth, int first_line, int first) {
  using T = typename O::Type;
  static_assert(!O::ALONG_DEPTH, "rows lie side by side");
  constexpr int READ = ASYNC ? 1 : N;  // an asynchronous copy can't take a vector apart
  const bool aligned = depth % READ == 0;
  share<O::EXTENT, O::DEPTH, READ, THREADS>([&](int line, int at) {
    const int valid = first_line + line < extent ? depth - first - at : 0;
    const T* from = matrix + static_cast<long long>(first_line + line) * depth + first + at;
    if constexpr (ASYNC) {
      copy<1, true>(tile + O::at(line, at), from, valid, true);
    } else {
      Vector<T, READ> read;
      if (aligned && valid >= READ) {
        read = load_vector<READ>(from);
      } else {
#pragma unroll
        for (int i = 0; i < READ; ++i) read.v[i] = i < valid ? from[i] : from_float<T>(0.0f);
      }
#pragma unroll
      for (int i = 0; i < READ; ++i) tile[O::at(line, at + i)] = read.v[i];
    }
  });
}

// load(tile, stage) for every tile of the depth, SLOTS - 1 of them ahead of compute(stage). With one stage, copies are
// plain and wait; with more they must be asynchronous. All threads are past their last read when it returns.
template <int SLOTS, class Load, class Compute>
DEVICE void pipeline(int tiles, Load load, Compute compute) {
  if constexpr (SLOTS == 1) {
    for (int t = 0; t < tiles; ++t) {
      load(t, 0);
      __syncthreads();
      compute(0);
      __syncthreads();
    }
  } else {
#pragma unroll
    for (int s = 0; s < SLOTS - 1; ++s) {
      if (s < tiles) load(s, s);
      copy_async_commit();
    }
    int stage = 0, free = SLOTS - 1;
    for (int t = 0; t < tiles; ++t) {
      copy_async_wait<SLOTS - 2>();
      __syncthreads();  // all copies of this stage are there, and nobody reads the free one any more
      if (t + SLOTS - 1 < tiles) load(t + SLOTS - 1, free);
      copy_async_commit();  // an empty group at the end keeps the count
      compute(stage);
      free = stage;
      stage = stage + 1 == SLOTS ? 0 : stage + 1;
    }
    copy_async_wait<0>();
    __syncthreads();
  }
}

// Which of an operand's EXTENT a thread takes: COUNT of them in groups that are read as one vector, the groups of
// neighbouring threads side by side.
template <class O, int COUNT>
struct Share {
  static constexpr int ACROSS = O::EXTENT / COUNT;  // threads that share the extent
  static constexpr int GROUP = O::ALONG_DEPTH                             ? 1
                               : COUNT % 4 == 0 && O::PITCH % 4 == 0 ? 4
                               : COUNT % 2 == 0 && O::PITCH % 2 == 0 ? 2
                                                                      : 1;
  static DEVICE int index(int thread, int i) {
    return (i / GROUP * ACROSS + thread) * GROUP + i % GROUP;
  }
  static DEVICE void read(float (&to)[COUNT], const typename O::Type* tile, int thread, int k) {
#pragma unroll
    for (int i = 0; i < COUNT; i += GROUP) {
      if constexpr (GROUP > 1) {
        const auto group = load_vector<GROUP>(tile + O::at(index(thread, i), k));
#pragma unroll
        for (int e = 0; e < GROUP; ++e) to[i + e] = to_float(group.v[e]);
      } else {
        to[i] = to_float(tile[O::at(index(thread, i), k)]);
      }
    }
  }
};

template <int ROWS, int COLUMNS>
DEVICE void multiply_add(float (&sums)[ROWS][COLUMNS], const float (&a)[ROWS],
                                             const float (&b)[COLUMNS]) {
#pragma unroll
  for (int i = 0; i < ROWS; ++i)
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j) sums[i][j] += a[i] * b[j];
}

// sums += A B over the depth of B's tile, for the register tile of thread (row, column). AHEAD: operands of the next term
// are read before this one is multiplied.
template <class A, class B, int TIMES, bool AHEAD, int ROWS, int COLUMNS>
DEVICE void multiply(float (&sums)[ROWS][COLUMNS], const typename A::Type* a,
                                         const typename B::Type* b, int row, int column) {
  float now_a[ROWS], now_b[COLUMNS];
  if constexpr (AHEAD) {
    Share<A, ROWS>::read(now_a, a, row, 0);
    Share<B, COLUMNS>::read(now_b, b, column, 0);
#pragma unroll TIMES
    for (int k = 1; k <= B::DEPTH; ++k) {
      float next_a[ROWS], next_b[COLUMNS];
      const int next = k < B::DEPTH ? k : 0;
      Share<A, ROWS>::read(next_a, a, row, next);
      Share<B, COLUMNS>::read(next_b, b, column, next);
      multiply_add(sums, now_a, now_b);
#pragma unroll
      for (int i = 0; i < ROWS; ++i) now_a[i] = next_a[i];
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) now_b[j] = next_b[j];
    }
  } else {
#pragma unroll TIMES
    for (int k = 0; k < B::DEPTH; ++k) {
      Share<A, ROWS>::read(now_a, a, row, k);
      Share<B, COLUMNS>::read(now_b, b, column, k);
      multiply_add(sums, now_a, now_b);
    }
  }
}

// Two numbers of 16 bits in a register, the first in its low half.
template <class T>
DEVICE unsigned packed(Vector<T, 2> pair) {
  static_assert(sizeof(pair) == sizeof(unsigned), "numbers of 16 bits");
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

DEVICE void multiply_16x8x16(float* d, const unsigned* a, const unsigned* b, f16) {
  mma_16x8x16(d, a, b);
}
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800  // sm_75 has no such instruction
DEVICE void multiply_16x8x16(float* d, const unsigned* a, const unsigned* b, bf16) { mma_16x8x16_bf16(d, a, b); }
#elif TENSOR && PRECISION == 2
#error "tensor cores multiply bf16 from sm_80 on"
#endif

// COUNT matrices of 8 x 8 numbers of 16 bits from shared memory, for a whole warp: lane l says with `row` where row l % 8 of
// matrix l / 8 lies (16-byte aligned), and gets of every matrix the elements 2 (l % 4) and the next of row l / 4. TRANSPOSED:
// of column l / 4 (PTX ISA, "ldmatrix").
template <bool TRANSPOSED, int COUNT>
DEVICE void load_matrices(unsigned (&to)[COUNT], const void* row) {
  static_assert(COUNT == 4 || (COUNT == 2 && TRANSPOSED), "what is used here of ldmatrix");
#ifdef ON_DEVICE
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (COUNT == 4 && TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
  else if constexpr (COUNT == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(at) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1]) : "r"(at) : "memory");
#else
  const int lane = static_cast<int>(threadIdx.x) & 31, across = lane / 4, pair = lane % 4 * 2;
  for (int i = 0; i < COUNT; ++i) {
    unsigned halves[2];
    for (int e = 0; e < 2; ++e) {
      const auto mine = reinterpret_cast<unsigned long long>(row);
      const auto from = __shfl_sync(0xffffffffu, mine, i * 8 + (TRANSPOSED ? pair + e : across));
      const auto whole = load_vector<8>(reinterpret_cast<const unsigned short*>(from));
      halves[e] = whole.v[TRANSPOSED ? across : pair + e];
    }
    to[i] = halves[0] | halves[1] << 16;
  }
#endif
}

// A warp's operands of one step of 16 terms, as lanes hold them (device.cuh, mma_16x8x16): of A, TILES parts of 16 rows.
template <class A, bool LDMATRIX, int TILES>
DEVICE void read_a(unsigned (&to)[TILES][4], const typename A::Type* a, int row, int k) {
  const int lane = static_cast<int>(threadIdx.x) & 31, group = lane >> 2, pair = (lane & 3) * 2;
#pragma unroll
  for (int i = 0; i < TILES; ++i) {
    if constexpr (LDMATRIX) {
      load_matrices<false>(to[i], a + A::at(row + i * 16 + lane % 16, k + lane / 16 * 8));
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        to[i][e] = packed(load_vector<2>(a + A::at(row + i * 16 + group + e % 2 * 8, k + pair + e / 2 * 8)));
    }
  }
}

// Of B, TILES parts of 8 columns.
template <class B, bool LDMATRIX, int TILES>
DEVICE void read_b(unsigned (&to)[TILES][2], const typename B::Type* b, int column, int k) {
  using T = typename B::Type;
  const int lane = static_cast<int>(threadIdx.x) & 31, group = lane >> 2, pair = (lane & 3) * 2;
  if constexpr (LDMATRIX && TILES % 2 == 0) {
#pragma unroll
    for (int j = 0; j < TILES; j += 2) {
      unsigned two[4];
      load_matrices<true>(two, b + B::at(column + j * 8 + lane / 16 * 8, k + lane % 16));
      to[j][0] = two[0], to[j][1] = two[1], to[j + 1][0] = two[2], to[j + 1][1] = two[3];
    }
  } else if constexpr (LDMATRIX) {
#pragma unroll
    for (int j = 0; j < TILES; ++j) load_matrices<true>(to[j], b + B::at(column + j * 8, k + lane % 16));
  } else {
#pragma unroll
    for (int j = 0; j < TILES; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int n = column + j * 8 + group, first = k + pair + e * 8;
        to[j][e] = packed(Vector<T, 2>{{b[B::at(n, first)], b[B::at(n, first + 1)]}});
      }
  }
}

// sums += A B over the depth of B's tile on tensor cores, for the warp's tile of 16 TILES_M x 8 TILES_N sums that starts at
// (row, column). Lane l holds of every 16x8 part the sums (l / 4 + 8 (e / 2), l % 4 * 2 + e % 2) for e = 0 … 3
// (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type").
template <class A, class B, bool LDMATRIX, int TILES_M, int TILES_N>
DEVICE void multiply_tensor(float (&sums)[TILES_M][TILES_N][4], const typename A::Type* a, const typename B::Type* b,
                            int row, int column) {
  using T = typename A::Type;
  static_assert(sizeof(T) == 2 && A::ALONG_DEPTH && A::PITCH % 2 == 0 && B::DEPTH % 16 == 0, "what mma can take");
  static_assert(!LDMATRIX || (A::PITCH % 8 == 0 && B::PITCH % 8 == 0), "ldmatrix reads lines that are 16-byte aligned");
#pragma unroll
  for (int k = 0; k < B::DEPTH; k += 16) {
    unsigned part_a[TILES_M][4], part_b[TILES_N][2];
    read_a<A, LDMATRIX>(part_a, a, row, k);
    read_b<B, LDMATRIX>(part_b, b, column, k);
#pragma unroll
    for (int j = 0; j < TILES_N; ++j)
#pragma unroll
      for (int i = 0; i < TILES_M; ++i) multiply_16x8x16(sums[i][j], part_a[i], part_b[j], T());
  }
}

// The sums of a block's tile that a thread holds: multiply() adds to them, each() calls visit(row, column, sums) for every
// GROUP of neighbours in a row. Without tensor cores, ROWS x COLUMNS a thread:
template <class A, class B, int ROWS, int COLUMNS, int TIMES, bool AHEAD>
struct ThreadSums {
  using Rows = Share<A, ROWS>;
  using Columns = Share<B, COLUMNS>;
  static constexpr int THREADS = Rows::ACROSS * Columns::ACROSS, GROUP = Columns::GROUP;
  static_assert(A::EXTENT % ROWS == 0 && B::EXTENT % COLUMNS == 0, "a tile is made of whole register tiles");
  float sums[ROWS][COLUMNS] = {};

  static DEVICE int row() { return static_cast<int>(threadIdx.x) / Columns::ACROSS; }
  static DEVICE int column() { return static_cast<int>(threadIdx.x) % Columns::ACROSS; }
  DEVICE void multiply(const typename A::Type* a, const typename B::Type* b) {
    tile::multiply<A, B, TIMES, AHEAD>(sums, a, b, row(), column());
  }
  DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; ++j) sums[i][j] = 0.0f;
  }
  template <class Visit>
  DEVICE void each(Visit visit) {
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS; j += GROUP) visit(Rows::index(row(), i), Columns::index(column(), j), &sums[i][j]);
  }
};

// With tensor cores, ROWS x COLUMNS a warp:
template <class A, class B, int ROWS, int COLUMNS, bool LDMATRIX>
struct WarpSums {
  static constexpr int ACROSS = B::EXTENT / COLUMNS, THREADS = A::EXTENT / ROWS * ACROSS * 32, GROUP = 2;
  static_assert(A::EXTENT % ROWS == 0 && B::EXTENT % COLUMNS == 0 && ROWS % 16 == 0 && COLUMNS % 8 == 0,
                "tensor cores multiply 16 x 16 by 16 x 8 numbers");
  float sums[ROWS / 16][COLUMNS / 8][4] = {};

  static DEVICE int row() { return static_cast<int>(threadIdx.x) / 32 / ACROSS * ROWS; }
  static DEVICE int column() { return static_cast<int>(threadIdx.x) / 32 % ACROSS * COLUMNS; }
  DEVICE void multiply(const typename A::Type* a, const typename B::Type* b) {
    multiply_tensor<A, B, LDMATRIX>(sums, a, b, row(), column());
  }
  DEVICE void clear() {
#pragma unroll
    for (int i = 0; i < ROWS / 16; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;
  }
  template <class Visit>
  DEVICE void each(Visit visit) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < ROWS / 16; ++i)
#pragma unroll
      for (int j = 0; j < COLUMNS / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; e += 2)
          visit(row() + i * 16 + lane / 4 + e * 4, column() + j * 8 + lane % 4 * 2, &sums[i][j][e]);
  }
};

// Writes N neighbours of a line that ends after `valid` of them; as one vector where lines start at whole vectors.
template <int N, class T>
DEVICE void store(T* to, const float* from, int valid, bool aligned) {
  if constexpr (N > 1) {
    if (aligned && valid >= N) {
      Vector<T, N> whole;
#pragma unroll
      for (int i = 0; i < N; ++i) whole.v[i] = from_float<T>(from[i]);
      store_vector<N>(to, whole);
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i)
    if (i < valid) to[i] = from_float<T>(from[i]);
}

}  // namespace tile
