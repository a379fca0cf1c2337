"""Stand-ins: a guarded torch optimizer holds only the parts of parameters that may move, and takes the same step."""

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F

import hat
from hat.optim.standins import StandIns, can_stand_in, parted, united
from hat.units.blocks import Block, cut

pytestmark = [
    pytest.mark.filterwarnings("ignore::hat.CapacityWarning"),
    pytest.mark.usefixtures("one_thread"),
]

X, Y = torch.randn(5, 6, generator=torch.Generator().manual_seed(7)), torch.arange(5) % 3

PARTS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, maximize=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.05),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.05),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.02, centered=True, momentum=0.5),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.02),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1, t0=1.0),
}


class Own(torch.optim.AdamW):
    """An optimizer of a user. The guard cannot know that it treats every element by itself."""


WHOLE = {
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "own": lambda p: Own(p, lr=0.05),
}


def fresh(dtype=torch.float32):
    torch.manual_seed(0)
    return hat.HATModel(hat.models.mlp(6, (9, 8), input_dropout=0.0, dropout=0.0, activation="tanh").to(dtype))


def draw_units(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.copy_(torch.randn(gate.units, generator=generator)[gate.origin])


def loss_of(model):
    return F.cross_entropy(model(X.to(model.head.weight.dtype)).float(), Y) + 0.75 * model.penalty()


def train(model, optimizer, steps=2):
    for step in range(steps):
        model.anneal(0.01 * step / steps)
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def next_task(model, optimizer, seed):
    draw_units(model, seed)
    model.end_task()
    torch.manual_seed(seed)
    model.begin_task(3)
    if optimizer is not None:
        optimizer.add_param_group({"params": list(model.head.parameters())})


def second_task(make, dtype=torch.float32):
    """(model, optimizer) in the middle of the second task. The optimizer was made in this task."""
    model = fresh(dtype)
    model.begin_task(3)
    train(model, hat.optim.SGD(model.task_parameters(), lr=0.1))
    next_task(model, None, 1)
    optimizer = hat.guard(make(list(model.task_parameters())), model)
    train(model, optimizer)
    return model, optimizer


def tensors(value):
    return value if isinstance(value, list) else [value]


def extending(parameter, state):
    """The states that extend over a parameter, by name."""
    return {
        n: v for n, v in state.items() if isinstance(v, list) or (torch.is_tensor(v) and v.dim() == parameter.dim())
    }


def blocks_of(model, parameter):
    return model.blocks().get(parameter, [Block()])


def holds(optimizer, model):
    """Whether the optimizer holds the parameters themselves, each once, and has states of nothing else."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    own = {id(p) for p in model.parameters()}
    assert len(held) == len({id(p) for p in held})
    assert all(id(p) in own for p in held)
    assert all(id(p) in own for p in optimizer.state)


# ---------------------------------------------------------------- the same step


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_is_the_step_of_the_whole_where_something_may_move(name, foreach):
    """The optimizer treats every element by itself, so it takes the same step on parts as on whole parameters."""
    model, _ = second_task(PARTS["SGD"])
    twin = copy.deepcopy(model)
    make = PARTS[name]
    guarded, plain = make(list(model.task_parameters())), make(list(twin.task_parameters()))
    for optimizer in (guarded, plain):
        for group in optimizer.param_groups:
            group["foreach"] = foreach
    hat.guard(guarded, model)
    for group in list(plain.param_groups):  # as a guard has it
        if group.get("weight_decay"):
            apart = [p for p in group["params"] if any(p is e for e in twin.embeddings)]
            group["params"] = [p for p in group["params"] if not any(p is e for e in twin.embeddings)]
            plain.add_param_group({**group, "params": apart, "weight_decay": 0.0})
    assert can_stand_in(guarded)
    for step in range(4):
        for p, q in zip(model.task_parameters(), twin.task_parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
            q.grad = p.grad.clone()
        guarded.step()
        plain.step()
        for p, q in zip(model.task_parameters(), twin.task_parameters(), strict=True):
            for part, expected in zip(cut(p, blocks_of(model, p)), cut(q, blocks_of(model, p)), strict=True):
                torch.testing.assert_close(part, expected, rtol=0, atol=2**-18)
    holds(guarded, model)


@pytest.mark.parametrize("name", PARTS)
def test_states_are_of_the_blocks_and_shrink(name):
    model, optimizer = second_task(PARTS[name])
    sizes = []
    for seed in (2, 3):
        holds(optimizer, model)
        sizes.append(0)
        for parameter, state in optimizer.state.items():
            shapes = [part.shape for part in cut(parameter, blocks_of(model, parameter))]
            for value in extending(parameter, state).values():
                assert [part.shape for part in tensors(value)] == shapes
                assert all(part.untyped_storage().nbytes() == part.nbytes for part in tensors(value))
                if parameter in model.blocks():
                    sizes[-1] += sum(part.numel() for part in tensors(value))
        head = list(model.head.parameters())
        assert all(p in optimizer.state for p in head)
        next_task(model, optimizer, seed)
        assert not any(p in optimizer.state for p in head)
        train(model, optimizer)
    assert sizes[1] < sizes[0]


def mark(model, optimizer):
    """Set every state that extends over a parameter to the values of the parameter."""
    for parameter, state in optimizer.state.items():
        views = (
            cut(parameter.detach(), blocks_of(model, parameter)) if can_stand_in(optimizer) else [parameter.detach()]
        )
        for value in extending(parameter, state).values():
            for part, view in zip(tensors(value), views, strict=True):
                part.copy_(view[tuple(slice(0, length) for length in part.shape)])


@pytest.mark.parametrize("name", [*PARTS, "fused AdamW", "own"])
def test_a_state_that_is_the_parameter_still_is_it_after_a_move(name):
    model, optimizer = second_task({**PARTS, **WHOLE}[name])
    for seed in (2, 3):
        draw_units(model, seed)
        mark(model, optimizer)
        steps = {p: state.get("step") for p, state in optimizer.state.items()}
        before = [gate.origin.clone() for gate in model.gates.values()]
        model.end_task()
        assert not all(torch.equal(gate.origin, old) for gate, old in zip(model.gates.values(), before, strict=True))
        assert set(model.embeddings) <= set(optimizer.state)
        for parameter, state in optimizer.state.items():
            parts = cut(parameter, blocks_of(model, parameter)) if can_stand_in(optimizer) else [parameter]
            for value in extending(parameter, state).values():
                assert all(torch.equal(a, b) for a, b in zip(tensors(value), parts, strict=True))
            if parts:
                assert state.get("step") == steps[parameter]
        model.begin_task(3)
        optimizer.add_param_group({"params": list(model.head.parameters())})
        optimizer.state.clear()  # a mean of squares that is negative would be a NaN
        train(model, optimizer)


def test_rows_and_columns_of_adafactor_move():
    model, optimizer = second_task(WHOLE["Adafactor"])
    weight = model.body.network.linear2.weight
    draw_units(model, 2)
    state = optimizer.state[weight]
    shapes = {value.shape for value in extending(weight, state).values()}
    assert shapes == {(8, 1), (1, 9)}
    before = {name: value.clone() for name, value in extending(weight, state).items()}
    rows, columns = (model.body.network.linear2.gate, model.body.network.linear1.gate)
    old = [gate.origin.clone() for gate in (rows, columns)]
    model.end_task()
    for name, value in extending(weight, optimizer.state[weight]).items():
        gate, origin, dim = (rows, old[0], 0) if len(value) > 1 else (columns, old[1], 1)
        places = torch.stack([(origin == unit).nonzero()[0, 0] for unit in gate.origin])
        assert torch.equal(value, before[name].index_select(dim, places))


@pytest.mark.parametrize("name", [*PARTS, *WHOLE])
def test_nothing_is_forgotten_and_something_is_learned(name):
    model, optimizer = second_task({**PARTS, **WHOLE}[name])
    probes = hat.Probes()
    probes.add(model, 0, X)
    for seed in (2, 3):
        task = model.task
        next_task(model, optimizer, seed)
        probes.add(model, task, X)
        before = model.body.network.linear2.weight.detach().clone()
        train(model, optimizer)
        assert not torch.equal(model.body.network.linear2.weight, before)
        assert hat.verify(model, probes).exact, str(hat.verify(model, probes))
        holds(optimizer, model)


# ---------------------------------------------------------------- saving and loading


# NAdam and ASGD are left out in bfloat16, because torch casts their 0-d factors to bfloat16 when it loads them.
ROUND_TRIPS = [(name, torch.float32) for name in [*PARTS, "Adafactor"]]
ROUND_TRIPS += [(name, torch.bfloat16) for name in PARTS if name not in ("NAdam", "ASGD")]


@pytest.mark.parametrize(("name", "dtype"), ROUND_TRIPS)
def test_state_dict_in_the_middle_of_the_second_task(name, dtype):
    make = {**PARTS, **WHOLE}[name]
    model, optimizer = second_task(make, dtype)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = fresh(dtype)
    other.load_state_dict(saved["model"])
    resumed = hat.guard(make(list(other.task_parameters())), other)
    resumed.load_state_dict(saved["optimizer"])
    for each, own in ((model, optimizer), (other, resumed)):
        train(each, own)
        next_task(each, own, 3)
        train(each, own)
    for (parameter, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), parameter


def test_a_state_of_other_blocks_is_refused_and_leaves_the_optimizer_usable():
    model, optimizer = second_task(PARTS["SGD"])
    wrong = copy.deepcopy(optimizer.state_dict())
    next_task(model, None, 2)
    optimizer = hat.guard(PARTS["SGD"](list(model.task_parameters())), model)
    optimizer.load_state_dict(wrong)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=r"state: expected tensors of .* the parts that may move, got"):
        train(model, optimizer, 1)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    holds(optimizer, model)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.task_parameters()
    }
    optimizer.state.clear()
    train(model, optimizer)


def test_an_optimizer_whose_state_does_not_fit_does_not_stop_a_task_from_ending():
    """Such a state exists if the optimizer is still in use when an earlier checkpoint of the model is loaded."""
    model, old = second_task(PARTS["SGD"])
    earlier = copy.deepcopy(model.state_dict())
    next_task(model, old, 2)
    train(model, old)
    model.load_state_dict(earlier)
    optimizer = hat.guard(PARTS["SGD"](list(model.task_parameters())), model)
    train(model, optimizer)
    next_task(model, optimizer, 3)
    assert (model.tasks, model.learning) == (2, True)
    train(model, optimizer)


def test_an_optimizer_of_a_later_stage_does_not_stop_a_task_from_ending():
    """The parts of the state are larger after the load, and smaller when the task ends."""
    model, optimizer = second_task(PARTS["SGD"])
    earlier = copy.deepcopy(fresh().state_dict())
    next_task(model, optimizer, 2)
    train(model, optimizer)
    model.load_state_dict(earlier)
    model.begin_task(3)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.copy_(torch.linspace(1, -1, gate.units))  # no unit moves
    model.end_task()
    assert (model.tasks, model.learning) == (1, False)


# ---------------------------------------------------------------- closures


def closure_of(model, optimizer, calls=None):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        if calls is not None:
            calls.append(model.body.network.linear2.weight.grad.clone())
        return loss

    return closure


@pytest.mark.parametrize("name", [*PARTS, *WHOLE])
def test_a_closure_is_the_step_without(name):
    """A closure clears and fills the gradients of the whole parameters, not of their stand-ins."""
    model, optimizer = second_task({**PARTS, **WHOLE}[name])
    other, own = copy.deepcopy((model, optimizer))
    for progress in (0.0, 0.005, 0.01):
        for each in (model, other):
            each.anneal(progress)
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        assert own.step(closure_of(other, own)) == loss
    for (parameter, a), b in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b[1]), parameter
    holds(own, other)


def test_a_closure_that_looks_at_the_parameters():
    """Inside a closure, the optimizer holds the whole parameters, as outside of a step."""
    model, optimizer = second_task(PARTS["Adam"])
    expected = [id(p) for group in optimizer.param_groups for p in group["params"]]
    seen = []

    def closure():
        seen.extend(id(p) for group in optimizer.param_groups for p in group["params"])
        return closure_of(model, optimizer)()

    optimizer.step(closure)
    assert seen == expected


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adafactor", "LBFGS"])
def test_an_error_in_a_closure_leaves_the_optimizer_usable(name, error):
    makers = {**PARTS, **WHOLE, "LBFGS": lambda p: torch.optim.LBFGS(p, max_iter=2)}
    model, optimizer = second_task(PARTS["SGD"])
    optimizer = hat.guard(makers[name](list(model.task_parameters())), model)
    expected = [id(p) for group in optimizer.param_groups for p in group["params"]]
    optimizer.step(closure_of(model, optimizer))
    state = copy.deepcopy(optimizer.state_dict()) if name != "LBFGS" else None

    def closure():
        raise error

    before = [p.detach().clone() for p in model.body.parameters()]
    with pytest.raises(error):
        optimizer.step(closure)
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == expected
    assert all(torch.equal(p, old) for p, old in zip(model.body.parameters(), before, strict=True))
    if state is not None:
        for key, own in optimizer.state_dict()["state"].items():
            for kind, value in own.items():
                pairs = zip(tensors(value), tensors(state["state"][key][kind]), strict=True)
                assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)
    optimizer.step(closure_of(model, optimizer))
    assert not all(torch.equal(p, old) for p, old in zip(model.body.parameters(), before, strict=True))


def test_a_warning_that_is_an_error_leaves_the_optimizer_usable():
    model, optimizer = second_task(PARTS["Adam"])
    for parameter in model.task_parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error", hat.NonFiniteWarning)
        with pytest.raises(hat.NonFiniteWarning):
            optimizer.step()
    holds(optimizer, model)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.task_parameters())
    train(model, optimizer)


# ---------------------------------------------------------------- in the middle of a step


DECAYING = {
    "SGD": PARTS["SGD"],
    "Adam": PARTS["Adam"],
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.5, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05, weight_decay=0.5),
    "Muon": lambda p: torch.optim.Muon([q for q in p if q.dim() == 2], weight_decay=0.5),
    "own": lambda p: Own(p, lr=0.05, weight_decay=0.5),
}
if not hasattr(torch.optim, "Muon"):
    del DECAYING["Muon"]


def unordered_second_task(make):
    """As `second_task`, but locked units lie among free ones."""
    torch.manual_seed(0)
    body = hat.models.mlp(6, (9, 8), input_dropout=0.0, dropout=0.0)
    model = hat.HATModel(body, config=hat.GateConfig(locked_first=False))
    model.begin_task(3)
    next_task(model, None, 1)
    return model, hat.guard(make(list(model.task_parameters())), model)


def after_the_update(optimizer, what):
    """Call `what` in every step when the optimizer has moved its parameters, and before the guard looks at them."""
    handle = optimizer.register_step_post_hook(lambda *_: what())
    optimizer._optimizer_step_post_hooks.move_to_end(handle.id, last=False)
    return handle


@pytest.mark.parametrize("name", [name for name in DECAYING if name != "own"])
def test_finished_tasks_answer_in_the_middle_of_a_step(name):
    model, optimizer = unordered_second_task(DECAYING[name])
    with torch.no_grad():
        expected = model(X, task=0)
    answered = []

    def answer():
        with torch.no_grad():
            answered.append(model(X, task=0))

    after_the_update(optimizer, answer)
    before = [p.clone() for p in model.body.parameters()]
    train(model, optimizer)
    assert len(answered) == 2
    assert all(torch.equal(logits, expected) for logits in answered)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.body.parameters(), strict=True))


@pytest.mark.parametrize("name", DECAYING)
def test_a_step_that_ends_with_an_error_moves_nothing_that_is_locked(name):
    model, optimizer = unordered_second_task(DECAYING[name])
    train(model, optimizer)
    with torch.no_grad():
        expected = model(X, task=0)

    def interrupt():
        raise KeyboardInterrupt

    handle = after_the_update(optimizer, interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(model, optimizer)
    handle.remove()
    assert torch.equal(model(X, task=0), expected)
    holds(optimizer, model)
    train(model, optimizer)
    assert torch.equal(model(X, task=0), expected)


@pytest.mark.parametrize("name", DECAYING)
def test_a_pickled_optimizer_is_guarded(name):
    model, optimizer = unordered_second_task(DECAYING[name])
    train(model, optimizer)
    file = io.BytesIO()
    torch.save((model, optimizer), file)
    file.seek(0)
    other, own = torch.load(file, weights_only=False)
    holds(own, other)
    for each, its in ((model, optimizer), (other, own)):
        train(each, its)
    for (parameter, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), parameter


def test_an_optimizer_that_holds_nothing_any_more_is_copied():
    model = fresh()
    model.begin_task(3)
    optimizer = hat.guard(torch.optim.SGD(model.head.parameters(), lr=0.1), model)
    model.end_task()
    other, own = copy.deepcopy((model, optimizer))
    other.begin_task(3)
    own.add_param_group({"params": list(other.head.parameters())})
    train(other, own)


def test_a_scheduler_sees_the_steps():
    model, optimizer = unordered_second_task(PARTS["SGD"])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


# ---------------------------------------------------------------- LBFGS


def test_lbfgs_goes_on_when_the_network_grows():
    model, _ = second_task(PARTS["SGD"])
    optimizer = hat.guard(torch.optim.LBFGS(list(model.body.parameters()), lr=0.1, max_iter=4), model)
    optimizer.step(closure_of(model, optimizer))
    hat.grow(model, 2)
    model.anneal(0.01)
    first = optimizer.step(closure_of(model, optimizer))
    assert optimizer.step(closure_of(model, optimizer)) < first


def test_lbfgs_goes_on_when_units_move():
    """The history of LBFGS cannot follow the units, so LBFGS starts a new one. No task is forgotten."""
    model, _ = second_task(PARTS["SGD"])
    optimizer = hat.guard(torch.optim.LBFGS(list(model.body.parameters()), lr=0.1, max_iter=4), model)
    probes = hat.Probes()
    probes.add(model, 0, X)
    for seed in (2, 3):
        model.anneal(0.01)
        first = optimizer.step(closure_of(model, optimizer))
        for _ in range(3):
            last = optimizer.step(closure_of(model, optimizer))
        assert last < first
        assert optimizer.state
        task = model.task
        next_task(model, None, seed)
        assert not optimizer.state
        probes.add(model, task, X)
    assert hat.verify(model, probes).exact


def test_lbfgs_keeps_its_history_when_nothing_moves():
    model, _ = second_task(PARTS["SGD"])
    optimizer = hat.guard(torch.optim.LBFGS(list(model.body.parameters()), lr=0.1, max_iter=4), model)
    optimizer.step(closure_of(model, optimizer))
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.copy_(gate.used - 0.5)
    model.end_task()
    assert optimizer.state


# ---------------------------------------------------------------- the parts


@pytest.mark.parametrize("name", PARTS)
def test_known_optimizers_may_be_shown_parts(name):
    assert can_stand_in(PARTS[name]([torch.nn.Parameter(torch.ones(2))]))


@pytest.mark.parametrize(
    "make",
    [
        *WHOLE.values(),
        lambda p: torch.optim.LBFGS(p),
        lambda p: torch.optim.Adam(p, differentiable=True),
        lambda p: torch.optim.SGD([{"params": p, "fused": True}], lr=0.1),
    ],
)
def test_others_may_not(make):
    assert not can_stand_in(make([torch.nn.Parameter(torch.ones(2, 2))]))


def test_during_a_step_it_holds_the_parts_and_their_gradients():
    weight, bias = torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.SGD([weight, bias], lr=0.1, momentum=0.9)
    weight.grad, bias.grad = torch.ones(3, 2), torch.ones(3)
    optimizer.step()
    blocks = {weight: [Block((slice(1, None),)), Block((slice(0, 1), slice(1, None)))], bias: ()}
    weight.grad, bias.grad = torch.randn(3, 2), torch.randn(3)
    whole = optimizer.state[weight]["momentum_buffer"].clone()
    shown = StandIns(optimizer, blocks)
    below, beside = optimizer.param_groups[0]["params"]
    assert (below.shape, beside.shape) == ((2, 2), (1, 1))
    assert torch.equal(below.grad, weight.grad[1:])
    assert torch.equal(optimizer.state[beside]["momentum_buffer"], whole[:1, 1:])
    with torch.no_grad():
        below.fill_(7.0)
    with shown.away():
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(weight), id(bias)]
        weight.grad = None
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(below), id(beside)]
    assert below.grad is None
    shown.leave()
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(weight), id(bias)]
    assert weight[1:].tolist() == [[7.0, 7.0]] * 2
    assert [part.shape for part in optimizer.state[weight]["momentum_buffer"]] == [(2, 2), (1, 1)]
    assert set(optimizer.state) == {weight}


def test_united_undoes_parted():
    parameter = torch.randn(3, 2)
    blocks = [Block((slice(1, None),)), Block((slice(0, 1), slice(1, None)))]
    parts = cut(parameter, blocks)
    state = {"step": torch.tensor(3.0), "average": [part.clone() for part in parts], "eta": 0.5, "name": "x"}
    again = united(parted(state, parameter, blocks), parts)
    assert (again["step"], again["eta"], again["name"]) == (3.0, 0.5, "x")
    assert all(torch.equal(a, b) for a, b in zip(again["average"], parts, strict=True))
    counters = [own["step"] for own in parted(state, parameter, blocks)]
    assert counters[0].data_ptr() != counters[1].data_ptr()  # each part counts its own steps


def test_strangers_are_left_alone():
    """The guard does not touch parameters that belong to no model, nor their states."""
    model, _ = second_task(PARTS["SGD"])
    stranger = torch.nn.Parameter(torch.randn(4))
    optimizer = hat.guard(PARTS["Adam"]([*model.task_parameters(), stranger]), model)
    stranger.grad = torch.ones(4)
    optimizer.step()
    kept = {name: value.clone() for name, value in optimizer.state[stranger].items()}
    draw_units(model, 2)
    model.end_task()
    assert all(torch.equal(value, kept[name]) for name, value in optimizer.state[stranger].items())


@pytest.mark.parametrize("make", [*PARTS.values(), *WHOLE.values()], ids=[*PARTS, *WHOLE])
def test_a_parameter_that_a_user_freezes_for_a_while(make):
    """The parameter stays in the optimizer with its state, and moves again when the user unfreezes it."""
    model, optimizer = second_task(make)
    weight = model.body.network.linear2.weight
    before = weight.detach().clone()
    states = {n: [p.clone() for p in tensors(v)] for n, v in extending(weight, optimizer.state[weight]).items()}
    weight.requires_grad_(False)
    train(model, optimizer)
    assert torch.equal(weight, before)
    weight.requires_grad_(True)
    assert states
    for name, parts in states.items():
        kept = tensors(optimizer.state[weight][name])
        assert all(torch.equal(a, b) for a, b in zip(kept, parts, strict=True))
    train(model, optimizer)
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("make", [*PARTS.values(), *WHOLE.values()], ids=[*PARTS, *WHOLE])
def test_a_parameter_that_a_user_freezes_while_a_task_ends(make):
    """The optimizer drops only parameters that the model has frozen. The next task may train all others."""
    model, optimizer = second_task(make)
    weight, stranger = model.body.network.linear2.weight, torch.nn.Parameter(torch.zeros(2, 3))
    optimizer.add_param_group({"params": [stranger]})
    for parameter in (weight, stranger):
        parameter.requires_grad_(False)
    next_task(model, optimizer, 2)
    for parameter in (weight, stranger):
        parameter.requires_grad_(True)
    before = weight.detach().clone()
    optimizer.zero_grad()
    loss_of(model).backward()
    stranger.grad = torch.ones_like(stranger)
    optimizer.step()
    assert not torch.equal(weight, before)
    assert stranger.any()
