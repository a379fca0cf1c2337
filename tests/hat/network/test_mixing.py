"""Batches that mix tasks: every row has the logits of its own task, in one pass or task by task."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
import hat_kernels
from hat.network.mixing import batched, in_parts, logits, rows_of
from hat.units.state import Finished, PerSample
from tests.hat.conversion.checks import convert, draw_per_task, draw_units, others
from tests.hat.conversion.zoo import NETWORKS
from tests.hat.nets import text_transformer, wired
from tests.hat_kernels.launches import count_launches

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]
TASKS, BATCH, ABSENT = 3, 7, -torch.inf
ONE_PASS = ("convnet", "transformer_by_hand", "scales", "inputs_among_tokens", "scales_of_inputs_beside_units")
IN_PARTS = ("torch_attention", "relative_positions", "windows", "prelu", "weights_of_another_form")


def finish(model, tasks=TASKS):
    """Tasks of 2, 3, ... classes, with units and tensors of their own."""
    for task in range(tasks):
        model.begin_task(2 + task)
        draw_units(model, task)
        draw_per_task(model, task)
        model.end_task()
    return model


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ids(count=BATCH, tasks=TASKS):
    return torch.arange(count).flip(0) % tasks


def mlp():
    return hat.HATModel(hat.models.mlp(6, (9, 8))), normal(BATCH, 6)


def alexnet():
    body = hat.models.alexnet((3, 16, 16), channels=(2, 3, 3), hidden=(5, 4))
    return hat.HATModel(body), normal(BATCH, 3, 16, 16)


def words():
    torch.manual_seed(0)
    return hat.HATModel(text_transformer(11, 6, 2, 5)), torch.randint(
        11, (BATCH, 5), generator=torch.Generator().manual_seed(1)
    )


def normed():
    body = wired(
        hat.HATConv2d(2, 4, 3, activation="identity"),
        hat.HATBatchNorm2d(4, activation="relu"),
        nn.Flatten(),
        hat.HATLinear(4 * 4, 5),
        hat.HATLayerNorm(5),
    )
    return hat.HATModel(body), normal(BATCH, 2, 4, 4)


class Turned(nn.Module):
    """The first dimension is not the batch: tokens come first, or the tokens of all samples become rows."""

    def __init__(self, how):
        super().__init__()
        self.how, self.one, self.two = how, hat.HATLinear(4, 6), hat.HATLinear(6, 5, activation="identity")

    def forward(self, x):
        if self.how == "tokens first":
            return self.two(self.one(x.transpose(0, 1))).mean(0)
        return self.two(self.one(x.flatten(0, 1))).view(len(x), -1, 5).mean(1)


class Standardised(nn.Module):
    """Normalises by the statistics of the batch, so the answer for a sample depends on the other samples."""

    def __init__(self):
        super().__init__()
        self.one, self.two = hat.HATLinear(4, 6), hat.HATLinear(6, 5)

    def forward(self, x):
        return self.two(F.batch_norm(self.one(x), None, None, training=True))


def answers(model, x, tasks):
    """The expected logits: each row from a pass of the whole batch for its task, padded to the widest."""
    found = [model(x, task=int(task))[row] for row, task in enumerate(tasks)]
    return torch.stack([F.pad(row, (0, max(map(len, found)) - len(row)), value=ABSENT) for row in found])


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [mlp, alexnet, words, normed])
def test_every_row_is_that_of_its_task(make):
    model, x = make()
    finish(model.double())
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        got = model(x, task=ids())
        assert model.mixes is True
        close(got, answers(model, x, ids()))
        assert torch.equal(got.isinf(), torch.arange(4) >= 2 + ids()[:, None])
        if make in (mlp, alexnet):  # no norm in between
            features = torch.stack([model.features_of(x, Finished(int(task)))[row] for row, task in enumerate(ids())])
            assert torch.equal(model.features_of(x, PerSample(ids())), features)
        two = torch.tensor([1, 0] * 3 + [1])
        assert model(x, task=two).shape == (BATCH, 3)
        close(model(x, task=two), answers(model, x, two))
        assert torch.equal(model(x, task=torch.full((BATCH,), 1, dtype=torch.int32)), model(x, task=1))


@pytest.mark.parametrize("name", [*ONE_PASS, *IN_PARTS])
def test_converted_networks(name):
    module, example = NETWORKS[name]()
    model, x = finish(convert(module, example, head=None)), others(example)
    tasks = ids(len(x[0]))
    with torch.no_grad():
        got = model(x, task=tasks)
        assert model.mixes is (name in ONE_PASS)
        close(got, answers(model, x, tasks))


@pytest.mark.parametrize("tokens", [3, BATCH], ids=["other number", "as many tokens as samples"])
@pytest.mark.parametrize("how", ["tokens first", "tokens are rows"])
def test_a_batch_that_is_not_in_front_goes_in_parts(how, tokens):
    model, x = finish(hat.HATModel(Turned(how), features=5)), normal(BATCH, tokens, 4)
    tasks = ids()
    with torch.no_grad():
        got = model(x, task=tasks)
        assert model.mixes is False
        for task in range(TASKS):
            own = tasks == task
            assert torch.equal(got[own, : 2 + task], model(x[own], task=task))


def test_statistics_of_a_batch_are_of_one_task():
    model, x = finish(hat.HATModel(Standardised(), features=5)), normal(BATCH, 4)
    with torch.no_grad():
        got = model(x, task=ids())
        assert model.mixes is False
        assert torch.equal(got[ids() == 1, :3], model(x[ids() == 1], task=1))


class Wayward(nn.Module):
    """Takes another way through the network for batches of another shape, or of other values."""

    def __init__(self, choose):
        super().__init__()
        self.choose, self.one, self.two = choose, hat.HATLinear(4, 6), hat.HATLinear(6, 5)

    def forward(self, x):
        h = self.one(x)
        if self.choose(h):
            h = h + h.flip(0)
        return self.two(h)


def test_every_shape_is_checked():
    model = finish(hat.HATModel(Wayward(lambda h: len(h) % 2), features=5))
    with torch.no_grad():
        for count, right in ((6, True), (7, False), (6, False)):
            x, tasks = normal(count, 4), ids(count)
            got = model(x, task=tasks)
            assert model.mixes is right  # of all batches so far
            for task in range(TASKS):
                torch.testing.assert_close(got[tasks == task, : 2 + task], model(x[tasks == task], task=task))
            assert set(model.mixing.values()) == {True, right}


@pytest.mark.parametrize(
    "looks",
    [
        lambda h: h.max() > 100,
        lambda h: h.sum().item() > 100,
        lambda h: any(row[0] > 100 for row in h.tolist()),
        lambda h: len(h.nonzero()) > 100,
        lambda h: (h.detach().numpy() > 100).any(),
        lambda h: len(h[h > 100]),
        lambda h: torch.equal(h, h + 1),
        lambda h: len(torch.unique(h)) > 100,
    ],
)
def test_a_body_that_looks_at_values_goes_in_parts(looks):
    model, x = finish(hat.HATModel(Wayward(looks), features=5)), normal(BATCH, 4)
    with torch.no_grad():
        got = model(x, task=ids())
        assert model.mixes is False
        assert torch.equal(got[ids() == 1, :3], model(x[ids() == 1], task=1))


MEETINGS = {
    "roll": lambda h: h + h.roll(2, 0),
    "last": lambda h: torch.cat([h[:-1], h[-1:] + h[:1]]),
    "first": lambda h: torch.cat([h[:1] + h[-1:], h[1:]]),
    "cumsum": lambda h: h.cumsum(0),
    "softmax": lambda h: h.softmax(0),
    "largest": lambda h: h / (1 + h.amax(0)),
    "sorted": lambda h: h.sort(0).values,
    "above the mean": lambda h: torch.where(h > h.mean(0), h, 0),
    "dead": lambda h: h + torch.relu(h.mean(0) - 1000),
    "gathered": lambda h: h[h[:, 0].argsort()],
}


@pytest.mark.parametrize("meet", MEETINGS)
def test_samples_that_meet_go_in_parts(meet):
    body = Wayward(lambda h: False)
    body.one.register_forward_hook(lambda module, args, h: MEETINGS[meet](h))
    model, x = finish(hat.HATModel(body, features=5)), normal(BATCH, 4)
    with torch.no_grad():
        got = model(x, task=ids())
        assert model.mixes is False
        assert torch.equal(got[ids() == 1, :3], model(x[ids() == 1], task=1))


def test_other_threads_see_nothing_of_the_check():
    model, x = alexnet()
    finish(model).eval()
    tasks, wrong = ids(), []
    with torch.no_grad():
        expected = model(x, task=1)

    def serve():
        with torch.no_grad():
            wrong.extend(1 for _ in range(30) if not torch.equal(model(x, task=1), expected))

    thread = threading.Thread(target=serve)
    thread.start()
    with torch.no_grad():
        for _ in range(5):
            model.mixing.clear()
            model(x, task=tasks)
    thread.join()
    assert not wrong


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = hat.HATLinear(4, 6), hat.HATLinear(6, 5)

    def forward(self, x):
        return torch.zeros_like(self.two(self.one(x))) + x.sum()


def test_a_batch_on_which_all_tasks_answer_alike_shows_nothing():
    model, x = finish(hat.HATModel(Constant(), features=5)), normal(BATCH, 4)
    with torch.no_grad():
        got = model(x, task=ids())
    assert model.mixes is None
    assert torch.equal(got[ids() == 1, :3], model(x[ids() == 1], task=1))


def test_a_bad_sample_shows_nothing():
    model, x = mlp()
    finish(model)
    with torch.no_grad():
        bad = x.index_fill(0, torch.tensor([0]), torch.nan)
        assert torch.equal(model(bad, task=ids())[ids() == 1][:, :3], model(bad[ids() == 1], task=1))
        assert model.mixes is None
        model(x, task=ids())
        assert model.mixes is True


@pytest.mark.parametrize("make", [normed, words])
def test_the_trial_leaves_no_trace(make):
    model, x = make()
    finish(model).train()
    modes = {name: part.training for name, part in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    with torch.no_grad():
        model(x, task=ids())
        assert model.mixes is True
        assert torch.equal(torch.get_rng_state(), random)  # no dropout in these
    assert modes == {name: part.training for name, part in model.named_modules()}
    for name, value in model.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, state[name]), name
    model.mixing.clear()
    with pytest.raises(Exception, match=r"x|indices|shape"):
        model(x.flatten(1)[:, :3].double(), task=ids())
    assert model.mixes is None
    assert modes == {name: part.training for name, part in model.named_modules()}


def test_finished_tasks_have_their_own_statistics_in_training_mode():
    model, x = normed()
    finish(model.double())
    x = x.double()
    model.begin_task(2)
    with torch.no_grad():
        close(model(x, task=ids()), answers(model.eval(), x, ids()))


def test_the_check_is_repeated_after_every_task_and_load():
    model, x = mlp()
    finish(model)
    for change in (
        lambda: model.begin_task(2),
        model.end_task,
        lambda: model.load_state_dict(copy.deepcopy(model.state_dict())),
    ):
        model(x, task=ids())
        assert model.mixes is True
        change()
        assert model.mixes is None


class Added(nn.Module):
    """Takes two inputs; the second input is the same for all samples."""

    def __init__(self):
        super().__init__()
        self.one, self.two = hat.HATLinear(4, 6), hat.HATLinear(6, 5)

    def forward(self, inputs):
        x, shift = inputs
        return self.two(self.one(x) + shift)


@pytest.mark.parametrize("mixes", [True, False])
def test_several_inputs(mixes):
    model = finish(hat.HATModel(Added(), features=5).double())
    x = normal(BATCH, 4).double(), normal(6).double()
    with torch.no_grad():
        model(x, task=ids())
        assert model.mixes is True
        model.mixing.update(dict.fromkeys(model.mixing, mixes))
        close(model(x, task=ids()), answers(model, x, ids()))
    assert model.mixes is mixes


def test_gradients_in_the_inputs():
    model, x = mlp()
    finish(model.double())
    x, tasks = x.double().requires_grad_(), ids()
    (mine,) = torch.autograd.grad(model(x, task=tasks)[:, :2].square().sum(), x)
    (theirs,) = torch.autograd.grad(answers(model, x, tasks)[:, :2].square().sum(), x)
    close(mine, theirs)


@pytest.mark.parametrize("tasks", [[0, 1, 2, 0, 1, 2, 0], [2, 2, 2, 2, 2, 2, 0], [1, 0, 1, 0, 0, 0, 0]])
@pytest.mark.parametrize("widths", [(3, 3, 3), (1, 4, 2)])
def test_one_batched_product_for_all_heads(widths, tasks):
    heads = [nn.Linear(6, width) for width in widths]
    for features in (normal(BATCH, 6), normal(BATCH, 2, 6)):
        rows = rows_of(tasks)
        got = batched(features, rows, [heads[task] for task in rows])
        torch.testing.assert_close(got, logits(features, rows, heads))
        parts = in_parts(torch.arange(BATCH), rows, lambda own, task, f=features: heads[task](f[own]))
        torch.testing.assert_close(got, parts)


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        ([0] * BATCH, TypeError, "task: expected an int or a tensor of ids, got list"),
        (torch.zeros(BATCH), TypeError, "task: expected int64, got torch.float32"),
        (torch.zeros(BATCH, dtype=torch.bool), TypeError, "task: expected int64, got torch.bool"),
        (torch.tensor(0), ValueError, r"task: expected one id for every sample, shape \(7,\), got \(\)"),
        (torch.zeros(BATCH - 1, dtype=torch.int64), ValueError, r"shape \(7,\), got \(6,\)"),
        (torch.tensor([0, 1, 5, 2, -1, 0, 0]), ValueError, "task: expected finished tasks, 0 to 1, got 5"),
        (torch.tensor([0, 1, 0, 2, -1, 0, 0]), ValueError, "task: expected finished tasks, 0 to 1, got 2"),
        (torch.tensor([0, 1, 0, 1, -1, 0, 0]), ValueError, "task: expected finished tasks, 0 to 1, got -1"),
    ],
)
def test_wrong_ids_are_refused(task, kind, message):
    model, x = mlp()
    finish(model, 2).begin_task(2)
    with pytest.raises(kind, match=message):
        model(x, task=task)


def test_without_finished_tasks_or_samples():
    model, x = mlp()
    model.begin_task(2)
    with pytest.raises(ValueError, match="task: expected finished tasks, of which there are none, got 0"):
        model(x, task=torch.zeros(BATCH, dtype=torch.int64))
    with pytest.raises(ValueError, match="task: expected at least one sample, got none"):
        model(x[:0], task=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="x: expected a tensor with a batch dimension, as task is a tensor, got none"):
        model((), task=torch.zeros(0, dtype=torch.int64))


@pytest.mark.kernel
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")
@pytest.mark.parametrize("make", [mlp, alexnet, normed, words])
def test_the_kernels_take_it_in_the_same_passes(make):
    model, x = make()
    x, tasks = x[:3], torch.tensor([1, 0, 1])
    finish(model, 2)
    counts = []
    with torch.no_grad():
        expected = model(x, task=tasks)
        assert model.mixes is True
        with hat_kernels.backend("triton"):
            for task in (tasks, 0):
                with count_launches() as launches:
                    got = model(x, task=task)
                counts.append(launches)
                torch.testing.assert_close(got, expected if task is tasks else model(x, task=0))
    assert counts[0] == counts[1]
    assert counts[0].total() >= len(model.gates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [normed, words])
def test_low_precision(make, dtype):
    model, x = make()
    finish(model.to(dtype))
    x = x.to(dtype) if x.is_floating_point() else x
    with torch.no_grad():
        got = model(x, task=ids())
        assert (model.mixes, got.dtype) == (True, dtype)
        expected = answers(model, x, ids())
    assert torch.equal(got.isinf(), expected.isinf())
    got, expected = (found[expected.isfinite()].float() for found in (got, expected))
    assert (got - expected).norm() <= 16 * torch.finfo(dtype).eps * expected.norm()
