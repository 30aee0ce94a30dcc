// A decoder-only transformer of the Gemma3 text architecture: prefill and greedy generation with a KV cache, weights of
// 32, 16, 8 or 4 bits, dense or pruned, several sequences at a time.
//
// Sources: Gemma 3 technical report (2025); RMSNorm: Zhang and Sennrich 2019; rotary embedding: Su et al. 2021;
// grouped-query attention: Ainslie et al. 2023; GeGLU: Shazeer 2020. Dimensions come from the model file's metadata.
//
// The arithmetic is all in one place, Matrix::times. Weights lie in panels of VECTOR_WIDTH outputs: a slot of a panel
// holds the weights that one input (or, pruned 2:4, one of the kept inputs of each output) has for all of them. So the
// innermost loop multiplies a broadcast input by a vector of weights, for BATCH_TILE rows of activations at once, and
// dropped slots are not stored and not multiplied. What the configuration does to the weights themselves is decided in
// rounding.cpp, which no knob touches.
//
// cd kernels && g++ -O3 -std=c++17 -fopenmp -I. decoder/decoder.cpp decoder/rounding.cpp decoder/reference.cpp
//     safetensors.cpp harness.cpp -o decoder && ./decoder --model=decoder/model/model.safetensors
//     --text=decoder/model/heldout.txt
#include "harness.h"
#include "decoder/config.h"
#include "decoder/parallel.h"
#include "decoder/reference.h"
#include "decoder/rounding.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <numeric>
#include <vector>

#ifndef WEIGHT_BITS
#define WEIGHT_BITS 32  // 32 float, 16 bfloat16, 8 and 4 integers with a scale for every GROUP_SIZE inputs
#endif
#ifndef GROUP_SIZE
#define GROUP_SIZE 64
#endif
#ifndef QUANTIZE_EMBEDDING
#define QUANTIZE_EMBEDDING 0  // whether the embedding, which is the output matrix too, is rounded like the others
#endif
#ifndef PRUNING
#define PRUNING 0  // 0 none, 1 magnitude, 2 two of four, 3 blocks of VECTOR_WIDTH outputs
#endif
#ifndef SPARSITY_PCT
#define SPARSITY_PCT 0
#endif
#ifndef KV_BITS
#define KV_BITS 32  // 32 float, 16 bfloat16, 8 integers with a scale each token and head
#endif
#ifndef VECTOR_WIDTH
#define VECTOR_WIDTH 8  // outputs of a panel
#endif
#ifndef BATCH_TILE
#define BATCH_TILE 4  // rows of activations multiplied at once
#endif
#ifndef PREFILL_ROWS
#define PREFILL_ROWS 32  // tokens of prompts taken through the layers together
#endif
#ifndef UNROLL
#define UNROLL 1  // of the loop over the slots of a panel
#endif
#ifndef SCHEDULE
#define SCHEDULE static
#endif
#include "loops.h"

namespace {

using loops::Floats;
using loops::from_bf16;
using std::size_t;

// ---- weights

// How one matrix is stored. The embedding may be kept in float32 while the others are not.
template <int BITS, int HOW>
class Matrix {
 public:
  static constexpr bool INTEGER = BITS <= 8;
  static constexpr int PER_STEP = BITS == 4 ? 2 : 1;  // slots that share a byte

  Matrix(std::vector<float> w, long rows, long cols) : rows_(rows), cols_(cols), panels_(loops::ceil_div(rows, VECTOR_WIDTH)) {
    const auto keep = decoder::prune(w, rows, cols, static_cast<decoder::Pruning>(HOW), SPARSITY_PCT, VECTOR_WIDTH);
    if (HOW == decoder::TWO_OF_FOUR && cols % 4) throw harness::Rejected("two of four needs rows of whole fours");
    kept_ = std::count(keep.begin(), keep.end(), 1);
    group_ = INTEGER ? GROUP_SIZE : cols;
    groups_ = loops::ceil_div(cols, group_);
    decoder::Rounded rounded;
    if (INTEGER) rounded = decoder::round_to(w, rows, cols, BITS, group_);
    lay_out(w, keep, rounded);
  }

  long rows() const { return rows_; }
  double kept() const { return static_cast<double>(kept_); }
  double dense() const { return static_cast<double>(rows_) * cols_; }
  double bytes() const {
    return static_cast<double>(floats_.size() * 4 + halves_.size() * 2 + bytes_.size() + scales_.size() * 4 +
                               inputs_.size() * 4 + lanes_.size());
  }

  // y (count, rows) = x (count, cols) times this matrix transposed. Rows of x are x_row apart, rows of y y_row.
  void times(const float* x, long x_row, float* y, long y_row, long count, int threads) const {
    PARALLEL_FOR(threads, SCHEDULE)
    for (long panel = 0; panel < panels_; ++panel) {
      long i = 0;
      for (; i + BATCH_TILE <= count; i += BATCH_TILE) product<BATCH_TILE>(panel, x + i * x_row, x_row, y + i * y_row, y_row);
      for (; i < count; ++i) product<1>(panel, x + i * x_row, x_row, y + i * y_row, y_row);
    }
  }

  // One row of a dense matrix, as it was rounded: the embedding of a token.
  void row(long index, float scale, float* out) const {
    const long panel = index / VECTOR_WIDTH, lane = index % VECTOR_WIDTH;
    for (long slot = starts_[panel * (groups_ + 1)], col = 0; col < cols_; ++slot, ++col) {
      float weights[PER_STEP][VECTOR_WIDTH];
      unpack(slot / PER_STEP * PER_STEP, weights);
      const float unit = INTEGER ? scales_[(panel * groups_ + col / group_) * VECTOR_WIDTH + lane] : 1.0f;
      out[col] = weights[slot % PER_STEP][lane] * unit * scale;
    }
  }

