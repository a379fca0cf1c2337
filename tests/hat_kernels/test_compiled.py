"""Every kernel, compiled for several GPUs without having one. The interpreter cannot show what the compiler does."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from typing import Any

import pytest

import hat_kernels
from tests.hat_kernels import compiled

pytestmark = pytest.mark.kernel


def targets() -> tuple[str, ...]:
    """All targets with the Triton of constraints.txt; one target with an older Triton."""
    version = tuple(map(int, importlib.metadata.version("triton").split(".")[:2]))
    return tuple(compiled.TARGETS) if version >= (3, 9) else ("sm_90",)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """One row for each kernel and target; up to two seconds for a kernel that Triton has not compiled before."""
    compiled_rows = compiled.in_a_process(targets())
    errors = [f"{row['kernel']} for {row['target']}: {row['error']}" for row in compiled_rows if "error" in row]
    assert not errors, "\n".join(errors)
    return compiled_rows


def is_kernel(found: Any, package: str) -> bool:
    """A `@triton.jit` function of a package that is called so, or asks, perhaps by a helper, which program it is."""
    source = inspect.getsource(found.fn) if hasattr(found, "fn") and found.fn.__module__.startswith(package) else ""
    return bool(re.search(r"def \w+_kernel\(|tl\.program_id\(|= owner\(|= tile\(", source))


def offenders(rows: list[dict[str, Any]], *columns: str) -> list[str]:
    return [f"{row['kernel']} for {row['target']}: {', '.join(f'{row[c]} {c}' for c in columns)}" for row in rows]


def test_every_target_got_every_kernel(rows):
    names = {(row["operation"], row["kernel"]) for row in rows}
    assert len(rows) == len(names) * len(targets())
    assert {operation for operation, _ in names} == set(compiled.operations())


def test_nothing_spills(rows):
    assert offenders([row for row in rows if row["spill_bytes"]], "spill_bytes", "registers") == []


def test_global_loads_are_as_wide_as_declared(rows):
    narrow = [row for row in rows if row["load_bits"] < row["vector_bits_declared"]]
    assert offenders(narrow, "load_bits", "vector_bits_declared") == []


def test_matmuls_use_the_tensor_cores_of_their_target(rows):
    """wgmma on Hopper, tcgen05 on Blackwell: mma.sync would work on both, at a fraction of the rate."""
    slow = [row for row in rows if row["matmul"] and not row["matmul_instructions"]]
    assert offenders(slow, "matmul_instructions", "tensor_core") == []
    assert {row["operation"] for row in rows if row["matmul"]} == {"gated_linear"}


def test_shared_memory_is_there(rows):
    large = [row for row in rows if row["shared_bytes"] > compiled.SHARED[row["target"]]]
    assert offenders(large, "shared_bytes") == []


def test_no_float64_arithmetic(rows):
    assert offenders([row for row in rows if row["float64"]], "float64") == []


@pytest.mark.parametrize("operation", [m.name for m in pkgutil.iter_modules(hat_kernels.__path__) if m.ispkg])
def test_every_kernel_is_among_what_is_compiled(operation):
    package = f"hat_kernels.{operation}"
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    files = [importlib.import_module(f"{package}.{module.name}") for module in modules]
    kernels = {name for file in files for name, value in vars(file).items() if is_kernel(value, package)}
    assert bool(kernels) == (operation in compiled.operations())
    launched = compiled.configurations(operation).values() if kernels else ()
    assert {configuration.kernel.__name__ for configuration in launched} == kernels


def test_the_reader_sees_what_it_is_there_to_find():
    ptx = "ld.global.v4.b32 {%r1}; st.global.b16; mma.sync.aligned; add.rn.f64 %fd1;"
    counts = {name: count(ptx) for name, count in compiled.PTX.items()}
    assert counts == {"load_bits": 128, "store_bits": 16, "tensor_core": 1, "float64": 1}
    assert compiled.PTX["load_bits"]("ld.global.L1::evict_last.v2.b64 {a, b}, [p]; ld.global.b8") == 128
    assert compiled.PTX["load_bits"]("cp.async.cg.shared.global [%r1], [%rd2], 0x10, 0x10;") == 128
    assert compiled.PTX["load_bits"]("ld.shared.v4.b32 {a}; ld.global.nc.f32 %f1, [p];") == 32
    assert compiled.AMDGCN["load_bits"]("global_load_dword v1\n global_load_dwordx4 v[2:5]") == 128
    assert compiled.AMDGCN["load_bits"]("global_load_ushort v1") == 0
    assert compiled.AMDGCN["float64"]("v_fma_f64 v[0:1]") == 1
