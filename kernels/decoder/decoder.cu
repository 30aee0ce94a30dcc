// A decoder-only transformer of the Gemma3 text architecture on a GPU: prefill and greedy generation with a KV cache,
// weights of 32, 16, 8 or 4 bits, dense or pruned, several sequences at a time.
//
// The whole model is a static list of launches (launch.py): which tokens a launch takes is in its scalar arguments, and a
// token that was chosen stays in a buffer of the device, so a run can be captured once as a graph.
//
// Almost all arithmetic is in product(): a team of GEMV_LANES threads multiplies GEMV_ROWS rows of weights by up to
// BATCH_TILE activations. A row holds its kept weights side by side (dense: all of them; two of four: two of each four,
// with two bits each that say which; blocks: those inputs that VECTOR_WIDTH neighbouring rows keep, with one list for
// them), padded with zeros to whole 16-byte loads. What the configuration does to the weights themselves is decided in
// weights.py as it is in rounding.cpp; no knob of this file touches it.
//
// nvcc -std=c++17 -arch=sm_90 -Ikernels -cubin kernels/decoder/decoder.cu -o decoder.cubin
#include "device.cuh"

// ---- the model's changes, as in decoder.cpp

#ifndef WEIGHT_BITS
#define WEIGHT_BITS 32  // 32 float, 16 bfloat16, 8 and 4 integers with a scale for every GROUP_SIZE inputs
#endif
#ifndef GROUP_SIZE
#define GROUP_SIZE 64
#endif
#ifndef QUANTIZE_EMBEDDING
#define QUANTIZE_EMBEDDING 0
#endif
#ifndef PRUNING
#define PRUNING 0  // 0 none, 1 magnitude (zeros that are stored), 2 two of four, 3 blocks of VECTOR_WIDTH outputs
#endif
#ifndef VECTOR_WIDTH
#define VECTOR_WIDTH 8
#endif
#ifndef KV_BITS
#define KV_BITS 32  // 32 float, 16 bfloat16, 8 integers with a scale each token and head
#endif

// ---- products

#ifndef GEMV_WARPS
#define GEMV_WARPS 4  // warps of a block
#endif
#ifndef GEMV_LANES
#define GEMV_LANES 32  // threads that share a row
#endif
#ifndef GEMV_ROWS
#define GEMV_ROWS 1  // rows that a team multiplies at once
#endif
#ifndef LOAD_BYTES
#define LOAD_BYTES 16  // of a load of weights
#endif
#ifndef BATCH_TILE
#define BATCH_TILE 4  // activations that a weight is multiplied by once it is loaded
#endif
#ifndef STEP_TILE
#define STEP_TILE 1  // the same for the one token a sequence of a step of generation; launch.py derives it
#endif
#ifndef UNROLL
#define UNROLL 1  // of the loop over the loads of a row
#endif
#ifndef STAGE
#define STAGE 1  // activations are copied to shared memory first
#endif
#ifndef SHARED_PAD
#define SHARED_PAD 0  // floats between each 16 of them there
#endif
#ifndef FUSE_NORM
#define FUSE_NORM 0  // norms: 0 each by itself, 1 the one after a residual sum with it, 2 both in the product that follows
#endif
#ifndef FUSE_GEGLU
#define FUSE_GEGLU 0  // gate and up multiplied together, their GeGLU taken on the way out
#endif

// ---- attention

#ifndef ATTENTION_THREADS
#define ATTENTION_THREADS 128
#endif
#ifndef KEY_LANES
#define KEY_LANES 4  // threads that share a key
#endif
#ifndef KV_LOAD_BYTES
#define KV_LOAD_BYTES 8  // of a load of keys or values
#endif
#ifndef FUSE_ROPE
#define FUSE_ROPE 0  // a step's queries and keys are normalised, rotated and kept by the attention itself
#endif
#ifndef ROW_THREADS
#define ROW_THREADS 128  // threads of a block elsewhere: norms, embedding, rotation, the choice of a token
#endif

#if defined(MIN_BLOCKS) && MIN_BLOCKS > 0  // that a multiprocessor should hold at a time
#define LAUNCH_BOUNDS(threads) __launch_bounds__(threads, MIN_BLOCKS)
#else
#define LAUNCH_BOUNDS(threads) __launch_bounds__(threads)
#endif

#define DENSE 0
#define TWO_OF_FOUR 2
#define BLOCK 3
#define GEMV_THREADS (GEMV_WARPS * 32)
#define MATRIX_HOW (PRUNING == 1 ? DENSE : PRUNING)  // a dropped weight that is stored is a weight like another
#define EMBEDDING_BITS (QUANTIZE_EMBEDDING ? WEIGHT_BITS : 32)

