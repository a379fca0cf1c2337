"""The arithmetic of the CPU benchmark: order of turns, quantiles, ratios. No duration is asserted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from benchmarks import facts
from benchmarks.bench import Bench, Case
from benchmarks.measure import Timings, blocks, interleave, phases, progress_grid, quantiles, turns
from benchmarks.operations import OPERATIONS
from benchmarks.parts import scale
from benchmarks.plan import progress
from benchmarks.worker import Worker
from benchmarks.workload import Network, used_units

TINY = Network(kind="mlp", input_shape=(6,), hidden=(8, 8), classes=2)


def test_turns_are_interleaved_and_rotate() -> None:
    order = list(turns(["a", "b", "c"], [1, 2, 3, 4], 2))
    assert order == [("a", [1, 2]), ("b", [1, 2]), ("c", [1, 2]), ("b", [3, 4]), ("c", [3, 4]), ("a", [3, 4])]
    assert next(iter(turns(["a", "b", "c"], [1], 1, turn=2)))[0] == "c"


def test_blocks_keep_order_and_lose_nothing() -> None:
    assert blocks([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]


def test_the_grid_covers_the_epoch_evenly() -> None:
    grid = progress_grid(4)
    assert grid == [0.125, 0.375, 0.625, 0.875]
    assert sum(grid) / 4 == 0.5


def runner(log: list[str], name: str, seconds: float):
    def run(grid: Sequence[float]) -> list[float]:
        log.append(name)
        return [seconds * (1 + point) for point in grid]

    return run


def test_interleave_runs_every_variant_on_every_point() -> None:
    log: list[str] = []
    runners = {"a": runner(log, "a", 1.0), "b": runner(log, "b", 2.0)}
    timings = interleave(runners, [0.0, 1.0, 2.0], block=2, seconds=0.0, least=2)
    assert log == ["a", "b", "b", "a", "b", "a", "a", "b"]
    assert timings.rounds == 2
    assert timings.seconds["a"] == [[1.0, 2.0, 3.0]] * 2
    assert timings.at("b", 1) == [4.0, 4.0]
    assert timings.epoch("b") == 4.0
    assert timings.ratios("b", "a") == [2.0, 2.0]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 2), (45.0, 3), (1000.0, 6)])
def test_interleave_stops_when_another_round_would_not_fit(seconds: float, expected: int) -> None:
    times = iter(range(0, 1000, 10))
    timings = interleave(
        {"a": lambda grid: [0.1] * len(grid)},
        [0.5],
        block=1,
        seconds=seconds,
        least=2,
        most=6,
        clock=lambda: next(times),
    )
    assert timings.rounds == expected


def test_an_outlier_moves_neither_the_epoch_nor_its_points() -> None:
    timings = Timings([0.25, 0.75], {"a": [[1.0, 3.0], [1.0, 900.0], [1.0, 3.0]]})
    assert timings.epoch("a") == 2.0


def test_ratios_are_taken_within_a_round() -> None:
    timings = Timings([0.5], {"a": [[2.0], [20.0]], "b": [[1.0], [10.0]]})
    assert timings.ratios("a", "b") == [2.0, 2.0]


def test_phases_add_up_to_the_step() -> None:
    timings = Timings([0.5, 0.7], {"a": [[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]]})
    whole, parts = phases(timings, ["forward", "backward", "update"])
    assert whole.seconds == {"a": [[6.0, 60.0]]}
    assert {name: part.at("a", 1) for name, part in parts.items()} == {
        "forward": [10.0],
        "backward": [20.0],
        "update": [30.0],
    }


def test_quantiles() -> None:
    assert quantiles([3.0, 1.0, 2.0]) == pytest.approx({"p20": 1.4, "p50": 2.0, "p80": 2.6})
    assert quantiles([7.0]) == {"p20": 7.0, "p50": 7.0, "p80": 7.0}
    values = torch.randn(37).double()
    expected = torch.quantile(values, torch.tensor([0.2, 0.5, 0.8]).double()).tolist()
    assert list(quantiles(values.tolist()).values()) == pytest.approx(expected)
    with pytest.raises(ValueError, match="values: expected at least one"):
        quantiles([])


def test_scale_and_progress_are_inverse() -> None:
    import hat

    state = hat.HATModel(hat.models.mlp(3, (2,))).state
    for value in scale.SCALES:
        state.set_progress(progress(value))
        assert state.scale.item() == pytest.approx(value, rel=1e-5)


def test_used_units_are_exact_and_the_same_each_time() -> None:
    masks = used_units((2000, 64, 7), 0.9)
    assert [int(mask.sum()) for mask in masks] == [1800, 58, 6]
    assert all(torch.equal(a, b) for a, b in zip(masks, used_units((2000, 64, 7), 0.9), strict=True))


def test_rows_hold_the_facts_that_are_needed_to_measure_again() -> None:
    environment = facts.environment()
    keys = {"device", "cpu", "threads", "cores", "load", "torch", "numpy", "python", "commit", "date"}
    assert set(environment) == keys
    assert environment["torch"] == torch.__version__


def test_outside_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert facts.commit(tmp_path) == "unknown"


@pytest.mark.parametrize("name", scale.VARIANTS)
@pytest.mark.parametrize("locked", [0.0, 0.5])
def test_a_restored_bench_starts_every_block_from_the_same_state(name: str, locked: float) -> None:
    bench = Bench(name, Case(network=TINY, batch=4, locked=locked, trained=2, restore=True))
    assert len(bench.run([0.1, 0.5])) == 2
    assert bench.state is not None
    moved = bench.step.model.state_dict()
    assert any(not torch.equal(value, moved[name]) for name, value in bench.state.items())
    bench.step.model.load_state_dict(bench.state)
    assert all(torch.equal(value, bench.step.model.state_dict()[name]) for name, value in bench.state.items())


def test_a_bench_times_three_phases_per_step() -> None:
    bench = Bench("ours", Case(network=TINY, batch=4))
    assert len(bench.split([0.1, 0.5])) == 6


def test_a_worker_runs_in_its_own_process_and_reports_errors() -> None:
    worker = Worker("ours", threads=1)
    try:
        worker.build(Case(network=TINY, batch=4))
        assert len(worker.run([0.0, 1.0])) == 2
        assert len(worker.split([0.0])) == 3
        with pytest.raises(RuntimeError, match=r"progress: expected in \[0, 1\]"):
            worker.run([2.0])
    finally:
        worker.close()


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_operations_run(operation: str) -> None:
    for call in OPERATIONS[operation]().values():
        call()


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match=r"name: expected one of plain, textbook, .*, got 'x'"):
        Bench("x", Case(network=TINY, batch=4))
