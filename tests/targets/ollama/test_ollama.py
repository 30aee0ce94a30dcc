"""A model behind Ollama: the same work for every point, loading kept apart, answers compared, what goes wrong."""

import socket
import sys
from datetime import date
from pathlib import Path
from typing import Any

import fake_ollama
import psutil
import pytest
from commands import command, search_json
from fake_ollama import served

from optimizer.config import Setup, load
from optimizer.errors import ConfigError
from optimizer.metrics import METRICS
from optimizer.space import Point
from optimizer.targets.ollama.target import OllamaTarget
from optimizer.targets.ollama.work import Work, agreement
from optimizer.trial import Reason, TrialError

STILL = ("space.flash_attention=choice(false)", "space.kv_cache_type=choice(f16)")
THREADS = ("space.num_thread=choice(1, 2)", "baseline.num_thread=1")


def setup(folder: Path, *words: str) -> Setup:
    own = ["target=ollama", f"studies_dir={folder}", "study=s", "tracking=none", "device=cpu", *THREADS]
    return load([*own, *words], [], date(2026, 11, 28))


def target_at(url: str, folder: Path, *words: str) -> tuple[OllamaTarget, Point]:
    made = setup(folder, "target.model=tiny", f"target.server={url}", *STILL, *words)
    target = made.made.target
    assert isinstance(target, OllamaTarget)
    target.prepare()
    return target, made.recipe.start[0]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that is called like one that is installed."""
    path = tmp_path / "bin" / "ollama"
    path.parent.mkdir()
    text = Path(fake_ollama.__file__).read_text(encoding="utf-8").partition("\n")[2]
    path.write_text(f"#!{sys.executable} -IS\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_readings_are_the_servers_own_without_loading(tmp_path: Path) -> None:
    with served() as (url, state):
        target, baseline = target_at(url, tmp_path)
        with target.open(target.build(baseline)) as runner:
            assert runner.facts["load_s"] == pytest.approx(1.5)
            check, samples = runner.verify(), runner.run(3)
        assert state.loaded is None, "a server of somebody else's was left with a loaded model"
    assert check.quality == {"top1_agreement_pct": 100.0, "shared_answer_pct": 100.0, "quality_loss_pct": 0.0}
    assert samples["decode_tokens_per_s"] == pytest.approx((1000.0,) * 3)
    assert samples["generated_tokens"] == (64.0,) * 3
    assert samples["prompt_tokens"] == (64.0,) * 3, "a prompt came from the server's cache"
    assert samples["latency_s"] == pytest.approx([0.001 + 0.064 + 64 / 4000] * 3)
    assert samples["ttft_s"] == pytest.approx([0.001 + 64 / 4000] * 3)
    assert samples["tokens_per_s"] == pytest.approx([64 / 0.081] * 3)
    assert "reloads" not in samples
    assert {*samples, *runner.facts, *check.quality} <= METRICS.keys()


def test_length_seed_and_stop_are_the_same_in_every_request(tmp_path: Path) -> None:
    with served() as (url, state):
        target, baseline = target_at(url, tmp_path, "space.num_batch=choice(256)", "target.seed=7")
        with target.open(target.build(baseline)) as runner:
            runner.verify()
            runner.run(2)
        asked = [a for a in state.seen if "prompt" in a]
    assert {(a["options"]["seed"], str(a["options"]["stop"]), a["options"]["temperature"]) for a in asked} == {
        (7, "[]", 0.0)
    }
    assert {a["options"]["num_predict"] for a in asked} == {1, 32, 64}
    assert all(a["raw"] and a["options"]["num_batch"] == 256 and a["keep_alive"] == -1 for a in asked)


def test_a_model_that_is_loaded_again_costs_no_reading(tmp_path: Path) -> None:
    with served(reload_every=4) as (url, _):
        target, baseline = target_at(url, tmp_path)
        with target.open(target.build(baseline)) as runner:
            samples = runner.run(6)
    assert len(samples["latency_s"]) == 6
    assert max(samples["latency_s"]) < 0.1
    assert samples["reloads"] == (2.0,)


def test_two_contexts_on_one_server_take_turns(tmp_path: Path) -> None:
    """The interleaved confirmation: each turn begins with a load, which is in no reading."""
    with served() as (url, _):
        target, baseline = target_at(url, tmp_path)
        other = Point({**baseline, "num_ctx": 2048})
        with target.open(target.build(baseline)) as one, target.open(target.build(other)) as two:
            turns = [runner.run(2) for runner in (one, two, one, two)]
    assert [t.get("reloads") for t in turns] == [(1.0,), (1.0,), (1.0,), (1.0,)]
    assert all(max(t["latency_s"]) < 0.1 for t in turns)


def test_points_are_told_apart_by_what_the_server_is_told(tmp_path: Path) -> None:
    with served() as (url, _):
        target, baseline = target_at(url, tmp_path)
        other = Point({**baseline, "num_thread": 2})
        one, again, two = (target.build(p) for p in (baseline, baseline, other))
        with target.open(two) as runner:
            assert runner.run(1)["decode_tokens_per_s"] == pytest.approx((2000.0,))
    assert one == again
    assert one.identity != two.identity


@pytest.mark.parametrize(
    ("faults", "reason", "said"),
    [
        ({"longest": 32}, Reason.REJECTED, "Set target.generate_tokens lower"),
        ({"reload_every": 1}, Reason.CRASH, "loaded tiny:latest anew before 4 of 4 answers"),
        ({"most_context": 1024}, Reason.REJECTED, "gave 1024 tokens of context where 4096 were asked"),
        ({"close_after": 14}, Reason.CRASH, "broke off"),
    ],
)
def test_a_server_that_does_not_do_what_was_asked(
    faults: dict[str, Any], reason: Reason, said: str, tmp_path: Path
) -> None:
    with served() as (url, state):
        target, baseline = target_at(url, tmp_path)
        state.seen.clear()
        state.faults |= faults
        with pytest.raises(TrialError) as error, target.open(target.build(baseline)) as runner:
            runner.run(3)
            runner.run(30)
    assert error.value.reason is reason
    assert said in error.value.log


@pytest.mark.parametrize(
    ("faults", "reason", "said"),
    [
        (
            {"error": "model requires more system memory (5.6 GiB) than is available"},
            Reason.MEMORY,
            "5.6 GiB",
        ),
        ({"error": "llama runner process has terminated: exit status 2"}, Reason.CRASH, "status 500: llama runner"),
        ({"error": "invalid option", "status": 400}, Reason.REJECTED, "invalid option"),
        ({"error": "model 'tiny' not found", "status": 404}, Reason.REJECTED, "run `ollama pull tiny:latest`"),
        ({"slow_s": 1.0}, Reason.TIMEOUT, "did not answer within 0.3 s"),
        ({"without": ["total_duration"]}, Reason.CRASH, "told no timings"),
        ({"garbage": True}, Reason.CRASH, "is no server of Ollama's"),
    ],
)
def test_what_a_server_answers_instead(faults: dict[str, Any], reason: Reason, said: str, tmp_path: Path) -> None:
    with served() as (url, state):
        target, baseline = target_at(url, tmp_path, "measure.timeout_s=0.3")
        with pytest.raises(TrialError) as error, target.open(target.build(baseline)) as runner:
            state.faults |= faults
            runner.run(1)
    assert error.value.reason is reason
    assert said in error.value.log


def test_a_few_answers_that_end_early_are_no_readings(tmp_path: Path) -> None:
    with served(short_every=3) as (url, _):
        target, baseline = target_at(url, tmp_path)
        with target.open(target.build(baseline)) as runner:
            samples = runner.run(4)
    assert samples["generated_tokens"] == (64.0,) * 4
    assert samples["short_answers"][0] >= 1.0


def test_a_context_that_the_work_does_not_fit_into(tmp_path: Path) -> None:
    with served() as (url, _):
        target, baseline = target_at(url, tmp_path, "target.prompt_words=1000")
        with (
            pytest.raises(TrialError, match="do not fit into num_ctx=1024"),
            target.open(target.build(Point({**baseline, "num_ctx": 1024}))) as runner,
        ):
            runner.run(1)


def test_settings_of_the_server_start_a_server_of_their_own(program: Path, tmp_path: Path) -> None:
    made = setup(tmp_path, "target.model=tiny", f"target.program={program}")
    target = made.made.target
    made.made.prepare()
    baseline = made.recipe.start[0]
    fast = Point({**baseline, "flash_attention": True})
    small = Point({**fast, "kv_cache_type": "q8_0"})
    rates, losses, pids = [], [], []
    for point in (baseline, fast, small):
        with target.open(target.build(point)) as runner:
            losses.append(runner.verify().quality["quality_loss_pct"])
            samples = runner.run(1)
            pids.append(runner.pid)
        rates.append(samples["decode_tokens_per_s"][0])
        assert samples["peak_memory_bytes"][0] > 1e6
    assert rates == pytest.approx([1000.0, 1100.0, 1100.0])
    assert losses == pytest.approx([0.0, 0.0, 100.0 * 29 / 32])
    assert not any(pid is not None and psutil.pid_exists(pid) for pid in pids), "a server was left behind"
    assert target.build(fast).environment == {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_KV_CACHE_TYPE": "f16"}


def test_a_server_that_does_not_start(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FAULTS", '{"start": "no models directory"}')
    with pytest.raises(ConfigError, match=r"serve ended at its start\nError: no models directory"):
        setup(tmp_path, "target.model=tiny", f"target.program={program}")


def test_a_port_that_is_taken_is_tried_again(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from optimizer.targets.ollama import server

    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], server._free_port()])
        monkeypatch.setattr(server, "_free_port", lambda: next(ports))
        with server.started(str(program), {}, 20.0) as live:
            assert live.api.version() == "0.30.1"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["target.server=URL"], "needs a model: target.model=NAME"),
        (["target.model=tiny", "target.server=http://127.0.0.1:PORT"], "can't be reached: does `ollama serve` run?"),
        (["target.model=tinny", "target.server=URL"], "run `ollama pull tinny`. It has tiny:latest"),
        (["target.model=tiny", "target.server=http://10.0.0.1:11434"], "is another machine"),
        (["target.model=tiny", "target.server=ftp://127.0.0.1"], "is no address"),
        (["target.model=tiny", "target.program=no-such-ollama"], "Install it (https://ollama.com/download)"),
        (["target.model=tiny", "target.server=URL", "target.seeds=1"], "seed"),
        (["target.model=tiny", "target.server=URL", "target.answers=0"], "whole number from 2 up"),
    ],
)
def test_what_is_wrong_is_told_before_trial_0(words: list[str], said: str, tmp_path: Path) -> None:
    with served() as (url, _):
        own = [w.replace("URL", url).replace("PORT", str(closed_port())) for w in words]
        with pytest.raises(ConfigError) as error:
            setup(tmp_path, *own, *STILL)
    assert said in str(error.value)
    assert not (tmp_path / "s").exists()


def test_settings_of_a_server_that_runs_are_no_knobs(tmp_path: Path) -> None:
    with served() as (url, _), pytest.raises(ConfigError) as error:
        setup(tmp_path, "target.model=tiny", f"target.server={url}")
    assert "The knob flash_attention is read by a server when it starts (OLLAMA_FLASH_ATTENTION)" in str(error.value)


@pytest.mark.parametrize(
    ("knob", "said"),
    [
        ("num_predict: {domain: 'choice(1, 2)', option: num_predict}", "fixes so that every point does the same work"),
        ("num_thraed: {domain: 'choice(1, 2)', option: num_thraed}", "Did you mean 'num_thread'?"),
        ("x: {domain: 'choice(1, 2)', option: flash_attention}", "is told by setting: flash_attention"),
        ("x: {domain: 'choice(1, 2)', flag: '-O{value}'}", "Ollama has no flag"),
    ],
)
def test_knobs_that_ollama_does_not_have(knob: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "conf" / "space").mkdir(parents=True)
    (tmp_path / "conf" / "space" / "mine.yaml").write_text(f"# Mine.\n{knob}\n", encoding="utf-8")
    with served() as (url, _), pytest.raises(ConfigError) as error:
        own = ["target=ollama", "target.model=tiny", f"target.server={url}", "space=mine", "study=s", "tracking=none"]
        load([*own, f"studies_dir={tmp_path}"], [tmp_path / "conf"], date(2026, 11, 28))
    assert said in str(error.value)


def test_sampling_may_vary_and_answers_are_judged_without_it(tmp_path: Path) -> None:
    (tmp_path / "conf" / "space").mkdir(parents=True)
    text = "# Mine.\ntemperature: {domain: 'choice(0.0, 0.9)', option: temperature, default: 0.0}\n"
    (tmp_path / "conf" / "space" / "mine.yaml").write_text(text, encoding="utf-8")
    with served() as (url, _):
        own = ["target=ollama", "target.model=tiny", f"target.server={url}", "space=mine", "study=s", "tracking=none"]
        made = load([*own, f"studies_dir={tmp_path}"], [tmp_path / "conf"], date(2026, 11, 28))
        made.made.prepare()
        with made.made.target.open(made.made.target.build(Point({"temperature": 0.9}))) as runner:
            assert runner.verify().quality["quality_loss_pct"] == 0.0
            assert runner.run(1)["generated_tokens"] == (64.0,)


def test_agreement_counts_words_before_the_first_that_differs() -> None:
    assert agreement(["a b c d", "x"], ["a b c d", "y"]) == (50.0, 50.0)
    assert agreement(["a b"], ["a b c d"]) == (0.0, 50.0)


def test_no_two_timed_prompts_begin_alike() -> None:
    work = Work(prompt_words=32)
    prompts = [work.timed(n) for n in range(50)]
    assert len({p.split()[0] for p in prompts}) == 50
    assert {len(p.split()) for p in prompts} == {32}
    assert not set(prompts) & set(work.judged())


def test_a_search_ends_with_a_modelfile_and_its_variables(program: Path, tmp_path: Path) -> None:
    words = [
        "target=ollama",
        "target.model=tiny",
        f"target.program={program}",
        "device=cpu",
        "tracking=none",
        "study=s",
    ]
    space = ["space.num_ctx=choice(2048)", "space.num_gpu=choice(0)", "space.num_batch=choice(512)", *THREADS]
    few = [
        "device=cpu",
        "strategy=random",
        "measure.max_samples=2",
        "measure.min_samples=2",
        "measure.confirm.rounds=6",
    ]
    found = search_json(*words, *space, *few, "budget.trials=5", "measure.confirm.max_seconds=1", cwd=tmp_path)
    assert found["best"]["point"]["num_thread"] == 2
    assert found["verdict"]["verdict"] == "better"
    command("export", "s", "--out", "out", "--to", "modelfile", "--to", "env", cwd=tmp_path)
    modelfile = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    assert "FROM tiny\n" in modelfile
    assert "PARAMETER num_thread 2\n" in modelfile
    assert "OLLAMA_FLASH_ATTENTION=" in (tmp_path / "out" / "winner.env").read_text(encoding="utf-8")
