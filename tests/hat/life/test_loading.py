"""Loads: whole, partial, contradictory, growing, assigned; directly and inside of other modules."""

import copy
import functools
import gc
import json
import sys
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.conversion.body import Converted
from hat.life.checking import names

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::hat.CapacityWarning"),
    pytest.mark.filterwarnings("ignore::hat.UnlockedWarning"),
]

BATCH = 6


# ---------------------------------------------------------------- models, and places in which a model can be


class Scaled(nn.Module):
    """A layer, and beside it a parameter and a buffer along no gate."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.register_buffer("shift", torch.zeros(8))
        self.layer, self.end = hat.HATLinear(8, 12), hat.HATLinear(12, 10)

    def forward(self, x):
        return self.end(self.layer(x * self.scale + self.shift))


def mlp():
    return hat.HATModel(hat.models.mlp(8, (12, 10), input_dropout=0.0, dropout=0.0))


def published():
    return hat.HATModel(
        hat.models.mlp(8, (12, 10), input_dropout=0.0, dropout=0.0), config=hat.GateConfig(mask_mode="published")
    )


def loose():
    return hat.HATModel(Scaled())


def norms(channels=4, units=9):
    layers = [nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten()]
    layers += [nn.Linear(16 * channels, units), nn.LayerNorm(units), nn.ReLU(), nn.Linear(units, 2)]
    return hat.convert(nn.Sequential(*layers), torch.randn(2, 1, 6, 6))


def reserved():
    torch.manual_seed(5)  # the same pretrained network each time
    network = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 2))
    return hat.convert(network, torch.randn(2, 8), pretrained="locked")


def attention():
    return hat.HATModel(hat.models.vit((1, 8, 8), patch=4, features=8, depth=1, heads=2))


MODELS = {"mlp": mlp, "published": published, "loose": loose, "norms": norms, "reserved": reserved}


def inputs(model, seed=0):
    shape = model.body.example[0].shape[1:] if isinstance(model.body, Converted) else (8,)
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(seed))


def step(model, optimizer, seed=0):
    model.train()
    model.anneal(0.02)
    labels = torch.arange(BATCH) % len(model.classes[-1])
    loss = F.cross_entropy(model(inputs(model, seed)), labels) + 0.75 * model.penalty()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def draw_units(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.copy_(torch.where(torch.rand(embedding.shape, generator=generator) < 0.3, 1.0, -1.0))
            embedding[0] = 1.0


def learned(make, *args, **options):
    """A copy of the model that `once_learned` makes."""
    return copy.deepcopy(once_learned(make, *args, **options))


@functools.cache
def once_learned(make, tasks=2, *, learning=False, seed=1, grow=0, forget=None):
    """A model that has learned tasks with 2, 3, 2, 3, ... classes."""
    torch.manual_seed(seed)
    model = make()
    for task in range(tasks):
        model.begin_task(2 + task % 2)
        step(model, hat.optim.SGD(model.task_parameters(), lr=0.1), seed)
        draw_units(model, seed + task)
        model.end_task()
    if grow:
        hat.grow(model, grow)
        model.begin_task(2 + tasks % 2)
        draw_units(model, seed + tasks)
        model.end_task()
    if forget is not None:
        hat.forget(model, forget)
    if learning:
        model.begin_task(4)
        step(model, hat.optim.SGD(model.task_parameters(), lr=0.1), seed)
    return model


class Holder(nn.Module):
    """A module of a user's, with another one beside the model."""

    def __init__(self, model):
        super().__init__()
        self.before, self.model, self.after = nn.Linear(2, 2), model, nn.Linear(2, 2)


class Wrapped(nn.Module):
    """As `DistributedDataParallel` without processes."""

    def __init__(self, module):
        super().__init__()
        self.module = module


PLACES = {
    "direct": (lambda model: model, ""),
    "dict": (lambda model: nn.ModuleDict({"a": nn.Linear(1, 1), "b": model}), "b."),
    "holder": (Holder, "model."),
    "ddp": (Wrapped, "module."),
    "deep": (lambda model: Wrapped(nn.ModuleDict({"x": Holder(model)})), "module.x.model."),
}
models = pytest.mark.parametrize("kind", MODELS)


def load(place, model, state, *, strict=True, assign=False, root=None):
    """Load the state of a model, at some place. All other modules of the place keep their values."""
    make, prefix = PLACES[place]
    root = make(model) if root is None else root
    others = {name: value for name, value in root.state_dict().items() if not name.startswith(prefix)}
    whole = {**({} if place == "direct" else others), **{prefix + name: value for name, value in state.items()}}
    keys = root.load_state_dict(whole, strict, assign)
    assert not hooks(root)
    return [key.removeprefix(prefix) for key in keys.missing_keys], keys.unexpected_keys


def hooks(root):
    return [hook for module in root.modules() for hook in module._load_state_dict_post_hooks.values()]


def state_of(model):
    return copy.deepcopy(model.state_dict())


def facts(**changes):
    return torch.frombuffer(bytearray(json.dumps(changes).encode()), dtype=torch.uint8).clone()