static_assert(WEIGHT_BITS == 32 || WEIGHT_BITS == 16 || WEIGHT_BITS == 8 || WEIGHT_BITS == 4, "WEIGHT_BITS");
static_assert(KV_BITS == 32 || KV_BITS == 16 || KV_BITS == 8, "KV_BITS");
static_assert(32 % GEMV_LANES == 0 && 32 % KEY_LANES == 0, "a team lies within a warp");
static_assert(VECTOR_WIDTH % 8 == 0 && 8 % GEMV_ROWS == 0, "the rows of a team drop the same inputs");
static_assert(LOAD_BYTES % 4 == 0 && KV_LOAD_BYTES * 8 >= KV_BITS, "a load holds whole numbers");
static_assert(SHARED_PAD % 4 == 0, "four floats are loaded from shared memory at once");
static_assert(FUSE_NORM != 2 || STAGE, "a norm in a product leaves its result in shared memory");
static_assert(GEMV_THREADS <= 1024 && ATTENTION_THREADS % 32 == 0 && ROW_THREADS % 32 == 0, "whole warps");
#ifdef BLOCK_THREADS
static_assert(BLOCK_THREADS == GEMV_THREADS, "launch.py launches other blocks than these");
#endif

namespace {

// ---- sums over a block

DEVICE float block_sum(float value) {
  __shared__ float parts[32];
  const int warps = (blockDim.x + 31) / 32;
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < warps; ++i) sum += parts[i];
  __syncthreads();  // the next sum uses the same place
  return sum;
}

DEVICE float block_max(float value) {
  __shared__ float parts[32];
  const int warps = (blockDim.x + 31) / 32;
  value = warp_max(value);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float most = parts[0];
  for (int i = 1; i < warps; ++i) most = fmaxf(most, parts[i]);
  __syncthreads();
  return most;
}

// ---- which tokens a launch takes

// Token i of a launch is the (first + i)th of sequences that each have `length` tokens from `position` on.
struct Place {
  int sequence, position;
};

DEVICE Place place_of(int i, int first, int length, int position, int sequence) {
  const int nth = first + i;
  return {sequence + nth / length, position + nth % length};
}

// ---- weights times activations

struct Matrix {
  const unsigned char* values;  // (rows, slots) of BITS bits
  const float* scales;          // (rows, groups)
  const unsigned short* index;  // two of four: (rows, slots / 8), two bits a slot; blocks: (rows / VECTOR_WIDTH, slots)
  int slots, groups;
};

// Products in the body of the loop over a row's loads: what would be more (a product with an activation that must be
// looked up counts as eight) is loaded in smaller pieces and unrolled less, or compilers take minutes over it.
constexpr int BODY = 1024;

__device__ constexpr int load_of(int bits, int products) {
  int bytes = LOAD_BYTES;
  while (bytes > 4 && bytes * 8 / bits * products > BODY) bytes /= 2;
  return bytes;
}

template <int BITS, int HOW, int TOKENS>
struct Format {
  static constexpr bool INTEGER = BITS <= 8;
  static constexpr int EACH = TOKENS * GEMV_ROWS * (HOW == DENSE ? 1 : 8);
  static constexpr int WORDS = load_of(BITS, EACH) / 4;
  static constexpr int CHUNK = WORDS * 32 / BITS;  // weights of a load
  static constexpr int MOST = BODY / (CHUNK * EACH);
  static constexpr int UNROLLED = MOST < 1 ? 1 : MOST < UNROLL ? MOST : UNROLL;
  static constexpr int HALF = GROUP_SIZE / 2;
  // Neighbouring slots that are sure to share a scale.
  static constexpr int RUN = !INTEGER              ? CHUNK
                             : HOW == BLOCK        ? 32 / BITS
                             : HOW == TWO_OF_FOUR  ? (CHUNK < HALF ? CHUNK : HALF)
                                                   : (CHUNK < GROUP_SIZE ? CHUNK : GROUP_SIZE);
  static_assert(CHUNK % RUN == 0, "a load is whole runs");
};

