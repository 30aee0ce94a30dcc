// The dimensions of a model of the Gemma3 text architecture, as its file's metadata says them.
#pragma once

#include "safetensors.h"

namespace decoder {

struct Config {
  long vocab, hidden, ffn, layers, heads, kv_heads, head_dim, window, pattern;
  double local_base, global_base, eps, query_scalar;

  explicit Config(const safetensors::File& file)
      : vocab(file.integer("vocab_size", 2, 1 << 22)), hidden(file.integer("hidden_size", 1, 1 << 16)),
        ffn(file.integer("intermediate_size", 1, 1 << 20)), layers(file.integer("num_hidden_layers", 1, 1024)),
        heads(file.integer("num_attention_heads", 1, 1024)), kv_heads(file.integer("num_key_value_heads", 1, 1024)),
        head_dim(file.integer("head_dim", 2, 4096)), window(file.integer("sliding_window", 1, 1 << 24)),
        pattern(file.integer("sliding_window_pattern", 1, 1024)), local_base(file.number("rope_local_base_freq")),
        global_base(file.number("rope_theta")), eps(file.number("rms_norm_eps")),
        query_scalar(file.number("query_pre_attn_scalar")) {}

  // Local layers see `window` tokens, every pattern-th layer sees all.
  bool is_local(long layer) const { return (layer + 1) % pattern != 0; }
};

}  // namespace decoder