 private:
  // Slots of a panel, group by group: the inputs of a group that are kept, padded to whole steps with weights of zero.
  void lay_out(const std::vector<float>& w, const std::vector<std::uint8_t>& keep, const decoder::Rounded& rounded) {
    for (long panel = 0; panel < panels_; ++panel) {
      starts_.push_back(slots_);
      for (long g = 0; g < groups_; ++g) {
        const long first = g * group_, last = loops::min(first + group_, cols_);
        if (HOW == decoder::TWO_OF_FOUR)
          for (long four = first; four < last; four += 4)
            for (int nth = 0; nth < 2; ++nth) add_two_of_four(panel, four, nth, w, keep, rounded);
        else
          for (long col = first; col < last; ++col)
            if (HOW != decoder::BLOCK || keep[panel * VECTOR_WIDTH * cols_ + col]) add(panel, col, w, rounded);
        while (slots_ % PER_STEP) pad(first);
        starts_.push_back(slots_);
        for (long lane = 0; INTEGER && lane < VECTOR_WIDTH; ++lane) {
          const long row = panel * VECTOR_WIDTH + lane;
          scales_.push_back(row < rows_ ? rounded.scales[row * groups_ + g] : 0.0f);
        }
      }
    }
  }

  // The slot of one input: its weight for each output of the panel.
  void add(long panel, long col, const std::vector<float>& w, const decoder::Rounded& rounded) {
    for (long lane = 0; lane < VECTOR_WIDTH; ++lane) {
      const long row = panel * VECTOR_WIDTH + lane;
      put(lane, row < rows_, row * cols_ + col, w, rounded);
    }
    if (HOW == decoder::BLOCK) inputs_.push_back(static_cast<std::int32_t>(col));
    ++slots_;
  }

  // The slot of the nth kept weight of four: each output has an input of its own.
  void add_two_of_four(long panel, long four, int nth, const std::vector<float>& w, const std::vector<std::uint8_t>& keep,
                       const decoder::Rounded& rounded) {
    for (long lane = 0; lane < VECTOR_WIDTH; ++lane) {
      const long row = panel * VECTOR_WIDTH + lane;
      int within = 0;
      if (row < rows_)
        for (int seen = 0; within < 4; ++within)
          if (keep[row * cols_ + four + within] && seen++ == nth) break;
      put(lane, row < rows_ && within < 4, row * cols_ + four + within, w, rounded);
      lanes_.push_back(static_cast<std::uint8_t>(within & 3));
    }
    inputs_.push_back(static_cast<std::int32_t>(four));
    ++slots_;
  }

  void pad(long first) {
    for (long lane = 0; lane < VECTOR_WIDTH; ++lane) put(lane, false, 0, {}, {});
    if (HOW == decoder::BLOCK || HOW == decoder::TWO_OF_FOUR) inputs_.push_back(static_cast<std::int32_t>(first));
    if (HOW == decoder::TWO_OF_FOUR) lanes_.insert(lanes_.end(), VECTOR_WIDTH, 0);
    ++slots_;
  }

  void put(long lane, bool there, long index, const std::vector<float>& w, const decoder::Rounded& rounded) {
    const int value = INTEGER && there ? rounded.values[index] : 0;
    if (BITS == 32) floats_.push_back(there ? w[index] : 0.0f);
    if (BITS == 16) halves_.push_back(there ? decoder::to_bf16(w[index]) : std::uint16_t{0});
    if (BITS == 8) bytes_.push_back(static_cast<std::uint8_t>(value));
    if (BITS == 4) {  // the even slot of a pair in the low half, both offset by 8
      if (slots_ % 2 == 0)
        bytes_.push_back(static_cast<std::uint8_t>(value + 8));
      else
        bytes_[slots_ / 2 * VECTOR_WIDTH + lane] |= static_cast<std::uint8_t>((value + 8) << 4);
    }
  }

  // The weights of one step: a slot, or two that share bytes.
  void unpack(long slot, float (&out)[PER_STEP][VECTOR_WIDTH]) const {
    if constexpr (BITS == 32) {
      const float* from = &floats_[slot * VECTOR_WIDTH];
      SIMD for (long lane = 0; lane < VECTOR_WIDTH; ++lane) out[0][lane] = from[lane];
    } else if constexpr (BITS == 16) {
      const std::uint16_t* from = &halves_[slot * VECTOR_WIDTH];
      SIMD for (long lane = 0; lane < VECTOR_WIDTH; ++lane) out[0][lane] = from_bf16(from[lane]);
    } else if constexpr (BITS == 8) {
      const std::uint8_t* from = &bytes_[slot * VECTOR_WIDTH];
      SIMD for (long lane = 0; lane < VECTOR_WIDTH; ++lane) out[0][lane] = static_cast<std::int8_t>(from[lane]);
    } else {
      const std::uint8_t* from = &bytes_[slot / 2 * VECTOR_WIDTH];
      SIMD for (long lane = 0; lane < VECTOR_WIDTH; ++lane) {
        out[0][lane] = static_cast<float>((from[lane] & 15) - 8);
        out[1][lane] = static_cast<float>((from[lane] >> 4) - 8);
      }
    }
  }

