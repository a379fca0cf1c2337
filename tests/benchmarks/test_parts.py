"""The parts of the CPU benchmark with workers that measure nothing: rows, ratios and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import record, suite, tables
from benchmarks.bench import Case
from benchmarks.cost import Machine
from benchmarks.parts import epoch, memory, mixed, scale, tasks, width
from benchmarks.plan import Plan
from benchmarks.serving import APART, KINDS, MIXED
from benchmarks.step import PHASES
from benchmarks.variants import IN_MATMUL, OURS, PLAIN, TEXTBOOK, VARIANTS
from benchmarks.workload import Network

MACHINE, PLAN = Machine(1e11, 1e10), Plan(least=2, most=2, patience=math.inf)
FACTS = {"cpu": "c", "threads": 1, "torch": "t", "commit": "unknown", "load": 0.0}


class Instant:
    """A worker that measures nothing: every phase takes a third of the step."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.built: list[Case] = []

    def build(self, case: Case) -> None:
        self.built.append(case)

    def run(self, grid: list[float]) -> list[float]:
        return [self.seconds] * len(grid)

    def split(self, grid: list[float]) -> list[float]:
        return [self.seconds / 3] * 3 * len(grid)

    def memory(self) -> dict[str, int]:
        return {"state_bytes": 1 << 20, "step_bytes": 1 << 21}

    def peak(self, case: Case) -> int:
        return 1 << 22


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker for every variant: plain takes 2 ms, all others 1 ms."""

    def start(names: Mapping[str, str]) -> dict[str, Instant]:
        return {name: Instant(0.002 if variant == PLAIN else 0.001) for name, variant in names.items()}

    @contextmanager
    def workers(names: Mapping[str, str]) -> Iterator[dict[str, Instant]]:
        yield start(names)

    for part in (memory, tasks):
        monkeypatch.setattr(part, "workers", workers)
    return start({name: name for name in VARIANTS})


def report(rows: list[dict[str, Any]]) -> str:
    """The page of the rows. Every row must also have its line of progress."""
    assert all(command.line(row) for row in rows)
    return tables.full({"environment": FACTS, "machine": {"flops": 1.0, "bandwidth": 1.0}, "rows": rows})


def test_epochs(running: Any) -> None:
    rows = list(epoch.epochs(MACHINE, PLAN, running))
    assert len({(row["network"], row["batch"], row["locked"]) for row in rows}) == 4 * 5
    ours = next(row for row in rows if row["variant"] == OURS)
    assert ours["ratio_to"][PLAIN]["p50"] == pytest.approx(0.5)
    assert ours["epoch_ms"] == pytest.approx(1.0)
    assert ours["phase_ms"] == pytest.approx(dict.fromkeys(PHASES, 1 / 3))
    assert ours["rounds"] == 2
    assert ours["flops"] > 0
    assert sum(ours["phase_floor_ms"].values()) >= ours["floor_ms"]
    for locked in epoch.LOCKED:
        assert {PLAIN, TEXTBOOK, OURS} <= {row["variant"] for row in rows if row["locked"] == locked}
    assert "Forward, backward, update" in report(rows)


def test_scales(running: Any) -> None:
    rows = list(scale.scales(MACHINE, PLAN, running))
    assert len(rows) == 2 * len(scale.VARIANTS) * len(scale.SCALES)
    assert rows[0]["ratio_to_scale_1"]["p50"] == 1.0
    assert "Step against scale" in report(rows)


def test_memory(running: Any) -> None:
    rows = list(memory.memories(MACHINE, PLAN, running))
    assert len(rows) == len(memory.LOCKED) * len(memory.VARIANTS)
    assert "| 4.0 MiB " in report(rows)


def test_tasks(running: Any) -> None:
    rows = list(tasks.many_tasks(MACHINE, PLAN, running))
    assert [row["tasks"] for row in rows] == [1, 10, 100, 1000]
    assert [row["ratio_to"][PLAIN]["p50"] for row in rows] == [0.5] * 4
    assert [row["ratio_to_first"]["p50"] for row in rows] == [1.0] * 4
    assert "| 1000 " in report(rows)


def test_widths(running: Any) -> None:
    rows = list(width.widths(MACHINE, PLAN, running))
    assert {row["width"] for row in rows} == set(width.WIDTHS)
    assert [case.network.hidden for case in running[IN_MATMUL].built[::2]] == [(size, size) for size in width.WIDTHS]
    assert next(row for row in rows if row["variant"] == OURS)["ratio_to"][PLAIN]["p50"] == 0.5
    assert "## Width" in report(rows)


def test_mixed(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Network(kind="mlp", input_shape=(6,), hidden=(8, 8), classes=2)
    for name, value in (("MLP", tiny), ("ALEXNET", tiny), ("BATCHES", (4,)), ("REPEATS", 2)):
        monkeypatch.setattr(mixed, name, value)
    rows = list(mixed.mixed(MACHINE, PLAN, running))
    assert [row["variant"] for row in rows] == 2 * list(KINDS)
    assert rows[1]["ratio_to"][APART]["p50"] > 0
    assert f"{APART} / {MIXED}" in report(rows)


def test_every_part_names_the_variants_whose_processes_it_uses() -> None:
    assert suite.needed(["operation", "memory"]) == {}
    assert list(suite.needed(["tasks"])) == [PLAIN]
    assert set(suite.needed(["epoch", "scale"])) == set(VARIANTS)


def test_a_late_part_runs_at_least_one_round_only() -> None:
    assert Plan(seconds=10.0, patience=1e9).share(0.1) == {"seconds": 1.0, "least": 2, "most": 15}
    assert Plan(seconds=10.0, patience=0.0).share(0.1)["least"] == 1


def test_a_part_that_is_measured_again_replaces_only_its_rows(tmp_path):
    file = tmp_path / "cpu.json"
    record.write(file, {"rows": [{"part": "tasks", "ms": 1}, {"part": "epoch", "ms": 2}, {"part": "gone", "ms": 3}]})
    rows = command.merged([{"part": "epoch", "ms": 4}], file, ["epoch"])
    assert rows == [{"part": "epoch", "ms": 4}, {"part": "tasks", "ms": 1}]
    new = [{"part": "epoch", "ms": 4}]
    assert command.merged(new, file, list(suite.PARTS)) == new
    assert command.merged(new, tmp_path / "none.json", ["epoch"]) == new