// The nth weight of a load, without its scale.
template <int BITS, int WORDS>
DEVICE float weight_of(const Vector<unsigned, WORDS>& raw, int n) {
  if constexpr (BITS == 32) return __uint_as_float(raw.v[n]);
  if constexpr (BITS == 16) return __uint_as_float(n % 2 ? raw.v[n / 2] & 0xffff0000u : raw.v[n / 2] << 16);
  if constexpr (BITS == 8) return static_cast<float>(static_cast<signed char>(raw.v[n / 4] >> n % 4 * 8 & 255u));
  return static_cast<float>(static_cast<int>(raw.v[n / 8] >> n % 8 * 4 & 15u) - 8);
}

DEVICE int staged(int column) { return column + column / 16 * SHARED_PAD; }

// Rows of activations, in shared or in global memory.
struct Activations {
  const float* rows;
  long long step;

  DEVICE float at(int token, int column) const {
    return rows[token * step + (STAGE ? staged(column) : column)];
  }
  template <int N>
  DEVICE Vector<float, N> some(int token, int column) const {
    return load_vector<N>(rows + token * step + (STAGE ? staged(column) : column));
  }
};

// sums (TOKENS, GEMV_ROWS) = this thread's part of rows `row`… times TOKENS activations.
template <int BITS, int HOW, int TOKENS>
DEVICE void product(const Matrix& m, int row, int lane, const Activations& x, float (&sums)[TOKENS][GEMV_ROWS]) {
  typedef Format<BITS, HOW, TOKENS> F;
  constexpr int N = F::RUN < 4 ? F::RUN : 4;  // activations of a load
  const long long bytes = static_cast<long long>(m.slots) * BITS / 8;
  const unsigned char* values = m.values + row * bytes;
  const unsigned short* list = m.index;
  if (HOW == BLOCK) list += static_cast<long long>(row / VECTOR_WIDTH) * m.slots;
  if (HOW == TWO_OF_FOUR) list += static_cast<long long>(row) * (m.slots / 8);
  const float* scales = m.scales + static_cast<long long>(row) * m.groups;
#pragma unroll
  for (int t = 0; t < TOKENS; ++t)
#pragma unroll
    for (int r = 0; r < GEMV_ROWS; ++r) sums[t][r] = 0;

#pragma unroll F::UNROLLED
  for (int chunk = lane * F::CHUNK; chunk < m.slots; chunk += GEMV_LANES * F::CHUNK) {
    Vector<unsigned, F::WORDS> raw[GEMV_ROWS];
#pragma unroll
    for (int r = 0; r < GEMV_ROWS; ++r)
      raw[r] = load_vector<F::WORDS>(reinterpret_cast<const unsigned*>(values + r * bytes + chunk * BITS / 8));
#pragma unroll
    for (int run = 0; run < F::CHUNK; run += F::RUN) {
      float part[TOKENS][GEMV_ROWS] = {};
      int group = 0;
      if constexpr (HOW == TWO_OF_FOUR) {
#pragma unroll
        for (int r = 0; r < GEMV_ROWS; ++r) {
          const unsigned short* which = list + r * (m.slots / 8);
#pragma unroll
          for (int i = run; i < run + F::RUN; ++i) {
            const int slot = chunk + i, column = slot / 2 * 4 + (which[slot / 8] >> slot % 8 * 2 & 3);
            const float w = weight_of<BITS>(raw[r], i);
#pragma unroll
            for (int t = 0; t < TOKENS; ++t) part[t][r] += w * x.at(t, column);
          }
        }
        group = (chunk + run) * 2 / GROUP_SIZE;
      } else if constexpr (HOW == BLOCK) {
#pragma unroll
        for (int i = run; i < run + F::RUN; ++i) {
          const int column = list[chunk + i];
          if (i == run) group = column / GROUP_SIZE;
#pragma unroll
          for (int t = 0; t < TOKENS; ++t) {
            const float factor = x.at(t, column);
#pragma unroll
            for (int r = 0; r < GEMV_ROWS; ++r) part[t][r] += weight_of<BITS>(raw[r], i) * factor;
          }
        }
      } else {
#pragma unroll
        for (int i = run; i < run + F::RUN; i += N)
#pragma unroll
          for (int t = 0; t < TOKENS; ++t) {
            const Vector<float, N> factors = x.template some<N>(t, chunk + i);
#pragma unroll
            for (int n = 0; n < N; ++n)
#pragma unroll
              for (int r = 0; r < GEMV_ROWS; ++r) part[t][r] += weight_of<BITS>(raw[r], i + n) * factors.v[n];
          }
        group = (chunk + run) / GROUP_SIZE;
      }
#pragma unroll
      for (int r = 0; r < GEMV_ROWS; ++r) {
        const float scale = F::INTEGER ? scales[static_cast<long long>(r) * m.groups + group] : 1.0f;
#pragma unroll
        for (int t = 0; t < TOKENS; ++t) sums[t][r] += F::INTEGER ? part[t][r] * scale : part[t][r];
      }
    }
  }
}

