"""What a step takes of the memory, each variant and share in a fresh process."""

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
AT_ONCE = 2  # processes: nothing is timed, and no process sees the memory of another


def memories(machine: cost.Machine, plan: Plan, running: Workers) -> Iterator[Row]:
    """The MLP at batch 64: tensors kept, the most tensors of a step beside them, and the peak in pages."""
    asked = [(name, Case(network=MLP, batch=64, locked=locked)) for locked in LOCKED for name in VARIANTS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(row, *zip(*asked, strict=True))


def row(name: str, case: Case) -> Row:
    """One fresh process: first its peak, then, with all that is warm by now, the count of its tensors."""
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
