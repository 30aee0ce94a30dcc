// What the decoder must compute: plain, in double precision, compiled apart from the knobs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace reference {

// How the model is changed before it is run. An own implementation of what rounding.h says.
struct Changes {
  int weight_bits = 32;  // 32, 16 (bfloat16), 8 or 4 (symmetric integers)
  long group = 64;       // neighbours that share a scale
  int pruning = 0;       // 0 none, 1 magnitude, 2 two of four, 3 blocks
  long sparsity_pct = 0;
  long lanes = 1;  // rows of a block
  bool round_embedding = false;
  int kv_bits = 32;  // of the keys and values kept: 32, 16 (bfloat16) or 8 (a scale each token and head)
};

// The keys and values of one sequence as a program keeps them in fewer bits. A number between two that can be kept may go
// to either where float32 and double differ, and the next layers would carry that on; so the reference goes on with what
// the program kept, once that is seen to be no further from its own than rounding is.
class Kept {
 public:
  Kept(long layers, long positions, long heads, long size)
      : excess(static_cast<std::size_t>(positions), 0.0), positions_(positions), heads_(heads), size_(size),
        numbers_(static_cast<std::size_t>(2 * layers * positions * heads * size)) {}

  // (size) of keys or values
  float* at(bool keys, long layer, long position, long head) {
    return &numbers_[static_cast<std::size_t>((((2 * layer + keys) * positions_ + position) * heads_ + head) * size_)];
  }

  // By how much more than half a step of its rounding a number of this position was off, of the largest of its head;
  // filled in by Model::logits.
  std::vector<double> excess;
  double worst() const { return *std::max_element(excess.begin(), excess.end()); }

 private:
  long positions_, heads_, size_;
  std::vector<float> numbers_;
};

class Model {
 public:
  Model(const std::string& path, const Changes& changes);
  ~Model();

  // Logits (last, vocab) after each of the last `last` tokens of a sequence; a layer sees at most `context` tokens.
  // `kept`: of the sequence, by a program; null: the reference keeps by itself.
  std::vector<float> logits(const std::vector<int>& tokens, long context, long last, Kept* kept) const;

 private:
  struct Weights;
  std::unique_ptr<Weights> weights_;
};

}  // namespace reference
