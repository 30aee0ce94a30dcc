"""How does transformers' Gemma 3 or Llama become a module that takes and returns nothing but tensors?

    forward(tokens (B, T), positions (T))                 -> logits (B, T, vocabulary): all positions, nothing is kept
    forward(tokens (B, T), positions (T), *cache)         -> logits (B, vocabulary) of the last position, and the cache

The cache holds keys and values of each layer, (B, heads, context, width). A static one is filled with zeros and keeps
its shape: a prompt (T > 1) starts at position 0, a generated token (T = 1) stands anywhere. One that grows comes empty
and leaves T places longer. The layers are transformers' own; only the loop over them is written out, since its own one
makes masks and caches that no compiler follows.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

MASKED = -1e9  # beside scores; within the range of bfloat16, clamped to that of float16


class Decoder(nn.Module):
    keeps_types = True  # quantize.py: logits are float32 and the cache stays as it is given, whatever the weights are

    def __init__(self, model: nn.Module, *, grows: bool) -> None:
        super().__init__()
        self.grows = grows
        self.model, self.lm_head = model.model, model.lm_head
        self.config: Any = model.config
        self.kinds = list(getattr(self.config, "layer_types", None) or ["full_attention"] * len(self._layers))
        takes = inspect.signature(self._layers[0].forward).parameters
        self._cache_name = "cache" if "cache" in takes else "past_key_values"  # as transformers called it until 5.23

    @property
    def _layers(self) -> Any:
        return self.model.layers  # type: ignore[union-attr]

    def forward(self, tokens: Tensor, positions: Tensor, *cache: Tensor) -> Tensor | tuple[Tensor, ...]:
        model: Any = self.model
        hidden = model.embed_tokens(tokens)
        places = self._places(positions, cache)
        masks = {kind: self._mask(kind, positions, places, hidden.dtype) for kind in sorted(set(self.kinds))}
        angles = {kind: self._angles(kind, hidden, positions) for kind in sorted(set(self.kinds))}
        kept = _Cache(cache, positions, places, grows=self.grows) if cache else None
        for layer, kind in zip(self._layers, self.kinds, strict=True):
            looking = {"attention_mask": masks[kind], "position_embeddings": angles[kind], self._cache_name: kept}
            hidden = layer(hidden, **looking)
        hidden = model.norm(hidden)
        if kept is None:
            all_of_them: Tensor = self.lm_head(hidden).float()  # type: ignore[operator]
            return all_of_them
        return (self.lm_head(hidden[:, -1]).float(), *kept.tensors)  # type: ignore[operator]

    def _places(self, positions: Tensor, cache: tuple[Tensor, ...]) -> Tensor:
        """Where what is looked at stands."""
        if not cache:
            return positions
        count = cache[0].shape[2] + (positions.shape[0] if self.grows else 0)
        return torch.arange(count, device=positions.device)

    def _mask(self, kind: str, positions: Tensor, places: Tensor, dtype: torch.dtype) -> Tensor:
        """(1, 1, T, places), added to the scores: 0 where a position may look, else a large negative number."""
        seen = places[None, :] <= positions[:, None]
        if kind == "sliding_attention":
            seen = seen & (places[None, :] > positions[:, None] - int(self.config.sliding_window))
        blocked = max(MASKED, torch.finfo(dtype).min)
        return torch.where(seen, 0.0, blocked).to(dtype)[None, None]

    def _angles(self, kind: str, hidden: Tensor, positions: Tensor) -> Any:
        model: Any = self.model
        arguments = (kind,) if hasattr(self.config, "layer_types") and self.config.layer_types else ()
        return model.rotary_emb(hidden, positions[None], *arguments)


class _Cache:
    """What transformers' attention takes for its cache: the one method of it that it calls."""

    def __init__(self, tensors: tuple[Tensor, ...], positions: Tensor, places: Tensor, *, grows: bool) -> None:
        self.tensors, self._positions, self._places, self._grows = list(tensors), positions, places, grows

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        whole = [self._put(2 * layer_idx + i, new) for i, new in enumerate((keys, values))]
        return whole[0], whole[1]

    def _put(self, index: int, new: Tensor) -> Tensor:
        old = self.tensors[index]
        if self._grows:
            self.tensors[index] = torch.cat([old, laid_out(new.to(old.dtype))], dim=2)  # it lies as its parts do
        elif new.shape[2] == 1:
            here = (self._places == self._positions)[None, None, :, None]
            self.tensors[index] = torch.where(here, new.to(old.dtype), old)
        else:
            self.tensors[index] = torch.cat([new.to(old.dtype), old[:, :, new.shape[2] :]], dim=2)
        return self.tensors[index].to(new.dtype)


def laid_out(tensor: Tensor) -> Tensor:
    """With the strides of a new tensor, as what argmax gives: contiguous() keeps any stride of an axis of one, and code
    that torch.compile made for one stride refuses another."""
    return tensor.clone(memory_format=torch.contiguous_format)