  // y (ROWS, outputs of the panel) = x (ROWS, cols) times the panel.
  template <int ROWS>
  void product(long panel, const float* __restrict x, long x_row, float* __restrict y, long y_row) const {
    float sums[ROWS][VECTOR_WIDTH] = {};
    const long* starts = &starts_[panel * (groups_ + 1)];
    for (long g = 0; g < groups_; ++g) {
      float part[ROWS][VECTOR_WIDTH] = {};
      // dense: the nth slot of a group is its nth input
      const long input_of_slot = HOW == decoder::BLOCK || HOW == decoder::TWO_OF_FOUR ? 0 : g * group_ - starts[g];
      UNROLLED(UNROLL)
      for (long slot = starts[g]; slot < starts[g + 1]; slot += PER_STEP) {
        if constexpr (BITS == 32) {
          multiply<ROWS>(part, x, x_row, slot, input_of_slot, &floats_[slot * VECTOR_WIDTH]);
        } else {
          float weights[PER_STEP][VECTOR_WIDTH];
          unpack(slot, weights);
          for (int step = 0; step < PER_STEP; ++step) multiply<ROWS>(part, x, x_row, slot + step, input_of_slot, weights[step]);
        }
      }
      const float* scales = INTEGER ? &scales_[(panel * groups_ + g) * VECTOR_WIDTH] : nullptr;
      for (int i = 0; i < ROWS; ++i)
        SIMD for (long lane = 0; lane < VECTOR_WIDTH; ++lane) sums[i][lane] += INTEGER ? part[i][lane] * scales[lane] : part[i][lane];
    }
    const long lanes = loops::min(VECTOR_WIDTH, rows_ - panel * VECTOR_WIDTH);
    for (int i = 0; i < ROWS; ++i)
      for (long lane = 0; lane < lanes; ++lane) y[i * y_row + panel * VECTOR_WIDTH + lane] = sums[i][lane];
  }

  template <int ROWS>
  void multiply(float (&part)[ROWS][VECTOR_WIDTH], const float* __restrict x, long x_row, long slot, long input_of_slot,
                const float* __restrict weights) const {
    if constexpr (HOW == decoder::TWO_OF_FOUR) {
      const std::uint8_t* within = &lanes_[slot * VECTOR_WIDTH];
      for (int i = 0; i < ROWS; ++i) {
        const float* four = x + i * x_row + inputs_[slot];
        SIMD for (long lane = 0; lane < VECTOR_WIDTH; ++lane) part[i][lane] += four[within[lane]] * weights[lane];
      }
    } else {
      // a slot that pads a dense group to a whole step may stand beyond the last input; its weights are zeros
      const long dense = PER_STEP == 1 ? slot + input_of_slot : loops::min(slot + input_of_slot, cols_ - 1);
      const long input = HOW == decoder::BLOCK ? inputs_[slot] : dense;
      for (int i = 0; i < ROWS; ++i) {
        const float factor = x[i * x_row + input];
        SIMD for (long lane = 0; lane < VECTOR_WIDTH; ++lane) part[i][lane] += factor * weights[lane];
      }
    }
  }

  long rows_, cols_, panels_, group_ = 0, groups_ = 0, slots_ = 0, kept_ = 0;
  std::vector<float> floats_;           // BITS 32: (slots, VECTOR_WIDTH)
  std::vector<std::uint16_t> halves_;   // BITS 16
  std::vector<std::uint8_t> bytes_;     // BITS 8; BITS 4: (slots / 2, VECTOR_WIDTH)
  std::vector<float> scales_;           // (panels, groups, VECTOR_WIDTH)
  std::vector<long> starts_;            // (panels, groups + 1): where a group's slots begin
  std::vector<std::int32_t> inputs_;    // pruned: the input of a slot; two of four: the first of the four
  std::vector<std::uint8_t> lanes_;     // two of four: which of the four, (slots, VECTOR_WIDTH)
};

using Linear = Matrix<WEIGHT_BITS, PRUNING>;
using Embedding = Matrix<QUANTIZE_EMBEDDING ? WEIGHT_BITS : 32, decoder::DENSE>;

struct Layer {
  Linear q, k, v, o, gate, up, down;
  std::vector<float> input, post_attention, pre_ffn, post_ffn, q_norm, k_norm;
};

struct Model {
  decoder::Config c;
  Embedding embedding;
  std::vector<Layer> layers;
  std::vector<float> norm;

  explicit Model(const safetensors::File& file)
      : c(file), embedding(file.floats("model.embed_tokens.weight", {c.vocab, c.hidden}), c.vocab, c.hidden) {
    if (c.heads % c.kv_heads || c.head_dim % 2) throw harness::Rejected("the model's heads don't fit together");
    const auto matrix = [&](const std::string& name, long rows, long cols) {
      return Linear(file.floats("model." + name + ".weight", {rows, cols}), rows, cols);
    };
    const auto vector = [&](const std::string& name, long size) { return file.floats("model." + name + ".weight", {size}); };
    for (long i = 0; i < c.layers; ++i) {
      const std::string at = "layers." + std::to_string(i) + ".", attention = at + "self_attn.";
      layers.push_back({matrix(attention + "q_proj", c.heads * c.head_dim, c.hidden),
                        matrix(attention + "k_proj", c.kv_heads * c.head_dim, c.hidden),
                        matrix(attention + "v_proj", c.kv_heads * c.head_dim, c.hidden),
                        matrix(attention + "o_proj", c.hidden, c.heads * c.head_dim),
                        matrix(at + "mlp.gate_proj", c.ffn, c.hidden), matrix(at + "mlp.up_proj", c.ffn, c.hidden),
                        matrix(at + "mlp.down_proj", c.hidden, c.ffn), vector(at + "input_layernorm", c.hidden),
                        vector(at + "post_attention_layernorm", c.hidden), vector(at + "pre_feedforward_layernorm", c.hidden),
                        vector(at + "post_feedforward_layernorm", c.hidden), vector(attention + "q_norm", c.head_dim),
                        vector(attention + "k_norm", c.head_dim)});
    }
    norm = vector("norm", c.hidden);
  }

