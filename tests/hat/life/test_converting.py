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


def modes(module):
    return {name: part.training for name, part in module.named_modules()}


class Counted(nn.Module):
    """Counts how often its mode is set, as a module that merges an adapter into its weight does work there."""

    def __init__(self):
        super().__init__()
        self.set, self.linear, self.inner = 0, nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Identity())

    def train(self, mode=True):
        self.set += 1
        return super().train(mode)

    def forward(self, x):
        return F.dropout(self.inner(self.linear(x)), 0.5, self.training)


def mixed_modes(top=True):
    """Networks whose parts are in training and in evaluation mode, by name."""
    frozen_norm = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3))
    frozen_norm[1].eval()
    quiet = nn.Sequential(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Dropout(0.5)).eval(), nn.Linear(6, 3))
    counted = nn.Sequential(nn.Linear(5, 8), Counted().eval(), nn.Linear(8, 3))
    attention = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3))
    attention[0].self_attn.eval()
    for network in (frozen_norm, quiet, counted, attention):
        network.training = top
    return {
        "frozen norm": (frozen_norm, torch.randn(4, 2, 5, 5)),
        "quiet": (quiet, torch.randn(4, 5)),
        "counted": (counted, torch.randn(4, 5)),
        "attention": (attention, torch.randn(4, 3, 8)),
    }


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("name", ["frozen norm", "quiet", "counted", "attention"])
def test_the_network_keeps_its_modes_and_the_model_has_them(name, copied, top):
    network, x = mixed_modes(top)[name]
    before, set_before = modes(network), network[1].set if name == "counted" else None
    model = hat.convert(network, x, copy=copied)
    assert modes(network) == before
    assert set_before is None or network[1].set == set_before
    graph = model.body.network
    for path, part in graph.named_modules():
        if path in before and not getattr(part, "dropout", 0):  # a gated layer that drops has the mode of the dropout
            assert part.training == before[path], path
    assert {model.training, model.body.training, *(gate.training for gate in model.gates.values())} == {top}
    for mode in (True, False):
        assert {*modes(model.train(mode)).values()} == {mode}


def test_a_layer_that_also_drops_has_the_mode_of_the_dropout():
    network, x = mixed_modes()["quiet"]
    model = hat.convert(network, x, head=None)
    with model.state.answering(hat.units.state.OPEN):
        assert torch.equal(model.body(x), model.body(x))
    network, x = mixed_modes()["quiet"]
    network[0][2].train()
    model = hat.convert(network, x, head=None)
    with model.state.answering(hat.units.state.OPEN):
        assert not torch.equal(model.body(x), model.body(x))


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("reason", ["example", "head", "function", "refused late"])
def test_a_refusal_leaves_the_network_as_it_was(reason, top):
    network, x = mixed_modes(top)["frozen norm"]
    if reason == "function":
        network[2].forward = lambda x: x * int((x.sum() > 0).item())
    if reason == "refused late":
        network = nn.Sequential(network, nn.Conv1d(1, 1, 1))[:1].append(nn.Bilinear(3, 3, 2)).train(top)
        network.forward = lambda x: network[1](network[0](x), network[0](x))
    before, hooks = modes(network), facts(network)
    options = {"example": {}, "head": {"head": "0"}, "function": {}, "refused late": {"head": None}}[reason]
    with pytest.raises(ValueError, match=r"expected|nobody knows|makes Python depend"):
        hat.convert(network, torch.randn(4, 3, 5, 5) if reason == "example" else x, **options)
    assert modes(network) == before
    after = facts(network)
    assert after[1] == hooks[1]
    assert all(torch.equal(after[0][name][0], value[0]) for name, value in hooks[0].items())
