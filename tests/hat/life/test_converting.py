"""`hat.convert(copy=True)` leaves the network of the user as it is; without it, the model takes the network over."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.wide, self.head = nn.Linear(6, 8), nn.Linear(8, 2)
        self.register_buffer("shift", torch.ones(1))
        self.conv.bias.requires_grad_(False)
        self.norm.eval()

    def forward(self, x):
        h = F.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(F.relu(self.wide(h) + self.shift))


X = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(1))


def made():
    torch.manual_seed(0)
    network = Net()
    network.head.register_state_dict_pre_hook(lambda *_: None)
    return network


def facts(network):
    """What a user could see of a network."""
    tensors = {name: (value.clone(), value.requires_grad) for name, value in network.state_dict(keep_vars=True).items()}
    modules = {
        name: (type(part), part.training, {key: len(value) for key, value in vars(part).items() if "hooks" in key})
        for name, part in network.named_modules()
    }
    return tensors, modules


def live(model):
    """Two tasks, growth, and a task that is forgotten."""
    for task in range(2):
        model.begin_task(2)
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1)
        for _ in range(2):
            model.anneal(1.0)
            optimizer.zero_grad()
            (F.cross_entropy(model(X), torch.arange(4) % 2) + model.penalty()).backward()
            optimizer.step()
        with torch.no_grad():
            for gate in model.gates.values():
                gate.embedding.fill_(-1)[task + 2 : task + 4] = 1
        model.end_task()
    hat.grow(model, {next(reversed(model.gates)): 2})
    hat.forget(model, 0)


def test_a_copy_is_converted_and_the_network_stays_as_it_is():
    network = made()
    ids = [id(tensor) for tensor in network.state_dict(keep_vars=True).values()]
    before, answer = facts(network), network(X)
    model = hat.convert(network, X, copy=True)
    live(model)
    after = facts(network)
    assert after[1] == before[1]
    assert after[0].keys() == before[0].keys()
    for name, (value, needs_gradient) in after[0].items():
        assert torch.equal(value, before[0][name][0]), name
        assert needs_gradient == before[0][name][1], name
    assert [id(tensor) for tensor in network.state_dict(keep_vars=True).values()] == ids
    assert torch.equal(network(X), answer)
    assert not set(map(id, model.parameters())) & set(map(id, network.parameters()))


def test_a_copy_learns_as_the_network_itself_would():
    torch.manual_seed(3)
    model = hat.convert(made(), X)
    live(model)
    torch.manual_seed(3)
    copied = hat.convert(made(), X, copy=True)
    live(copied)
    assert all(map(torch.equal, model.state_dict().values(), copied.state_dict().values()))


def test_without_a_copy_the_parameters_are_shared():
    network = made()
    model = hat.convert(network, X)
    before = copy.deepcopy(network.wide.state_dict())
    assert any(p is network.wide.weight for p in model.parameters())
    live(model)
    assert network.wide.weight.shape != before["weight"].shape


def test_the_first_lines_tell_what_becomes_of_the_network():
    assert "copy=True" in "\n".join(hat.convert.__doc__.splitlines()[:4])
    with pytest.raises(TypeError, match="module: expected"):
        hat.convert("a network", X, copy=True)
