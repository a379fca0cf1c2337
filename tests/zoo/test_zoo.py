"""Networks of other libraries: this file traces and converts a sample, `make zoo` converts all."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import hat
from benchmarks import record
from hat.tracing.trace import trace
from tests.zoo.__main__ import RESULTS, TABLE
from tests.zoo.architectures import Architecture, architectures
from tests.zoo.environment import prepare
from tests.zoo.examine import examine
from tests.zoo.table import document

pytestmark = pytest.mark.skipif(not prepare(), reason="timm is not installed")

ALL = {architecture.name: architecture for architecture in architectures()}
TRACED = (
    "mobilenetv3_small_050", "tf_efficientnet_lite0", "nf_regnet_b0", "convnextv2_atto", "vit_tiny_patch16_224",
    "levit_128s", "edgenext_xx_small", "TransformerEncoder",
)  # fmt: skip
CONVERTED = ("lcnet_035", "TransformerEncoder")


@pytest.mark.parametrize("name", TRACED)
def test_a_graph_trains_as_the_network_does(name):
    """In training mode, outputs and running statistics agree bit for bit. In evaluation mode `trace` checks that."""
    architecture = ALL[name]
    network = architecture.make()
    inputs = architecture.inputs(3)
    graph = copy.deepcopy(trace(network, (inputs[:2],)).graph_module).train()
    network.train()
    torch.manual_seed(1)
    expected = network(inputs)
    torch.manual_seed(1)
    assert torch.equal(graph(inputs), expected)
    buffers = dict(network.named_buffers())
    statistics = {name.replace(".batch_norm.", "."): value for name, value in graph.named_buffers()}
    assert all(torch.equal(value, buffers[name]) for name, value in statistics.items() if name in buffers)


@pytest.mark.parametrize("name", CONVERTED)
def test_a_network_learns_two_tasks_and_forgets_nothing(name):
    row = examine(ALL[name])
    assert row["outcome"] == "converted", row["reason"]
    assert row["gates"] > 1
    assert 0 < row["used"] < 1
    assert row["locked"] > 0


class Unlike(nn.Module):
    """A network that cannot be converted: its path depends on the values, or it raises an error."""

    def __init__(self, outcome):
        super().__init__()
        self.outcome, self.linear = outcome, nn.Linear(4, 4)

    def forward(self, x):
        if self.outcome == "refused":
            return self.linear(x) if x.sum() > 0 else x
        raise OSError("a disk is full")


def test_a_network_of_timm_learns_by_the_trainer():
    """The example of docs/any-network.md."""
    import timm

    model = hat.convert(timm.create_model("lcnet_035", in_chans=1), torch.randn(2, 1, 32, 32))
    stream = hat.data.split("digits", classes_per_task=5, size=(32, 32))
    hat.Trainer(model, stream, hat.TrainConfig(epochs=1, momentum=0.9), progress=False).run()
    assert model.tasks == 2
    assert "made by" in str(hat.summary(model))


def test_a_refused_network_is_no_error():
    def row(make):
        return examine(Architecture("unlike", "none", make, lambda samples: torch.rand(samples, 4)))

    refused = row(lambda: Unlike("refused"))
    assert refused["outcome"] == "refused"
    assert refused["reason"].startswith("the network (Unlike, test_zoo.py:")
    wrong = row(lambda: {}["missing"])
    assert wrong["outcome"] == "error"
    assert wrong["reason"].startswith("KeyError: 'missing' (test_zoo.py:")


def test_the_zoo_is_as_large_as_it_claims():
    assert len(ALL) >= 60
    assert len({architecture.family for architecture in ALL.values()}) >= 15


def test_the_stored_results_are_of_this_zoo_and_without_errors():
    results = record.read(RESULTS)
    assert [row["name"] for row in results["rows"]] == list(ALL)
    assert [row for row in results["rows"] if row["outcome"] == "error"] == []
    assert all(row["drift"] == 0 for row in results["rows"] if row["outcome"] == "converted")
    assert all(row["reason"] for row in results["rows"] if row["outcome"] == "refused")
    assert sum(row["outcome"] == "converted" for row in results["rows"]) >= 55
    assert TABLE.read_text() == document(results)


def test_prepare_raises_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare()