  template <class Visit>
  void each_linear(Visit visit) const {
    for (const Layer& l : layers)
      for (const Linear* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) visit(*m);
  }
};

// ---- keys and values

// The keys or values of every layer, sequence and token that may still be seen: a ring of `capacity` tokens.
class Cache {
 public:
  Cache(long layers, long sequences, long capacity, long heads, long head_dim)
      : sequences_(sequences), capacity_(capacity), heads_(heads), size_(head_dim) {
    const size_t vectors = static_cast<size_t>(layers * sequences * capacity * heads);
    if (KV_BITS == 32) floats_.resize(vectors * size_);
    if (KV_BITS == 16) halves_.resize(vectors * size_);
    if (KV_BITS == 8) {
      bytes_.resize(vectors * size_);
      scales_.resize(vectors);
    }
  }

  long capacity() const { return capacity_; }

  void put(long layer, long sequence, long position, long head, const float* x) {
    const size_t at = index(layer, sequence, position, head);
    if (KV_BITS == 32) std::copy(x, x + size_, &floats_[at * size_]);
    if (KV_BITS == 16)
      for (long i = 0; i < size_; ++i) halves_[at * size_ + i] = decoder::to_bf16(x[i]);
    if (KV_BITS == 8) {
      float largest = 0;
      for (long i = 0; i < size_; ++i) largest = std::max(largest, std::fabs(x[i]));
      const float scale = largest / 127.0f, inverse = scale > 0 ? 1.0f / scale : 0.0f;
      scales_[at] = scale;
      for (long i = 0; i < size_; ++i) bytes_[at * size_ + i] = static_cast<std::int8_t>(std::nearbyint(x[i] * inverse));
    }
  }

  // As dot() and add() take it.
  void get(long layer, long sequence, long position, long head, float* out) const {
    const size_t at = index(layer, sequence, position, head);
    for (long i = 0; i < size_; ++i) {
#if KV_BITS == 32
      out[i] = floats_[at * size_ + i];
#elif KV_BITS == 16
      out[i] = from_bf16(halves_[at * size_ + i]);
#else
      out[i] = static_cast<float>(bytes_[at * size_ + i]) * scales_[at];
#endif
    }
  }

  float dot(long layer, long sequence, long position, long head, const float* __restrict q) const {
    const size_t at = index(layer, sequence, position, head);
    float sum = 0;
#if KV_BITS == 32
    const float* k = &floats_[at * size_];
    SIMD_SUM(sum) for (long i = 0; i < size_; ++i) sum += q[i] * k[i];
#elif KV_BITS == 16
    const std::uint16_t* k = &halves_[at * size_];
    SIMD_SUM(sum) for (long i = 0; i < size_; ++i) sum += q[i] * from_bf16(k[i]);
#else
    const std::int8_t* k = &bytes_[at * size_];
    SIMD_SUM(sum) for (long i = 0; i < size_; ++i) sum += q[i] * static_cast<float>(k[i]);
    sum *= scales_[at];
#endif
    return sum;
  }

  void add(long layer, long sequence, long position, long head, float share, float* __restrict out) const {
    const size_t at = index(layer, sequence, position, head);
#if KV_BITS == 32
    const float* v = &floats_[at * size_];
    SIMD for (long i = 0; i < size_; ++i) out[i] += share * v[i];
#elif KV_BITS == 16
    const std::uint16_t* v = &halves_[at * size_];
    SIMD for (long i = 0; i < size_; ++i) out[i] += share * from_bf16(v[i]);
#else
    const std::int8_t* v = &bytes_[at * size_];
    const float unit = share * scales_[at];
    SIMD for (long i = 0; i < size_; ++i) out[i] += unit * static_cast<float>(v[i]);
#endif
  }

 private:
  size_t index(long layer, long sequence, long position, long head) const {
    return static_cast<size_t>(((layer * sequences_ + sequence) * capacity_ + position % capacity_) * heads_ + head);
  }

  long sequences_, capacity_, heads_, size_;
  std::vector<float> floats_;
  std::vector<std::uint16_t> halves_;
  std::vector<std::int8_t> bytes_;
  std::vector<float> scales_;
};

// ---- the forward pass

// A token of a sequence, on its way through the layers.
struct Token {
  long sequence, position;
  int token;
};

// What a check does with keys and values as they are kept: nothing, note them, or keep those that were noted.
enum class Follow { NO, NOTE, TAKE };

// Several sequences in progress. A layer sees the last `context` tokens of its own sequence, local layers fewer.
class Session {
 public:
  Session(const Model& model, long sequences, long context, long positions, int threads)
      : m_(model), c_(model.c), context_(context), threads_(threads), rows_(std::max<long>(PREFILL_ROWS, sequences)),
        keys_(c_.layers, sequences, context + rows_, c_.kv_heads, c_.head_dim),
        values_(c_.layers, sequences, context + rows_, c_.kv_heads, c_.head_dim), x_(rows_ * c_.hidden),
        in_(rows_ * c_.hidden), q_(rows_ * c_.heads * c_.head_dim), k_(rows_ * c_.kv_heads * c_.head_dim),
        v_(rows_ * c_.kv_heads * c_.head_dim), mixed_(rows_ * c_.heads * c_.head_dim), out_(rows_ * c_.hidden),
        gate_(rows_ * c_.ffn), up_(rows_ * c_.ffn), scores_(rows_ * c_.heads * (context + rows_)),
        local_(turns(c_.local_base, positions)), global_(turns(c_.global_base, positions)) {}

