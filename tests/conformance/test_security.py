"""No text goes to a shell or to Python, no pickle is read, nothing listens beyond loopback; exceptions have a reason.

It reads the syntax of the program, the kernels' hosts, the experiments and the tests themselves.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(p for folder in ("optimizer", "kernels", "experiments", "tests") for p in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("asyncio.create_subprocess_shell", "tempfile.mktemp", "pandas.read_pickle", "torch.package.PackageImporter"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
}
WIDE = ("0.0.0.0", "::")
"""Addresses of every interface; "" is one too where a socket is bound."""
BINDS = ("bind", "create_server", "HTTPServer", "ThreadingHTTPServer", "TCPServer", "ThreadingTCPServer")

ALLOWED = {
    ("tests/targets/torch/test_workers.py", "pickle"): (
        "what multiprocessing does with a zygote that it hands to a worker; the bytes are made on the same line"
    ),
    ("tests/cli/test_loopback.py", "0.0.0.0"): "what `ui` does where it is told so; the server is not started",
    ("tests/experiments/test_methodology.py", "eval"): (
        "the conditions of T1 files are Python; this one was written by the code under test, from an expression of ours"
    ),
}
"""File and finding → why it stays."""


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Line and what is there of all that is forbidden, in the order of the syntax tree."""
    tree = ast.parse(text)
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, name.split(".")[0]) for name in found if name.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, what) for what in _of_call(node, names))
        elif isinstance(node, ast.Constant) and node.value in WIDE[:1]:
            yield node.lineno, str(node.value)


def _imported(tree: ast.AST) -> dict[str, str]:
    """The names that imports bind, with what they stand for: {"np": "numpy", "system": "os.system"}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _of_call(node: ast.Call, names: dict[str, str]) -> Iterator[str]:
    head, _, rest = ast.unparse(node.func).partition(".")
    called = f"{names.get(head, head)}.{rest}".rstrip(".")
    given = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
    if called in CALLS:
        yield called
    if called == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load"
    for name in ("shell", "allow_pickle"):
        if given.get(name, "False") != "False":
            yield name
    if called == "numpy.load" and len(node.args) > 2:  # the third is allow_pickle
        yield "allow_pickle"
    if called.rpartition(".")[2] in BINDS and node.args and isinstance(node.args[0], ast.Tuple):
        host = node.args[0].elts[0]
        if isinstance(host, ast.Constant) and host.value in ("", *WIDE):
            yield "every interface"


@pytest.mark.parametrize("folder", ["optimizer", "kernels", "experiments", "tests"])
def test_nothing_forbidden_is_written_without_a_reason(folder: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), what): line
        for path in FILES
        if path.is_relative_to(ROOT / folder) and path != Path(__file__)
        for line, what in findings(path.read_text(encoding="utf-8"))
    }
    assert {place: line for place, line in found.items() if place not in ALLOWED} == {}
    allowed = {place for place in ALLOWED if place[0].startswith(f"{folder}/")}
    assert allowed <= set(found), "an exception that nothing needs any more"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("eval('1')", "eval"),
        ("import builtins\nbuiltins.exec('1')", "builtins.exec"),
        ("compile('1', '', 'eval')", "compile"),
        ("import os\nos.system('ls')", "os.system"),
        ("from os import system as run\nrun('ls')", "os.system"),
        ("import os as o\no.popen('ls')", "os.popen"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell"),
        ("import subprocess\nsubprocess.run('ls', shell=wanted)", "shell"),
        ("from pickle import loads", "pickle"),
        ("import joblib.memory", "joblib"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("import torch\ntorch.load('x', weights_only=False)", "torch.load"),
        ("import yaml\nyaml.load(text, yaml.Loader)", "yaml.load"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("import numpy as np\nnp.load('x', None, True)", "allow_pickle"),
        ("import tempfile\ntempfile.mktemp()", "tempfile.mktemp"),
        ("HOST = '0.0.0.0'", "0.0.0.0"),
        ("import socket\nsocket.create_server(('', 80))", "every interface"),
        ("probe.bind(('::', 80))", "every interface"),
    ],
)
def test_each_way_is_seen(text: str, what: str) -> None:
    assert what in [found for _, found in findings(text)]


@pytest.mark.parametrize(
    "text",
    [
        "net.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "tmp_path_factory.mktemp('x')",
        "probe.bind(('127.0.0.1', 0))",
    ],
)
def test_what_is_harmless_is_let_be(text: str) -> None:
    assert list(findings(text)) == []
