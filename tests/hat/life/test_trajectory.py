"""With `published` modes on, training follows the published algorithm: see `transcription.py`.

Two criteria, because neither is enough alone.

*Step by step.* Every step of a run of three tasks is repeated by the transcription from the library's own state, with
the network in float64 (gates and embeddings stay float32 in both, their saturation is part of the algorithm). Nothing
accumulates, so the tolerance is rounding, and an error of 1e-4 in any rule is seen; a test below breaks each rule by
that much to show it.

*The whole trajectory*, in float32. It is ill-conditioned in any implementation: near saturation, 1 - a has one or two
bits left in float32, and the compensation multiplies them by cosh. So the yardstick is measured: the same
transcription, started one float32 ulp away. The library may be `FACTOR` times as far from the transcription as those
runs are.
"""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

import hat
import hat_kernels
from hat_kernels import GATE_FLOOR
from tests.hat.transcription import Layer, Recipe, Run

STEPS, BATCHES, BATCH = 50, 10, 32
FACTOR = 4
PUBLISHED = hat.GateConfig(mask_mode="published", compensation="published", locked_first=False)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits():
    """Three tasks of 8 x 8 digits: 0 to 3, 4 to 6, 7 to 9."""
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    images, labels = torch.tensor(bunch.images / 16, dtype=torch.float32), torch.tensor(bunch.target)
    tasks = []
    for first, end in ((0, 4), (4, 7), (7, 10)):
        chosen = (labels >= first) & (labels < end)
        tasks.append((images[chosen][:, None], labels[chosen] - first, end - first))
    return tasks


def inputs(kind, x):
    if kind == "mlp":
        return x
    return F.interpolate(x, 16) * torch.tensor([1.0, 0.5, -0.25]).view(1, 3, 1, 1)  # three unequal channels


def make_model(kind, dropout, dtype, limit=6.0):
    torch.manual_seed(0)
    if kind == "mlp":
        rates = {"input_dropout": 0.2, "dropout": 0.5} if dropout else {"input_dropout": 0.0, "dropout": 0.0}
        body = hat.models.mlp(64, (100, 80), **rates)
    else:
        rates = (0.2, 0.2, 0.5, 0.5, 0.5) if dropout else (0.0,) * 5
        body = hat.models.alexnet((3, 16, 16), channels=(8, 12, 16), hidden=(24, 20), dropout=rates)
    return hat.HATModel(body, config=dataclasses.replace(PUBLISHED, limit=limit)).to(dtype)


def gated_layers(model):
    return [m for m in model.body.modules() if isinstance(m, hat.HATLinear | hat.HATConv2d)]


def transcription_of(model, recipe):
    layers = [
        Layer(
            "conv" if isinstance(m, hat.HATConv2d) else "linear",
            m.weight.detach().clone(),
            m.bias.detach().clone(),
            m.dropout,
        )
        for m in gated_layers(model)
    ]
    return Run(layers, recipe)


def tensors_of(model):
    weights = [p for m in gated_layers(model) for p in (m.weight, m.bias)]
    heads = [p for head in model.heads for p in (head.weight, head.bias)]
    return [p.detach() for p in [*weights, *model.embeddings, *heads]]


def head_of(model):
    return model.head.weight, model.head.bias


def batches(kind, digits, dtype):
    """(task, step, x, y) of the whole run; the same whenever it is called."""
    for task, (images, labels, _) in enumerate(digits):
        for step in range(STEPS):
            chosen = torch.randint(len(images), (BATCH,), generator=torch.Generator().manual_seed(1000 * task + step))
            yield task, step, inputs(kind, images[chosen]).to(dtype), labels[chosen]


def library_step(model, optimizer, x, y, b, seed):
    torch.manual_seed(seed)
    model.anneal((b - 1) / (BATCHES - 1))
    task_loss, penalty = F.cross_entropy(model(x), y), model.penalty()
    optimizer.zero_grad()
    (task_loss + 0.75 * penalty).backward()
    optimizer.step()
    return task_loss.item(), penalty.item()


# ---------------------------------------------------------------- step by step


def assert_same_step(after, wanted, before):
    """One step from the same state, network in float64: rounding of the stored value, and of the update.

    The update's is float32 rounding for the network as well, where clipping scales it by a norm that the float32
    gradients of the embeddings are part of; 16 for the handful of operations behind each.
    """
    eps32 = torch.finfo(torch.float32).eps
    for index, (ours, theirs, start) in enumerate(zip(after, wanted, before, strict=True)):
        update = (theirs - start).abs().max().item()
        stored = max(start.abs().max().item(), theirs.abs().max().item())
        allowed = torch.finfo(ours.dtype).eps * stored + 16 * eps32 * update
        difference = (ours - theirs).abs().max().item()
        assert difference <= allowed, f"tensor {index}: off by {difference:g}, allowed {allowed:g}, update {update:g}"


def drop(x, probability):
    """The library's random numbers; how many of them a dropout takes, none for probability 0, is part of them."""
    return hat_kernels.dropout(x, probability) if probability else x


def put(run, model):
    """Give the transcription the library's state."""
    for mine, theirs in zip(run.tensors(), tensors_of(model), strict=True):
        mine.copy_(theirs)


