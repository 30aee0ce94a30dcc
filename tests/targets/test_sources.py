"""What a compiler may read, as the text of the sources says it; and words of a command in one form."""

from pathlib import Path

import pytest

from optimizer.errors import ConfigError
from optimizer.targets.sources import canonical, closure, include_folders


def written(folder: Path, **files: str) -> dict[str, Path]:
    paths = {}
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_h", ".h").replace("_cpp", ".cpp")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        paths[name] = path
    return paths


def test_headers_of_headers_in_any_folder_are_found(tmp_path: Path) -> None:
    files = written(
        tmp_path,
        a_cpp='#include "deep/b.h"\n#include <vector>\n  #  include <far.h>\n',
        deep__b_h='#ifdef NEVER\n#include "../c.h"\n#endif\n',
        c_h='#include "a.h"\n#pragma once\n',
        inc__far_h='#include_next <far.h>\n#include "deep/b.h"\n',
        other_h="",
    )
    found = closure([files["a_cpp"]], [tmp_path / "inc"])
    assert found.files == {files[n] for n in ("a_cpp", "deep__b_h", "c_h", "inc__far_h")}
    assert found.computed is None


@pytest.mark.parametrize("text", ["#define H <x.h>\n#include H\n", 'asm(".incbin \\"data\\"");\n'])
def test_what_the_text_does_not_name_is_said(tmp_path: Path, text: str) -> None:
    files = written(tmp_path, a_cpp='#include "b.h"\n', b_h=text)
    assert closure([files["a_cpp"]], []).computed == files["b_h"]


def test_a_missing_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        closure([tmp_path / "no.cpp"], [])


def test_folders_of_words() -> None:
    words = ["-O2", "-I/a", "-I", "/b", "-isystem", "/c", "-DX=-I/d"]
    assert include_folders(words) == [Path("/a"), Path("/b"), Path("/c")]


def test_equal_commands_have_one_form() -> None:
    assert canonical(["-DB=1", "-O2", "-DA=2", "-O3"]) == canonical(["-O2", "-O3", "-DA=2", "-DB=1"])
    assert canonical(["-DA=1", "-DA=2"]) == canonical(["-DA=2"])
    assert canonical(["-O2", "-O3"]) != canonical(["-O3", "-O2"]), "the last one wins"
    assert canonical(["-DA", "-UA"]) != canonical(["-UA", "-DA"])
    assert canonical(["-Xcompiler", "-DA", "-DB"]) != canonical(["-Xcompiler", "-DB", "-DA"])
