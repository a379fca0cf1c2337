"""Updates inside the matmul of the backward pass by the kernel: under any lock, and in mixed precision."""

import copy

import pytest
import torch
import torch.nn.functional as F

import hat
import hat_kernels
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.filterwarnings("ignore::hat.CapacityWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value"),
]
X = torch.randn(8, 10, generator=torch.Generator().manual_seed(1)).to(DEVICE)
Y = torch.arange(8, device=DEVICE) % 3
LOW = torch.float16 if DEVICE == "cpu" else torch.bfloat16  # interpreted, the dot of bfloat16 is wrong


def make(tasks=1, **config):
    """A model that has finished `tasks` tasks and learns another."""
    torch.manual_seed(0)
    body = hat.models.mlp(10, (24, 20), input_dropout=0.0, dropout=0.0)
    model = hat.HATModel(body, config=hat.GateConfig(**config)).to(DEVICE)
    for _ in range(tasks):
        model.begin_task(3)
        model.end_task()
    model.begin_task(3)
    return model


def train(model, optimizer, steps=2, backend="triton", dtype=None, x=X):
    with hat_kernels.backend(backend):
        for step in range(steps):
            model.anneal(step / steps)
            optimizer.zero_grad()
            with torch.autocast(DEVICE, dtype=dtype or LOW, enabled=dtype is not None):
                loss = F.cross_entropy(model(x).float(), Y) + 0.75 * model.penalty()
            loss.backward()
            optimizer.step()


def close(one, other, **tolerance):
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("config", [{}, {"mask_mode": "published"}, {"locked_first": False}])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}])
def test_is_the_step_under_any_lock(config, options):
    one = make(**config)
    other = copy.deepcopy(one)
    train(one, hat.optim.SGD(one.task_parameters(), lr=0.1, **options), backend="reference")
    with count_launches() as launches:
        train(other, hat.optim.SGD(other.task_parameters(), lr=0.1, in_backward=True, **options))
    close(one, other, rtol=1e-4, atol=1e-5)
    assert all(other.body.network.get_submodule(name).weight.grad is None for name in ("linear1", "linear2"))
    assert launches["gated_linear_gradient"] == 4  # two weights, two steps: nothing beside the updates


def test_mixed_precision_moves_the_master_weights():
    one = make()
    other = copy.deepcopy(one)
    train(one, hat.optim.SGD(one.task_parameters(), lr=0.1), dtype=LOW)
    train(other, hat.optim.SGD(other.task_parameters(), lr=0.1, in_backward=True), dtype=LOW)
    close(one, other, rtol=1e-2, atol=1e-3)
    assert other.body.network.linear2.weight.grad is None
    assert other.body.network.linear2.weight.dtype == torch.float32


def test_a_learning_rate_of_the_device_is_not_read():
    one = make()
    other = copy.deepcopy(one)
    train(one, hat.optim.SGD(one.task_parameters(), lr=0.1, in_backward=True))
    lr = torch.tensor(0.1, device=DEVICE)
    train(other, hat.optim.SGD(other.task_parameters(), lr=lr, in_backward=True))
    close(one, other)


def test_nothing_is_forgotten():
    model = make(0)
    probes = hat.Probes()
    for _ in range(3):
        train(model, hat.optim.SGD(model.task_parameters(), lr=0.5, weight_decay=0.1, in_backward=True))
        with hat_kernels.backend("triton"):
            probes.add(model, model.end_task(), X)
            assert hat.verify(model, probes).exact
        model.begin_task(3)


def test_what_is_not_finite_counts_as_0():
    model = make()
    train(model, hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True), 1, x=X * torch.inf)
    assert all(p.isfinite().all() for p in model.body.parameters())


def test_accumulation_is_refused():
    model = make()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    with hat_kernels.backend("triton"):
        F.cross_entropy(model(X), Y).backward()
        with pytest.raises(RuntimeError, match="expected one backward pass a step"):
            F.cross_entropy(model(X), Y).backward()
        optimizer.step()
