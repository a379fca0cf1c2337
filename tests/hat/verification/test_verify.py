"""`hat.verify` names what has changed, and does not name what may change."""

import math

import pytest
import torch
from torch import nn

import hat
from hat.verification.recording import record
from tests.hat.life.test_forgetting import learn, make
from tests.hat.nets import wired


class Scaled(nn.Module):
    """A buffer of the body's own, and an attribute."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))
        self.shift = 0.0

    def forward(self, x):
        return x * self.scale * (1 + self.shift)


def network():
    torch.manual_seed(0)
    body = wired(
        hat.HATConv2d(2, 6, 3, activation="identity"),
        hat.HATBatchNorm2d(6, activation="relu"),
        hat.HATConv2d(6, 4, 2),
        nn.Flatten(),
        hat.HATLinear(16, 5),
        Scaled(),
    )
    return hat.HATModel(body, features=5, outputs=body[4].gate), torch.randn(4, 2, 5, 5)


def probed(tasks=2):
    model, x = network()
    probes = hat.Probes()
    for task in range(tasks):
        learn(model, x, units=task)
        probes.add(model, task, x)
    assert hat.verify(model, probes) == hat.Verification(dict.fromkeys(range(tasks), 0.0), None, 0.0, None)
    return model, x, probes


def used(model, layer, task=0):
    """The index of a unit that the task uses."""
    return int(model.body[layer].gate.masks[task].argmax())


@torch.no_grad()
def move(tensor, *index):
    tensor[index] += 0.25


@pytest.mark.parametrize(
    ("what", "kind", "name"),
    [
        (lambda m: move(m.body[2].bias, used(m, 2)), "parameter", "body.2.bias"),
        (lambda m: move(m.heads[1].bias, 0), "parameter", "heads.1.bias"),
        (lambda m: move(m.heads[0].weight, 0, used(m, 4)), "parameter", "heads.0.weight"),
        (lambda m: move(m.body[1].running_mean_tasks, 0, used(m, 1)), "buffer", "body.1.running_mean_tasks"),
        (lambda m: move(m.body[5].scale), "buffer", "body.5.scale"),
    ],
)
def test_the_tensor_that_moved(what, kind, name):
    model, _, probes = probed()
    what(model)
    found = hat.verify(model, probes)
    assert (found.kind, found.moved) == (kind, name)
    assert found.moved_by == pytest.approx(0.25, rel=1e-6)
    assert not found.exact
    assert f"{kind} {name} moved by 0.25" in str(found)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_that_changed(value):
    model, _, probes = probed()
    masks = model.body[4].gate.masks
    masks[0, int((masks[0] != value).nonzero()[0])] = value
    found = hat.verify(model, probes)
    assert (found.kind, found.moved, found.moved_by) == ("buffer", "body.4.gate.masks", 1.0)


def test_a_parameter_that_turned_nan_or_is_gone():
    model, _, probes = probed()
    with torch.no_grad():
        model.body[2].bias[used(model, 2)] = math.nan
    found = hat.verify(model, probes)
    assert found.moved == "body.2.bias"
    assert found.moved_by == math.inf
    model, _, probes = probed()
    model.body[2].bias = None
    found = hat.verify(model, probes)
    assert (found.kind, found.moved, found.moved_by) == ("parameter", "body.2.bias", math.inf)


def test_what_a_task_does_not_use_may_move():
    model, _, probes = probed()
    with torch.no_grad():
        unused = model.body[4].gate.masks[0] == 0
        model.heads[0].weight[:, unused] += 1
        off = model.body[1].gate.masks[1] == 0
        model.body[1].running_mean_tasks[1, off] += 1
    assert hat.verify(model, probes).exact


def same_place(model, layer, new):
    model.body[layer] = new


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (lambda m: setattr(m.body[1], "eps", 0.5), "body.1"),
        (lambda m: setattr(m.body[5], "shift", 0.5), "body.5"),
        (lambda m: m.body[2].register_forward_hook(lambda module, args, output: output + 1), "body.2"),
        (lambda m: m.body[4].register_forward_pre_hook(lambda module, args: (args[0] + 1,)), "body.4"),
        (lambda m: same_place(m, 3, nn.Sequential(nn.Flatten(), nn.Softplus())), "body.3"),
        (lambda m: m.body.register_forward_hook(lambda module, args, output: 2 * output), "body"),
        (lambda m: m.heads[0].register_forward_hook(lambda module, args, output: 2 * output), "heads.0"),
        (lambda m: setattr(m, "forward", lambda x, task: hat.HATModel.forward(m, x, task) + 1), "model"),
    ],
)
def test_the_module_that_answers_otherwise(what, name):
    model, _, probes = probed()
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    what(model)
    found = hat.verify(model, probes)
    assert (found.kind, found.moved) == ("module", name)
    assert found.moved_by > 0
    assert found.largest > 0
    assert f"module {name} answers differently, by" in str(found)
    assert sum(map(sum, hooks)) + ("hook" in str(what.__code__.co_names)) == sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()
    )


def test_layers_that_are_gated_further_on_are_not_blamed():
    """Later tasks may change units that the task does not use, even in layers before the layer that has changed."""
    model, x = make("resnet")
    probes = hat.Probes()
    learn(model, x, units=0)
    probes.add(model, 0, x)
    for task in (1, 2):
        learn(model, x, units=task)
    assert hat.verify(model, probes).exact
    again = record(model, 0, lambda: model.eval()(x, task=0))
    assert [call[:4] for call in again] == [call[:4] for call in probes.tasks[0].calls]
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, hat.layers.gated_norm.GatedNorm)]
    name, norm = norms[-1]
    norm.eps = 0.5
    assert hat.verify(model, probes).moved == name


def test_recording_writes_into_nothing():
    model, x, _ = probed()
    tensors = [*model.parameters(), *model.buffers()]
    before = [(t.data_ptr(), t._version, id(t), t.detach().clone()) for t in tensors]
    calls = record(model, 0, lambda: model.eval()(x, task=0))
    now = [*model.parameters(), *model.buffers()]
    assert [(t.data_ptr(), t._version, id(t)) for t in now] == [each[:3] for each in before]
    assert all(torch.equal(t, each[3]) for t, each in zip(now, before, strict=True))
    assert [call.name for call in calls][-3:] == ["body", "heads.0", "model"]
    assert all(len(call.sample) <= 256 for call in calls)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_tasks_come_and_go(kind):
    model, x = make(kind)
    probes = hat.Probes()
    for task in range(3):
        learn(model, x, units=task)
        probes.add(model, task, x)
    hat.forget(model, 1)
    assert hat.verify(model, probes) == hat.Verification({0: 0.0, 2: 0.0}, None, 0.0, None)
    for task in (3, 4):  # they use what was freed, and lock it with other values
        learn(model, x, units=task)
        assert hat.verify(model, probes).exact
        probes.add(model, task, x)
        assert hat.verify(model, probes).exact
        assert 1 not in probes.tasks
    hat.forget(model, 0)
    result = hat.verify(model, probes)
    assert result.exact
    assert result.drift.keys() == {2, 3, 4}
    gate = model.gates[next(iter(model.gates))]
    p = next(p for p, lock in model.locks().items() if lock.columns is None and p.dim() and len(p) == gate.units)
    with torch.no_grad():
        p[int(gate.masks[2].argmax())] += 1
    assert hat.verify(model, probes).kind == "parameter"


def test_when_all_is_forgotten_there_is_nothing_to_compare():
    model, x, probes = probed()
    hat.forget(model, 0)
    hat.forget(model, 1)
    assert hat.verify(model, probes) == hat.Verification({}, None, 0.0, None)
    learn(model, x, units=3)
    probes.add(model, 2, x)
    assert hat.verify(model, probes).exact
    assert probes.tasks.keys() == {2}


def test_published_masks_move_a_little_without_being_blamed():
    model, x = make("mlp", mask_mode="published", s_max=10.0)
    probes = hat.Probes()
    for task in range(3):
        learn(model, x)
        probes.add(model, task, x)
    assert hat.verify(model, probes).kind != "buffer"


def test_a_model_of_other_shapes():
    model, x, probes = probed()
    model.body[4].weight.data = torch.cat([model.body[4].weight.data, torch.zeros(2, 16)])
    for call in (lambda: hat.verify(model, probes), lambda: probes.add(model, 0, x)):
        with pytest.raises(ValueError, match=r"^probes: made before the model was grown; expected .* now \(7, 16\)$"):
            call()