// Every thread of a team gets the team's sums.
template <int TOKENS>
DEVICE void over_the_team(float (&sums)[TOKENS][GEMV_ROWS]) {
#pragma unroll
  for (int t = 0; t < TOKENS; ++t)
#pragma unroll
    for (int r = 0; r < GEMV_ROWS; ++r)
#pragma unroll
      for (int distance = GEMV_LANES / 2; distance > 0; distance /= 2)
        sums[t][r] += __shfl_xor_sync(0xffffffffu, sums[t][r], distance);
}

// Where the activations of a product come from: rows first, first + step, … of x. With `norm` (FUSE_NORM 2 alone) they are
// norm(x, pre), and with `add` before that x += norm(added, post), whose sum is left in `kept`.
struct Source {
  const float *x, *added, *post, *pre;
  float* kept;
  int columns, stride, first, step, norm, add;
  float eps;

  DEVICE long long row(int token) const { return static_cast<long long>(first + token * step) * stride; }
};

DEVICE float inverse_rms(float square, int size, float eps) { return rsqrt_(square / static_cast<float>(size) + eps); }

// Activations `token`… of a product, `count` of them, in shared memory; a warp normalises a row by itself.
DEVICE void stage(const Source& s, int token, int count, float* to) {
  const int room = staged(s.stride);
  if (FUSE_NORM == 2 && s.norm) {
    const int lane = threadIdx.x % 32;
    for (int t = threadIdx.x / 32; t < count; t += GEMV_WARPS) {
      const float* x = s.x + s.row(token + t);
      const float* added = s.added + s.row(token + t);
      float* row = to + t * room;
      float square = 0;
      if (s.add)
        for (int c = lane; c < s.columns; c += 32) square += added[c] * added[c];
      const float of_added = inverse_rms(warp_sum(square), s.columns, s.eps);
      square = 0;
      for (int c = lane; c < s.columns; c += 32) {
        float value = x[c];
        if (s.add) value += added[c] * of_added * (1.0f + s.post[c]);
        if (s.add && blockIdx.x == 0) s.kept[s.row(token + t) + c] = value;
        row[staged(c)] = value;
        square += value * value;
      }
      const float scale = inverse_rms(warp_sum(square), s.columns, s.eps);
      for (int c = lane; c < s.columns; c += 32) row[staged(c)] *= scale * (1.0f + s.pre[c]);
      for (int c = s.columns + lane; c < s.stride; c += 32) row[staged(c)] = 0;
    }
  } else {
    const int fours = s.stride / 4;
    for (int i = threadIdx.x; i < count * fours; i += GEMV_THREADS) {
      const int t = i / fours, c = i % fours * 4;
      store_vector<4>(to + t * room + staged(c), load_vector<4>(s.x + s.row(token + t) + c));
    }
  }
  __syncthreads();
}

struct Output {
  float* y;
  int stride, first, row, rows;  // row r of the matrix goes to column r of y, for `rows` rows from `row` on
};

DEVICE float gelu(float z) {  // the tanh approximation, written with one exponential
  const float u = 0.797884561f * (z + 0.044715f * z * z * z);
  return z / (1.0f + fast_exp(fminf(-2.0f * u, 80.0f)));
}

// GLU: y = gelu(row r) * row r + up, else y = row r.
template <int BITS, int HOW, int TOKENS, bool GLU>
DEVICE void rows_of(const Matrix& m, const Activations& x, const Output& out, int token, int row, int lane, int up) {
  const bool idle = row >= out.row + out.rows;  // it shuffles with the others all the same
  const int from = idle ? out.row : row;
  float sums[TOKENS][GEMV_ROWS], gates[TOKENS][GEMV_ROWS];
#pragma unroll 1  // one text for both: gate first, then up
  for (int part = 0; part < (GLU ? 2 : 1); ++part) {
    product<BITS, HOW, TOKENS>(m, from + part * up, lane, x, sums);
    over_the_team<TOKENS>(sums);
    if (GLU && part == 0)
#pragma unroll
      for (int t = 0; t < TOKENS; ++t)
#pragma unroll
        for (int r = 0; r < GEMV_ROWS; ++r) gates[t][r] = sums[t][r];
  }
#pragma unroll
  for (int t = 0; t < TOKENS; ++t)
#pragma unroll
    for (int r = 0; r < GEMV_ROWS; ++r)
      if (lane == (t * GEMV_ROWS + r) % GEMV_LANES && row + r < out.row + out.rows) {
        const float value = GLU ? gelu(gates[t][r]) * sums[t][r] : sums[t][r];
        out.y[static_cast<long long>(out.first + token + t) * out.stride + row + r] = value;
      }
}

