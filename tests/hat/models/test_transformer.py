"""A converted transformer, from words to a mean over tokens: it learns, and forgets nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.units.locks import sides, unlocked
from hat_kernels.lock import rate
from tests.hat.nets import text_transformer

WORDS, LENGTH, WIDTH, HEADS, BATCH = 11, 5, 12, 3, 8
pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]

NORMS = pytest.mark.parametrize("norm", [nn.Identity, nn.LayerNorm], ids=["", "norm"])
OPTIMIZERS = {
    "SGD": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, max_norm=1.0),
    "SGD inside": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.1, weight_decay=0.1, in_backward=True),
    "AdamW": lambda m: hat.optim.AdamW(m.task_parameters(), lr=0.01, weight_decay=0.5),
    "torch SGD": lambda m: hat.guard(
        torch.optim.SGD(m.task_parameters(), lr=0.1, momentum=0.9, weight_decay=0.1), m, max_norm=1.0
    ),
    "torch AdamW": lambda m: hat.guard(torch.optim.AdamW(m.task_parameters(), lr=0.01, weight_decay=0.5), m),
    "torch RMSprop, foreach": lambda m: hat.guard(
        torch.optim.RMSprop(m.task_parameters(), lr=0.01, momentum=0.9, weight_decay=0.1, foreach=True), m
    ),
}


def make(*, dropout=0.1, norm=nn.LayerNorm, seed=0):
    torch.manual_seed(seed)
    return hat.HATModel(text_transformer(WORDS, WIDTH, HEADS, LENGTH, norm=norm, dropout=dropout))


def texts(seed=0, count=BATCH):
    return torch.randint(WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def train(model, optimizer, steps=4, autocast=None):
    for step in range(steps):
        model.train().anneal(step / (steps - 1))
        x = texts(step)
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            logits = model(x)
        optimizer.zero_grad()
        (F.cross_entropy(logits.float(), (x == model.task + 1).any(1).long()) + 0.75 * model.penalty()).backward()
        optimizer.step()


def draw_units(model):
    """Let a task use some used and some free units, so that every gate has used units after two tasks."""
    with torch.no_grad():
        for gate in model.gates.values():
            on = (gate.origin % 4 == model.task) | (gate.origin % 5 == 0)
            gate.embedding.copy_(torch.where(on, 1.0, -1.0))


def learn(model, name, tasks=3, **options):
    probes, optimizer = hat.Probes(), None
    for task in range(tasks):
        model.begin_task(2)
        optimizer = OPTIMIZERS[name](model)
        train(model, optimizer, **options)
        draw_units(model)
        model.end_task()
        probes.add(model, task, texts(task))
        result = hat.verify(model, probes)
        assert result.exact, str(result)
    return optimizer


@NORMS
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_bit_of_an_old_task_changes(name, norm):
    learn(make(norm=norm), name)


@NORMS
@pytest.mark.parametrize("name", ["SGD", "torch AdamW"])
def test_under_autocast(name, norm):
    learn(make(norm=norm), name, autocast=torch.bfloat16)


@NORMS
def test_nothing_lies_along_no_gate(norm):
    assert unlocked(make(norm=norm).body) == {}


def test_free_weights_do_move():
    """A lock that holds everything would pass the tests above, so free weights must move."""
    model = make(norm=nn.Identity)
    learn(model, "SGD", tasks=2)
    locks, before = model.locks(), {p: p.detach().clone() for p in model.body.parameters()}
    model.begin_task(2)
    train(model, OPTIMIZERS["SGD"](model))
    for name, parameter in model.body.named_parameters():
        if name.endswith("embedding"):
            continue
        moves = rate(locks[parameter], parameter).expand_as(parameter) == 1
        assert 0 < moves.sum() < moves.numel(), name
        changed = parameter != before[parameter]
        assert not changed[~moves].any(), name
        if name == "network.tokens.weight":
            moves = moves.index_fill(0, torch.tensor(0), False)  # padding
        assert changed[moves].double().mean() > 0.9, name


def locked_share(model):
    """The share of the shared weights that lies in a locked block."""
    whole = movable = 0
    for parameter, its_sides in sides(model.body).items():
        whole += parameter.numel()
        movable += sum(parameter[block.where].numel() for block in its_sides.blocks(parameter))
    return 1 - movable / whole


def test_the_locked_share_grows():
    model, shares = make(dropout=0.0), []
    for _ in range(3):
        model.begin_task(2)
        draw_units(model)
        model.end_task()
        shares.append(locked_share(model))
    assert 0.1 < shares[0] < shares[1] < shares[2] < 1


def test_it_learns():
    """Two tasks: say which of two words is in a text."""
    model = make(dropout=0.0)
    for task in range(2):
        model.begin_task(2)
        optimizer = hat.optim.AdamW(model.task_parameters(), lr=0.03)
        for step in range(75):
            x = texts(step, 48)
            model.anneal(step % 15 / 14)
            loss = F.cross_entropy(model(x), (x == task + 1).any(1).long()) + 0.05 * model.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.end_task()
    x = texts(1000, 500)
    for task in range(2):
        correct = (model(x, task=task).argmax(1) == (x == task + 1).any(1)).double().mean()
        assert correct > 0.9, (task, correct)


@pytest.mark.parametrize("stage", ["learning", "finished"])
def test_a_state_dict_round_trip(stage):
    model = make()
    learn(model, "SGD", tasks=2)
    if stage == "learning":
        model.begin_task(2)
    loaded = make(seed=1)
    loaded.load_state_dict(copy.deepcopy(model.state_dict()))
    for task in range(2):
        assert torch.equal(loaded.eval()(texts(), task=task), model.eval()(texts(), task=task))
    for name, gate in model.gates.items():
        assert (gate.locked, gate.in_order) == (loaded.gates[name].locked, loaded.gates[name].in_order)
    for either in (model, loaded):
        torch.manual_seed(3)
        if stage == "finished":
            either.begin_task(2)
        train(either, OPTIMIZERS["SGD"](either))
        draw_units(either)
        either.end_task()
    assert all(torch.equal(loaded(texts(), task=task), model(texts(), task=task)) for task in range(3))


def test_one_graph_under_compile():
    model = make(dropout=0.0)
    model.begin_task(2)
    model.anneal(0.01)
    torch._dynamo.reset()
    results = []
    for call in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        logits = call(texts())
        results.append([logits, *torch.autograd.grad(logits.square().sum(), list(model.task_parameters()))])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(expected, got)
