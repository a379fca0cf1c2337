"""The training step in one call: the same bits as a loop by hand, the arguments that it refuses, and its options."""

from functools import partial
from unittest import mock

import pytest
import torch

import hat
from tests.hat.stepping import BATCH, CLASSES, OPTIMIZERS, assert_equal, batch, end, learn, make


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_step_is_the_loop_written_by_hand(optimizer):
    assert_equal(learn(optimizer), learn(optimizer, step=hat.TrainStep))


# -- what it refuses ----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_moves_nothing():
    model = make()
    model.begin_task(CLASSES)
    step = hat.TrainStep(model, OPTIMIZERS["momentum"](model))
    before = {name: value.clone() for name, value in model.state_dict().items() if name != "state.scale"}
    x, y = batch(0)
    with pytest.raises(hat.NonFiniteLossError, match="loss: expected finite, got nan"):
        step(x * torch.nan, y, progress=0.0)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_refused():
    model, other = make(), make()
    model.begin_task(CLASSES)
    other.begin_task(CLASSES)
    optimizer = OPTIMIZERS["sgd"](model)
    for arguments, options, message in [
        ((model.body, optimizer), {}, "model: expected a hat.HATModel, got a value of type Converted"),
        ((model, None), {}, "optimizer: expected one of hat.optim or one guarded by hat.guard, got NoneType"),
        ((model, torch.optim.SGD(model.parameters())), {}, "optimizer: expected one of hat.optim .*, got SGD"),
        ((other, optimizer), {}, "optimizer: expected an optimizer of this model, got that of another model"),
        ((model, optimizer), {"lamb": -1}, "lamb: expected a finite number >= 0, got -1"),
        ((model, optimizer), {"lamb": "a"}, "lamb: expected a finite number >= 0, got 'a'"),
        ((model, optimizer), {"autocast": "bfloat16"}, "autocast: expected None, .*, got 'bfloat16'"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            hat.TrainStep(*arguments, **options)
    step = hat.TrainStep(model, optimizer)
    x, y = batch(0)
    with pytest.raises(TypeError, match="x: expected a tensor, got NoneType"):
        step(None, y)
    with pytest.raises(TypeError, match="y: expected a tensor, got list"):
        step(x, [0])
    with pytest.raises(ValueError, match="x: expected a tensor on cpu as the model, got meta"):
        step(x.to("meta"), y)
    with pytest.raises(ValueError, match="y: expected a tensor on cpu as the model, got meta"):
        step(x, y.to("meta"))
    with pytest.raises(ValueError, match=r"progress: expected in \[0, 1\], got 2"):
        step(x, y, progress=2)
    with pytest.raises(ValueError, match="task: expected 0 to 0, got 3"):
        step(x, y, task=3)
    end(model)
    with pytest.raises(RuntimeError, match="step: no task is being learned"):
        step(x, y)


# -- options ------------------------------------------------------------------------------------------------------


def test_without_a_progress_the_scale_stays():
    model = make()
    model.begin_task(CLASSES)
    model.anneal(0.25)
    scale = model.state.scale.item()
    hat.TrainStep(model, OPTIMIZERS["sgd"](model))(*batch(0))
    assert model.state.scale.item() == scale


def test_another_loss_and_weight():
    def squared(logits, y):
        return ((logits - y[:, None]) ** 2).mean()

    results = []
    for lamb in (0.0, 3.0):
        model = make()
        model.begin_task(CLASSES)
        step = hat.TrainStep(model, OPTIMIZERS["sgd"](model), squared, lamb=lamb)
        losses = [step(*batch(number), progress=0.5) for number in range(5)]
        results.append(losses[-1].penalty.item())
        torch.manual_seed(0)
    assert results[1] < results[0]


def test_autocast():
    model = make()
    model.begin_task(CLASSES)
    seen = []
    model.body.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    losses = hat.TrainStep(model, OPTIMIZERS["sgd"](model), autocast=torch.bfloat16)(*batch(0), progress=0.5)
    assert seen == [torch.bfloat16]
    assert losses.task.dtype == losses.penalty.dtype == torch.float32


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
def test_compiled_for_many_tasks():
    """More tasks than the number of times that Dynamo compiles one function."""
    torch._dynamo.reset()
    model = make(input_dropout=0.0, dropout=0.0)
    with (
        mock.patch("torch.compile", partial(torch.compile, backend="eager")),
        torch._dynamo.config.patch(recompile_limit=2),
    ):
        for _ in range(4):
            model.begin_task(CLASSES)
            step = hat.TrainStep(model, OPTIMIZERS["sgd"](model), compile=True)
            for number, size in enumerate((BATCH, BATCH - 2)):
                step(*batch(number, size), progress=number)
            model.end_task()


@pytest.mark.usefixtures("one_thread")
def test_compiled():
    torch._dynamo.reset()
    still = {"input_dropout": 0.0, "dropout": 0.0}  # compiled code draws other numbers
    with mock.patch("torch.compile", partial(torch.compile, backend="aot_eager")):
        compiled = learn("momentum", step=lambda *both: hat.TrainStep(*both, compile=True), **still)
    eager = learn("momentum", step=hat.TrainStep, **still)
    for (name, a), b in zip(compiled[0].state_dict().items(), eager[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, at=name: f"{at}: {m}")