def follow(kind, digits, *, clip, dropout, limit=6.0, broken=None):
    """Run the library; at every step let the transcription, perhaps with a broken rule, take the same step."""
    dtype = torch.float64
    model = make_model(kind, dropout, dtype, limit)
    rules = {"clip": clip, "limit": limit, **(broken or {})}
    recipe = Recipe(input_dropout=0.2 if dropout and kind == "mlp" else 0.0, drop=drop, floor=GATE_FLOOR, **rules)
    run = transcription_of(model, recipe)
    for task, step, x, y in batches(kind, digits, dtype):
        if step == 0:
            model.begin_task(digits[task][2])
            run.begin(model.embeddings, head_of(model))
            optimizer = hat.optim.SGD(model.task_parameters(), lr=0.05, max_norm=clip)
        put(run, model)
        before, b = [t.clone() for t in tensors_of(model)], step % BATCHES + 1
        loss, penalty = library_step(model, optimizer, x, y, b, step)
        torch.manual_seed(step)
        run.step(x, y, b, BATCHES)
        assert_same_step(tensors_of(model), run.tensors(), before)
        assert abs(loss - run.losses[-1]) <= 16 * torch.finfo(dtype).eps * loss
        assert abs(penalty - run.penalties[-1]) <= 16 * torch.finfo(torch.float32).eps * penalty
        if step == STEPS - 1:
            put(run, model)
            model.end_task()
            run.end()


@pytest.mark.parametrize(
    ("kind", "clip", "dropout"),
    [
        ("mlp", 10_000.0, False),
        ("alexnet", 10_000.0, False),
        ("mlp", 0.5, True),  # a clip that bites
        ("alexnet", 0.5, True),
    ],
)
def test_every_step_is_the_published_step(digits, kind, clip, dropout):
    follow(kind, digits, clip=clip, dropout=dropout)


OFF = 1 + 1e-4


@pytest.mark.parametrize(
    ("broken", "library"),
    [
        ({"lr": 0.05 * OFF}, {}),
        ({"lamb": 0.75 * OFF}, {}),
        ({"compensation": OFF}, {}),
        ({"rate": OFF}, {}),
        ({"last_free": OFF}, {}),
        ({"anneal": OFF}, {}),
        ({"cosh_limit": 50 / OFF}, {}),
        ({"clip": 0.5 * OFF}, {"clip": 0.5}),
        ({"limit": 1.5 * OFF}, {"limit": 1.5}),  # 6 is rarely met in 50 steps
    ],
)
def test_a_rule_that_is_off_by_one_in_ten_thousand_is_seen(digits, broken, library):
    options = {"clip": 10_000.0, "dropout": False, **library}
    with pytest.raises(AssertionError, match=r"off by|penalty|loss"):
        follow("mlp", digits, broken=broken, **options)


# ---------------------------------------------------------------- the whole trajectory


def distance(a, b):
    """The largest difference of any tensor, relative to the tensor's largest element."""
    return max(
        ((x.double() - y.double()).abs().max() / y.double().abs().max()).item() for x, y in zip(a, b, strict=True)
    )


def nudge(tensors, towards):
    for tensor in tensors:
        tensor.copy_(torch.nextafter(tensor, torch.full_like(tensor, towards)))


@pytest.mark.parametrize(("kind", "dropout"), [("mlp", False), ("alexnet", False), ("mlp", True)])
def test_the_trajectory_is_the_published_one_to_float32_rounding(digits, kind, dropout):
    model = make_model(kind, dropout, torch.float32)
    published = transcription_of(model, Recipe(input_dropout=0.2 if dropout and kind == "mlp" else 0.0, drop=drop))
    up, down = copy.deepcopy(published), copy.deepcopy(published)
    ours, yardstick, losses = 0.0, 0.0, []
    for task, step, x, y in batches(kind, digits, torch.float32):
        if step == 0:
            model.begin_task(digits[task][2])
            for run, towards in ((published, None), (up, torch.inf), (down, -torch.inf)):
                run.begin(model.embeddings, head_of(model))
                if towards is not None:
                    nudge(run.embeddings, towards)
            optimizer = hat.optim.SGD(model.task_parameters(), lr=0.05, max_norm=10_000.0)
        b = step % BATCHES + 1
        losses.append(library_step(model, optimizer, x, y, b, step))
        for run in (published, up, down):
            torch.manual_seed(step)
            run.step(x, y, b, BATCHES)
        ours = max(ours, distance(tensors_of(model), published.tensors()))
        yardstick = max(yardstick, *(distance(run.tensors(), published.tensors()) for run in (up, down)))
        if step == STEPS - 1:
            model.end_task()
            for run in (published, up, down):
                run.end()
    assert ours <= FACTOR * yardstick
    for index, name in enumerate(("losses", "penalties")):
        wanted = torch.tensor(getattr(published, name), dtype=torch.float64)
        spread = max((torch.tensor(getattr(run, name), dtype=torch.float64) - wanted).abs().max() for run in (up, down))
        got = torch.tensor([pair[index] for pair in losses], dtype=torch.float64)
        ulp = torch.finfo(torch.float32).eps * wanted.max()
        assert (got - wanted).abs().max() <= FACTOR * (spread + ulp), name
    # The run did something: it learned, used units, and left some for later.
    assert all(0.05 < used < 0.98 for used in model.capacity().values())
    # The masks: sigmoid(400 e) is nowhere steeper than 100, and no embedding is larger than 6.
    atol = 100 * 6 * FACTOR * yardstick
    for gate, used in zip(model.gates.values(), published.used, strict=True):
        assert torch.allclose(gate.used, used, rtol=0, atol=atol)
