"""The least work of a step, compared with numbers computed by hand."""

from __future__ import annotations

import pytest

from benchmarks import cost
from benchmarks.workload import ALEXNET, MLP, Network


def test_flops_of_the_mlp_by_hand() -> None:
    first, second, head = 784 * 2000, 2000 * 2000, 2000 * 10
    assert cost.count(MLP, 64, 0.0)["flops"] == 2 * 64 * (2 * first + 3 * second + 3 * head)
    half = cost.count(MLP, 64, 0.5)["flops"]
    assert half == 2 * 64 * (1.5 * first + 2.75 * second + 3 * head)
    assert cost.count(MLP, 64, 0.9)["bytes"] < cost.count(MLP, 64, 0.5)["bytes"] < cost.count(MLP, 64, 0.0)["bytes"]


def test_phases_of_the_floor_by_hand() -> None:
    first, second, head = 784 * 2000, 2000 * 2000, 2000 * 10
    half = cost.phases(MLP, 64, 0.5)
    assert half["forward"]["flops"] == 2 * 64 * (first + second + head)
    assert half["backward"]["flops"] == 2 * 64 * (0.5 * first + 1.75 * second + 2 * head)
    assert half["update"] == {"flops": 0.0, "bytes": 8 * (0.5 * first + 0.75 * second + head)}
    assert cost.seconds(half["update"], cost.Machine(1e9, 1e9)) == half["update"]["bytes"] / 1e9


def test_memory_that_no_step_can_do_without() -> None:
    weights = 784 * 2000 + 2000 * 2000 + 2000 * 10
    assert cost.memory(MLP, 64) == {"state_bytes": 4 * weights, "step_bytes": 4 * 64 * (784 + 2000 + 2000)}


@pytest.mark.parametrize("network", [MLP, ALEXNET], ids=str)
def test_the_cost_counts_every_weight_of_the_network(network: Network) -> None:
    from benchmarks.plain import build

    weights = [p.numel() for p in build(network).parameters() if p.dim() > 1]
    assert [layer.weights for layer in cost.layers(network, 0.0)] == weights


def test_the_floor_is_the_slower_of_arithmetic_and_traffic() -> None:
    counted = cost.count(MLP, 64, 0.0)
    assert cost.floor(MLP, 64, 0.0, cost.Machine(1e9, 1e30)) == counted["flops"] / 1e9
    assert cost.floor(MLP, 64, 0.0, cost.Machine(1e30, 1e9)) == counted["bytes"] / 1e9