// y (count, rows) = x (count, columns) times rows of the matrix; blockIdx.y is a tile of activations.
template <int BITS, int HOW, int TILE, bool GLU>
DEVICE void multiply(const Matrix& m, const Source& s, const Output& out, int count, int up) {
  DYNAMIC_SHARED(float, shared);
  const int token = blockIdx.y * TILE, here = count - token < TILE ? count - token : TILE;
  if (STAGE) stage(s, token, here, shared);
  Activations x;
  x.rows = STAGE ? shared : s.x + s.row(token);
  x.step = STAGE ? staged(s.stride) : static_cast<long long>(s.step) * s.stride;
  const int lane = threadIdx.x % GEMV_LANES;
  const int row = out.row + (blockIdx.x * (GEMV_THREADS / GEMV_LANES) + threadIdx.x / GEMV_LANES) * GEMV_ROWS;
  if (here == TILE) {
    rows_of<BITS, HOW, TILE, GLU>(m, x, out, token, row, lane, up);
  } else {
    for (int t = 0; t < here; ++t) {
      rows_of<BITS, HOW, 1, GLU>(m, x, out, token + t, row, lane, up);
      x.rows += x.step;
    }
  }
}

// ---- keys and values

#if KV_BITS == 32
typedef float Kept;
#elif KV_BITS == 16
typedef bf16 Kept;
#else
typedef signed char Kept;
DEVICE float to_float(signed char value) { return static_cast<float>(value); }
#endif

struct Cache {  // (layers, sequences, capacity, heads, room)
  Kept *keys, *values;
  float *key_scales, *value_scales;
  long long layer;  // vectors before this layer's
  int capacity, heads, room;

  DEVICE long long at(const Place& place, int position, int head) const {
    return layer + (static_cast<long long>(place.sequence) * capacity + position % capacity) * heads + head;
  }
};

// A warp keeps a head's vector of `size` floats; x becomes what was kept. Each lane reads and writes its own elements.
DEVICE void keep(float* x, int size, int lane, bool write, Kept* to, float* scale_to) {
#if KV_BITS == 8
  float largest = 0;
  for (int i = lane; i < size; i += 32) largest = fmaxf(largest, fabsf(x[i]));
  const float scale = warp_max(largest) / 127.0f, inverse = scale > 0 ? 1.0f / scale : 0.0f;
  if (write && lane == 0) *scale_to = scale;
  for (int i = lane; i < size; i += 32) {
    const float whole = rintf(x[i] * inverse);
    if (write) to[i] = static_cast<signed char>(whole);
    x[i] = whole * scale;
  }
#else
  (void)scale_to;
  for (int i = lane; i < size; i += 32) {
    const Kept kept = from_float<Kept>(x[i]);
    if (write) to[i] = kept;
    x[i] = to_float(kept);
  }
#endif
  __syncwarp();
}

// A warp normalises and rotates a head's vector in place.
DEVICE void turned(float* x, const float* weight, const float* turn, int size, float eps, int lane) {
  float square = 0;
  for (int i = lane; i < size; i += 32) square += x[i] * x[i];
  const float scale = inverse_rms(warp_sum(square), size, eps);
  const int half = size / 2;
  __syncwarp();
  for (int i = lane; i < half; i += 32) {
    const float a = x[i] * scale * (1.0f + weight[i]), b = x[i + half] * scale * (1.0f + weight[i + half]);
    const float c = turn[i], s = turn[half + i];
    x[i] = a * c - b * s;
    x[i + half] = b * c + a * s;
  }
  __syncwarp();
}

struct Heads {
  const float *q_norm, *k_norm, *turns;  // turns (positions, size): cosines, then sines
  int heads, kv_heads, size, k_at, v_at;  // where keys and values begin in a row of qkv
  float eps;
};

