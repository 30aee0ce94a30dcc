"""The Gemma3 text architecture in PyTorch: what the C++ decoder is trained with and compared to.

Sources: the Gemma 3 technical report (2025) and the published configuration of gemma-3-270m. Tensor names are those of
the published checkpoints, so that a file made here and a file of real weights are read by the same reader.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention


@dataclass(frozen=True)
class Config:
    vocab_size: int = 256
    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 1
    head_dim: int = 32
    sliding_window: int = 64  # tokens that a local layer sees, itself included
    sliding_window_pattern: int = 2  # every n-th layer is global
    rope_local_base_freq: float = 10_000.0
    rope_theta: float = 1_000_000.0  # of the global layers
    rms_norm_eps: float = 1e-6
    query_pre_attn_scalar: float = 32.0  # queries are scaled by its inverse square root
    max_position_embeddings: int = 256

    def is_local(self, layer: int) -> bool:
        return (layer + 1) % self.sliding_window_pattern != 0


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight); computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight.float())).type_as(x)


def rotated(x: Tensor, base: float) -> Tensor:
    """Rotary position embedding of x (B, H, T, D) at positions 0 … T-1; halves are paired, as in the checkpoints."""
    half = x.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], dtype=torch.float32)[:, None] * frequencies  # (T, D/2)
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).type_as(x)


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.config, self.local = config, config.is_local(layer)
        width, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        c = self.config

        def heads(projected: Tensor, count: int) -> Tensor:
            return projected.view(batch, length, count, c.head_dim).transpose(1, 2)

        q = self.q_norm(heads(self.q_proj(x), c.num_attention_heads))
        k = self.k_norm(heads(self.k_proj(x), c.num_key_value_heads))
        v = heads(self.v_proj(x), c.num_key_value_heads)
        base = c.rope_local_base_freq if self.local else c.rope_theta
        q, k = rotated(q, base), rotated(k, base)
        age = torch.arange(length)[:, None] - torch.arange(length)  # (T, T): how long ago a token was
        seen = (age >= 0) & (age < c.sliding_window) if self.local else age >= 0
        groups = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=c.query_pre_attn_scalar**-0.5)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class MLP(nn.Module):
    """GeGLU with the tanh approximation of GELU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
        return out


class Layer(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(config, layer), MLP(config)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(size, eps), RMSNorm(size, eps)
        self.pre_feedforward_layernorm, self.post_feedforward_layernorm = RMSNorm(size, eps), RMSNorm(size, eps)

    def forward(self, x: Tensor, drop: nn.Module) -> Tensor:
        x = x + drop(self.post_attention_layernorm(self.self_attn(self.input_layernorm(x))))
        out: Tensor = x + drop(self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x))))
        return out


class Decoder(nn.Module):
    """Tokens (B, T) → logits (B, T, vocab); the output matrix is the embedding (tied)."""

    def __init__(self, config: Config, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.drop = config, nn.Dropout(dropout)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.drop(self.embed_tokens(tokens) * self.config.hidden_size**0.5)
        for layer in self.layers:
            x = layer(x, self.drop)
        return linear(self.norm(x), self.embed_tokens.weight)


def save(model: Decoder, path: Path) -> None:
    """Weights as bfloat16 under the checkpoints' names; the configuration in the file's metadata."""
    from safetensors.torch import save_file

    tensors = {
        f"model.{name}": value.detach().to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()
    }
    save_file(tensors, path, metadata={name: json.dumps(value) for name, value in asdict(model.config).items()})


def load(path: Path) -> Decoder:
    """The model of a file that `save` made, in float32."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        config = Config(**{name: json.loads(text) for name, text in file.metadata().items()})
        model = Decoder(config)
        state = {name.removeprefix("model."): file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    model.load_state_dict(state)
    return model.eval()
