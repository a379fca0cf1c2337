"""Every network of the zoo: the same function, right gradients, and nothing forgotten."""

import copy

import pytest
import torch
from torch import nn

import hat
from hat.units.state import OPEN
from tests.hat.conversion.checks import (
    OPTIMIZERS,
    convert,
    features,
    no_drift,
    nothing_forgotten,
    opened,
    right_gradients,
    same_function,
)
from tests.hat.conversion.zoo import NETWORKS

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network(name):
    """All checks of one network. Most weights must be free after a task that uses half of the units."""
    module, example = NETWORKS[name]()
    number = sorted(NETWORKS).index(name)
    model = same_function(module, example, config=hat.GateConfig(locked_first=number % 4 != 0))
    larger = tuple(torch.cat([x, x.flip(0)]) for x in example)
    torch.testing.assert_close(features(model.eval(), larger, OPEN), opened(module, larger), rtol=1e-9, atol=1e-9)
    for path, gate in model.gates.items():  # a gate without members would be counted as capacity
        assert any(m.dim == 0 or not isinstance(m.module, nn.Linear) for m in gate.members), path
    right_gradients(copy.deepcopy(model), example)
    no_drift(copy.deepcopy(model), example, sorted(OPTIMIZERS)[number % len(OPTIMIZERS)], tasks=2)
    assert nothing_forgotten(copy.deepcopy(model), example, seed=7) > 0.3
    nothing_forgotten(model, example)


@pytest.mark.parametrize("name", ["transformer_fused", "transformer_by_hand", "torch_attention", "windows"])
def test_a_head_as_one_unit(name):
    module, example = NETWORKS[name]()
    model = convert(module, example, head=None, per_head=True)
    heads = [gate for path, gate in model.gates.items() if "qkv" in path or "in_proj" in path]
    assert [gate.units for gate in heads] == ([2, 2] if name == "transformer_by_hand" else [2])  # keys and values
    right_gradients(copy.deepcopy(model), example)
    nothing_forgotten(model, example)