// mixed (tokens, heads, size) = softmax(q k^T) v; a block is one token and head. OWN: the token's own query, key and value
// come as they were projected, and nobody else of this launch sees them.
template <bool OWN>
DEVICE void attention(const float* qkv, int qkv_stride, const Heads& h, const Cache& cache, const Place& place, int seen,
                      float scale, int score_room, float* mixed, int mixed_stride) {
  constexpr int V = KV_LOAD_BYTES * 8 / KV_BITS, TEAMS = ATTENTION_THREADS / KEY_LANES, WARPS = ATTENTION_THREADS / 32;
  DYNAMIC_SHARED(float, shared);
  float *q = shared, *k = q + cache.room, *v = k + cache.room, *scores = v + cache.room, *partial = scores + score_room;
  const int token = blockIdx.y, head = blockIdx.x, thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int kv = head / (h.heads / h.kv_heads);
  const float* row = qkv + static_cast<long long>(token) * qkv_stride;
  for (int i = thread; i < cache.room; i += ATTENTION_THREADS) {
    const bool there = i < h.size;
    q[i] = there ? row[head * h.size + i] : 0.0f;
    if (OWN) k[i] = there ? row[h.k_at + kv * h.size + i] : 0.0f;
    if (OWN) v[i] = there ? row[h.v_at + kv * h.size + i] : 0.0f;
  }
  __syncthreads();
  if (OWN) {
    const float* turn = h.turns + static_cast<long long>(place.position) * h.size;
    const long long at = cache.at(place, place.position, kv);
    const bool write = head % (h.heads / h.kv_heads) == 0;  // of the heads that share a key, one keeps it
    if (warp == 0) turned(q, h.q_norm, turn, h.size, h.eps, lane);
    if (warp == 1 % WARPS) {
      turned(k, h.k_norm, turn, h.size, h.eps, lane);
      keep(k, h.size, lane, write, cache.keys + at * cache.room, cache.key_scales + at);
    }
    if (warp == 2 % WARPS) keep(v, h.size, lane, write, cache.values + at * cache.room, cache.value_scales + at);
    __syncthreads();
  }
  const int first = place.position - seen + 1 > 0 ? place.position - seen + 1 : 0, count = place.position - first + 1;
  const int vectors = (h.size + V - 1) / V;
  float top = -3e38f;
  for (int s0 = 0; s0 < count; s0 += TEAMS) {
    const int s = s0 + thread / KEY_LANES, part = thread % KEY_LANES;
    float sum = 0;
    if (OWN && s == count - 1) {
      for (int i = part; i < h.size; i += KEY_LANES) sum += q[i] * k[i];
    } else if (s < count) {
      const long long at = cache.at(place, first + s, kv);
      for (int j = part; j < vectors; j += KEY_LANES) {
        const Vector<Kept, V> some = load_vector<V>(cache.keys + at * cache.room + j * V);
#pragma unroll
        for (int i = 0; i < V; ++i) sum += q[j * V + i] * to_float(some.v[i]);
      }
      if (KV_BITS == 8) sum *= cache.key_scales[at];
    }
#pragma unroll
    for (int distance = KEY_LANES / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (s < count) {
      sum *= scale;
      top = fmaxf(top, sum);
      if (part == 0) scores[s] = sum;
    }
  }
  top = block_max(top);  // and every score is there
  float total = 0;
  for (int s = thread; s < count; s += ATTENTION_THREADS) {
    const float share = fast_exp(scores[s] - top);
    scores[s] = share;
    total += share;
  }
  total = block_sum(total);
  // A thread takes V elements of every splits-th value.
  const int splits = ATTENTION_THREADS / vectors > 1 ? ATTENTION_THREADS / vectors : 1;
  for (int task = thread; task < vectors * splits; task += ATTENTION_THREADS) {
    const int j = task % vectors, split = task / vectors;
    float out[V] = {};
    for (int s = split; s < count; s += splits) {
      const float share = scores[s];
      if (OWN && s == count - 1) {
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] += share * v[j * V + i];
      } else {
        const long long at = cache.at(place, first + s, kv);
        const Vector<Kept, V> some = load_vector<V>(cache.values + at * cache.room + j * V);
        const float unit = KV_BITS == 8 ? share * cache.value_scales[at] : share;
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] += unit * to_float(some.v[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < V; ++i) partial[split * vectors * V + j * V + i] = out[i];
  }
  __syncthreads();
  for (int i = thread; i < h.size; i += ATTENTION_THREADS) {
    float sum = 0;
    for (int split = 0; split < splits; ++split) sum += partial[split * vectors * V + i];
    mixed[static_cast<long long>(token) * mixed_stride + head * h.size + i] = sum / total;
  }
}

}  // namespace

// ---- entry points

// x (tokens, hidden) = the embedding of each token times sqrt(hidden).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
embed(const int* __restrict__ tokens, int tokens_stride, int first, int length, int position, int sequence,
      const unsigned char* __restrict__ values, const float* __restrict__ scales, int slots, int groups, int hidden,
      float factor, float* __restrict__ x, int x_stride) {
  const Place place = place_of(blockIdx.x, first, length, position, sequence);
  const long long row = tokens[static_cast<long long>(place.sequence) * tokens_stride + place.position];
  const unsigned* words = reinterpret_cast<const unsigned*>(values + row * (static_cast<long long>(slots) * EMBEDDING_BITS / 8));
  for (int c = threadIdx.x; c < hidden; c += ROW_THREADS) {
    constexpr int EACH = 32 / EMBEDDING_BITS;
    const float weight = weight_of<EMBEDDING_BITS>(load_vector<1>(words + c / EACH), c % EACH);
    const float scale = EMBEDDING_BITS <= 8 ? scales[row * groups + c / GROUP_SIZE] : 1.0f;
    x[static_cast<long long>(blockIdx.x) * x_stride + c] = weight * scale * factor;
  }
}

#if FUSE_NORM != 2
// Rows first, first + step, …: with `add` x += norm(added, post); with `norm` in = norm(x, pre).
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
normalise(float* x, const float* added, const float* post, const float* pre, float* in, int size, int stride, int first,
          int step, int add, int norm, float eps) {
  const long long row = static_cast<long long>(first + blockIdx.x * step) * stride;
  float square = 0;
  if (add) {
    for (int c = threadIdx.x; c < size; c += ROW_THREADS) square += added[row + c] * added[row + c];
    const float scale = inverse_rms(block_sum(square), size, eps);
    for (int c = threadIdx.x; c < size; c += ROW_THREADS) x[row + c] += added[row + c] * scale * (1.0f + post[c]);
  }
  if (norm) {
    square = 0;
    for (int c = threadIdx.x; c < size; c += ROW_THREADS) square += x[row + c] * x[row + c];
    const float scale = inverse_rms(block_sum(square), size, eps);
    for (int c = threadIdx.x; c < size; c += ROW_THREADS) in[row + c] = x[row + c] * scale * (1.0f + pre[c]);
  }
}
#endif

// y (tokens, rows) = activations times rows row … row + rows of a matrix. The same text for each way a matrix is used:
// with a prompt's tokens, with a step's, and for the logits.
#define PRODUCT(NAME, BITS, HOW, TILE, GLU)                                                                             \
  extern "C" __global__ void LAUNCH_BOUNDS(GEMV_THREADS)                                                                \
  NAME(const unsigned char* __restrict__ values, const float* __restrict__ scales, const unsigned short* __restrict__ index, \
       int slots, int groups, const float* __restrict__ x, const float* __restrict__ added, const float* __restrict__ post,  \
       const float* __restrict__ pre, float* __restrict__ kept, int columns, int stride, int first, int step, int norm,     \
       int add, float eps, float* __restrict__ y, int y_stride, int y_first, int row, int rows, int count, int up) {        \
    const Matrix m = {values, scales, index, slots, groups};                                                            \
    const Source s = {x, added, post, pre, kept, columns, stride, first, step, norm, add, eps};                         \
    multiply<BITS, HOW, TILE, GLU>(m, s, {y, y_stride, y_first, row, rows}, count, up);                                 \
  }

PRODUCT(project, WEIGHT_BITS, MATRIX_HOW, BATCH_TILE, false)
PRODUCT(project_step, WEIGHT_BITS, MATRIX_HOW, STEP_TILE, false)
PRODUCT(logits, EMBEDDING_BITS, DENSE, STEP_TILE, false)

#if FUSE_GEGLU
PRODUCT(gate_up, WEIGHT_BITS, MATRIX_HOW, BATCH_TILE, true)
PRODUCT(gate_up_step, WEIGHT_BITS, MATRIX_HOW, STEP_TILE, true)
#else
// inner (tokens, ffn) = gelu(gate) * up, which lie side by side.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
geglu(const float* __restrict__ gate, int gate_stride, int up, float* __restrict__ inner, int inner_stride, int ffn) {
  const float* row = gate + static_cast<long long>(blockIdx.x) * gate_stride;
  for (int i = threadIdx.x; i < ffn; i += ROW_THREADS)
    inner[static_cast<long long>(blockIdx.x) * inner_stride + i] = gelu(row[i]) * row[up + i];
}
#endif

#define CACHE_PARAMETERS                                                                                                  \
  Kept *keys, Kept *values, float *key_scales, float *value_scales, long long layer, int capacity, int room,              \
      const float *__restrict__ q_norm, const float *__restrict__ k_norm, const float *__restrict__ turns, int heads,     \
      int kv_heads, int size, int k_at, int v_at, float eps, int first, int length, int position, int sequence

// Queries and keys are normalised and rotated, keys and values kept: a warp each head.
extern "C" __global__ void __launch_bounds__(ROW_THREADS) prepare(float* qkv, int qkv_stride, CACHE_PARAMETERS) {
  const Cache cache = {keys, values, key_scales, value_scales, layer, capacity, kv_heads, room};
  const Place place = place_of(blockIdx.y, first, length, position, sequence);
  float* row = qkv + static_cast<long long>(blockIdx.y) * qkv_stride;
  const float* turn = turns + static_cast<long long>(place.position) * size;
  const int head = blockIdx.x * (ROW_THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (head >= heads + 2 * kv_heads) return;  // a whole warp
  if (head < heads) {
    turned(row + head * size, q_norm, turn, size, eps, lane);
  } else if (head < heads + kv_heads) {
    const int kv = head - heads;
    const long long at = cache.at(place, place.position, kv);
    turned(row + k_at + kv * size, k_norm, turn, size, eps, lane);
    keep(row + k_at + kv * size, size, lane, true, keys + at * room, key_scales + at);
  } else {
    const int kv = head - heads - kv_heads;
    const long long at = cache.at(place, place.position, kv);
    keep(row + v_at + kv * size, size, lane, true, values + at * room, value_scales + at);
  }
}

#define ATTEND(NAME, OWN)                                                                                                 \
  extern "C" __global__ void LAUNCH_BOUNDS(ATTENTION_THREADS)                                                             \
  NAME(const float* qkv, int qkv_stride, CACHE_PARAMETERS, int seen, float scale, int score_room, float* mixed,           \
       int mixed_stride) {                                                                                                \
    const Cache cache = {keys, values, key_scales, value_scales, layer, capacity, kv_heads, room};                        \
    const Heads h = {q_norm, k_norm, turns, heads, kv_heads, size, k_at, v_at, eps};                                      \
    const Place place = place_of(blockIdx.y, first, length, position, sequence);                                          \
    attention<OWN>(qkv, qkv_stride, h, cache, place, seen, scale, score_room, mixed, mixed_stride);                       \
  }

ATTEND(attend, false)
#if FUSE_ROPE
ATTEND(attend_step, true)
#endif

// The most likely token of each row of logits, of equals the first, becomes the token at `position` of its sequence.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
choose(const float* __restrict__ logits, int stride, int vocab, int* __restrict__ tokens, int tokens_stride, int position,
       int sequence) {
  __shared__ float values[ROW_THREADS];
  __shared__ int places[ROW_THREADS];
  const float* row = logits + static_cast<long long>(blockIdx.x) * stride;
  const int thread = threadIdx.x;
  float most = -3.4e38f;
  int where = 0;
  for (int i = thread; i < vocab; i += ROW_THREADS)
    if (row[i] > most) {
      most = row[i];
      where = i;
    }
  values[thread] = most;
  places[thread] = where;
  __syncthreads();
  for (int half = ROW_THREADS / 2; half > 0; half /= 2) {
    if (thread < half) {
      const float other = values[thread + half];
      const int there = places[thread + half];
      if (other > values[thread] || (other == values[thread] && there < places[thread])) {
        values[thread] = other;
        places[thread] = there;
      }
    }
    __syncthreads();
  }
  if (thread == 0) tokens[static_cast<long long>(sequence + blockIdx.x) * tokens_stride + position] = places[0];
}

// losses (position): minus the logarithm of the likelihood that each row of logits gives to the token that follows.
extern "C" __global__ void __launch_bounds__(ROW_THREADS)
surprise(const float* __restrict__ logits, int stride, int vocab, const int* __restrict__ tokens, int position,
         float* __restrict__ losses) {
  const float* row = logits + static_cast<long long>(blockIdx.x) * stride;
  float top = -3.4e38f, sum = 0;
  for (int i = threadIdx.x; i < vocab; i += ROW_THREADS) top = fmaxf(top, row[i]);
  top = block_max(top);
  for (int i = threadIdx.x; i < vocab; i += ROW_THREADS) sum += fast_exp(row[i] - top);
  sum = block_sum(sum);
  const int at = position + blockIdx.x;
  if (threadIdx.x == 0) losses[at] = top + logf(sum) - row[tokens[at + 1]];
}
