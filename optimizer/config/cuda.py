"""How does a CUDA kernel become a target, for the GPU and the compilers that this machine has?"""

from collections.abc import Sequence
from dataclasses import replace

from optimizer.config.compose import Tree
from optimizer.config.language import inputs_of
from optimizer.config.made import Builds, Compilers, Made, needed, with_compilers
from optimizer.device import NoDevice, chosen_gpus
from optimizer.errors import ConfigError
from optimizer.recipe import Plan
from optimizer.resources import kernels_dir
from optimizer.space import Choice, Space
from optimizer.targets.cuda.compile import ADVICE, Toolchain, found_toolchains
from optimizer.targets.cuda.host import HostCheck
from optimizer.targets.cuda.target import CudaTarget, Scenario
from optimizer.targets.native import Limits


def cuda(node: Tree, space: Space | None, plan: Plan, builds: Builds, device: str) -> Made:
    compilers = with_compilers(needed(space, node), found_toolchains(), ADVICE)
    versions = {t.name: t.version for t in compilers.used.values()}
    gpus = () if device == "none" else chosen_gpus(device, versions)
    kernels, gpu = kernels_dir(), next(iter(gpus), None)
    if gpu:
        compilers = replace(compilers, space=_for(gpu.arch, compilers.space))
    arch = gpu.arch if gpu else str(node["arch"])
    archs, inputs = _architectures(compilers, arch), inputs_of(node)
    target = CudaTarget(
        source=kernels / node["source"],
        launch=kernels / node["launch"],
        include=kernels,
        scenario=Scenario(
            inputs.options, inputs.files, inputs.hashes, flush_l2=bool(node["flush_l2"]), graph=bool(node["graph"])
        ),
        space=compilers.space,
        toolchains=compilers.used,
        arch=arch,
        gpu=gpu.uuid if gpu else None,
        folder=builds.folder,
        limits=Limits(plan.timeout_s, plan.memory_bytes),
        check=None if gpu else HostCheck.found(builds.folder, plan.timeout_s),
        flags=tuple(node.get("flags") or ()),
        cache=builds.cache,
    )
    watched = gpu or NoDevice(", ".join(archs), versions)
    return Made(
        target,
        compilers.space,
        watched,
        device.partition(":")[0],
        {},
        compilers.missing,
        preview=target.preview,
        runs=gpu is not None,
        more=tuple((replace(target, gpu=other.uuid), other) for other in gpus[1:]),
        warnings=tuple(text for one in gpus for text in one.warnings),
    )


def _for(arch: str, space: Space) -> Space:
    """The space whose one architecture, which ${cuda_archs:} took from the first GPU, is that of the chosen one."""
    knob = space.by_name.get("arch")
    if knob is None or not isinstance(knob.domain, Choice) or len(knob.domain.values) > 1:
        return space
    return space.narrowed({knob.name: (arch,)})


def _architectures(compilers: Compilers[Toolchain], otherwise: str) -> Sequence[str]:
    """What the space builds for. Raises ConfigError for what no compiler here knows."""
    knob = compilers.space.by_name.get("arch")
    wanted = [str(v) for v in knob.domain.values] if knob and isinstance(knob.domain, Choice) else [otherwise]
    for toolchain in compilers.used.values():
        for arch in wanted:
            if arch not in toolchain.archs:
                raise ConfigError(
                    f"{toolchain.name} {toolchain.version} does not compile for {arch}; it knows "
                    f"{', '.join(toolchain.archs)}. Choose with space.arch=…, or leave it out with space.compiler=…."
                )
    return wanted
