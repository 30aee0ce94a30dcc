// What the decoder must compute: plain, in double precision, compiled apart from the knobs.
#pragma once

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

class Model {
 public:
  Model(const std::string& path, const Changes& changes);
  ~Model();

  // Logits (last, vocab) after each of the last `last` tokens of a sequence; a layer sees at most `context` tokens.
  std::vector<float> logits(const std::vector<int>& tokens, long context, long last) const;

 private:
  struct Weights;
  std::unique_ptr<Weights> weights_;
};

}  // namespace reference
