"""A converted network is pickled as it is: node by node, with slices by sizes, constants, dtypes and devices."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import hat


class Positions(nn.Module):
    """As in transformers: positions are a slice of a buffer, and the slice has the length of the input."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(50, 16), nn.Embedding(40, 16), nn.Linear(16, 3)
        self.register_buffer("ids", torch.arange(40)[None], persistent=False)

    def forward(self, x):
        return self.head(torch.relu(self.words(x) + self.places(self.ids[:, : x.shape[1]])).mean(1))


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]


class Raw(nn.Module):
    """All kinds of plain Python values among the arguments of calls."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.register_buffer("scale", torch.rand(1, 20, 16))
        self.register_buffer("steps", torch.arange(20.0))

    def forward(self, x):
        n = x.shape[1]
        h = torch.relu(self.one(x)) * self.scale[..., -n:, :].to(x.dtype)  # an ellipsis, a negative size
        h = h * (self.steps + 1)[None, :n, None].to(device=x.device, dtype=torch.float32)  # None, a device, a dtype
        h = h + self.scale.new_ones((1, n, 1), dtype=x.dtype) * torch.zeros(1, n, 1, device=x.device)
        h = Square.apply(torch.relu(self.two(h))[:, ::2, ...] * 0.1)  # a step
        mask = torch.tril(torch.ones(n, n))[: (n + 1) // 2, slice(None, h.shape[1])]
        mask = torch.ops.aten.mul.Tensor(mask, 2.0)
        return self.head((mask @ h)[:, -1])


def inputs(kind, batch):
    generator = torch.Generator().manual_seed(batch)
    if kind is Positions:
        return torch.randint(50, (batch, 7), generator=generator)
    return torch.randn(batch, 6, 12, generator=generator)


def learned(kind):
    torch.manual_seed(0)
    model = hat.convert(kind(), inputs(kind, 4))
    for _ in range(2):
        model.begin_task(3)
        with torch.no_grad():
            for gate in model.gates.values():
                gate.embedding.copy_(torch.randn(gate.units) - 0.3)
                gate.embedding[0] = 1
        model.end_task()
    return model


def saved(network):
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


PARTS = {
    "model": lambda model: (model, {"task": 1}),
    "body": lambda model: (model.body, {}),
    "export": lambda model: (hat.export(model, task=1), {}),
}


@pytest.mark.parametrize("way", [saved, lambda network: pickle.loads(pickle.dumps(network)), copy.deepcopy])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", [Positions, Raw])
def test_comes_back_as_it_was(kind, part, way):
    network, options = PARTS[part](learned(kind))
    back = way(network)
    for batch in (4, 3):
        x = inputs(kind, batch)
        assert torch.equal(back(x, **options), network(x, **options))
    kinds = [{name: (type(p).__name__, p.training) for name, p in one.named_modules()} for one in (back, network)]
    assert kinds[0] == kinds[1]
    assert all(map(torch.equal, back.state_dict().values(), network.state_dict().values()))
    assert back.state_dict().keys() == network.state_dict().keys()


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
@pytest.mark.parametrize("kind", [Positions, Raw])
def test_the_life_of_tasks_goes_on(kind):
    model = learned(kind)
    back = saved(model)
    graph = model.body.network.graph
    assert [node.name for node in back.body.network.graph.nodes] == [node.name for node in graph.nodes]
    assert str(back.body.network.graph) == str(graph)
    lives = []
    for one in (model, back):
        torch.manual_seed(5)
        hat.grow(one, 3)
        one.begin_task(3)
        optimizer = hat.optim.SGD(one.task_parameters(), lr=0.1)
        one.anneal(0.5)
        one(inputs(kind, 4)).square().mean().backward()
        optimizer.step()
        lives.append(one.state_dict())
    assert all(map(torch.equal, lives[0].values(), lives[1].values()))


def test_constants_follow_their_buffer():
    """`steps + 1` must not become a constant when the network is loaded."""
    back = saved(learned(Raw))
    x = inputs(Raw, 3)
    before = back(x, task=0)
    back.body.network.steps.mul_(2)
    assert not torch.equal(back(x, task=0), before)


def test_a_deep_network_is_pickled():
    torch.manual_seed(0)
    layers = [part for _ in range(40) for part in (nn.Linear(6, 6), nn.ReLU())]
    model = hat.convert(nn.Sequential(*layers, nn.Linear(6, 2)), torch.randn(4, 6))
    assert saved(model).gates.keys() == model.gates.keys()
