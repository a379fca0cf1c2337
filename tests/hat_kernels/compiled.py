"""Compile every kernel for GPUs without having one, and read the result.

    python -m tests.hat_kernels.compiled lock_update --target sm_90 gfx942      # JSON, a row for each kernel and target

It runs in a process of its own: tests interpret kernels, and Triton decides at its import whether to interpret or to
compile. Triton keeps compiled kernels, so a second run takes seconds.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.hat_kernels.configuration import Configuration

TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
INSTRUCTIONS = {
    "sm_80": r"\bmma\.sync\b",
    "sm_90": r"\bwgmma\.mma_async\b",
    "sm_100": r"\btcgen05\.mma\b",
    "gfx942": r"\bv_mfma_",
}
"""The matmul instruction of each target. Older instructions work on newer GPUs, at half the rate or less."""
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}
"""Bytes of shared memory that one program may use. A launch that needs more fails."""
DIVISIBLE = [["tt.divisibility", 16]]


def operations() -> list[str]:
    """The operations that have kernels of their own."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob("*/configurations.py"))


@functools.cache
def configurations(operation: str) -> dict[str, Configuration]:
    """How the kernels of an operation are launched, by name.

    Raises:
        ValueError: two configurations have one name.
    """
    by_name: dict[str, Configuration] = {}
    for configuration in importlib.import_module(f"tests.hat_kernels.{operation}.configurations").CONFIGURATIONS:
        if configuration.name in by_name:
            raise ValueError(f"{operation}: expected unique names, got {configuration.name!r} twice")
        by_name[configuration.name] = configuration
    return by_name


def build(configuration: Configuration, target: str) -> Any:
    """Compile one configuration for one target; no GPU is needed."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = configuration.kernel
    names = kernel.arg_names
    missing = set(names) - set(configuration.signature) - set(configuration.constants)
    foreign = (set(configuration.signature) | set(configuration.constants)) - set(names)
    if missing or foreign:
        raise ValueError(f"{configuration.name}: missing arguments {sorted(missing)}, foreign {sorted(foreign)}")
    constants = {(names.index(name),): value for name, value in configuration.constants.items()}
    signature = {name: "constexpr" if (index,) in constants else configuration.signature[name]
                 for index, name in enumerate(names)}  # fmt: skip
    attributes = {(names.index(name),): DIVISIBLE for name in configuration.aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = dict(configuration.options)
    if TARGETS[target][2] == 64:
        options |= configuration.options_of_64_lanes
    return triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)


def judge(operation: str, name: str, target: str) -> dict[str, Any]:
    """The row of a kernel: registers, spills, vector width, shared memory, tensor-core and float64 instructions."""
    configuration = configurations(operation)[name]
    start = time.perf_counter()
    kernel = build(configuration, target)
    amd = TARGETS[target][0] == "hip"
    read = _read_amd if amd else _read_nvidia
    declared = min(configuration.vector_bits, configuration.vector_bits_of_64_lanes if amd else 128)
    return {
        "operation": operation,
        "kernel": name,
        "target": target,
        "matmul": configuration.matmul,
        "vector_bits_declared": declared,
        **read(kernel.asm),
        "matmul_instructions": len(re.findall(INSTRUCTIONS[target], kernel.asm["amdgcn" if amd else "ptx"])),
        "warps": kernel.metadata.num_warps,
        "shared_bytes": kernel.metadata.shared,
        "seconds": round(time.perf_counter() - start, 2),
    }


def judge_all(targets: Sequence[str], chosen: Sequence[str] = (), workers: int = 2) -> list[dict[str, Any]]:
    """The rows of the chosen operations (default: all) for each target; a failure is a row with `error`."""
    jobs = [(op, name, target) for op in chosen or operations() for name in configurations(op) for target in targets]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(_judge, jobs, chunksize=1))


def in_a_process(targets: Sequence[str] = tuple(TARGETS), chosen: Sequence[str] = ()) -> list[dict[str, Any]]:
    """`judge_all` in a process that compiles kernels, even if this process interprets them."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in (os.getcwd(), *sys.path) if path)
    command = [sys.executable, "-m", "tests.hat_kernels.compiled", *chosen, "--target", *targets]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def _judge(job: tuple[str, str, str]) -> dict[str, Any]:
    try:
        return judge(*job)
    except Exception as error:
        return {"operation": job[0], "kernel": job[1], "target": job[2], "error": f"{type(error).__name__}: {error}"}


def _widest(text: str, pattern: str, unit: int = 1) -> int:
    """The width of the widest load in bits: vector length (1 for a scalar) times element width."""
    return max((unit * int(n or 1) * int(bits or 1) for n, bits in re.findall(pattern, text)), default=0)


PTX: dict[str, Callable[[str], int]] = {
    "load_bits": lambda text: max(
        _widest(text, r"\bld\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)\b"),
        _widest(text, r"\bcp\.async\.c[ag]\.shared\.global[^;]*?\], 0x10()()", 128),
    ),
    "store_bits": lambda text: _widest(text, r"\bst\.global[\w.:]*?(?:\.v(\d))?\.[bfsu](\d+)\b"),
    "tensor_core": lambda text: len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b", text)),
    "float64": lambda text: len(re.findall(r"\.f64\b", text)),
}
AMDGCN: dict[str, Callable[[str], int]] = {
    "load_bits": lambda text: _widest(text, r"\b(?:global|buffer)_load_dword(?:x(\d))?()\b", 32),
    "store_bits": lambda text: _widest(text, r"\b(?:global|buffer)_store_dword(?:x(\d))?()\b", 32),
    "tensor_core": lambda text: len(re.findall(r"\bv_mfma_", text)),
    "float64": lambda text: len(re.findall(r"\bv_\w+_f64", text)),
}


def _read_nvidia(asm: dict[str, Any]) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = subprocess.run([_cuobjdump(), "-res-usage", file.name], capture_output=True, text=True, check=True)
    by_name = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage.stdout))
    resources = {"registers": int(by_name["REG"]), "spill_bytes": int(by_name["STACK"]) + int(by_name["LOCAL"])}
    return {**resources, **{name: count(asm["ptx"]) for name, count in PTX.items()}}


def _read_amd(asm: dict[str, Any]) -> dict[str, int]:
    text = asm["amdgcn"]
    by_name = {
        name: int(value) for name, value in re.findall(r"^\s*\.(\w+(?:_count|_fixed_size)):\s+(\d+)", text, re.M)
    }
    spilled = 4 * (by_name["vgpr_spill_count"] + by_name["sgpr_spill_count"]) + by_name["private_segment_fixed_size"]
    resources = {"registers": by_name["vgpr_count"], "spill_bytes": spilled}
    return {**resources, **{name: count(text) for name, count in AMDGCN.items()}}


def _cuobjdump() -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    for index, row in enumerate(rows):
        yield ("[" if index == 0 else " ") + json.dumps(row) + ("," if index + 1 < len(rows) else "]")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hat_kernels.compiled", description=__doc__)
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help="a folder of hat_kernels (default: all)")
    parser.add_argument("--target", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rows = judge_all(options.target, options.operations, options.workers)
    print("\n".join(_lines(rows)) if rows else "[]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
