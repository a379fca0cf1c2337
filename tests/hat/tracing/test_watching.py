"""A run that is watched: what is noted, and that the network keeps its values."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from hat.tracing.untouched import untouched
from hat.tracing.watching import watched


class Busy(nn.Module):
    """Writes to a parameter, to a buffer and to a tensor of an object, and draws from several generators."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.table, self.source = torch.zeros(4), np.random.default_rng(0)

    def forward(self, x):
        with torch.no_grad():
            self.layer.weight.data.mul_(2)
            self.mean.data = self.mean + 1
            self.table[1:3] = 7
        return self.layer(x) + torch.rand(4) * random.random() * self.source.random()


@pytest.fixture
def run_and_network():
    network = Busy()
    values = {name: value.clone() for name, value in network.state_dict().items()}
    positions = random.getstate(), str(network.source.bit_generator.state)
    with untouched(network):
        run = watched(network, network, (torch.randn(2, 4),), training=True)
    assert (random.getstate(), str(network.source.bit_generator.state)) == positions
    assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())
    return run, network


def test_values_that_were_written_are_noted_and_restored(run_and_network):
    run, network = run_and_network
    assert run.written.keys() == {"layer.weight", "mean", "table"}
    assert run.written["table"].startswith("the network (Busy, test_watching.py:")
    assert not network.table.any()


def test_draws_are_noted_with_their_generators(run_and_network):
    run, _ = run_and_network
    assert [(draw.path, draw.function) for draw in run.draws] == [("", "rand")]
    assert run.moved.keys() == {("", "random"), ("", "source")}


def test_attention_without_dropout_draws_nothing():
    network = nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.randn(2, 3, 4)
    with untouched(network):
        assert watched(network, network, (x, x, x), training=True).draws == []


def test_an_error_is_noted_and_nothing_stays_behind():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with untouched(network):
        run = watched(network, network, (torch.randn(1, 4),), training=True)
    assert isinstance(run.error, ValueError)
    assert run.answer is None
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_the_runs_of_a_network_that_draws_are_equal():
    network = nn.Dropout(0.5)
    runs = [watched(network, network, (torch.ones(100),), training=True) for _ in range(2)]
    assert torch.equal(runs[0].answer[0], runs[1].answer[0])
    assert not torch.equal(runs[0].answer[0], torch.ones(100))
