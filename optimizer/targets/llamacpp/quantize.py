"""A GGUF file in another type, and the types that its tensors then really have.

python -m optimizer.targets.llamacpp.quantize SOURCE OUT TYPE      TYPE none: the file as it is, nothing is written
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping

AS_IT_IS = "none"
TYPES = ("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0",
         "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K")  # fmt: skip
"""Types that need no importance matrix."""


def tensor_type(name: str) -> str:
    """What most tensors of a file of this type are to be: Q4_K_M → Q4_K."""
    return name.rpartition("_")[0] if name.endswith(("_S", "_M", "_L")) else name


def facts(types: Mapping[str, int], wanted: str) -> dict[str, float]:
    """How many matrices have which type, and how many have not the one that was wanted: llama.cpp keeps some better,
    and falls back where a row is no multiple of a type's block."""
    found = {f"tensors_{name.lower()}": float(count) for name, count in sorted(types.items())}
    if wanted != AS_IT_IS:
        found["tensors_of_other_types"] = float(sum(types.values()) - types.get(tensor_type(wanted), 0))
    return found


def matrices(path: str) -> dict[str, int]:
    from gguf import GGUFReader

    return dict(Counter(t.tensor_type.name for t in GGUFReader(path).tensors if len(t.shape) > 1))


def main() -> int:
    source, out, wanted = sys.argv[1:]
    if wanted != AS_IT_IS:
        import ctypes

        from llama_cpp import llama_cpp

        asked = llama_cpp.llama_model_quantize_default_params()
        asked.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{wanted}")
        asked.allow_requantize = True
        if llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(asked)) != 0:
            return 1
    sys.stdout.write("\n" + json.dumps({"types": matrices(source if wanted == AS_IT_IS else out)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
