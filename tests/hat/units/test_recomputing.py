"""Bodies whose parts are recomputed in the backward pass: the same bits and gradients as without."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import hat
from tests.hat.conversion.zoo import Net

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::hat.CapacityWarning")]
VARIANTS = ("plain", "not reentrant", "reentrant", "nested", "all of it")


class Centre(nn.Module):
    """Subtracts a running mean, which belongs to all tasks."""

    def __init__(self, units):
        super().__init__()
        self.register_buffer("mean", torch.zeros(units))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return torch.tanh(x - self.mean)


class Body(nn.Module):
    """Gated layers, a norm of every task's own and a buffer, which is used twice."""

    def __init__(self, variant):
        super().__init__()
        self.variant, self.centre = variant, Centre(6)
        self.one, self.norm = hat.HATLinear(6, 9, activation="identity"), hat.HATBatchNorm1d(9)
        self.two = hat.HATLinear(9, 6, inputs=self.one.gate)
        self.three = hat.HATLinear(6, 8)
        self.norm.connect(self.one.gate)
        self.one.gated = False

    def forward(self, x):
        return checkpoint(self._all, x, use_reentrant=False) if self.variant == "all of it" else self._all(x)

    def _all(self, x):
        return self.three(self.centre(self._part(self._begin, self.centre(x))))

    def _begin(self, x):
        return self.two(
            self._part(lambda h: self.norm(self.one(h)), x) if self.variant == "nested" else self.norm(self.one(x))
        )

    def _part(self, run, x):
        if self.variant in ("plain", "all of it"):
            return run(x)
        return checkpoint(run, x, use_reentrant=self.variant == "reentrant")


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 6, generator=generator).requires_grad_(), torch.arange(12) % 3


def train(model, *, seed):
    x, y = batch(seed)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        model.anneal(step / 3)
        loss = F.cross_entropy(model(x), y) + model.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def learned(variant, tasks=2):
    torch.manual_seed(0)
    body = Body(variant)
    model = hat.HATModel(body, outputs=body.three.gate)
    for task in range(tasks):
        model.begin_task(3)
        train(model, seed=task)
        model.end_task()
    return model


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_training_has_the_same_bits(variant):
    plain, model = learned("plain", 3), learned(variant, 3)
    for (name, expected), got in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(got, expected), name


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_gradients_of_finished_tasks(variant, training):
    plain, model = learned("plain"), learned(variant)
    x, _ = batch(5)
    for task in (0, 1):
        gradients = []
        for asked in (plain, model):
            x.grad = None
            asked.train(training)(x, task=task).square().sum().backward()
            gradients.append(x.grad)
        assert torch.equal(*gradients)
    plain.begin_task(2), model.begin_task(2)
    for asked in (plain, model):
        x.grad = None
        (asked(x, task=0).square().sum() + asked(x, task=1).sum()).backward()
        gradients.append(x.grad)
    assert torch.equal(gradients[2], gradients[3])


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_a_recomputation_writes_to_no_buffer(variant):
    model = learned(variant)
    model.begin_task(2)
    x, _ = batch(5)
    logits = model(x)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    logits.sum().backward()
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("variant", VARIANTS[1:])
@pytest.mark.parametrize("change", ["end_task", "begin_task", "forget", "load"])
def test_a_gradient_of_a_network_that_is_gone_is_refused(variant, change):
    model = learned(variant)
    if change == "end_task":
        model.begin_task(2)
    x, _ = batch(5)
    loss = model(x, task=0).sum()
    if change == "end_task":
        model.end_task()
    elif change == "begin_task":
        model.begin_task(2)
    elif change == "forget":
        hat.forget(model, 1)
    else:
        model.load_state_dict(copy.deepcopy(model.state_dict()))
    with pytest.raises(
        RuntimeError, match=r"expected the network of the forward pass|modified by an inplace operation"
    ):
        loss.backward()


def test_another_recomputation_is_told_that_nobody_knows_its_task():
    class Recomputed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, layer):
            ctx.save_for_backward(x)
            ctx.layer = layer
            with torch.no_grad():
                return layer(x)

        @staticmethod
        def backward(ctx, grad):
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = ctx.layer(x)
            return torch.autograd.grad(y, x, grad)[0], None

    body = Net(lambda s, x: Recomputed.apply(x, s.one), one=hat.HATLinear(6, 5))
    model = hat.HATModel(body)
    model.begin_task(2)
    x, _ = batch(0)
    model(x).sum().backward()  # there is only one task
    model.end_task()
    loss = model(x, task=0).sum()
    with pytest.raises(RuntimeError, match=r"expected recomputations by torch.utils.checkpoint"):
        loss.backward()


@pytest.mark.parametrize("variant", VARIANTS)
def test_threads_that_ask_for_gradients_of_several_tasks(variant):
    model = learned(variant).train()
    x = batch(5)[0].detach()

    def gradient(task):
        inputs = x.clone().requires_grad_()
        model(inputs, task=task).square().sum().backward()  # `torch.autograd.grad` refuses reentrant checkpoints
        return inputs.grad

    before = copy.deepcopy(model.state_dict())
    expected = [gradient(task) for task in (0, 1)]
    wrong = []

    def serve(task):
        try:
            wrong.extend(task for _ in range(60) if not torch.equal(gradient(task), expected[task]))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=serve, args=(task,)) for task in (0, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for name, values in model.state_dict().items():
        assert torch.equal(values, before[name]), name
