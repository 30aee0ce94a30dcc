"""How is a loaded model verified and read? By the server's own timings; what it spends on loading is kept apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optimizer.space import Json
from optimizer.targets.ollama.api import Generated
from optimizer.targets.ollama.server import Live, peak_bytes, worker_of
from optimizer.targets.ollama.work import Work, agreement
from optimizer.trial import Check, Reason, Samples, TrialError

RELOADED_S = 0.25
"""A model that is there is found within some milliseconds; documented loads take from half a second up."""
TRIES = 4  # readings in a row that may be lost


@dataclass
class OllamaRunner:
    """A model that is loaded with a point's options. reference: the baseline's answers, None while they are made."""

    live: Live
    model: str
    options: Mapping[str, Json]
    work: Work
    reference: Sequence[str] | None
    facts: Mapping[str, float]
    _number: int = field(default=0, init=False)  # of the next prompt

    @property
    def pid(self) -> int | None:
        return worker_of(self.live.pid)

    def answers(self) -> list[str]:
        """To the prompts that are judged."""
        options = self.work.judging(self.options)
        return [self.live.api.generate(self.model, prompt, options).text for prompt in self.work.judged()]

    def verify(self) -> Check:
        """How much of the baseline's answers is given. Raises TrialError(WRONG) where there are no answers at all."""
        found = self.answers()
        if not any(text.strip() for text in found):
            raise TrialError(Reason.WRONG, f"{self.model} answered nothing to {len(found)} prompts")
        if self.reference is None:
            return Check(quality={"unverified": 1.0})
        equal, shared = agreement(found, self.reference)
        quality = {"top1_agreement_pct": equal, "shared_answer_pct": shared, "quality_loss_pct": 100.0 - shared}
        return Check(quality=quality)

    def run(self, n: int) -> Samples:
        """Readings of `n` answers. One before which the model was loaded (again) is dropped, and counted."""
        taken: dict[str, list[float]] = {}
        reloads = short = 0
        while len(taken.get("latency_s", ())) < n:
            said = self._generated()
            if said.load_s > RELOADED_S:
                reloads += 1
            elif said.tokens < self.work.generate_tokens or said.prompt_tokens == 0 or said.prompt_s <= 0.0:
                short += 1
            else:
                for name, value in readings(said).items():
                    taken.setdefault(name, []).append(value)
            self._stop_where_hopeless(reloads, short, len(taken.get("latency_s", ())))
        samples = {name: tuple(values) for name, values in taken.items()}
        if reloads:
            samples["reloads"] = (float(reloads),)
        if short:
            samples["short_answers"] = (float(short),)
        if (peak := peak_bytes(self.live.pid)) is not None:
            samples["peak_memory_bytes"] = (peak,)
        return samples

    def _generated(self) -> Generated:
        prompt, self._number = self.work.timed(self._number), self._number + 1
        said = self.live.api.generate(self.model, prompt, self.work.timing(self.options))
        room = self.options.get("num_ctx")
        if isinstance(room, int) and said.prompt_tokens + self.work.generate_tokens > room:
            raise TrialError(
                Reason.REJECTED,
                f"a prompt of {said.prompt_tokens} tokens and {self.work.generate_tokens} more do not fit into "
                f"num_ctx={room}: the server would cut the prompt",
            )
        return said

    def _stop_where_hopeless(self, reloads: int, short: int, taken: int) -> None:
        if reloads >= TRIES * (1 + taken):
            raise TrialError(
                Reason.CRASH,
                f"the server loaded {self.model} anew before {reloads} of {reloads + short + taken} answers: another "
                "program uses it, or the models do not fit into memory beside each other",
            )
        if short >= TRIES * (1 + taken):
            raise TrialError(
                Reason.REJECTED,
                f"{self.model} ended {short} of {reloads + short + taken} answers before "
                f"{self.work.generate_tokens} tokens, or took the prompt from its cache: their speed is that of other "
                "work. Set target.generate_tokens lower.",
            )


def readings(said: Generated) -> dict[str, float]:
    """Of one answer. Loading is in none of them."""
    latency_s = max(said.total_s - said.load_s, said.prompt_s + said.eval_s)
    found = {
        "latency_s": latency_s,
        "throughput_ips": 1.0 / latency_s,
        "ttft_s": latency_s - said.eval_s,
        "prefill_tokens_per_s": said.prompt_tokens / said.prompt_s,
        "tokens_per_s": said.tokens / latency_s,
        "generated_tokens": float(said.tokens),
        "prompt_tokens": float(said.prompt_tokens),
    }
    if said.eval_s > 0.0:
        found["decode_tokens_per_s"] = said.tokens / said.eval_s
    return found
