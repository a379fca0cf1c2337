"""An exported network works with torch.export, torch.compile, ONNX, safetensors, pickle and a training loop."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from tests.hat.conversion.checks import convert, draw_units
from tests.hat.conversion.zoo import NETWORKS
from tests.hat.exporting.models import converted, example, learned, mlp, normed, transformer

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]
MAKES = [normed, converted, transformer]


def exported(make, task=1):
    model, x = make()
    return hat.export(model, task, **example(make, x)), x


def tied():
    """(network in which two layers share one weight, inputs)."""
    module, (x,) = NETWORKS["one_weight_in_two_layers"]()
    model = convert(module, (x,), head=None)
    model.begin_task(2)
    draw_units(model, 0)
    model.end_task()
    return hat.export(model, task=0), x


@pytest.mark.parametrize(("make", "strict"), [(normed, False), (converted, True), (transformer, False)])
def test_torch_export(make, strict, tmp_path):
    network, x = exported(make)
    program = torch.export.export(network, (x,), strict=strict, dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "network.pt2")
    again = torch.export.load(tmp_path / "network.pt2").module()
    for inputs in (x, torch.cat([x, x])):  # the batch may have any size
        torch.testing.assert_close(again(inputs), network(inputs))


def test_torch_export_of_several_tasks():
    model, x = converted()
    network = hat.export(model, tasks=[0, 1])
    for task in (0, 1):
        program = torch.export.export(network, (x,), {"task": task}, strict=False)
        torch.testing.assert_close(program.module()(x, task=task), network(x, task=task))


def test_torch_compile():
    network, x = exported(normed)
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(x), network(x))


def test_torch_compile_of_several_tasks():
    model, x = converted()
    network = hat.export(model, tasks=[0, 1])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for task in (0, 1, 0):
        torch.testing.assert_close(compiled(x, task=task), network(x, task=task))


def test_onnx(tmp_path):
    import onnxruntime

    network, x = exported(transformer)
    file = tmp_path / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [*MAKES, "tied"])
def test_safetensors(make, tmp_path):
    from safetensors.torch import load_model, save_model

    network, x = tied() if make == "tied" else exported(make)
    expected, loaded = network(x), copy.deepcopy(network)
    save_model(network, tmp_path / "weights.safetensors")
    with torch.no_grad():
        for values in (*loaded.parameters(), *loaded.buffers()):
            values.zero_()
    load_model(loaded, tmp_path / "weights.safetensors")
    assert torch.equal(loaded(x), expected)


def test_tied_weights_stay_tied():
    network, x = tied()
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert layers[1].weight is layers[2].weight
    assert layers[1].in_features < 6
    network(x).sum().backward()
    one = copy.deepcopy(layers[1].weight.grad)
    layers[2].weight = nn.Parameter(layers[2].weight.detach().clone())
    network.zero_grad()
    network(x).sum().backward()
    torch.testing.assert_close(layers[1].weight.grad + layers[2].weight.grad, one)


@pytest.mark.parametrize("way", ["pickle", "torch.save", "deepcopy"])
@pytest.mark.parametrize("make", [normed, transformer])
def test_copies(make, way):
    model, x = make()
    for network, options in (
        (hat.export(model, task=1, **example(make, x)), {}),
        (hat.export(model, tasks=[0, 1], **example(make, x)), {"task": 1}),
    ):
        if way == "pickle":
            data = pickle.dumps(network)
            assert b"hat.units.gate" not in data
            copied = pickle.loads(data)
        elif way == "torch.save":
            file = io.BytesIO()
            torch.save(network, file)
            copied = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        else:
            copied = copy.deepcopy(network)
        assert torch.equal(copied(x, **options), network(x, **options))
        if options:  # a copy has a choice of its own
            expected = network(x, task=0)
            copied(x, task=1)
            assert torch.equal(network(x, task=0), expected)


class Small(nn.Module):
    """Pickle needs this class at the top level."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.last = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 6)

    def forward(self, x):
        return self.last(F.gelu(self.norm(self.one(x))))


def test_an_export_of_a_converted_network_is_pickled():
    x = torch.randn(3, 5)
    model = learned(hat.convert(Small(), x, head=None).body)
    network = hat.export(model, task=1)
    data = pickle.dumps(network)
    assert b"hat.units.gate" not in data
    assert torch.equal(pickle.loads(data)(x), network(x))


@pytest.mark.parametrize("make", [mlp, *MAKES])
def test_an_exported_network_can_be_trained(make):
    network, x = exported(make)
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = copy.deepcopy(network.state_dict())
    labels = torch.arange(len(x)) % 2
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    weights = [name for name, p in network.named_parameters() if name.endswith("weight") and p.dim() > 1]
    assert all(not torch.equal(network.get_parameter(name), before[name]) for name in weights)
