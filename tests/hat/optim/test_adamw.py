"""hat.optim.AdamW: if nothing is locked, it is the AdamW of torch; if something is locked, nothing is forgotten."""

import copy

import pytest
import torch
import torch.nn.functional as F

import hat
import hat_kernels
from tests.hat_kernels.launches import count_launches

pytestmark = pytest.mark.usefixtures("one_thread")

X, Y = torch.randn(5, 6, generator=torch.Generator().manual_seed(7)), torch.arange(5) % 2
EPS = torch.finfo(torch.float32).eps


def make(dtype=torch.float32):
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(6, (9, 8), input_dropout=0.0, dropout=0.0).to(dtype))
    model.begin_task(2)
    return model


def loss_of(model):
    dtype = model.head.weight.dtype
    return F.cross_entropy(model(X.to(dtype)).float(), Y) + 0.75 * model.penalty()


def train(model, optimizer, steps=4, clip=None):
    for step in range(steps):
        model.anneal(step / max(1, steps - 1) * 0.01)
        optimizer.zero_grad()
        loss_of(model).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def groups(model):
    """Embeddings do not decay."""
    own = {id(e) for e in model.embeddings}
    parameters = list(model.task_parameters())
    return [
        {"params": [p for p in parameters if id(p) not in own]},
        {"params": [p for p in parameters if id(p) in own], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"maximize": True, "weight_decay": 0.1}])
def test_is_torch_in_the_first_task(options, kind, max_norm):
    ours, theirs = make(), make()
    decoupled = kind is torch.optim.AdamW
    options = {"weight_decay": 0.01, "eps": 1e-3, **options}
    optimizer = hat.optim.AdamW(
        ours.task_parameters(), lr=0.01, decoupled_weight_decay=decoupled, max_norm=max_norm, **options
    )
    train(ours, optimizer)
    train(theirs, kind(groups(theirs), lr=0.01, foreach=False, **options), clip=max_norm)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=64 * EPS)


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"decoupled_weight_decay": False}])
def test_nothing_is_forgotten(options):
    """Neither weight decay nor moments of earlier tasks move a locked weight: old logits keep all bits."""
    model, probes = make(), hat.Probes()
    optimizer = hat.optim.AdamW(model.task_parameters(), lr=0.05, weight_decay=0.3, max_norm=1.0, **options)
    for task in range(3):
        before = [p.detach().clone() for p in model.body.parameters()]
        train(model, optimizer, steps=6)
        assert not all(torch.equal(p, old) for p, old in zip(model.body.parameters(), before, strict=True))
        with torch.no_grad():
            for embedding in model.embeddings:
                embedding.fill_(-1.0)
                embedding[2 * task : 2 * task + 2] = 1.0
        model.end_task()
        probes.add(model, task, X)
        assert hat.verify(model, probes).exact
        model.begin_task(2)
        optimizer.add_param_group({"params": list(model.head.parameters())})


def test_embeddings_are_clamped_and_do_not_decay():
    model = make()
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.fill_(7.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hat.optim.AdamW(model.task_parameters(), lr=0.1, weight_decay=1.0).step()
    assert all(torch.equal(e, torch.full_like(e, 6.0)) for e in model.embeddings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dict_goes_on(dtype):
    one, other = make(dtype), make(dtype)
    first = hat.optim.AdamW(one.task_parameters(), lr=0.01, amsgrad=True)
    train(one, first)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    second = hat.optim.AdamW(other.task_parameters(), lr=0.5, amsgrad=True, betas=(0.1, 0.2))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    states = [s for state in second.state.values() for s in state.values()]
    assert all(s.dtype == torch.float32 for s in states)
    train(one, first)
    train(other, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_goes_on_from_torch():
    """hat.optim.AdamW can load a state_dict of torch.optim.AdamW."""
    one, other = make(), make()
    first = torch.optim.AdamW(one.task_parameters(), lr=0.01, weight_decay=0.0, foreach=False)
    train(one, first)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    second = hat.optim.AdamW(other.task_parameters())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(one, first)
    train(other, second)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=64 * EPS)


@pytest.mark.parametrize("tensor", [False, True])
def test_learning_rate_schedule(tensor):
    models = make(), make()
    optimizers = [
        hat.optim.AdamW(models[0].task_parameters(), lr=torch.tensor(0.3) if tensor else 0.3, weight_decay=0.0),
        torch.optim.AdamW(models[1].task_parameters(), lr=0.3, weight_decay=0.0),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
        for _ in range(3):
            train(model, optimizer, steps=1)
            schedule.step()
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(3e-4)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a.clamp(-6, 6), b.clamp(-6, 6), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -0.1}, r"lr: expected a finite number >= 0, got -0\.1"),
        ({"eps": -1.0}, r"eps: expected a finite number >= 0, got -1\.0"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a finite number >= 0, got -1\.0"),
        ({"betas": (0.9, 1.0)}, r"betas: expected two in \[0, 1\), got \(0\.9, 1\.0\)"),
        ({"max_norm": 0.0}, r"max_norm: expected a number > 0, got 0\.0"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        hat.optim.AdamW(make().task_parameters(), **options)


def test_launches_under_the_triton_backend():
    """Six launches: for weights and for embeddings one count of steps and one update each; two for the norm."""
    model = make()
    optimizer = hat.optim.AdamW(model.task_parameters(), lr=0.01, max_norm=1e-3)
    loss_of(model).backward()
    with hat_kernels.backend("triton"), count_launches() as launches:
        optimizer.step()
    assert launches["adamw_kernel"] == launches["advance_kernel"] == 2