def same(one, other):
    """Both have the same state, lock and train the same, and answer the same."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert (one.learning, one.classes, one.forgotten) == (other.learning, other.classes, other.forgotten)
    trained = {name: p.requires_grad for name, p in one.named_parameters()}
    assert trained == {name: p.requires_grad for name, p in other.named_parameters()}
    for gate, twin in zip(one.gates.values(), other.gates.values(), strict=True):
        assert torch.equal(gate.used, twin.used)
        assert (gate.locked, gate.in_order, gate.reserves) == (twin.locked, twin.in_order, twin.reserves)
    x = inputs(one)
    for task in one.remembered:
        assert torch.equal(one.eval()(x, task=task), other.eval()(x, task=task))


def picture(model, *optimizers):
    """Everything of a model and its optimizers that a load may touch."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    modules = {
        name: (module, module.training, module.extra_repr(), [*module._parameters], [*module._buffers])
        for name, module in model.named_modules()
    }
    return {
        "values": {name: (id(t), t.requires_grad, t.dtype, tuple(t.shape)) for name, t in tensors.items()},
        "bits": {name: t.detach().clone() for name, t in tensors.items()},
        "grads": {name: None if t.grad is None else t.grad.clone() for name, t in model.named_parameters()},
        "modules": modules,
        "facts": (model.learning, list(model.classes), model.forgotten, model.features),
        "gates": [(g.units, g.locked, g.in_order, g.reserves, len(g.members)) for g in model.gates.values()],
        "code": [module.code for module in model.modules() if hasattr(module, "graph")],
        "states": [
            [[id(p) for p in group["params"]] for group in optimizer.param_groups]
            + [(id(p), name, copy.deepcopy(v)) for p, state in optimizer.state.items() for name, v in state.items()]
            for optimizer in optimizers
        ],
    }


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return (
            isinstance(other, torch.Tensor)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and bool(((one == other) | ((one != one) & (other != other))).all())
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one is other or one == other


def unchanged(model, before, *optimizers):
    after = picture(model, *optimizers)
    for part, value in before.items():
        assert equal(value, after[part]), part


# ---------------------------------------------------------------- whole states


STAGES = {
    "fresh": {"tasks": 0},
    "learning": {"tasks": 0, "learning": True},
    "finished": {"tasks": 3},
    "learning more": {"learning": True},
    "forgotten": {"tasks": 3, "forget": 1},
    "grown": {"grow": 3},
    "grown, learning": {"grow": 3, "learning": True},
}


@pytest.mark.parametrize(
    ("place", "kind"),
    [(place, kind) for place in PLACES for kind in MODELS if place in ("direct", "deep") or kind == "norms"],
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_whole_state_loads_at_any_depth(place, kind, stage):
    source = learned(MODELS[kind], **STAGES[stage])
    for target in (MODELS[kind](), learned(MODELS[kind], 1, seed=7), learned(MODELS[kind], 3, learning=True, seed=8)):
        assert load(place, target, state_of(source)) == ([], [])
        same(source, target)
        for model in (source, target):
            torch.manual_seed(3)
            if not model.learning:
                model.begin_task(2)
            step(model, hat.optim.SGD(model.task_parameters(), lr=0.1))
            draw_units(model, 11)
            model.end_task()
        same(source, target)
        source = copy.deepcopy(target)


def test_a_grown_network_with_attention_loads_at_any_depth():
    source = learned(attention, 1, grow=2)
    target = attention()
    load("deep", target, state_of(source))
    same(source, target)


def test_two_models_in_one_module():
    one, other = learned(mlp, 2, grow=2), learned(norms, 1, learning=True)
    fresh = nn.ModuleDict({"one": mlp(), "other": norms()})
    fresh.load_state_dict(nn.ModuleDict({"one": one, "other": other}).state_dict())
    same(one, fresh["one"])
    same(other, fresh["other"])
    assert not hooks(fresh)


def test_heads_that_fit_stay_the_same_objects():
    model = learned(mlp, 3)
    heads = list(model.heads)
    earlier = learned(mlp, 1, learning=True)
    model.load_state_dict(state_of(earlier))
    assert model.heads[0] is heads[0]
    assert model.heads[1] is not heads[1]  # task 1 has 4 classes now
    model.load_state_dict(state_of(learned(mlp, 1)))
    assert list(model.heads) == heads[:1]


def test_a_loader_of_other_code_that_visits_the_modules():
    """As other libraries load one module after another: they do not call `load_state_dict`."""
    source, target = learned(norms, 2, learning=True), learned(norms, 1, seed=4)
    state, errors = state_of(source), []

    def visit(module, prefix):
        module._load_from_state_dict(dict(state), prefix, {}, True, [], [], errors)
        for name, child in module._modules.items():
            if child is not None:
                visit(child, f"{prefix}{name}.")

    visit(target, "")
    assert not errors
    target.load_state_dict(state_of(target))
    same(source, target)


def test_a_hook_of_the_user_that_renames():
    source, target = learned(mlp, 2, grow=2), mlp()

    def rename(state, prefix, *_):
        for name in list(state):
            state[name.replace("network.old", "network.linear")] = state.pop(name)

    target._register_load_state_dict_pre_hook(rename)
    renamed = {name.replace("network.linear", "network.old"): value for name, value in state_of(source).items()}
    target.load_state_dict(renamed)
    same(source, target)


def test_a_hook_of_the_user_that_lets_keys_be_missing():
    """Torch allows a hook to remove names from the list of missing keys."""
    model, root = learned(mlp), Holder(learned(mlp))
    root.register_load_state_dict_post_hook(lambda _, keys: keys.missing_keys.clear())
    state = {f"model.{name}": value for name, value in state_of(model).items() if name != "state.scale"}
    root.load_state_dict(state)
    same(model, root.model)


# ---------------------------------------------------------------- states that contradict themselves


def edit(ending, change):
    """Change all values whose name has this ending."""

    def edited(state):
        assert any(name.endswith(ending) for name in state)
        return {name: change(value) if name.endswith(ending) else value for name, value in state.items()}

    return edited


def without(*endings):
    return lambda state: {name: value for name, value in state.items() if not name.endswith(endings)}


def first_only(ending, change):
    """Change the first value whose name has this ending."""

    def edited(state):
        name = next(name for name in state if name.endswith(ending))
        return {**state, name: change(state[name])}

    return edited


def others_masks(state):
    """Every gate gets the masks of another gate."""
    gates = [name for name in state if name.endswith(".masks")]
    return {**state, **{name: state[other] for name, other in zip(gates, gates[::-1], strict=True)}}


def all_short(state):
    """Masks and per-task tensors agree with each other, but not with the heads."""
    return {n: v[:-1] if n.endswith((".masks", "_tasks")) else v for n, v in state.items()}


CLASSES = [["0", "1"], ["0", "1", "2"], ["0", "1"]]
FACTS = "_extra_state"
BAD = {
    "masks one row short": (
        edit(".masks", lambda v: v[1:]),
        r"masks: size mismatch, expected \(3, \d+\), one row for each of 3",
    ),
    "masks of one gate one row short": (first_only(".masks", lambda v: v[1:]), r"masks: size mismatch, expected \(3, "),
    "masks one row more": (edit(".masks", lambda v: torch.cat([v, v[:1]])), r"masks: size mismatch, expected \(3, "),
    "no masks at all": (edit(".masks", lambda v: v[:0]), r"masks: size mismatch, expected \(3, "),
    "masks NaN": (edit(".masks", lambda v: v * float("nan")), "masks: expected .* got nan"),
    "masks inf": (edit(".masks", lambda v: v * float("inf")), "masks: expected .* got (inf|nan)"),
    "masks negative": (edit(".masks", lambda v: -v), "masks: expected .* got -"),
    "masks above 1": (edit(".masks", lambda v: v * 2), "masks: expected .* got 2"),
    "masks that are integers": (
        edit(".masks", lambda v: v.long()),
        r"masks: expected torch\.float32, got torch\.int64",
    ),
    "masks that are complex": (
        edit(".masks", lambda v: v + 0j),
        r"masks: expected torch\.float32, got torch\.complex64",
    ),
    "masks of another gate": (others_masks, "masks: size mismatch, expected"),
    "masks and own tensors agree, heads do not": (
        all_short,
        r"size mismatch, expected \(3, \d+\), one row for each of 3",
    ),
    "masks on meta": (edit(".masks", lambda v: v.to("meta")), "masks: expected values, got a tensor on the meta"),
    "masks no tensor": (edit(".masks", lambda v: v.tolist()), "masks: expected a tensor, got list"),
    "origin no permutation": (edit(".origin", lambda v: v * 0), r"origin: expected each of 0 to \d+ once"),
    "origin too large": (edit(".origin", lambda v: v + 10**9), r"origin: expected each of 0 to \d+ once"),
    "origin that is no integer": (
        edit(".origin", lambda v: v.float()),
        r"origin: expected torch\.int64, got torch\.float",
    ),
    "reserved half": (edit(".reserved", lambda v: v * 0 + 0.5), "reserved: expected 0 and 1, got 0.5"),
    "reserved NaN": (edit(".reserved", lambda v: v * float("nan")), "reserved: expected 0 and 1, got nan"),
    "scale NaN": (edit("state.scale", lambda v: v * float("nan")), "scale: expected > 0 and at most s_max"),
    "scale of another config": (
        edit("state.scale", lambda v: v * 0 + 800),
        r"scale: expected > 0 .* = 400\.0, got 800",
    ),
    "a head of fewer classes": (
        edit("heads.1.weight", lambda v: v[:2]),
        r"heads.1.weight: size mismatch, expected \(3, 9\), got \(2, 9\)",
    ),
    "a bias of fewer classes": (
        edit("heads.1.bias", lambda v: v[:2]),
        r"heads.1.bias: size mismatch, expected \(3,\), got \(2,\)",
    ),
    "a head of other features": (
        edit("heads.1.weight", lambda v: v[:, 1:]),
        r"heads.1.weight: size mismatch, expected \(3, \d+\)",
    ),
    "a head too many": (lambda s: {**s, "heads.3.weight": s["heads.0.weight"]}, "heads.3.weight: expected no head"),
    "learning, though all have finished": (
        lambda s: {**s, FACTS: facts(learning=True, classes=CLASSES, forgotten=[])},
        r"masks: size mismatch, expected \(2, ",
    ),
    "classes of one task": (
        lambda s: {**s, FACTS: facts(learning=False, classes=CLASSES[:1], forgotten=[])},
        "heads.1",
    ),
    "classes of more tasks": (
        lambda s: {**s, FACTS: facts(learning=False, classes=[*CLASSES, ["a"]], forgotten=[])},
        "heads.3.bias: missing",
    ),
    "classes of other numbers": (
        lambda s: {**s, FACTS: facts(learning=False, classes=[["a", "b"]] * 3, forgotten=[])},
        r"heads\.1\.weight: size mismatch, expected \(2, ",
    ),
    "forgotten, though its head is there": (
        lambda s: {**s, FACTS: facts(learning=False, classes=[CLASSES[0], [], CLASSES[2]], forgotten=[1])},
        "heads.1.bias: expected no head of a forgotten task",
    ),
    "forgotten, though its masks are there": (
        lambda s: (
            without("heads.1.weight", "heads.1.bias")(s)
            | {FACTS: facts(learning=False, classes=[CLASSES[0], [], CLASSES[2]], forgotten=[1])}
        ),
        "masks: expected no unit in the masks of forgotten tasks",
    ),
    "forgotten 99": (
        lambda s: {**s, FACTS: facts(learning=False, classes=CLASSES, forgotten=[99])},
        "forgotten: expected ids of the 3 finished tasks",
    ),
    "forgotten True": (
        lambda s: {**s, FACTS: facts(learning=False, classes=CLASSES, forgotten=[True])},
        "forgotten: expected ids",
    ),
    "forgotten the task that is learned": (
        lambda s: {**s, FACTS: facts(learning=True, classes=[*CLASSES[:2], []], forgotten=[2])},
        "forgotten: expected ids of the 2 finished tasks",
    ),
    "no names, though not forgotten": (
        lambda s: {**s, FACTS: facts(learning=False, classes=[[], *CLASSES[1:]], forgotten=[])},
        "classes: expected no names for forgotten tasks only",
    ),
    "a name twice": (
        lambda s: {**s, FACTS: facts(learning=False, classes=[["a", "a"], *CLASSES[1:]], forgotten=[])},
        "classes: expected a list of different names",
    ),
    "names that are numbers": (
        lambda s: {**s, FACTS: facts(learning=False, classes=[[0, 1], *CLASSES[1:]], forgotten=[])},
        "classes: expected a list of different names",
    ),
    "classes 5": (lambda s: {**s, FACTS: facts(learning=False, classes=5, forgotten=[])}, "classes: expected a list"),
    "learning 1": (lambda s: {**s, FACTS: facts(learning=1, classes=CLASSES, forgotten=[])}, "learning: expected true"),
    "learning nothing": (
        lambda s: {**s, FACTS: facts(learning=True, classes=[], forgotten=[])},
        "classes: expected the",
    ),
    "facts that are no object": (lambda s: {**s, FACTS: torch.tensor([91, 93], dtype=torch.uint8)}, "a JSON object"),
    "facts that are no JSON": (
        lambda s: {**s, FACTS: torch.tensor([110, 111], dtype=torch.uint8)},
        "expected JSON, got",
    ),
    "facts too deep": (lambda s: {**s, FACTS: torch.full((200_000,), 91, dtype=torch.uint8)}, "expected JSON, got"),
    "facts of no bytes": (lambda s: {**s, FACTS: torch.zeros(5)}, "expected JSON as a uint8 tensor"),
    "facts no tensor": (lambda s: {**s, FACTS: "{}"}, "expected JSON as a uint8 tensor of one dimension, got str"),
    "fewer units": (first_only(".embedding", lambda v: v[:-1]), "embedding: size mismatch"),
    "more units at one gate alone": (first_only(".embedding", lambda v: torch.cat([v, v])), "size mismatch"),
}
OF_NORMS = {
    "statistics one row short": (
        edit("running_mean_tasks", lambda v: v[1:]),
        r"mean_tasks: size mismatch, expected \(3, 4\), one row",
    ),
    "statistics one row more": (
        edit("running_mean_tasks", lambda v: torch.cat([v[:1], v])),
        r"mean_tasks: size mismatch, expected \(3",
    ),
    "all own tensors one row short": (edit("_tasks", lambda v: v[1:]), r"_tasks: size mismatch, expected \(3"),
    "counts that are no integers": (
        edit("num_batches_tracked_tasks", lambda v: v.float()),
        r"expected torch\.int64, got torch\.float32",
    ),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("place", ["direct", "deep"])
@pytest.mark.parametrize("bad", [*BAD, *OF_NORMS])
def test_a_state_that_contradicts_itself_is_refused_by_name_and_nothing_is_touched(bad, place, strict):
    change, message = (BAD | OF_NORMS)[bad]
    state = change(state_of(learned(norms, 3)))
    for target in (norms(), learned(norms, 1, learning=True, seed=5)):
        optimizer = hat.optim.SGD(target.parameters(), lr=0.1, momentum=0.9, model=target)
        if target.learning:
            step(target, optimizer)
        before = picture(target, optimizer)
        with pytest.raises(RuntimeError, match=message):
            load(place, target, state, strict=strict)
        unchanged(target, before, optimizer)
        if target.learning:
            step(target, optimizer)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["mlp", "norms"])
@pytest.mark.parametrize("grow", [0, 3])
def test_missing_and_unexpected_names_are_refused_if_strict(place, kind, grow):
    state = state_of(learned(MODELS[kind], 2, grow=grow))
    for wrong, message in [
        (without(".reserved"), r"Missing key.*reserved"),
        (without(FACTS), r"_extra_state"),
        (without("heads.0.bias"), r"heads\.0\.bias"),
        (without("linear1.weight", "network.0.weight"), r"Missing key.*weight"),
        (lambda s: {**s, "body.more": torch.zeros(2)}, r"Unexpected key.*body\.more"),
        (lambda s: {**s, "more": torch.zeros(2)}, r"Unexpected key.*more"),
    ]:
        target = learned(MODELS[kind], 1, learning=True, seed=5)
        optimizer = hat.guard(torch.optim.Adam(target.task_parameters()), target)
        step(target, optimizer)
        before = picture(target, optimizer)
        with pytest.raises(RuntimeError, match=message):
            load(place, target, wrong(state))
        unchanged(target, before, optimizer)
        step(target, optimizer)
        draw_units(target, 3)
        target.end_task()


def test_a_refused_state_names_the_keys_that_it_lacks_only():
    state = without("state.scale")(edit(".masks", lambda v: v * 0.3)(state_of(learned(mlp))))
    with pytest.raises(RuntimeError) as error:
        load("holder", mlp(), state)
    assert "masks: expected 0 and 1 in mode binary, got 0.3" in str(error.value)
    assert 'Missing key(s) in state_dict: "model.state.scale". ' in str(error.value)


@models
@pytest.mark.parametrize("grow", [0, 3])
@pytest.mark.parametrize("assign", [False, True])
def test_an_error_of_another_module_leaves_the_model_as_it_was(kind, grow, assign):
    """The other module comes after the model, which has been loaded by then."""
    source = Holder(learned(MODELS[kind], 2, grow=grow))
    target = learned(MODELS[kind], 1, learning=True, seed=5)
    root = Holder(target)
    optimizer = hat.optim.AdamW(target.task_parameters(), lr=0.01)
    step(target, optimizer)
    before, answers = picture(target, optimizer), target.eval()(inputs(target), task=0)
    target.train()
    for wrong in (
        lambda s: s.pop("after.bias"),
        lambda s: s.update({"after.bias": torch.zeros(7)}),
        lambda s: s.update({"other": torch.zeros(7)}),
    ):
        state = state_of(source)
        wrong(state)
        with pytest.raises(RuntimeError, match=r"after\.bias|other"):
            root.load_state_dict(state, assign=assign)
        unchanged(target, before, optimizer)
        assert not hooks(root)
    assert torch.equal(target.eval()(inputs(target), task=0), answers)
    step(target, optimizer)
    root.load_state_dict(state_of(source))
    same(source.model, target)


def test_a_model_is_undone_if_another_one_is_refused():
    root = nn.ModuleDict({"good": learned(mlp, 1, learning=True, seed=4), "bad": learned(norms, 1, seed=4)})
    before = {name: picture(model) for name, model in root.items()}
    source = nn.ModuleDict({"good": learned(mlp, 2, grow=2), "bad": learned(norms, 3)})
    state = state_of(source)
    name = next(name for name in state if name.startswith("bad.") and name.endswith("running_var_tasks"))
    state[name] = state[name][1:]
    with pytest.raises(RuntimeError, match=r"bad\.body.*running_var_tasks: size mismatch, expected \(3, 4\)"):
        root.load_state_dict(state)
    for name, model in root.items():
        unchanged(model, before[name])


class Picky(nn.Module):
    """A layer whose own code refuses a state."""

    def __init__(self):
        super().__init__()
        self.layer, self.refuses = nn.Linear(12, 12), False

    def forward(self, x):
        return self.layer(x)

    def get_extra_state(self):
        return torch.zeros(1)

    def set_extra_state(self, state):
        if self.refuses:
            raise KeyError("not now")


def test_an_error_of_code_in_the_body_leaves_the_model_as_it_was():
    def make():
        return hat.HATModel(nn.Sequential(hat.HATLinear(8, 12), Picky(), hat.HATLinear(12, 10)))

    source, target = learned(make, 2), learned(make, 1, learning=True, seed=4)
    target.body[1].refuses = True
    before = picture(target)
    with pytest.raises(KeyError, match="not now"):
        target.load_state_dict(state_of(source))
    unchanged(target, before)
    assert not hooks(target)
    target.body[1].refuses = False
    target.load_state_dict(state_of(source))
    same(source, target)


class Stops(nn.Module):
    """A module of the user that ends a load, as Ctrl-C may and as its own code may."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def _load_from_state_dict(self, *args):
        if self.error is not None:
            raise self.error


USES = {
    "forward": lambda model: model.eval()(inputs(model), task=0),
    "state_dict": lambda model: model.state_dict(),
    "nested state_dict": lambda model: nn.ModuleDict({"m": model}).state_dict(),
    "end_task": lambda model: model.end_task(),
    "penalty": lambda model: model.penalty(),
    "export": lambda model: hat.export(model, task=0, example_input=inputs(model)),
    "copy": lambda model: copy.deepcopy(model),
    "grow": lambda model: hat.grow(model, by=2),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyError("not now")], ids=["ctrl-c", "error"])
@pytest.mark.parametrize("use", USES)
def test_a_load_that_another_module_breaks_off_is_undone_at_the_next_use(use, error):
    """Torch calls no hook then, so nobody tells the model, which has been loaded by then."""
    source, target = learned(norms, 3, grow=2), learned(norms, 1, learning=True, seed=4)
    expected = copy.deepcopy(target)
    root = nn.ModuleDict({"m": target, "z": Stops(error)})
    with pytest.raises(type(error)):
        root.load_state_dict(state_of(nn.ModuleDict({"m": source})), strict=False)
    for model in (target, expected):
        torch.manual_seed(0)
        USES[use](model)
    same(expected, target)
    root["z"].error = None
    root.load_state_dict(state_of(nn.ModuleDict({"m": source})))
    same(source, target)


def test_the_garbage_collector_waits_while_python_lists_the_frames(monkeypatch):
    """A collection in that moment that frees a model of an earlier test would wait for a lock for ever."""
    frames, collecting = sys._current_frames, []
    monkeypatch.setattr(sys, "_current_frames", lambda: collecting.append(gc.isenabled()) or frames())
    source, target = learned(norms, 2), learned(norms, 1, seed=4)
    root = nn.ModuleDict({"m": target, "z": Stops(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        root.load_state_dict(state_of(nn.ModuleDict({"m": source})), strict=False)
    target.unfinished()
    assert set(collecting) == {False}
    assert gc.isenabled()


def test_a_model_under_two_names_becomes_what_it_was():
    source, target = learned(mlp, 2, grow=2), learned(mlp, 1, learning=True, seed=4)
    before, root = picture(target), nn.ModuleDict({"m": target, "n": target, "z": Stops(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        root.load_state_dict(state_of(nn.ModuleDict({"m": source, "n": source})))
    target.unfinished()
    unchanged(target, before)
    assert not hooks(root)


@pytest.mark.parametrize("assign", [False, True])
def test_soft_masks_do_not_load_into_a_binary_model(assign):
    soft, binary = state_of(learned(published)), mlp()
    soft["state.scale"] = torch.tensor(1.0)
    name = next(name for name in soft if name.endswith(".masks"))
    soft[name] = soft[name] * 0.5
    with pytest.raises(RuntimeError, match=r"masks: expected 0 and 1 in mode binary"):
        load("holder", binary, soft, assign=assign)
    with pytest.warns(hat.DriftWarning, match="masks has moved"):
        load("holder", published(), soft, assign=assign)


# ---------------------------------------------------------------- partial states


def perturbed(make, **stage):
    """A model with finished tasks, and the same model after it has gone on for a step: only free things differ."""
    source = learned(make, 2, learning=True, **stage)
    target = copy.deepcopy(source)
    step(target, hat.optim.SGD(target.task_parameters(), lr=0.5), seed=9)
    target.anneal(0.1)
    return source, target


PARTS = {
    "nothing": lambda name: False,
    "all": lambda name: True,
    "the facts": lambda name: name == FACTS,
    "the scale": lambda name: name == "state.scale",
    "all heads": lambda name: name.startswith("heads."),
    "a finished head": lambda name: name.startswith("heads.0."),
    "the present head": lambda name: name.startswith("heads.2."),
    "half of a head": lambda name: name == "heads.1.weight",
    "heads and facts": lambda name: name.startswith("heads.") or name == FACTS,
    "all masks": lambda name: name.endswith(".masks"),
    "embeddings": lambda name: name.endswith(".embedding"),
    "orders": lambda name: name.endswith(".origin"),
    "reserved": lambda name: name.endswith(".reserved"),
    "gates": lambda name: ".gates." in name or ".gate." in name,
    "own tensors": lambda name: name.endswith("_tasks"),
    "some own tensors": lambda name: name.endswith("running_mean_tasks"),
    "weights": lambda name: name.endswith((".weight", ".bias")) and name.startswith("body."),
    "the body": lambda name: name.startswith("body."),
    "all but weights": lambda name: not (name.endswith((".weight", ".bias")) and name.startswith("body.")),
    "all but heads": lambda name: not name.startswith("heads."),
}


@pytest.mark.parametrize("place", ["direct", "holder"])
@models
@pytest.mark.parametrize("absent", PARTS)
def test_what_a_partial_state_lacks_stays_and_the_rest_is_loaded(place, kind, absent):
    source, target = perturbed(MODELS[kind])
    state = state_of(source)
    part = {name: value for name, value in state.items() if not PARTS[absent](name)}
    before, heads, trained = state_of(target), list(target.heads), [p.requires_grad for p in target.parameters()]
    answers = [target.eval()(inputs(target), task=task) for task in target.remembered]
    target.train()
    missing, unexpected = load(place, target, part, strict=False)
    assert set(missing) == state.keys() - part.keys()
    assert not unexpected
    after = target.state_dict()
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert torch.equal(value, part.get(name, before[name])), name
    assert list(target.heads) == heads
    assert [p.requires_grad for p in target.parameters()] == trained
    for task, answer in zip(target.remembered, answers, strict=True):
        assert torch.equal(target.eval()(inputs(target), task=task), answer)
    step(target, hat.optim.SGD(target.task_parameters(), lr=0.1))
    draw_units(target, 5)
    target.end_task()


@pytest.mark.parametrize("kind", ["mlp", "norms", "loose", "reserved"])
@pytest.mark.parametrize("absent", [part for part in PARTS if part not in ("nothing", "all")])
def test_a_partial_state_of_another_model_changes_nothing_that_finished_tasks_use(kind, absent):
    """It replaces the tasks if it brings all that belongs to them; otherwise it keeps them, or is refused."""
    source, target = learned(MODELS[kind], 2, seed=20), learned(MODELS[kind], 2, seed=30)
    state = state_of(source)
    part = {name: value for name, value in state.items() if not PARTS[absent](name)}
    before = picture(target)
    of_tasks = {n for n in state if n == FACTS or n.startswith("heads.") or n.endswith((".masks", "_tasks"))}
    if of_tasks <= part.keys():
        strays = absent == "weights" and kind != "reserved"  # the tasks come without the weights that they use
        with pytest.warns(hat.DriftWarning, match="weight has moved") if strays else nullcontext():
            load("holder", target, part, strict=False)
        loaded = {name: value for name, value in target.state_dict().items() if name in part and name != FACTS}
        assert all(torch.equal(value, part[name]) for name, value in loaded.items())
        assert (target.moved() is not None) == strays
        return
    if all(torch.equal(value, target.state_dict()[name]) for name, value in part.items()):
        load("holder", target, part, strict=False)  # the locked base, which both models share
    else:
        with pytest.raises(RuntimeError, match="the finished tasks of the model stay"):
            load("holder", target, part, strict=False)
    unchanged(target, before)


def test_an_old_base_loads_into_a_model_without_tasks_only():
    base = {name: value for name, value in mlp().state_dict().items() if name.startswith("body.network.")}
    fresh, grown_up = mlp(), learned(mlp, 1)
    fresh.load_state_dict(base, strict=False)
    assert all(torch.equal(fresh.state_dict()[name], value) for name, value in base.items())
    with pytest.raises(
        RuntimeError, match=r"body\.network\.linear1\.weight: the state changes what finished tasks use"
    ):
        grown_up.load_state_dict(base, strict=False)


def test_a_free_weight_of_a_partial_state_is_loaded():
    model = learned(mlp, 1)
    name, gate = "body.network.linear1.weight", model.gates["gates.linear1"]
    weight = model.state_dict()[name].clone()
    weight[gate.free == 1] += 1
    model.load_state_dict({name: weight}, strict=False)
    assert torch.equal(model.state_dict()[name], weight)
    weight[gate.free == 0] += 1
    with pytest.raises(RuntimeError, match=r"linear1\.weight: the state changes what finished tasks use, and it lacks"):
        model.load_state_dict({name: weight}, strict=False)


@pytest.mark.parametrize("ending", ["scale", "shift"])
def test_what_all_tasks_share_stays_with_the_tasks(ending):
    """A parameter and a buffer along no gate."""
    model = learned(loose, 1)
    with pytest.raises(RuntimeError, match=f"body.{ending}: the state changes what finished tasks use"):
        model.load_state_dict({f"body.{ending}": torch.full((8,), 3.0)}, strict=False)
    fresh = loose()
    fresh.load_state_dict({f"body.{ending}": torch.full((8,), 3.0)}, strict=False)
    assert (fresh.state_dict()[f"body.{ending}"] == 3).all()


def test_adapters_alone_load_onto_the_same_base():
    """All that is of tasks, and no weights: the base is the same network."""
    source, target = learned(reserved, 2), reserved()
    base = {name for name in target.state_dict() if ".network." in name}
    missing, _ = load("ddp", target, {n: v for n, v in state_of(source).items() if n not in base}, strict=False)
    assert set(missing) == base
    assert all(
        torch.equal(target.eval()(inputs(target), task=t), source.eval()(inputs(source), task=t)) for t in range(2)
    )


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("place", ["direct", "dict"])
def test_a_state_without_reserved_unlocks_nothing(place, strict):
    model = reserved()
    part = without(".reserved")(state_of(model))
    if strict:
        with pytest.raises(RuntimeError, match="reserved"):
            load(place, model, part)
    else:
        load(place, model, part, strict=False)
    assert all(gate.reserves and (gate.free == 0).all() for gate in model.gates.values())
    weight = model.body.network.get_submodule("2").weight
    before = weight.clone()
    model.begin_task(2)
    step(model, hat.optim.SGD(model.task_parameters(), lr=0.5))
    assert torch.equal(weight, before)


def test_a_partial_state_frees_nothing_that_is_reserved():
    model = learned(reserved, 1)
    with pytest.raises(RuntimeError, match="reserved: the state changes what finished tasks use"):
        model.load_state_dict({n: v * 0 for n, v in state_of(model).items() if n.endswith(".reserved")}, strict=False)


def test_masks_of_more_tasks_without_their_heads_are_refused():
    state = without("heads.0.weight", "heads.0.bias", "heads.1.weight", "heads.1.bias")(state_of(learned(mlp, 2)))
    for part in (state, without(FACTS)(state)):
        fresh = mlp()
        before = picture(fresh)
        with pytest.raises(
            RuntimeError, match=r"heads.0.bias: missing|masks: size mismatch, expected \(0, 12\), one row for each of 0"
        ):
            fresh.load_state_dict(part, strict=False)
        unchanged(fresh, before)


def test_heads_of_more_tasks_without_facts_are_unexpected():
    state = {name: value for name, value in state_of(learned(mlp, 2)).items() if name.startswith("heads.")}
    fresh = mlp()
    keys = fresh.load_state_dict(state, strict=False)
    assert set(keys.unexpected_keys) == set(state)
    assert (fresh.tasks, len(fresh.heads)) == (0, 0)


def test_numbers_of_units_of_norms_come_together_or_not_at_all():
    """The state is of a network that has grown, and the model has as many units from the beginning."""
    source = learned(norms, 1, grow=3)
    state, target = state_of(source), norms(7, 12)
    for ending in (".count_initial", ".count_tasks"):
        with pytest.raises(RuntimeError, match=rf"{ending[1:]}: missing beside .*\.count"):
            target.load_state_dict(without(ending)(state), strict=False)
    with pytest.raises(RuntimeError, match=r"count_tasks: size mismatch, expected \(2,\), one row"):
        target.load_state_dict(edit(".count_tasks", lambda v: v[1:])(state))
    before = picture(target)
    with pytest.raises(RuntimeError, match="Missing"):
        target.load_state_dict(without("state.scale")(state))
    unchanged(target, before)
    target.load_state_dict(state)
    same(source, target)


# ---------------------------------------------------------------- what is trained after a load


@pytest.mark.parametrize("place", ["direct", "holder"])
@pytest.mark.parametrize("assign", [False, True])
def test_a_load_thaws_nothing_that_the_user_has_frozen(place, assign):
    model = loose()
    model.begin_task(2)
    model.body.scale.requires_grad_(False)
    model.body.layer.weight.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    load(place, model, state_of(model), assign=assign)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    assert {name for name, on in trained.items() if not on} == {"body.scale", "body.layer.weight", "heads.0.bias"}
    assert not any(p is model.body.scale for p in model.task_parameters())


def test_heads_are_trained_as_the_state_says():
    source, target = learned(loose, 1, learning=True), learned(loose, 3, seed=4)
    assert not any(p.requires_grad for p in target.heads.parameters())
    load("deep", target, state_of(source))
    assert [p.requires_grad for p in target.heads.parameters()] == [False, False, True, True]
    assert not target.body.scale.requires_grad
    load("deep", target, state_of(learned(loose, 0, learning=True)))
    assert all(p.requires_grad for p in target.parameters())


# ---------------------------------------------------------------- optimizers that live on

OPTIMIZERS = {
    "SGD": lambda p, model: hat.optim.SGD(p, lr=0.1, momentum=0.9, model=model),
    "AdamW": lambda p, model: hat.optim.AdamW(p, lr=0.01, model=model),
    "guarded SGD": lambda p, model: hat.guard(torch.optim.SGD(p, lr=0.1, momentum=0.9), model),
    "guarded Adam": lambda p, model: hat.guard(torch.optim.Adam(p, lr=0.01), model),
    "guarded Adagrad": lambda p, model: hat.guard(torch.optim.Adagrad(p, lr=0.01), model),
    "guarded Adafactor": lambda p, model: hat.guard(torch.optim.Adafactor(p, lr=0.01), model),
}


def moves_all(model, optimizer):
    """A step moves every parameter of the present task of which something may move, and no locked element."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    answers = [model.eval()(inputs(model), task=task) for task in model.remembered]
    step(model, optimizer, seed=4)
    parameters = dict(model.named_parameters())
    pulled = {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().max() > 1e-4}
    still = [name for name in pulled if torch.equal(parameters[name], before[name])]
    blocks = model.blocks()
    assert not [name for name in still if blocks.get(parameters[name], True)]
    assert not torch.equal(model.head.weight, before[f"heads.{model.task}.weight"])
    for task, answer in zip(model.remembered, answers, strict=True):
        assert torch.equal(model.eval()(inputs(model), task=task), answer)


@pytest.mark.parametrize("place", ["direct", "deep"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["mlp", "norms"])
def test_an_optimizer_goes_on_after_a_load_that_grows(place, name, kind):
    big = learned(MODELS[kind], 1, learning=True)
    small = copy.deepcopy(big)
    hat.grow(big, 3)
    optimizer = OPTIMIZERS[name](small.task_parameters(), small)
    step(small, optimizer)
    load(place, small, state_of(big))
    same(big, small)
    moves_all(small, optimizer)
    draw_units(small, 4)
    small.end_task()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("tasks", [0, 1])
def test_an_optimizer_keeps_its_states_if_tensors_are_assigned(name, tasks):
    """The step after `assign=True` is that after a load without it."""
    results = []
    for assign in (False, True):
        model = learned(mlp, tasks, learning=True)
        optimizer = OPTIMIZERS[name](model.task_parameters(), model)
        step(model, optimizer)
        state, parameters = state_of(model), list(model.parameters())
        step(model, optimizer, seed=2)
        load("holder", model, state, assign=assign)
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        if assign:
            assert model.body.network.linear1.weight.data_ptr() == state["body.network.linear1.weight"].data_ptr()
        moves_all(model, optimizer)
        results.append(state_of(model))
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())


def test_an_optimizer_with_updates_in_the_backward_pass_goes_on():
    model = learned(mlp, 1, learning=True)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.1, in_backward=True)
    step(model, optimizer)
    model.load_state_dict(state_of(model), assign=True)
    before = model.body.network.linear2.weight.clone()
    step(model, optimizer)
    assert not torch.equal(model.body.network.linear2.weight, before)


def test_an_optimizer_follows_to_other_blocks():
    """A state of an earlier stage, in which less is locked."""
    early = state_of(learned(mlp, 1, learning=True))
    model = learned(mlp, 2)
    model.begin_task(4)
    optimizer = hat.optim.AdamW(model.task_parameters(), lr=0.01)
    step(model, optimizer)
    model.load_state_dict(early)
    assert (model.tasks, model.learning) == (1, True)
    optimizer.add_param_group({"params": list(model.head.parameters())})
    moves_all(model, optimizer)
    for parameter, blocks in model.blocks().items():
        shapes = [tuple(parameter[block.where].shape) for block in blocks]
        moment = optimizer.state[parameter]["exp_avg"]
        assert [tuple(part.shape) for part in (moment if isinstance(moment, list) else [moment])] == shapes


# ---------------------------------------------------------------- assign


@models
@pytest.mark.parametrize("place", ["direct", "deep"])
def test_a_state_is_assigned_to_a_model_on_the_meta_device(kind, place):
    source = learned(MODELS[kind], 2, learning=True)
    target = MODELS[kind]().to("meta")
    parameters = list(target.parameters())
    optimizer = hat.optim.SGD(target.body.parameters(), lr=0.1, momentum=0.9, model=target)
    assert load(place, target, state_of(source), assign=True) == ([], [])
    assert not [name for name, t in [*target.named_parameters(), *target.named_buffers()] if t.is_meta]
    same(source, target)
    assert all(a is b for a, b in zip(target.body.parameters(), parameters, strict=True))
    optimizer.add_param_group({"params": list(target.head.parameters())})
    for model in (source, target):
        own = optimizer if model is target else hat.optim.SGD(model.task_parameters(), lr=0.1, momentum=0.9)
        step(model, own)
        draw_units(model, 4)
        model.end_task()
    same(source, target)


@pytest.mark.parametrize("make", [mlp, loose, attention])
def test_a_network_that_was_made_on_the_meta_device(make):
    source = learned(make, 1, learning=True)
    with torch.device("meta"):
        target = make()
    target.load_state_dict(state_of(source), assign=True)
    same(source, target)
    for model in (source, target):
        draw_units(model, 4)
        model.end_task()
    same(source, target)


def test_parts_are_assigned_one_after_another():
    """As the files of a large model."""
    source, target = learned(norms, 2), norms().to("meta")
    state = state_of(source)
    for part in ("heads.", "body.gates.", "body.network.", "state."):
        shard = {name: value for name, value in state.items() if name.startswith(part)}
        if part == "heads.":
            shard = state | {n: v.to("meta") for n, v in state.items() if n != FACTS and not n.startswith(part)}
        target.load_state_dict(shard, strict=False, assign=True)
    same(source, target)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_assigned_tensors_bring_their_dtype_and_gates_stay_float32(dtype):
    source, target = learned(mlp, 1).to(dtype), learned(mlp, 1, seed=4)
    target.load_state_dict(state_of(source), assign=True)
    assert all(p.dtype == dtype for n, p in target.named_parameters() if not n.endswith("embedding"))
    assert all(gate.masks.dtype == torch.float32 for gate in target.gates.values())
    x = inputs(source).to(dtype)
    assert torch.equal(target.eval()(x, task=0), source.eval()(x, task=0))
    wrong = edit(".masks", lambda v: v.half())(state_of(source))
    target.load_state_dict(wrong)  # a copy casts
    before = picture(target)
    with pytest.raises(RuntimeError, match=r"masks: expected torch\.float32, got torch\.float16"):
        target.load_state_dict(wrong, assign=True)
    unchanged(target, before)


@pytest.mark.parametrize("place", ["direct", "deep"])
def test_a_state_that_was_assigned_once_is_copied_the_next_time(place):
    """Torch notes `assign` in the state itself."""
    state = PLACES[place][0](learned(mlp, 1)).state_dict()
    first, second = mlp(), mlp()
    PLACES[place][0](first).load_state_dict(state, assign=True)
    PLACES[place][0](second).load_state_dict(state)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


def test_tied_weights_stay_tied_if_tensors_are_assigned():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = hat.HATLinear(8, 8), hat.HATLinear(8, 8)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.other(self.one(x))

    model = hat.HATModel(Tied())
    model.load_state_dict(state_of(model), assign=True)
    assert model.body.one.weight is model.body.other.weight


def test_a_weight_that_cannot_be_assigned_is_told_by_name():
    target = mlp().to("meta")
    optimizer = hat.optim.SGD(target.body.parameters(), lr=0.1, in_backward=True, model=target)
    with pytest.raises(RuntimeError, match=r"weight: expected no optimizer that has claimed it.* after the load"):
        target.load_state_dict(state_of(mlp()), assign=True)
    assert optimizer.param_groups
    assert all(p.is_meta for p in target.parameters())


def test_a_model_on_the_meta_device_does_not_grow():
    with pytest.raises(
        RuntimeError,
        match="embedding: size mismatch, expected 12 units, got 15; a model on the meta device cannot grow",
    ):
        mlp().to("meta").load_state_dict(state_of(learned(mlp, 1, grow=3)), assign=True)


def test_names_are_those_of_a_state():
    model = learned(norms, 2, grow=2)
    assert {name for name, *_ in names(model)} | {FACTS} == model.state_dict().keys()
