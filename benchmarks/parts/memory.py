"""Part `memory`: the memory of a step. Every variant and locked share runs in a fresh process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks import cost
from benchmarks.bench import Case
from benchmarks.plan import Plan, Row, Workers, about, workers
from benchmarks.variants import COMPILED, IN_MATMUL, OURS, PLAIN, TEXTBOOK
from benchmarks.workload import MLP

VARIANTS = (PLAIN, TEXTBOOK, OURS, IN_MATMUL, COMPILED)
LOCKED = (0.0, 0.5, 0.9)
AT_ONCE = 2  # processes at the same time: nothing is timed, and every process has its own memory


def memories(machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """Measure the MLP at batch 64: tensors kept between steps, tensors of a step, and the peak in pages."""
    cases = [(name, Case(network=MLP, batch=64, locked=locked)) for locked in LOCKED for name in VARIANTS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(row, *zip(*cases, strict=True))


def row(name: str, case: Case) -> Row:
    """Measure one variant in a fresh process: first the peak, then, after the process is warm, the tensors."""
    with workers({name: name}) as fresh:
        peak = fresh[name].peak(case)
        fresh[name].build(case)
        counted = fresh[name].memory()
    floor = cost.memory(case.network, case.batch)
    return {
        **about("memory", name, case),
        "peak_bytes": peak,
        **counted,
        "floor_state_bytes": floor["state_bytes"],
        "floor_step_bytes": floor["step_bytes"],
    }