  long rows() const { return rows_; }

  // From now on; `kept`: one for each sequence.
  void follow(Follow how, reference::Kept* kept) { how_ = how, kept_ = kept; }

  // Takes up to rows() tokens through all layers. Tokens of one sequence come in the order of their positions, and all
  // of their keys and values are written before any attends: the ring has room for `context` tokens before each.
  void forward(const std::vector<Token>& tokens) {
    const long count = static_cast<long>(tokens.size());
    const float scale = std::sqrt(static_cast<float>(c_.hidden));
    for (long i = 0; i < count; ++i) m_.embedding.row(tokens[i].token, scale, &x_[i * c_.hidden]);
    for (long layer = 0; layer < c_.layers; ++layer) {
      const Layer& l = m_.layers[layer];
      norm_rows(x_, l.input, in_, count);
      times(l.q, in_, q_, count);
      times(l.k, in_, k_, count);
      times(l.v, in_, v_, count);
      keep(layer, l, tokens);
      if (how_ != Follow::NO) follow(layer, tokens);
      attend(layer, tokens);
      times(l.o, mixed_, out_, count);
      add_normed(out_, l.post_attention, count);
      norm_rows(x_, l.pre_ffn, in_, count);
      times(l.gate, in_, gate_, count);
      times(l.up, in_, up_, count);
      geglu(count);
      times(l.down, up_, out_, count);
      add_normed(out_, l.post_ffn, count);
    }
  }

  // logits (picked, vocab) of rows of the last forward().
  void logits(const std::vector<long>& picked, float* out) {
    for (size_t i = 0; i < picked.size(); ++i) norm(&x_[picked[i] * c_.hidden], m_.norm, &in_[i * c_.hidden], c_.hidden);
    m_.embedding.times(in_.data(), c_.hidden, out, c_.vocab, static_cast<long>(picked.size()), threads_);
  }

 private:
  void times(const Linear& m, const Floats& x, Floats& y, long count) {
    const long x_row = static_cast<long>(x.size()) / rows_, y_row = static_cast<long>(y.size()) / rows_;
    m.times(x.data(), x_row, y.data(), y_row, count, threads_);
  }

  // y = x / rms(x) (1 + weight); y may be x
  void norm(const float* x, const std::vector<float>& weight, float* y, long size) const {
    float square = 0;
    SIMD_SUM(square) for (long i = 0; i < size; ++i) square += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(square / static_cast<float>(size) + static_cast<float>(c_.eps));
    SIMD for (long i = 0; i < size; ++i) y[i] = x[i] * scale * (1.0f + weight[i]);
  }

  void norm_rows(const Floats& x, const std::vector<float>& weight, Floats& y, long count) const {
    for (long i = 0; i < count; ++i) norm(&x.data()[i * c_.hidden], weight, &y[i * c_.hidden], c_.hidden);
  }

  void add_normed(const Floats& from, const std::vector<float>& weight, long count) {
    norm_rows(from, weight, in_, count);
    SIMD for (long i = 0; i < count * c_.hidden; ++i) x_[i] += in_[i];
  }

  // gate and up (count, ffn): up *= gelu(gate), the tanh approximation written with one exponential.
  void geglu(long count) {
    const float* __restrict gate = gate_.data();
    float* __restrict up = up_.data();
    SIMD for (long i = 0; i < count * c_.ffn; ++i) {
      const float z = gate[i], u = 0.797884561f * (z + 0.044715f * z * z * z);
      // The bound keeps the exponential finite: -ffast-math divides by way of an approximate reciprocal and a Newton
      // step, which makes a NaN of the reciprocal of infinity (any z below -11).
      up[i] *= z / (1.0f + expf(std::min(-2.0f * u, 80.0f)));
    }
  }

  // Normalises and rotates queries and keys, and writes keys and values into the cache.
  void keep(long layer, const Layer& l, const std::vector<Token>& tokens) {
    const Floats& turn = c_.is_local(layer) ? local_ : global_;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const Token& t = tokens[i];
      for (long h = 0; h < c_.heads; ++h) head(&q_[(i * c_.heads + h) * c_.head_dim], l.q_norm, turn, t.position);
      for (long h = 0; h < c_.kv_heads; ++h) {
        float* k = &k_[(i * c_.kv_heads + h) * c_.head_dim];
        head(k, l.k_norm, turn, t.position);
        keys_.put(layer, t.sequence, t.position, h, k);
        values_.put(layer, t.sequence, t.position, h, &v_[(i * c_.kv_heads + h) * c_.head_dim]);
      }
    }
  }

  void follow(long layer, const std::vector<Token>& tokens) {
    for (const Token& t : tokens)
      for (long h = 0; h < c_.kv_heads; ++h)
        for (const bool keys : {true, false}) {
          Cache& cache = keys ? keys_ : values_;
          float* kept = kept_[t.sequence].at(keys, layer, t.position, h);
          if (how_ == Follow::NOTE)
            cache.get(layer, t.sequence, t.position, h, kept);
          else
            cache.put(layer, t.sequence, t.position, h, kept);
        }
  }

  void head(float* x, const std::vector<float>& weight, const Floats& turn, long position) const {
    norm(x, weight, x, c_.head_dim);
    const long half = c_.head_dim / 2;
    const float* cos = &turn.data()[position * c_.head_dim];
    const float* sin = cos + half;
    for (long i = 0; i < half; ++i) {
      const float a = x[i], b = x[i + half];
      x[i] = a * cos[i] - b * sin[i];
      x[i + half] = b * cos[i] + a * sin[i];
    }
  }

