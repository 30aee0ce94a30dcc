"""What is a model behind Ollama asked, so that every point does the same work?

Timed prompts differ at their first words: a server keeps the beginning of a prompt that it has seen, and would not read
it again. They are completed as they stand, without the model's template, so that few answers end early. What is judged
are other prompts, answered with temperature 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optimizer.space import Json
from optimizer.targets.texts import text_of

FIXED = ("num_predict", "seed", "stop")
"""Options that the work sets: they change how much is generated, or what."""

SETTINGS: Mapping[str, str] = {
    "flash_attention": "OLLAMA_FLASH_ATTENTION",
    "kv_cache_type": "OLLAMA_KV_CACHE_TYPE",
    "num_parallel": "OLLAMA_NUM_PARALLEL",
}
"""Knobs that a server reads from variables when it starts, and no request can change (docs/faq.md)."""


@dataclass(frozen=True, slots=True)
class Work:
    """prompt_words and generate_tokens: of a timed answer; answers and answer_tokens: of what is judged."""

    prompt_words: int = 64
    generate_tokens: int = 64
    answers: int = 8
    answer_tokens: int = 32
    seed: int = 0

    def timed(self, number: int) -> str:
        """The prompt of this number; all have as many words."""
        return f"{number:06d} {' '.join(_words('calibration', number * 7, self.prompt_words - 1))}"

    def judged(self) -> Sequence[str]:
        return [" ".join(_words("test", n * self.prompt_words, self.prompt_words)) for n in range(self.answers)]

    def timing(self, options: Mapping[str, Json]) -> dict[str, Json]:
        """The options of a timed answer; what samples is the point's."""
        return {"temperature": 0.0, **options, **self._fixed(self.generate_tokens)}

    def judging(self, options: Mapping[str, Json]) -> dict[str, Json]:
        """The likeliest token each time, whatever the point samples with."""
        return {**options, "temperature": 0.0, **self._fixed(self.answer_tokens)}

    def _fixed(self, tokens: int) -> dict[str, Json]:
        return {"num_predict": tokens, "seed": self.seed, "stop": []}


def _words(part: str, start: int, count: int) -> list[str]:
    words = text_of(part).split()
    return [words[(start + n) % len(words)] for n in range(count)]


def agreement(answers: Sequence[str], reference: Sequence[str]) -> tuple[float, float]:
    """Percent of the answers that are equal, and of the reference's words before the first that differs."""
    pairs = list(zip(answers, reference, strict=True))
    equal = sum(mine == theirs for mine, theirs in pairs) / len(pairs)
    return 100.0 * equal, 100.0 * sum(_shared(m.split(), t.split()) for m, t in pairs) / len(pairs)


def _shared(mine: Sequence[str], theirs: Sequence[str]) -> float:
    if mine == theirs:
        return 1.0
    same = next((n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    return same / max(len(mine), len(theirs))
