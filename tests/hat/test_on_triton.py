"""A small model of each kind learns task after task with the kernels, interpreted or not, as with the reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hat
import hat_kernels
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.launches import count_launches

pytestmark = [pytest.mark.kernel, pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")]
TASKS, STEPS, CLASSES, BATCH = 2, 2, 2, 3  # an interpreted program takes 3 ms
NETS = {
    "mlp": (lambda: hat.models.mlp(6, (9, 7), input_dropout=0.0, dropout=0.0), (6,)),
    "conv": (
        lambda: hat.models.alexnet((3, 16, 16), channels=(2, 3, 3), hidden=(4, 3), dropout=(0.0,) * 5),
        (3, 16, 16),
    ),
}


def made(kind: str) -> hat.HATModel:
    torch.manual_seed(0)
    return hat.HATModel(NETS[kind][0](), config=hat.GateConfig(s_max=50.0)).to(DEVICE)


def data(kind: str, task: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + task)
    x = torch.randn(BATCH, *NETS[kind][1], generator=generator)
    return x.to(DEVICE), torch.randint(CLASSES, (BATCH,), generator=generator).to(DEVICE)


def learn(model: hat.HATModel, kind: str, task: int, optimizer: str) -> None:
    torch.manual_seed(1 + task)
    model.begin_task(classes=CLASSES)
    with torch.no_grad():  # a third of the units a task: something to lock, something left
        for embedding in model.embeddings:
            signs = torch.where(torch.arange(len(embedding)) % 3 == task, 2.0, -2.0)
            embedding.copy_(signs.to(embedding.device))
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
    if optimizer == "ours":
        step = hat.optim.SGD(model.task_parameters(), max_norm=1.0, **options)
    else:
        step = hat.guard(torch.optim.SGD(model.parameters(), **options), model)
    x, y = data(kind, task)
    for index in range(STEPS):
        model.anneal(index / (STEPS - 1))
        loss = F.cross_entropy(model(x), y) + 0.75 * model.penalty()
        step.zero_grad()
        loss.backward()
        step.step()
    model.end_task()


def trained(kind: str, backend: str, optimizer: str) -> tuple[hat.HATModel, hat.Probes]:
    """The model after all tasks; every earlier task was compared, bit by bit, after each."""
    probes = hat.Probes()
    with hat_kernels.backend(backend):
        model = made(kind)
        for task in range(TASKS):
            learn(model, kind, task, optimizer)
            if task:
                result = hat.verify(model, probes)
                assert result.exact, str(result)
            probes.add(model, task, data(kind, task)[0])
    return model, probes


@pytest.mark.parametrize("optimizer", ["ours", "guarded"])
@pytest.mark.parametrize("kind", NETS)
def test_training_agrees_with_the_reference_and_forgets_nothing(kind: str, optimizer: str) -> None:
    with count_launches() as launches:
        model, _ = trained(kind, "triton", optimizer)
    assert launches.total() > 0
    theirs = trained(kind, "reference", optimizer)[0].state_dict()
    for name, value in model.state_dict().items():
        if name != "_extra_state":  # it has checksums of bits
            torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4, msg=lambda m, at=name: f"{at}: {m}")


def test_a_checkpoint_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    model, probes = trained("mlp", "triton", "ours")
    hat.checkpoint.save(tmp_path / "model.pt", {"model": model.state_dict()})
    again = made("mlp")
    again.load_state_dict(hat.checkpoint.load(tmp_path / "model.pt", map_location=DEVICE)["model"])
    with hat_kernels.backend("triton"):
        result = hat.verify(again, probes)
    assert result.exact, str(result)