  // mixed (tokens, heads, head_dim) = softmax(q k^T) v over the tokens that each may see.
  void attend(long layer, const std::vector<Token>& tokens) {
    const long seen = c_.is_local(layer) ? std::min(context_, c_.window) : context_;
    const float scale = 1.0f / std::sqrt(static_cast<float>(c_.query_scalar));
    const long tasks = static_cast<long>(tokens.size()) * c_.heads;
    PARALLEL_FOR(threads_, SCHEDULE)
    for (long task = 0; task < tasks; ++task) {
      const Token& t = tokens[task / c_.heads];
      const long kv = task % c_.heads / (c_.heads / c_.kv_heads), first = std::max(0L, t.position - seen + 1);
      const long count = t.position - first + 1;
      const float* q = &q_.data()[task * c_.head_dim];
      float* scores = &scores_[task * keys_.capacity()];
      float* out = &mixed_[task * c_.head_dim];
      float top = -3e38f, total = 0;
      for (long s = 0; s < count; ++s) {
        scores[s] = scale * keys_.dot(layer, t.sequence, first + s, kv, q);
        top = scores[s] > top ? scores[s] : top;
      }
      SIMD_SUM(total) for (long s = 0; s < count; ++s) {
        scores[s] = expf(scores[s] - top);
        total += scores[s];
      }
      for (long i = 0; i < c_.head_dim; ++i) out[i] = 0;
      for (long s = 0; s < count; ++s) values_.add(layer, t.sequence, first + s, kv, scores[s] / total, out);
    }
  }

  // (positions, head_dim): cosines, then sines, of the angles position * base^(-2i / head_dim).
  Floats turns(double base, long positions) const {
    Floats out(static_cast<size_t>(positions * c_.head_dim));
    const long half = c_.head_dim / 2;
    for (long p = 0; p < positions; ++p)
      for (long i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * std::pow(base, -2.0 * static_cast<double>(i) / c_.head_dim);
        out[p * c_.head_dim + i] = static_cast<float>(std::cos(angle));
        out[p * c_.head_dim + half + i] = static_cast<float>(std::sin(angle));
      }
    return out;
  }

  const Model& m_;
  const decoder::Config& c_;
  long context_;
  int threads_;
  long rows_;
  Cache keys_, values_;
  Floats x_, in_, q_, k_, v_, mixed_, out_, gate_, up_, scores_;
  Floats local_, global_;
  Follow how_ = Follow::NO;
  reference::Kept* kept_ = nullptr;
};

// ---- the scenario, the check and the quality

// Tokens of a text: the bytes of a file, or, where it ends in .ids, its 32-bit numbers (little endian).
std::vector<int> tokens_of(const std::string& path, long vocab) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || bytes.empty()) throw harness::Rejected("the text " + path + " can't be read");
  std::vector<int> out;
  if (path.size() > 4 && path.substr(path.size() - 4) == ".ids") {
    out.resize(bytes.size() / 4);
    std::copy(bytes.begin(), bytes.begin() + static_cast<long>(out.size() * 4), reinterpret_cast<char*>(out.data()));
  } else {
    for (const char byte : bytes) out.push_back(static_cast<unsigned char>(byte));
  }
  for (const int token : out)
    if (token < 0 || token >= vocab) throw harness::Rejected("the text " + path + " has tokens that the model lacks");
  return out;
}

long most_likely(const float* logits, long vocab) { return std::max_element(logits, logits + vocab) - logits; }

struct Decoder : harness::Kernel {
  std::string path;
  Model model;
  long batch, context, prompt, generate, requests, eval_tokens, eval_windows, window_tokens, check_tokens;
  int threads;
  std::vector<int> text;
  Session session;
  Floats logits;

  static constexpr long STEPS = 4;    // tokens that the check generates after its prompt
  static constexpr long LEAD_IN = 64; // tokens of the text that are read before the first is scored

  explicit Decoder(const harness::Options& options)
      : path(options.text("model", "")), model(safetensors::File(path)), batch(options.integer("batch", 1, 1, 4096)),
        context(options.integer("context", 256, 1, 1 << 20)), prompt(options.integer("prompt", 64, 1, 1 << 20)),
        generate(options.integer("generate", 32, 1, 1 << 20)), requests(options.integer("requests", 8, 1, 1 << 20)),
        eval_tokens(options.integer("eval-tokens", 4096, 1, 1 << 24)),
        eval_windows(options.integer("eval-windows", 0, 0, 1 << 20)),
        window_tokens(options.integer("window-tokens", 256, 2, 1 << 20)),
        check_tokens(options.integer("check-tokens", 96, 2, 1 << 16)),
        threads(static_cast<int>(options.integer("threads", 1, 1, 1024))),
        text(tokens_of(options.text("text", ""), model.c.vocab)),
        session(model, batch, context, prompt + generate, threads),
        logits(static_cast<size_t>(std::max(session.rows(), batch) * model.c.vocab)) {
    if (requests % batch)
      throw harness::Rejected("--batch=" + std::to_string(batch) + " does not divide --requests=" +
                              std::to_string(requests) + ": every configuration must do the same work");
    const long read = requests + prompt + check_tokens + STEPS;
    const long needed = eval_windows ? prompts_from() + read : std::max(eval_tokens + LEAD_IN + 1, read);
    if (static_cast<long>(text.size()) < needed)
      throw harness::Rejected("the text has " + std::to_string(text.size()) + " tokens; this scenario needs " +
                              std::to_string(needed));
    if (const std::string dump = options.text("dump-logits", ""); !dump.empty())
      write_logits(dump, options.integer("dump-rows", 1, 1, session.rows()));
  }

