"""Copies of models share nothing with the original, however deep the network is."""

import copy

import pytest
import torch
from torch import nn

import hat
from tests.hat.nets import wired


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
def test_a_deep_chain_is_copied():
    """`copy.deepcopy` alone follows gates to layers and layers to gates, and exceeds the recursion limit."""
    torch.manual_seed(0)
    model = hat.HATModel(wired(*(hat.HATLinear(4, 4) for _ in range(150))))
    model.begin_task(2)
    model.end_task()
    copied = copy.deepcopy(model)
    x = torch.randn(3, 4)
    assert torch.equal(copied(x, task=0), model(x, task=0))
    own = set(copied.modules())
    assert not own & set(model.modules())
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert all(member.module in own for gate in copied.gates.values() for member in gate.members)
    assert copied.locks().keys() <= set(copied.parameters())


def test_a_deep_network_is_converted():
    layers = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(90)]
    assert len(hat.convert(nn.Sequential(*layers, nn.Linear(4, 3)), torch.randn(2, 4)).gates) == 90
