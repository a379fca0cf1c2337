"""`backend("compiled")`: the same numbers from fused loops; plain loops without a compiler."""

import copy

import pytest
import torch
import torch.nn.functional as F

import hat
import hat_kernels
from hat_kernels import compiling
from tests.hat.nets import wired

OPTIMIZERS = {
    "SGD": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.1),
    "SGD, nesterov": lambda m: hat.optim.SGD(
        m.task_parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, max_norm=0.1
    ),
    "SGD, dampening": lambda m: hat.optim.SGD(
        m.task_parameters(), lr=torch.tensor(0.1), momentum=0.9, dampening=0.5, maximize=True
    ),
    "AdamW": lambda m: hat.optim.AdamW(m.task_parameters(), lr=0.01),
    "Adam, amsgrad": lambda m: hat.optim.AdamW(
        m.task_parameters(), lr=0.01, amsgrad=True, decoupled_weight_decay=False, max_norm=0.1
    ),
}
pytestmark = pytest.mark.usefixtures("fresh")


@pytest.fixture
def fresh():
    compiling._has_compiler.cache_clear()
    yield
    compiling._has_compiler.cache_clear()


def learning_a_second_task():
    torch.manual_seed(0)
    model = hat.HATModel(wired(hat.HATConv1d(2, 6, 3), torch.nn.Flatten(), hat.HATLinear(36, 20, dropout=0.5)))
    model.begin_task(3)
    model.end_task()
    model.begin_task(3)
    return model


def train(model, optimizer):
    torch.manual_seed(1)
    for step in range(3):
        model.anneal(step / 2)
        optimizer.zero_grad()
        x, y = torch.randn(6, 2, 8), torch.arange(6) % 3
        (F.cross_entropy(model(x), y) + 0.75 * model.penalty()).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_step(name):
    plain = learning_a_second_task()
    compiled = copy.deepcopy(plain)
    train(plain, OPTIMIZERS[name](plain))
    assert compiling._has_compiler()
    with hat_kernels.backend("compiled"):
        train(compiled, OPTIMIZERS[name](compiled))
    for (key, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_without_a_compiler_it_warns_and_goes_on(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no C++ compiler")

    plain = learning_a_second_task()
    compiled = copy.deepcopy(plain)
    train(plain, OPTIMIZERS["AdamW"](plain))
    monkeypatch.setattr(torch, "compile", broken)
    with (
        hat_kernels.backend("compiled"),
        pytest.warns(UserWarning, match="expected a C.. compiler, got no C.. compiler"),
    ):
        train(compiled, OPTIMIZERS["AdamW"](compiled))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), compiled.parameters(), strict=True))