  harness::Facts facts() const override {
    double kept = 0, dense = 0, bytes = model.embedding.bytes();
    model.each_linear([&](const Linear& m) { kept += m.kept(), dense += m.dense(), bytes += m.bytes(); });
    const double tokens = static_cast<double>(requests) * (prompt + generate - 1);
    const double flop = 2 * (tokens * kept + static_cast<double>(requests) * generate * model.embedding.dense());
    return {{"flop", flop},
            {"model_bytes", bytes},
            {"parameters", kept + model.embedding.dense()},
            {"sparsity_pct", 100 * (1 - kept / dense)}};
  }

  // Where the text of the requests begins: what is timed is not what is judged, where the text is windows first.
  long prompts_from() const { return eval_windows * window_tokens; }

  // The nth token of a request: requests start at different places of the text.
  int token_of(long request, long nth) const {
    const long room = static_cast<long>(text.size()) - prompts_from() - prompt - check_tokens - STEPS;
    return text[static_cast<size_t>(prompts_from() + request * room / requests + nth)];
  }

  // Takes the first `length` tokens of requests `first`, first + 1, … through the model; logits (sequences, vocab) of
  // the last of each.
  void prefill(Session& in, long first, long sequences, long length, std::vector<float>& out) {
    std::vector<Token> tokens;
    const auto flush = [&] {
      in.forward(tokens);
      std::vector<long> picked;
      for (size_t i = 0; i < tokens.size(); ++i)
        if (tokens[i].position == length - 1) picked.push_back(static_cast<long>(i));
      in.logits(picked, logits.data());
      for (size_t i = 0; i < picked.size(); ++i)
        std::copy_n(&logits[i * model.c.vocab], model.c.vocab, &out[tokens[picked[i]].sequence * model.c.vocab]);
      tokens.clear();
    };
    for (long sequence = 0; sequence < sequences; ++sequence)
      for (long position = 0; position < length; ++position) {
        tokens.push_back({sequence, position, token_of(first + sequence, position)});
        if (static_cast<long>(tokens.size()) == PREFILL_ROWS) flush();
      }
    if (!tokens.empty()) flush();
  }

