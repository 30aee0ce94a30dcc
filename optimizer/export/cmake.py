"""winner.cmake and CMakePresets.json: how does a CMake project compile a target as the winner was compiled?"""

import json
from collections.abc import Mapping
from typing import final

from optimizer.export.flags import FLAGS, Flags
from optimizer.export.header import HEADER, Header
from optimizer.export.shipment import Shipment
from optimizer.export.words import compiles

CMAKE = "winner.cmake"
PRESETS = "CMakePresets.json"
HEADER_EXPORTER = Header()


@final
class CMake:
    text = f"{CMAKE} and {PRESETS}: include({CMAKE}), then target_link_libraries(… optimizer::winner)"
    reopens = ""

    def unfit(self, shipment: Shipment) -> str:
        if not compiles(shipment):
            return "nothing of this study is compiled with flags"
        return "CMake has no languages for it" if shipment.kind == "command" else ""

    def render(self, shipment: Shipment) -> Mapping[str, bytes]:
        files = {CMAKE: _included(shipment).encode(), PRESETS: _presets(shipment).encode(), **Flags().render(shipment)}
        return files if HEADER_EXPORTER.unfit(shipment) else {**files, **HEADER_EXPORTER.render(shipment)}


def _included(shipment: Shipment) -> str:
    """An interface library. Its options come after CMAKE_CXX_FLAGS and those of the build type, so the winner's level
    wins over the type's. The compiler reads flags.rsp itself: nothing is quoted for CMake. The link gets the flags as
    well: without -flto and the level the optimiser at link time does not run."""
    cuda, folder = shipment.kind == "cuda", "${optimizer_winner_dir}"
    language = "CUDA" if cuda else "CXX"
    flags = f"--options-file={folder}/{FLAGS}" if cuda else f"@{folder}/{FLAGS}"
    lines = [
        f"# {shipment.origin}",
        "# In CMakeLists.txt:",
        f"#   include(FOLDER/{CMAKE})",
        "#   target_link_libraries(YOUR_TARGET PRIVATE optimizer::winner)",
        "include_guard(GLOBAL)",
        'set(optimizer_winner_dir "${CMAKE_CURRENT_LIST_DIR}")',
        "add_library(optimizer_winner INTERFACE)",
        "add_library(optimizer::winner ALIAS optimizer_winner)",
        f'target_compile_options(optimizer_winner INTERFACE "$<$<COMPILE_LANGUAGE:{language}>:{flags}>")',
    ]
    if not HEADER_EXPORTER.unfit(shipment):
        included = f'SHELL:-include \\"{folder}/{HEADER}\\"'
        lines.append(
            f'target_compile_options(optimizer_winner INTERFACE "$<$<COMPILE_LANGUAGE:{language}>:{included}>")'
        )
    if not cuda:
        lines.append(f'target_link_options(optimizer_winner INTERFACE "$<$<LINK_LANGUAGE:CXX>:{flags}>")')
    return "\n".join(lines) + "\n"


def _presets(shipment: Shipment) -> str:
    """A preset `winner`: the compiler, and no build type whose flags would be added."""
    compiler = str(shipment.trial.point.get("compiler", ""))
    variables = {"CMAKE_BUILD_TYPE": ""}
    if compiler and shipment.kind != "cuda":
        variables["CMAKE_CXX_COMPILER"] = compiler
    document = {
        "version": 3,
        "configurePresets": [
            {
                "name": "winner",
                "displayName": shipment.origin,
                "binaryDir": "${sourceDir}/build-winner",
                "cacheVariables": variables,
            }
        ],
        "buildPresets": [{"name": "winner", "configurePreset": "winner"}],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
