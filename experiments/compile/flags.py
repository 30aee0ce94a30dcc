"""Which flags of conf/space/cuda_flags.yaml change the machine code of a matrix product?

python experiments/compile/flags.py            (about two minutes; needs the extra cuda and gcc, no GPU)

Writes flags.json beside itself and prints it: by knob and value, where the code differs from that of the defaults.
"""

import json
import tempfile
from pathlib import Path

from optimizer.config import files
from optimizer.config.spaces import space_of
from optimizer.resources import kernels_dir
from optimizer.space import Choice, Point, Space
from optimizer.targets.builds import knob_words
from optimizer.targets.cuda.compile import Nvcc, Nvrtc, Toolchain
from optimizer.targets.cuda.facts import code_key

HERE = Path(__file__).parent
ARCHS = ("sm_80", "sm_90")
TILE = ("-DBLOCK_M=64", "-DBLOCK_N=64", "-DTHREAD_M=4", "-DTHREAD_N=4", "-DVECTOR=4")
OF_ONE = {"minimal": "nvrtc", "cicc_opt_level": "nvcc"}  # knobs that only one compiler has


def flags() -> Space:
    made = files().composed(["target=gemm_cuda", "device=none", "space=[cuda_flags]"])
    return space_of(made.tree["space"], {})


def changed(toolchain: Toolchain, arch: str, space: Space, folder: Path) -> dict[str, list[str]]:
    """Values that change the code, by knob."""

    def key(*words: str) -> str:
        source = kernels_dir() / "gemm" / "gemm.cu"
        return code_key(toolchain.compile(source, kernels_dir(), (*TILE, *words), arch, folder, 300.0).cubin)

    plain, found = key(), {}
    for knob in space.knobs:
        if OF_ONE.get(knob.name, toolchain.name) != toolchain.name or not isinstance(knob.domain, Choice):
            continue
        words = {str(value): knob_words(space, Point({knob.name: value})) for value in knob.domain.values}
        if any(words.values()):
            found[knob.name] = [value for value, given in words.items() if given and key(*given) != plain]
    return found


def main() -> None:
    nvrtc = Nvrtc.found()
    with tempfile.TemporaryDirectory() as name:
        result = {
            f"{toolchain.name} {arch}": changed(toolchain, arch, flags(), Path(name))
            for toolchain in (nvrtc, Nvcc.found())
            for arch in ARCHS
        }
    nvrtc.close()
    text = json.dumps(result, indent=1)
    (HERE / "flags.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