  // One more token of every sequence; logits (sequences, vocab).
  void step(Session& in, const std::vector<Token>& tokens, std::vector<float>& out) {
    std::vector<long> all(tokens.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<long>(i);
    in.forward(tokens);
    in.logits(all, out.data());
  }

  void run(harness::Reading& reading) override {
    std::vector<float> last(static_cast<size_t>(batch * model.c.vocab));
    const double start = harness::now_s();
    double first_s = 0;
    for (long first = 0; first < requests; first += batch) {
      const double begin = harness::now_s();
      prefill(session, first, batch, prompt, last);
      std::vector<Token> tokens(static_cast<size_t>(batch));
      for (long made = 0; made < generate; ++made) {
        for (long i = 0; i < batch; ++i)
          tokens[i] = {i, prompt + made, static_cast<int>(most_likely(&last[i * model.c.vocab], model.c.vocab))};
        if (made == 0) first_s += harness::now_s() - begin;
        if (made + 1 < generate) step(session, tokens, last);  // the last token is not taken through the model
      }
    }
    const double total_s = harness::now_s() - start, batches = static_cast<double>(requests / batch);
    reading.inferences = static_cast<double>(batch);
    reading.batches = batches;
    reading.metrics["tokens_per_s"] = static_cast<double>(requests * generate) / total_s;
    reading.metrics["ttft_s"] = first_s / batches;
    reading.metrics["prefill_tokens_per_s"] = static_cast<double>(requests * prompt) / first_s;
  }

  harness::Check verify() override {
    const reference::Changes changes{WEIGHT_BITS, GROUP_SIZE, PRUNING, SPARSITY_PCT, VECTOR_WIDTH, QUANTIZE_EMBEDDING != 0, KV_BITS};
    const reference::Model expected(path, changes);
    // The same rounded and pruned weights in float32 against double: sums of up to a few thousand products through a few
    // layers err by some 1e-6 of the largest logit; re-association by -ffast-math stays in that range. The bound is that
    // of four layers: each layer adds its own. It holds for a cache of fewer bits too, since the reference goes on with
    // the keys and values that were kept (reference::Kept); how far they are from its own, less half a step of their
    // rounding, is an error of its own, of float32 again.
    const double tolerance = 2e-5 * std::max(1.0, static_cast<double>(model.c.layers) / 4.0);
    // so that the ring of the cache wraps around, where the check is long enough
    const long small = std::min({context, 40L, check_tokens / 2});
    double beyond = 0;
    harness::Check check{{{"max_rel_error", error(expected, context, beyond)}, {"max_rel_error_ring", error(expected, small, beyond)}},
                         {{"max_rel_error", tolerance}, {"max_rel_error_ring", tolerance}},
                         {{"perplexity", perplexity()}}};
    if (KV_BITS != 32) {
      check.errors["max_rel_error_kept"] = beyond;
      check.tolerances["max_rel_error_kept"] = tolerance;
    }
    return check;
  }

  // Of the logits after a prompt and after each of a few tokens more. The first and the last sequence of a batch are held
  // against the reference; those between, against themselves alone, so that a mix-up within the batch shows. All in one
  // comparison, made by the harness: under -ffast-math no comparison of this file may be trusted with a NaN. `beyond`
  // rises to the worst rounding of keys and values, as the reference finds it.
  double error(const reference::Model& expected, long limit, double& beyond) {
    const reference::Kept none(model.c.layers, check_tokens + STEPS, model.c.kv_heads, model.c.head_dim);
    std::vector<reference::Kept> kept(static_cast<size_t>(KV_BITS == 32 ? 0 : batch), none);
    const std::vector<float> found = answers(0, batch, limit, Follow::NOTE, kept.data());
    std::vector<float> right;
    for (long sequence = 0; sequence < batch; ++sequence) {
      std::vector<int> tokens;
      for (long i = 0; i < check_tokens + STEPS; ++i) tokens.push_back(token_of(sequence, i));
      const bool outermost = sequence == 0 || sequence == batch - 1;
      reference::Kept* its_kept = kept.empty() ? nullptr : &kept[sequence];
      const std::vector<float> its = outermost ? expected.logits(tokens, limit, STEPS + 1, its_kept)
                                               : answers(sequence, 1, limit, Follow::TAKE, its_kept);
      if (outermost && its_kept) beyond = std::max(beyond, its_kept->worst());
      right.insert(right.end(), its.begin(), its.end());
    }
    return harness::max_rel_error(found.data(), right.data(), right.size());
  }

  // Logits (sequences, 1 + STEPS, vocab) of requests `first`, first + 1, … after their prompt and after each step.
  std::vector<float> answers(long first, long sequences, long limit, Follow how, reference::Kept* kept) {
    const long vocab = model.c.vocab;
    Session session(model, sequences, limit, check_tokens + STEPS, threads);
    if (kept) session.follow(how, kept);
    std::vector<float> last(static_cast<size_t>(sequences * vocab)), all(last.size() * (1 + STEPS));
    const auto note = [&](long nth) {
      for (long i = 0; i < sequences; ++i) std::copy_n(&last[i * vocab], vocab, &all[(i * (1 + STEPS) + nth) * vocab]);
    };
    prefill(session, first, sequences, check_tokens, last);
    note(0);
    for (long s = 0; s < STEPS; ++s) {
      std::vector<Token> tokens;
      for (long i = 0; i < sequences; ++i) tokens.push_back({i, check_tokens + s, token_of(first + i, check_tokens + s)});
      step(session, tokens, last);
      note(1 + s);
    }
    return all;
  }

  // exp of the mean negative log-likelihood. Without windows: of eval_tokens tokens from the middle of the text, each
  // given those before it that `context` lets it see, in one pass with the ring that generation uses, so that every
  // context length scores the same tokens; the lead-in is read and not scored. With windows, which
  // the text begins with: of all tokens of each but its first, given those before it in its window.
  //
  // It is not timed. A window is one thread's, and a text without windows is read on one: threads that wait for each
  // other thousands of times take minutes where others use the machine too.
  double perplexity() {
    if (eval_windows == 0) {
      const long count = eval_tokens + LEAD_IN;
      const int* from = &text[(text.size() - static_cast<size_t>(count + 1)) / 2];
      return std::exp(surprises(from, count, LEAD_IN) / static_cast<double>(eval_tokens));
    }
    std::vector<double> sums(static_cast<size_t>(eval_windows));
    const long scored = window_tokens - 1, work = scored * static_cast<long>(model.embedding.dense());
    decoder::in_parallel(eval_windows, work, [&](long i) { sums[i] = surprises(&text[i * window_tokens], scored, 0); });
    return std::exp(std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(eval_windows * scored));
  }

  // The sum of surprises of tokens lead_in + 1, …, count of a text that begins at `from`, each given those before it.
  double surprises(const int* from, long count, long lead_in) const {
    Session reader(model, 1, context, count + 1, 1);
    std::vector<float> out(static_cast<size_t>(PREFILL_ROWS * model.c.vocab));
    double total = 0;
    std::vector<Token> tokens;
    std::vector<long> all;
    for (long position = 0; position < count; ++position) {
      all.push_back(static_cast<long>(tokens.size()));
      tokens.push_back({0, position, from[position]});
      if (static_cast<long>(tokens.size()) < PREFILL_ROWS && position + 1 < count) continue;
      reader.forward(tokens);
      reader.logits(all, out.data());
      for (size_t i = 0; i < tokens.size(); ++i)
        if (tokens[i].position >= lead_in) total += surprise(&out[i * model.c.vocab], from[tokens[i].position + 1]);
      tokens.clear();
      all.clear();
    }
    return total;
  }

  double surprise(const float* of, int token) const {
    const double top = *std::max_element(of, of + model.c.vocab);
    double sum = 0;
    for (long i = 0; i < model.c.vocab; ++i) sum += std::exp(of[i] - top);
    return top + std::log(sum) - of[token];
  }

  // For comparing with another implementation: logits (check_tokens, vocab) of the text's first tokens, as float32, taken
  // through the model `rows` at a time.
  void write_logits(const std::string& to, long rows) {
    Session reader(model, 1, context, check_tokens, threads);
    std::ofstream file(to, std::ios::binary);
    for (long first = 0; first < check_tokens; first += rows) {
      std::vector<Token> tokens;
      for (long p = first; p < std::min(first + rows, check_tokens); ++p) tokens.push_back({0, p, text[p]});
      std::vector<float> out(tokens.size() * static_cast<size_t>(model.c.vocab));
      step(reader, tokens, out);
      file.write(reinterpret_cast<const char*>(out.data()), static_cast<long>(out.size() * sizeof(float)));
    }
  }
};

}  // namespace

std::unique_ptr<harness::Kernel> harness::make(const Options& options) { return std::make_unique<Decoder>(options); }
