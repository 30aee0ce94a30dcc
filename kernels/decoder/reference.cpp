// Written to be checked by eye against the architecture's description, not to be fast.
#include "reference.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "config.h"
#include "harness.h"
#include "parallel.h"

namespace reference {
namespace {

using Vector = std::vector<double>;

double as_bf16(double value) {
  const float single = static_cast<float>(value);
  std::uint32_t bits;
  std::memcpy(&bits, &single, sizeof bits);
  const std::uint32_t rest = bits & 0xffff, up = rest > 0x8000 || (rest == 0x8000 && (bits & 0x10000));
  bits = (bits & 0xffff0000u) + (up ? 0x10000u : 0u);
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

// Integers of `bits` times a scale; the scale and the quotient are float32, as the format has them.
void round_group(float* w, long count, int bits) {
  const float most = bits == 8 ? 127.0f : 7.0f;
  float largest = 0;
  for (long i = 0; i < count; ++i) largest = std::max(largest, std::fabs(w[i]));
  const float scale = largest / most;
  for (long i = 0; i < count; ++i) w[i] = scale > 0 ? std::nearbyint(w[i] / scale) * scale : 0.0f;
}

// A matrix (rows, cols) of the changed model.
struct Matrix {
  long rows = 0, cols = 0;
  std::vector<float> w;

  Vector times(const Vector& x) const {
    Vector y(static_cast<std::size_t>(rows), 0.0);
    for (long i = 0; i < rows; ++i) y[i] = dot(&w[i * cols], x);
    return y;
  }

  // Four sums, so that one addition need not wait for the one before it.
  double dot(const float* row, const Vector& x) const {
    double sums[4] = {};
    long j = 0;
    for (; j + 4 <= cols; j += 4)
      for (int k = 0; k < 4; ++k) sums[k] += static_cast<double>(row[j + k]) * x[j + k];
    for (; j < cols; ++j) sums[0] += static_cast<double>(row[j]) * x[j];
    return sums[0] + sums[1] + (sums[2] + sums[3]);
  }
};

// Which of `sizes` are the `drop` smallest; of equals the higher index is dropped.
std::vector<bool> smallest(const Vector& sizes, long drop) {
  std::vector<std::pair<double, long>> order;
  for (long i = 0; i < static_cast<long>(sizes.size()); ++i) order.emplace_back(sizes[i], -i);
  std::nth_element(order.begin(), order.begin() + drop, order.end());
  std::vector<bool> out(sizes.size(), false);
  for (long i = 0; i < drop; ++i) out[-order[i].second] = true;
  return out;
}

void prune(Matrix& m, const Changes& changes) {
  const long drop = m.cols * changes.sparsity_pct / 100;
  if (changes.pruning == 1)
    decoder::in_parallel(m.rows, 16 * m.cols, [&](long i) {
      float* row = &m.w[i * m.cols];
      Vector sizes;
      for (long j = 0; j < m.cols; ++j) sizes.push_back(std::fabs(row[j]));
      const auto gone = smallest(sizes, drop);
      for (long j = 0; j < m.cols; ++j) row[j] = gone[j] ? 0 : row[j];
    });
  if (changes.pruning == 2 && m.cols % 4) throw harness::Rejected("the reference prunes rows of whole fours only");
  if (changes.pruning == 2)
    decoder::in_parallel(m.rows * m.cols / 4, 64, [&](long at) {
      float* four = &m.w[4 * at];
      const auto gone = smallest({std::fabs(four[0]), std::fabs(four[1]), std::fabs(four[2]), std::fabs(four[3])}, 2);
      for (long k = 0; k < 4; ++k) four[k] = gone[k] ? 0 : four[k];
    });
  if (changes.pruning == 3)
    decoder::in_parallel((m.rows + changes.lanes - 1) / changes.lanes, changes.lanes * m.cols, [&](long block) {
      const long first = block * changes.lanes, last = std::min(first + changes.lanes, m.rows);
      Vector sizes(static_cast<std::size_t>(m.cols), 0.0);
      for (long i = first; i < last; ++i)
        for (long j = 0; j < m.cols; ++j) sizes[j] += static_cast<double>(m.w[i * m.cols + j]) * m.w[i * m.cols + j];
      const auto gone = smallest(sizes, drop);
      for (long i = first; i < last; ++i)
        for (long j = 0; j < m.cols; ++j) m.w[i * m.cols + j] = gone[j] ? 0 : m.w[i * m.cols + j];
    });
}

void round_weights(Matrix& m, const Changes& changes) {
  if (changes.weight_bits == 16)
    for (float& w : m.w) w = static_cast<float>(as_bf16(w));
  if (changes.weight_bits < 16)
    decoder::in_parallel(m.rows, 4 * m.cols, [&](long i) {
      for (long j = 0; j < m.cols; j += changes.group)
        round_group(&m.w[i * m.cols + j], std::min(changes.group, m.cols - j), changes.weight_bits);
    });
}

Vector normed(const Vector& x, const std::vector<float>& weight, double eps) {
  double square = 0;
  for (const double v : x) square += v * v;
  const double scale = 1 / std::sqrt(square / static_cast<double>(x.size()) + eps);
  Vector y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * (1.0 + weight[i]);
  return y;
}

void rotate(double* x, long size, long position, double base) {
  for (long i = 0; i < size / 2; ++i) {
    const double angle = position * std::pow(base, -2.0 * i / size), c = std::cos(angle), s = std::sin(angle);
    const double a = x[i], b = x[i + size / 2];
    x[i] = a * c - b * s;
    x[i + size / 2] = b * c + a * s;
  }
}

// Keys or values of one token and head as the cache keeps them.
void keep(double* x, long size, int bits) {
  if (bits == 16)
    for (long i = 0; i < size; ++i) x[i] = as_bf16(x[i]);
  if (bits == 8) {
    double largest = 0;
    for (long i = 0; i < size; ++i) largest = std::max(largest, std::fabs(x[i]));
    const double scale = largest / 127;
    for (long i = 0; i < size; ++i) x[i] = scale > 0 ? std::nearbyint(x[i] / scale) * scale : 0;
  }
}

// Puts what a program kept into the place of x, its own number; how far beyond rounding that is, of the largest. Half a
// step of 8 bits is 1/254 of the largest; of bfloat16, which has 8 binary places, 2^-8 of the power of two below a number.
double follow(double* x, const float* kept, long size, int bits) {
  double largest = 0, worst = 0;
  for (long i = 0; i < size; ++i) largest = std::max(largest, std::fabs(x[i]));
  for (long i = 0; i < size; ++i) {
    const double most = std::max(std::fabs(x[i]), std::fabs(static_cast<double>(kept[i])));
    const double half = bits == 8 ? largest / 254 : most > 0 ? std::ldexp(1.0, std::ilogb(most) - 8) : 0;
    const double beyond = std::fabs(x[i] - static_cast<double>(kept[i])) - half;
    if (!(beyond <= worst)) worst = std::isnan(beyond) ? INFINITY : beyond;
    x[i] = kept[i];
  }
  return largest > 0 ? worst / largest : worst > 0 ? INFINITY : 0;
}

}  // namespace

struct Layer {
  Matrix q, k, v, o, gate, up, down;
  std::vector<float> input, post_attention, pre_ffn, post_ffn, q_norm, k_norm;
};

struct Model::Weights {
  decoder::Config c;
  Changes changes;
  Matrix embedding;
  std::vector<Layer> layers;
  std::vector<float> norm;

