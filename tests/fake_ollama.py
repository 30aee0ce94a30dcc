#!/usr/bin/env python3
"""A stand-in for Ollama's server, by its documented behaviour (docs/api.md, docs/faq.md of ollama/ollama, 2026-11-28).

It keeps the rules that a measurement meets: durations in nanoseconds; a model is loaded by the first request, again
when options of its runner change, and unloaded by keep_alive 0; a prompt that begins like the last one is read from
there; one that does not fit is cut; the same seed gives the same answer; errors are {"error": …} with a status. Its
times are computed, not spent. As a program (`fake_ollama.py serve`) it reads the variables that Ollama reads.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tiny:latest"
DIGEST = "9f438cb9cd581fc025612d27f7c1a6669ff83a8bb0ed86c94fcf4c5440555697"
LOAD_NS = 1_500_000_000
FOUND_NS = 5_000_000  # what a request of a loaded model tells as load_duration
RUNNER = ("num_ctx", "num_batch", "num_gpu", "num_thread", "use_mmap", "numa", "main_gpu")
"""Options for which a model is loaded anew."""
DETAILS = {"format": "gguf", "family": "llama", "families": None, "parameter_size": "1B", "quantization_level": "Q4_0"}


@dataclass
class State:
    """faults: what this server does wrong. slow_s: before each answer; reload_every, short_every: each n-th request;
    status and error: of every generation; garbage: no JSON; close_after: requests, then the connection is dropped."""

    settings: Mapping[str, str] = field(default_factory=dict)
    faults: dict[str, Any] = field(default_factory=dict)
    loaded: dict[str, Any] | None = None
    last_prompt: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    state: State
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        print(f"[GIN] {format % args}", flush=True)

    def do_GET(self) -> None:
        models = [{"name": MODEL, "model": MODEL, "size": 1_000_000, "digest": DIGEST, "details": DETAILS}]
        loaded = self.state.loaded
        running = (
            [{**models[0], "size": 1_200_000, "size_vram": 0, "context_length": self._context()}] if loaded else []
        )
        answers: dict[str, dict[str, Any]] = {
            "/api/version": {"version": "0.30.1"},
            "/api/tags": {"models": models},
            "/api/ps": {"models": running},
        }
        if self.path not in answers:
            self._send(404, {"error": "404 page not found"})
        else:
            self._send(200, answers[self.path])

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.state
        with state.lock:
            state.seen.append(asked)
            if len(state.seen) > state.faults.get("close_after", 1 << 30):
                self.close_connection = True
                self.connection.close()
                return
            time.sleep(state.faults.get("slow_s", 0.0))
            if self.path != "/api/generate":
                self._send(404, {"error": "404 page not found"})
            elif asked.get("model") not in (MODEL, MODEL.partition(":")[0]):
                self._send(404, {"error": f"model '{asked.get('model')}' not found"})
            elif "prompt" not in asked:
                state.loaded, reason = (None, "unload") if asked.get("keep_alive") == 0 else ({}, "load")
                self._send(200, {"model": MODEL, "response": "", "done": True, "done_reason": reason})
            elif "error" in state.faults:
                self._send(state.faults.get("status", 500), {"error": state.faults["error"]})
            else:
                self._send(200, self._generated(asked["prompt"], asked.get("options") or {}))

    def _context(self) -> int:
        return int(min((self.state.loaded or {}).get("num_ctx", 4096), self.state.faults.get("most_context", 1 << 20)))

    def _generated(self, prompt: str, options: Mapping[str, Any]) -> dict[str, Any]:
        state, number = self.state, len(self.state.seen)
        wanted = {name: options[name] for name in RUNNER if name in options}
        reload = state.loaded != wanted or number % state.faults.get("reload_every", 1 << 30) == 0
        if reload:
            state.loaded, state.last_prompt = wanted, ""
        words = prompt.split()[-self._context() :]
        before = state.last_prompt.split()
        kept = next(
            (n for n, (a, b) in enumerate(zip(words, before, strict=False)) if a != b), len(words) if before else 0
        )
        state.last_prompt = prompt
        count = min(int(options.get("num_predict", 128)), state.faults.get("longest", 1 << 20))
        if number % state.faults.get("short_every", 1 << 30) == 0:
            count = 1
        fast = 1.0 + 0.1 * (self.state.settings.get("OLLAMA_FLASH_ATTENTION") == "1")
        rate = fast * 1000.0 * int(options.get("num_thread", 1))
        prompt_ns = int(1e9 * (len(words) - kept) / (rate * 4.0 * int(options.get("num_batch", 512)) / 512))
        eval_ns, load_ns = int(1e9 * count / rate), LOAD_NS if reload else FOUND_NS
        said = {
            "model": MODEL,
            "created_at": "2026-11-28T00:00:00Z",
            "response": _answer(prompt, options, state.settings, count),
            "done": True,
            "done_reason": "length",
            "total_duration": load_ns + prompt_ns + eval_ns + 1_000_000,
            "load_duration": load_ns,
            "prompt_eval_count": len(words) - kept,
            "prompt_eval_duration": prompt_ns,
            "eval_count": count,
            "eval_duration": eval_ns,
        }
        for name in state.faults.get("without", ()):
            said.pop(name)
        return said

    def _send(self, status: int, answer: Mapping[str, Any]) -> None:
        body = b"<html>" if self.state.faults.get("garbage") else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _answer(prompt: str, options: Mapping[str, Any], settings: Mapping[str, str], count: int) -> str:
    """Words that the prompt, the seed and the temperature decide; a quantised cache changes those after the third."""
    drawn = options.get("seed") if options.get("temperature", 0.8) else 0
    cache = settings.get("OLLAMA_KV_CACHE_TYPE", "f16")
    keys = [f"{prompt}{drawn}{n}{cache if n >= 3 and cache != 'f16' else ''}" for n in range(count)]
    return " ".join(hashlib.sha256(key.encode()).hexdigest()[:4] for key in keys)


def server_of(state: State, port: int = 0) -> ThreadingHTTPServer:
    handler = type("Own", (Handler,), {"state": state})
    found = ThreadingHTTPServer(("127.0.0.1", port), handler)
    found.daemon_threads = True
    return found


@contextmanager
def served(**faults: Any) -> Iterator[tuple[str, State]]:
    """A server of this process: its address and its state."""
    state = State(faults=faults)
    server = server_of(state)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    if sys.argv[1:] != ["serve"]:
        sys.exit("only `serve` is known")
    faults = json.loads(os.environ.get("FAKE_FAULTS", "{}"))
    if "start" in faults:
        sys.exit(f"Error: {faults['start']}")
    settings = {name: value for name, value in os.environ.items() if name.startswith("OLLAMA_")}
    host, _, port = settings["OLLAMA_HOST"].partition(":")
    if host != "127.0.0.1":
        sys.exit("it would listen beyond the loopback")
    if settings.get("OLLAMA_KV_CACHE_TYPE", "f16") != "f16" and settings.get("OLLAMA_FLASH_ATTENTION") != "1":
        settings["OLLAMA_KV_CACHE_TYPE"] = "f16"  # as Ollama does, which says so in its log alone
    server_of(State(settings, faults), int(port)).serve_forever()


if __name__ == "__main__":
    main()
