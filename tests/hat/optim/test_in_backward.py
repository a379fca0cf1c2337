"""Updates inside the matmul of the backward pass: the same weights as `step` makes, and no gradient."""

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import hat
from tests.hat.nets import wired

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::hat.CapacityWarning")]
X, Y = torch.randn(16, 10, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 3


def make(tasks=1, **config):
    """A model that has finished `tasks` tasks and learns another."""
    torch.manual_seed(0)
    body = hat.models.mlp(10, (24, 20), input_dropout=0.0, dropout=0.0)
    model = hat.HATModel(body, config=hat.GateConfig(**config))
    for _ in range(tasks):
        model.begin_task(3)
        model.end_task()
    model.begin_task(3)
    return model


def backward(model, x=X):
    loss = F.cross_entropy(model(x), Y) + 0.75 * model.penalty()
    loss.backward()
    return loss


def train(model, optimizer, steps=4):
    for step in range(steps):
        model.anneal(step / steps)
        optimizer.zero_grad()
        backward(model)
        optimizer.step()


def close(one, other):
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("tasks", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"maximize": True, "weight_decay": 0.1}])
def test_is_the_step(tasks, options):
    one = make(tasks)
    other = copy.deepcopy(one)
    train(one, hat.optim.SGD(one.task_parameters(), lr=0.1, **options))
    train(other, hat.optim.SGD(other.task_parameters(), lr=0.1, in_backward=True, **options))
    close(one, other)
    assert other.body.network.linear1.weight.grad is None
    assert other.body.network.linear1.bias.grad is not None


@pytest.mark.parametrize("config", [{"mask_mode": "published"}, {"locked_first": False}])
def test_a_lock_that_is_no_block_moves_in_the_step(config):
    one = make(**config)
    other = copy.deepcopy(one)
    train(one, hat.optim.SGD(one.task_parameters(), lr=0.1))
    train(other, hat.optim.SGD(other.task_parameters(), lr=0.1, in_backward=True))
    close(one, other)
    assert other.body.network.linear2.weight.grad is not None


def test_a_stream_of_inputs():
    """More than one dimension before the features."""
    models = []
    for in_backward in (False, True):
        torch.manual_seed(0)
        model = hat.HATModel(wired(hat.HATLinear(5, 8), hat.HATLinear(8, 6)))
        model.begin_task(3)
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=in_backward)
        model(X.view(16, 2, 5)).square().sum().backward()
        optimizer.step()
        models.append(model)
    close(*models)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_network_that_is_computed_again(reentrant):
    """A checkpoint hands out copies of the weights; the weights themselves move."""
    one = make()
    other = copy.deepcopy(one)
    for model, recompute in ((one, False), (other, True)):
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
        x = X.clone().requires_grad_()
        logits = checkpoint(model, x, use_reentrant=reentrant) if recompute else model(x)
        F.cross_entropy(logits, Y).backward()
        optimizer.step()
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_nothing_is_forgotten():
    model = make(0)
    probes = hat.Probes()
    for _ in range(3):
        train(model, hat.optim.SGD(model.task_parameters(), lr=0.5, weight_decay=0.1, in_backward=True))
        probes.add(model, model.end_task(), X)
        assert hat.verify(model, probes).exact
        model.begin_task(3)


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"max_norm": 1.0}])
def test_options_that_need_the_gradient_are_refused(options):
    with pytest.raises(ValueError, match="in_backward: expected neither momentum nor clipping"):
        hat.optim.SGD(make().task_parameters(), in_backward=True, **options)


def test_accumulation_is_refused_before_anything_moves():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    backward(model)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(RuntimeError, match="expected one backward pass a step"):
        backward(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    optimizer.step()
    backward(model)  # a step later all is well


def test_a_second_backward_pass_is_refused():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    loss = F.cross_entropy(model(X), Y)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="in_backward: the weight has moved since its forward pass"):
        loss.backward()
    assert optimizer is not None


def test_a_layer_that_is_used_twice_is_refused():
    torch.manual_seed(0)
    layer = hat.HATLinear(10, 10)
    model = hat.HATModel(wired(hat.HATLinear(10, 10, gate=layer.gate), layer, layer))
    model.begin_task(3)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    with pytest.raises(RuntimeError, match="in_backward: the weight has moved since its forward pass"):
        backward(model)
    assert optimizer is not None


def test_hooks_are_refused():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    model.body.network.linear1.weight.register_hook(lambda grad: grad)
    with pytest.raises(RuntimeError, match="without hooks"):
        backward(model)
    assert optimizer is not None


def test_loss_scaling_is_refused():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(model(X), Y)).backward()
    with pytest.raises(RuntimeError, match="expected no loss scale"):
        scaler.step(optimizer)


def test_autocast_computes_the_gradient():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(X).float(), Y)
    loss.backward()
    assert model.body.network.linear1.weight.grad is not None
    before = model.body.network.linear1.weight.clone()
    optimizer.step()
    assert not torch.equal(model.body.network.linear1.weight, before)


def test_what_is_not_finite_counts_as_0():
    model = make()
    hat.optim.SGD(model.task_parameters(), lr=0.1)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    with pytest.warns(hat.NonFiniteWarning):
        backward(model, X * torch.inf)
    optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_weight_stays_within_float16():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=1e9, in_backward=True)
    train(model, optimizer, 1)
    assert max(p.abs().max() for p in model.body.parameters()) == torch.finfo(torch.float16).max


def test_the_next_optimizer_takes_over():
    model = make()
    first = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    second = hat.optim.SGD(model.task_parameters(), lr=0.1)
    backward(model)
    assert model.body.network.linear1.weight.grad is not None
    hat.guard(torch.optim.SGD(model.task_parameters(), lr=0.1), model)
    third = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    third.zero_grad()
    backward(model)
    assert model.body.network.linear1.weight.grad is None
    gone = weakref.ref(third)
    del third
    assert gone() is None
    backward(model)
    assert model.body.network.linear1.weight.grad is not None
    assert first is not second


def test_learning_rate_of_a_loaded_state_and_of_a_copy():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    other = hat.optim.SGD(model.task_parameters(), lr=0.0, in_backward=True)
    other.load_state_dict(optimizer.state_dict())
    before = model.body.network.linear1.weight.clone()
    backward(model)
    assert not torch.equal(model.body.network.linear1.weight, before)
    other.step()
    both = copy.deepcopy((model, other))
    train(*both)
    train(model, other)
    close(model, both[0])


def test_a_closure():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    before = model.body.network.linear2.weight.clone()
    for _ in range(2):
        optimizer.zero_grad()
        assert optimizer.step(lambda: backward(model)).isfinite()
    assert not torch.equal(model.body.network.linear2.weight, before)


def test_a_finished_head_and_a_group_of_its_own():
    model = make(0)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    train(model, optimizer)
    model.end_task()
    model.begin_task(3)
    optimizer.add_param_group({"params": list(model.head.parameters())})
    before = model.body.network.linear2.weight.clone()
    train(model, optimizer)
    assert not torch.equal(model.body.network.linear2.weight, before)
    assert isinstance(model.head, nn.Linear)


def test_a_momentum_that_comes_later_is_refused():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=4, cycle_momentum=False)
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(RuntimeError, match="expected no momentum"):
        backward(model)


def test_several_processes_are_refused(monkeypatch):
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="expected one process"):
        backward(model)
    assert optimizer is not None


def test_bounds_are_of_the_blocks_of_now():
    """When a task ends without a move of units, a block may vanish. Its bound must vanish with it."""
    model = make(0)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1)
    train(model, optimizer)
    model.end_task()
    assert not optimizer._bounds._versions_and_bounds