  Weights(const safetensors::File& file, const Changes& changes) : c(file), changes(changes) {
    const auto matrix = [&](const std::string& name, long rows, long cols) {
      Matrix m{rows, cols, file.floats("model." + name + ".weight", {rows, cols})};
      prune(m, changes);
      round_weights(m, changes);
      return m;
    };
    const auto vector = [&](const std::string& name, long size) { return file.floats("model." + name + ".weight", {size}); };
    embedding = {c.vocab, c.hidden, file.floats("model.embed_tokens.weight", {c.vocab, c.hidden})};
    if (changes.round_embedding) round_weights(embedding, changes);
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

  // x (T, hidden) through one layer.
  void layer(std::vector<Vector>& x, long index, long context, Kept* kept) const {
    const Layer& l = layers[index];
    const bool local = c.is_local(index);
    const double base = local ? c.local_base : c.global_base;
    const long seen = local ? std::min(context, c.window) : context, length = static_cast<long>(x.size());
    std::vector<Vector> q(x.size()), k(x.size()), v(x.size());
    decoder::in_parallel(length, (c.heads + 2 * c.kv_heads) * c.head_dim * c.hidden, [&](long t) {
      const Vector in = normed(x[t], l.input, c.eps);
      q[t] = heads_of(l.q.times(in), l.q_norm, t, base);
      k[t] = heads_of(l.k.times(in), l.k_norm, t, base);
      v[t] = l.v.times(in);
      for (long h = 0; h < c.kv_heads; ++h)
        for (const bool keys : {true, false}) {
          double* own = &(keys ? k : v)[t][h * c.head_dim];
          if (kept)
            kept->excess[t] = std::max(kept->excess[t], follow(own, kept->at(keys, index, t, h), c.head_dim, changes.kv_bits));
          else
            keep(own, c.head_dim, changes.kv_bits);
        }
    });
    decoder::in_parallel(length, 3 * c.ffn * c.hidden, [&](long t) {
      Vector mixed(static_cast<std::size_t>(c.heads * c.head_dim), 0.0);
      for (long h = 0; h < c.heads; ++h) attend(&mixed[h * c.head_dim], q, k, v, h, t, std::max(0L, t - seen + 1));
      add(x[t], normed(l.o.times(mixed), l.post_attention, c.eps));
      const Vector in = normed(x[t], l.pre_ffn, c.eps), gate = l.gate.times(in);
      Vector inner = l.up.times(in);
      for (long i = 0; i < c.ffn; ++i) {
        const double z = gate[i];
        inner[i] *= 0.5 * z * (1 + std::tanh(0.79788456080286535588 * (z + 0.044715 * z * z * z)));
      }
      add(x[t], normed(l.down.times(inner), l.post_ffn, c.eps));
    });
  }

  Vector heads_of(Vector x, const std::vector<float>& weight, long position, double base) const {
    for (long h = 0; h < static_cast<long>(x.size()) / c.head_dim; ++h) {
      const auto begin = x.begin() + h * c.head_dim;
      const Vector head = normed(Vector(begin, begin + c.head_dim), weight, c.eps);
      std::copy(head.begin(), head.end(), begin);
      rotate(&*begin, c.head_dim, position, base);
    }
    return x;
  }

  void attend(double* out, const std::vector<Vector>& q, const std::vector<Vector>& k, const std::vector<Vector>& v,
              long head, long t, long first) const {
    const long kv = head / (c.heads / c.kv_heads) * c.head_dim;
    Vector scores;
    for (long s = first; s <= t; ++s) {
      double dot = 0;
      for (long i = 0; i < c.head_dim; ++i) dot += q[t][head * c.head_dim + i] * k[s][kv + i];
      scores.push_back(dot / std::sqrt(c.query_scalar));
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - top);
    for (long s = first; s <= t; ++s)
      for (long i = 0; i < c.head_dim; ++i) out[i] += scores[s - first] / total * v[s][kv + i];
  }

  static void add(Vector& x, const Vector& y) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
};

Model::Model(const std::string& path, const Changes& changes)
    : weights_(std::make_unique<Weights>(safetensors::File(path), changes)) {}
Model::~Model() = default;

std::vector<float> Model::logits(const std::vector<int>& tokens, long context, long last, Kept* kept) const {
  const Weights& w = *weights_;
  std::vector<Vector> x;
  for (const int token : tokens) {
    Vector embedded;
    for (long i = 0; i < w.c.hidden; ++i)
      embedded.push_back(w.embedding.w[token * w.c.hidden + i] * std::sqrt(static_cast<double>(w.c.hidden)));
    x.push_back(embedded);
  }
  for (long i = 0; i < w.c.layers; ++i) w.layer(x, i, context, kept);
  std::vector<float> out(static_cast<std::size_t>(last * w.c.vocab));
  for (long t = 0; t < last; ++t) {
    const Vector in = normed(x[x.size() - static_cast<std::size_t>(last - t)], w.norm, w.c.eps);
    decoder::in_parallel(w.c.vocab, w.c.hidden, [&](long token) {
      out[t * w.c.vocab + token] = static_cast<float>(w.embedding.dot(&w.embedding.w[token * w.c.hidden], in));
    });
  }
  return out;
}

}  // namespace reference
