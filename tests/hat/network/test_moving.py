"""Units change places when a task ends: the same function, the locked ones first, and nothing else touched."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

import hat
from hat.conversion.api import convert_body
from hat.network.movable import movable, segments
from hat.network.moving import expanded, order
from hat.units.change import Change, applied
from hat.units.locks import locks
from tests.hat.nets import Branches, Residual, convnets, dense, mlps, networks, outputs_of, shared, use, wired

# Tasks that use no unit and full networks are part of what is tested here, and so are loose parameters.
pytestmark = [
    pytest.mark.filterwarnings("ignore::hat.CapacityWarning"),
    pytest.mark.filterwarnings("ignore::hat.UnlockedWarning"),
    pytest.mark.usefixtures("one_thread"),
]
SLOW_IS_FINE = settings(
    deadline=None, max_examples=16, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
EPS = torch.finfo(torch.float32).eps
BATCH = 4

kinds = st.sampled_from(["drawn", "drawn", "drawn", "none", "all", "same"])
plans = st.lists(kinds, min_size=2, max_size=4)


def segment(gate):
    """The length of the segments in which units may change places."""
    (length,) = {len(places) for places in segments(gate)}
    return length


def model_of(network, seed, *, by_hand=True, dtype=torch.float64, **config):
    """A model whose units may move, also where its layers are wired by hand, unless not `by_hand`."""
    body, _, features = network
    torch.manual_seed(seed)
    for parameter in body.parameters():  # hypothesis builds the network under its own seed
        nn.init.normal_(parameter)
    outputs = outputs_of(body) if by_hand else None
    if outputs is not None:
        for module in body.modules():
            if isinstance(module, hat.Gate):
                module.complete = True
    return hat.HATModel(body, features=features, outputs=outputs, config=hat.GateConfig(**config)).to(dtype)


def draw_units(model, kind, seed):
    """Change the embeddings, as training might; each unit gets the same change wherever it has moved to."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in model.gates.values():
            values = torch.randn(gate.units, generator=generator)
            values = {"none": -values.abs() - 0.1, "all": values.abs() + 0.1}.get(kind, values)
            gate.embedding.copy_(gate.masks[-1] - 0.5 if kind == "same" and gate.tasks else values[gate.origin])


def train(model, x, steps=2, make=None):
    optimizer = (make or (lambda p: hat.optim.SGD(p, lr=0.1, momentum=0.9)))(model.task_parameters())
    for step in range(steps):
        model.train().anneal(step / steps)
        optimizer.zero_grad()
        (F.cross_entropy(model(x), torch.arange(len(x)) % 2) + 0.75 * model.penalty()).backward()
        optimizer.step()


def answers(model, x):
    """The logits of every task, the current one included, in evaluation mode."""
    with torch.no_grad():
        return [model.eval()(x, task=task) for task in range(len(model.heads))]


def close(now, before):
    """Sums in another order. In float64, where that is far below the float32 rounding which is allowed."""
    assert (now - before).abs().max() <= EPS * (1 + before.abs().max())


def same_bits(now, before):
    """Equal, also where a drawn network has learned until its logits are NaN."""
    return bool(((now == before) | (now.isnan() & before.isnan())).all())


def check(model, x, plan=("drawn", "drawn", "drawn"), seed=0):
    """Learn tasks that use these units: ending one changes no function, and no bit of what was learned before it."""
    remembered = []
    for task, kind in enumerate(plan):
        model.begin_task(2)
        train(model, x)
        draw_units(model, kind, seed + task)
        before = answers(model, x)
        model.end_task()
        after = answers(model, x)
        for now, then in zip(after, before, strict=True):
            close(now, then)
        remembered.append(after[-1])
        if model.config.mask_mode == "binary":
            assert all(same_bits(now, then) for now, then in zip(after, remembered, strict=True))


def inputs(shape, dtype=torch.float64):
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(11), dtype=torch.float64).to(dtype)


# ---------------------------------------------------------------- every network


@SLOW_IS_FINE
@given(network=networks, plan=plans, seed=st.integers(0, 2**16))
def test_the_function_stays(network, plan, seed):
    check(model_of(network, seed), inputs(network[1]), plan, seed)


@SLOW_IS_FINE
@given(network=networks, plan=plans, seed=st.integers(0, 2**16))
def test_the_function_of_soft_masks_stays(network, plan, seed):
    check(model_of(network, seed, mask_mode="published"), inputs(network[1]), plan, seed)


@SLOW_IS_FINE
@given(network=networks, plan=plans, seed=st.integers(0, 2**16))
def test_no_bit_of_an_earlier_task_changes_in_float32(network, plan, seed):
    model, x, remembered = model_of(network, seed, dtype=torch.float32), inputs(network[1], torch.float32), []
    for task, kind in enumerate(plan):
        model.begin_task(2)
        train(model, x)
        draw_units(model, kind, seed + task)
        model.end_task()
        after = answers(model, x)
        remembered.append(after[-1])
        assert all(same_bits(now, then) for now, then in zip(after, remembered, strict=True))


@SLOW_IS_FINE
@given(network=networks, plan=plans, seed=st.integers(0, 2**16))
def test_used_units_come_first(network, plan, seed):
    """At the front of the axis, or of every group of a grouped convolution."""
    model = model_of(network, seed)
    gates = set(movable(model))
    assert gates == {gate for gate in model.gates.values() if segment(gate) > 1}
    for task, kind in enumerate(plan):
        model.begin_task(2)
        draw_units(model, kind, seed + task)
        model.end_task()
        for gate in gates:
            for part in gate.used.split(segment(gate)):
                assert torch.equal(part, part.sort(descending=True).values)
            if segment(gate) == gate.units:
                assert gate.locked == gate.used.sum()
                assert gate.in_order


@SLOW_IS_FINE
@given(network=networks, plan=plans, seed=st.integers(0, 2**16))
def test_a_used_unit_keeps_its_place(network, plan, seed):
    model = model_of(network, seed)
    for task, kind in enumerate(plan):
        model.begin_task(2)
        draw_units(model, kind, seed + task)
        before = {gate: (gate.used > 0, gate.origin.clone()) for gate in model.gates.values()}
        model.end_task()
        for gate, (used, origin) in before.items():
            assert torch.equal(gate.origin[used], origin[used])


def in_order_of(model, plain):
    """Every parameter of `plain`, whose units never moved, with its units where `model` has them."""
    twins = dict(zip(model.gates.values(), plain.gates.values(), strict=True))
    modules = dict(zip(model.modules(), plain.modules(), strict=True))
    found = {}
    for gate in twins:
        for module, name, dim, repeat, *_ in gate.members:
            parameter = getattr(module, name)
            if parameter is None or (parameter, dim) in found:
                continue
            groups = getattr(module, "groups", 1) if name == "weight" else 1
            values = found.get(parameter, dense(getattr(modules[module], name).detach(), groups))
            index = (gate.origin[:, None] * repeat + torch.arange(repeat)).flatten()
            found[parameter] = values.index_select(dim, index)
            found[parameter, dim] = None
            found[parameter, "groups"] = groups
    return {p: (values, found[p, "groups"]) for p, values in found.items() if isinstance(p, torch.Tensor)}


@SLOW_IS_FINE
@given(network=networks, plan=plans, seed=st.integers(0, 2**16))
def test_origin_tells_where_every_unit_came_from(network, plan, seed):
    """Without training, weights and masks have the same bits as those of a copy that moves no unit."""
    model = model_of(network, seed)
    plain = copy.deepcopy(model)
    plain.state.config = hat.GateConfig(locked_first=False)
    for task, kind in enumerate(plan):
        for each in (model, plain):
            torch.manual_seed(seed + task)
            each.begin_task(3)
            draw_units(each, kind, seed + task)
            each.end_task()
    for gate, twin in zip(model.gates.values(), plain.gates.values(), strict=True):
        assert torch.equal(gate.origin.sort().values, torch.arange(gate.units))
        assert torch.equal(twin.origin, torch.arange(gate.units))
        assert torch.equal(gate.masks, twin.masks[:, gate.origin])
        assert torch.equal(gate.embedding, twin.embedding[gate.origin])
    for parameter, (values, groups) in in_order_of(model, plain).items():
        assert torch.equal(dense(parameter, groups), values)


@SLOW_IS_FINE
@given(network=networks, seed=st.integers(0, 2**16))
def test_gradients_move_along(network, seed):
    model, x = model_of(network, seed), inputs(network[1])
    model.begin_task(2)
    draw_units(model, "drawn", seed)
    model.anneal(0.5)
    torch.manual_seed(3)
    model(x).sum().backward()
    plain = copy.deepcopy(model)
    for p, twin in zip(model.parameters(), plain.parameters(), strict=True):
        twin.data = torch.zeros_like(p) if p.grad is None else p.grad.clone()
    draw_units(model, "drawn", seed)
    model.end_task()
    for parameter, (values, groups) in in_order_of(model, plain).items():
        assert parameter.grad is None or torch.equal(dense(parameter.grad, groups), values)
    for gate, twin in zip(model.gates.values(), plain.gates.values(), strict=True):
        assert torch.equal(gate.embedding.grad, twin.embedding[gate.origin])


@SLOW_IS_FINE
@given(network=shared(), seed=st.integers(0, 2**16))
def test_what_is_wired_by_hand_stays_where_nobody_says_that_it_is_complete(network, seed):
    model = model_of(network, seed, by_hand=False)
    check(model, inputs(network[1]), seed=seed)
    assert not movable(model)
    assert all(torch.equal(gate.origin, torch.arange(gate.units)) for gate in model.gates.values())


@pytest.mark.parametrize("features", [True, False])
def test_complete_gates_need_a_model_that_knows_its_outputs(features):
    body = Residual(4, 6, [5], activation="relu", bias=True)
    for gate in (body.stem.gate, body.up[0].gate):
        gate.complete = True
    model = hat.HATModel(body, features=6, outputs=body.stem.gate if features else None)
    assert set(movable(model)) == ({body.stem.gate, body.up[0].gate} if features else set())


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_a_task_begins_with_the_same_draws_wherever_a_unit_is(init):
    """Embeddings and heads: with and without moves, a run differs only in the order of its sums."""
    models = []
    for locked_first in (True, False):
        torch.manual_seed(0)
        config = hat.GateConfig(locked_first=locked_first, init=init)
        model = hat.HATModel(wired(hat.HATConv1d(2, 6, 1), nn.Flatten()), features=18, config=config)
        model.begin_task(3)
        with torch.no_grad():
            model.embeddings[0].copy_(torch.tensor([-1.0, 1, -1, -1, 1, -1]))
        model.end_task()
        torch.manual_seed(1)
        model.begin_task(3)
        models.append(model)
    moved, plain = models
    (gate,), (twin,) = moved.gates.values(), plain.gates.values()
    assert not torch.equal(gate.origin, twin.origin)
    assert torch.equal(gate.embedding, twin.embedding[gate.origin])
    assert torch.equal(moved.head.bias, plain.head.bias)
    assert torch.equal(moved.head.weight, plain.head.weight[:, expanded(gate.origin, 3)])


# ---------------------------------------------------------------- checkpoints


def learned(tasks, **config):
    torch.manual_seed(0)
    body = hat.models.alexnet((2, 16, 16), channels=(6, 7, 8), hidden=(11, 9), dropout=[0.0] * 5)
    model = hat.HATModel(body, config=hat.GateConfig(**config)).double()
    for task in range(tasks):
        model.begin_task(2)
        train(model, inputs((2, 16, 16)))
        draw_units(model, "drawn", task)
        model.end_task()
    return model


def test_a_state_from_before_a_move_answers_as_it_did():
    """The next task is then learned as if no unit had moved."""
    model, x = learned(1), inputs((2, 16, 16))
    state, before = copy.deepcopy(model.state_dict()), answers(model, x)
    ended = []
    for _ in range(2):
        torch.manual_seed(1)
        model.begin_task(2)
        train(model, x)
        draw_units(model, "drawn", 7)
        model.end_task()
        ended.append((answers(model, x), copy.deepcopy(model.state_dict())))
        model.load_state_dict(state)
        assert all(torch.equal(now, then) for now, then in zip(answers(model, x), before, strict=True))
    (first, one), (second, other) = ended
    assert all(torch.equal(now, then) for now, then in zip(first, second, strict=True))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_state_in_the_middle_of_a_task_goes_on_in_another_model():
    model, x = learned(1), inputs((2, 16, 16))
    model.begin_task(2)
    train(model, x)
    other = learned(2)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    for each in (model, other):
        torch.manual_seed(2)
        train(each, x)
        draw_units(each, "drawn", 9)
        each.end_task()
    assert all(torch.equal(a, b) for a, b in zip(answers(model, x), answers(other, x), strict=True))
    for gate, twin in zip(model.gates.values(), other.gates.values(), strict=True):
        assert torch.equal(gate.origin, twin.origin)


def test_a_state_of_a_model_that_moves_no_unit():
    """Every unit is where it began, whatever the model that loads the state has done before."""
    old, model, x = learned(2, locked_first=False), learned(1), inputs((2, 16, 16))
    before = answers(old, x)
    model.load_state_dict(old.state_dict())
    assert all(torch.equal(now, then) for now, then in zip(answers(model, x), before, strict=True))
    assert all(torch.equal(gate.origin, torch.arange(gate.units)) for gate in model.gates.values())
    used = [gate.used.clone() for gate in model.gates.values()]
    model.begin_task(2)
    train(model, x)
    draw_units(model, "drawn", 5)
    model.end_task()
    assert all(torch.equal(now, then) for now, then in zip(answers(model, x)[:2], before, strict=True))
    for gate, kept in zip(model.gates.values(), used, strict=True):
        assert torch.equal(gate.origin[kept == 1], torch.arange(gate.units)[kept == 1])


@pytest.mark.parametrize("missing", ["masks", "origin", "reserved"])
def test_a_state_without_a_buffer_of_a_gate_is_refused(missing):
    model = learned(1)
    state = {name: value for name, value in model.state_dict().items() if not name.endswith(f"gates.conv1.{missing}")}
    before = answers(model, inputs((2, 16, 16)))
    with pytest.raises(RuntimeError, match=rf"Missing key.*gates\.conv1\.{missing}"):
        model.load_state_dict(state)
    assert torch.equal(answers(model, inputs((2, 16, 16)))[0], before[0])


def test_scattered_units_keep_their_places_and_new_ones_fill_the_first_left():
    """A model that moves no unit leaves used units scattered."""
    models = []
    for locked_first in (False, True):
        body = wired(hat.HATLinear(3, 8, activation="tanh"))
        models.append(hat.HATModel(body, config=hat.GateConfig(locked_first=locked_first)).double())
    old, model = models
    x, gate = inputs((3,)), model.body[0].gate
    old.begin_task(2)
    with torch.no_grad():
        old.embeddings[0].copy_(torch.tensor([-1.0, -1, 1, -1, -1, 1, -1, -1]))
    old.end_task()
    model.load_state_dict(old.state_dict())
    assert (gate.locked, gate.in_order) == (0, False)
    model.begin_task(2)
    train(model, x)
    with torch.no_grad():
        gate.embedding.copy_(torch.tensor([-1.0, -1, 1, -1, 1, -1, 1, 1]))
    before = answers(model, x)
    model.end_task()
    assert gate.origin.tolist() == [4, 6, 2, 7, 0, 5, 1, 3]
    assert gate.masks.tolist() == [[0, 0, 1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    assert (gate.locked, gate.in_order) == (4, False)
    assert torch.equal(answers(model, x)[0], answers(old, x)[0])
    close(answers(model, x)[1], before[1])


def test_copies_move_by_themselves():
    model, x = learned(1), inputs((2, 16, 16))
    before = answers(model, x)
    copied = copy.deepcopy(model)
    copied.begin_task(2)
    draw_units(copied, "all", 3)
    assert set(movable(copied)) == set(copied.gates.values())
    copied.end_task()
    for each in (model, copied):
        assert torch.equal(answers(each, x)[0], before[0])
    assert model.tasks == 1


# ---------------------------------------------------------------- the parts


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_move_is_what_it_says(groups):
    places = torch.stack([torch.randperm(4) for _ in range(groups)])
    values = torch.randn(6, 4, 2)
    got = applied(values, [Change.of_order(1, places)])
    for row in range(6):
        for column in range(4):
            assert torch.equal(got[row, column], values[row, places[row * groups // 6, column]])
    rows = torch.randperm(6)
    assert torch.equal(applied(values, [Change.of_order(0, rows[None])]), values[rows])


def test_a_state_that_does_not_extend_along_a_dimension_stays():
    """Adafactor, for example, keeps one number for each row."""
    values = torch.randn(6, 1)
    assert torch.equal(applied(values, [Change.of_order(1, torch.randperm(4)[None])]), values)


def test_expanded():
    assert expanded(torch.tensor([2, 0, 1]), 2).tolist() == [4, 5, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("stay", "mask", "expected"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 0], None),
        ([0, 0, 0, 0], [1, 1, 0, 0], None),
        ([1, 1, 1, 1], [1, 0, 1, 0], None),
        ([0, 0, 0, 0], [0, 1, 0, 1], [1, 3, 0, 2]),
        ([1, 0, 0, 0], [0, 0, 1, 0], [0, 2, 1, 3]),
        ([1, 0, 0, 0], [1, 0, 0, 1], [0, 3, 1, 2]),
        ([0, 0, 1, 0], [0, 0, 0, 1], [3, 0, 2, 1]),
    ],
)
def test_order(stay, mask, expected):
    gate = hat.Gate(4)
    use(gate, [max(pair) for pair in zip(stay, mask, strict=True)])
    found = order(gate, torch.tensor(stay, dtype=torch.bool))
    assert found is None if expected is None else found.tolist() == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([(2, 6, 1)], [6]),
        ([(2, 6, 2)], [3]),
        ([(2, 6, 1), (6, 4, 2)], [3, 2]),
        ([(2, 12, 2), (12, 8, 4)], [3, 2]),
        ([(2, 6, 1), (6, 6, 6)], [1, 1]),
        ([(2, 6, 1), (6, 9, 3), (9, 4, 1)], [2, 3, 4]),
    ],
)
def test_only_units_of_one_group_change_places(groups, expected):
    convs = [hat.HATConv1d(a, b, 1, groups=g, activation="tanh") for a, b, g in groups]
    body = wired(*convs, nn.Flatten())
    assert [segment(conv.gate) for conv in convs] == expected
    check(hat.HATModel(body, features=convs[-1].gate.units * 3).double(), inputs((2, 3)))


def test_a_depthwise_filter_moves_with_its_unit():
    body = Branches(5)
    assert segment(body.one.gate) == 5
    model = model_of((body, None, 5), 0)
    check(model, inputs((1, 5, 5)))
    assert model.gates["one.gate"].in_order


def test_a_head_that_reads_no_unit_which_moves_stays():
    model = hat.HATModel(wired(hat.HATLinear(3, 8)))
    for units in ([0, 1], [5], [7]):
        model.begin_task(2)
        with torch.no_grad():
            model.embeddings[0].copy_(torch.isin(model.body[0].gate.origin, torch.tensor(units)).float() - 0.5)
        before = [head.weight.detach().clone() for head in model.heads]
        model.end_task()
        assert all(torch.equal(a.weight, b) for a, b in zip(model.heads[:-1], before[:-1], strict=True))
    assert model.body[0].gate.origin.tolist() == [0, 1, 5, 7, 2, 3, 4, 6]
    assert torch.equal(model.heads[2].weight[:, 3], before[2][:, 7])


def test_a_follower_is_told_as_long_as_it_lives():
    model, told = hat.HATModel(wired(hat.HATLinear(3, 8), hat.HATLinear(8, 5))), []

    class Follower:
        def follow(self, moves, before, after, like):
            told.append((set(moves), before, after))

    follower = Follower()
    hat.network.moving.follow(model, follower)
    for task in range(3):
        model.begin_task(2)
        draw_units(model, "drawn", task)
        before = model.blocks()
        model.end_task()
        if task < 2:
            moves, old, new = told[task]
            assert old == before
            assert new is model.blocks()
            assert set(model.body.parameters()) >= moves - set(model.heads[task].parameters())
        follower = follower if task < 1 else None
    assert len(told) == 2


# ---------------------------------------------------------------- what may not move


class Two(nn.Module):
    """The sum of the outputs of two modules on the same input."""

    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return self.one(x) + self.other(x)


class Behind(nn.Module):
    """A body, and behind it a module that no gate knows of."""

    def __init__(self, body, plain):
        super().__init__()
        self.body, self.plain = body, plain

    def forward(self, x):
        return self.plain(self.body(x))


def layers(*widths, **options):
    return [hat.HATLinear(a, b, activation="tanh", **options) for a, b in itertools.pairwise(widths)]


def assert_moves(body, gates, **options):
    """These gates and no others move, while nothing is forgotten and no function changes."""
    torch.manual_seed(0)
    model = hat.HATModel(body, **options).double()
    assert set(movable(model)) == set(gates)
    check(model, inputs((8,)))
    names = {name for name, gate in model.gates.items() if not torch.equal(gate.origin, torch.arange(gate.units))}
    assert names == {name for name, gate in model.gates.items() if gate in gates}


def converted(*modules):
    return convert_body(nn.Sequential(*modules), inputs((8,)).float(), head=None)


def plain(*widths):
    return [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]


def test_a_body_moves_all_of_its_gates():
    a, b, c = layers(8, 9, 10, 7)
    assert_moves(wired(nn.Dropout(0.0), a, nn.ReLU(), b, c), [a.gate, b.gate, c.gate])


def test_a_body_in_another_module():
    """Which may take it apart."""
    a, b = layers(8, 9, 7)
    assert_moves(Behind(wired(a, b), nn.Linear(7, 6)), [], features=6)
    a, b = plain(8, 9, 7)
    assert_moves(Behind(converted(a, nn.Tanh(), b), nn.Linear(7, 6)), [], features=6)


BETWEEN = {
    "keeps units apart": (nn.LeakyReLU(), True),
    "moves zeros": (nn.Sigmoid(), True),
    "a norm over units": (nn.LayerNorm(9), True),
    "what no gate may follow": (nn.Softmax(-1), False),
    "an order among units": (nn.AvgPool1d(3, 1, 1), False),
}


@pytest.mark.parametrize(("between", "moves"), BETWEEN.values(), ids=BETWEEN.keys())
def test_what_is_in_between(between, moves):
    """The units of both layers move, but where they lie in an order that means something."""
    a, b = plain(8, 9, 7)
    body = converted(a, nn.Tanh(), between, b, nn.Tanh())
    assert_moves(body, [gate for name, gate in body.gates.items() if moves or name != "0"])


SHARED = {
    "twice in a row": lambda a, b, c: (a, b, b, c),
    "first and last": lambda a, b, c: (a, b, a),
    "behind others as well": lambda a, b, c: (a, b, nn.Softmax(-1), b, c),
    "first, and behind itself": lambda a, b, c: (a, a, b),
}


@pytest.mark.parametrize("order", SHARED.values(), ids=SHARED.keys())
def test_a_layer_that_is_used_in_several_places(order):
    """For example, once on the input, whose elements do not move, and once on the units of another layer."""
    torch.manual_seed(0)
    model = hat.HATModel(
        converted(*(part for layer in order(*plain(8, 8, 8, 8)) for part in (layer, nn.Tanh())))
    ).double()
    check(model, inputs((8,)))


def test_a_layer_in_a_body_and_outside():
    a, b = layers(8, 9, 7)
    assert_moves(Two(wired(a, b), Behind(a, nn.Linear(9, 7))), [], features=7)


def test_a_layer_that_knows_the_gate_of_some_of_its_inputs_only():
    """In another place its inputs belong to no gate, so no lock may depend on its columns."""
    a, b = layers(8, 8, 8)
    b.fed_unknown = True
    assert locks(wired(a, b))[b.weight].columns is None
    assert_moves(Two(wired(a, b), nn.Sequential(nn.LayerNorm(8), b)), [])


def test_a_layer_that_a_body_feeds_and_a_module_outside():
    """As above, but `fed_unknown` of the layer is not set."""
    a, b = layers(8, 8, 8)
    assert_moves(Two(wired(a, b), b), [])
    body = converted(*(part for layer in plain(8, 8, 8) for part in (layer, nn.Tanh())))
    last = body.network.get_submodule("2")
    assert locks(body)[last.weight].columns is not None
    assert locks(Two(body, last))[last.weight].columns is None
    assert_moves(Two(body, last), [])


def test_a_gate_that_a_layer_outside_shares():
    a, b = layers(8, 9, 7)
    other = hat.HATLinear(8, 9, gate=a.gate)
    assert_moves(Two(wired(a, b), Behind(other, nn.Linear(9, 7))), [], features=7)


def test_a_gate_that_a_module_outside_applies():
    a, b = layers(8, 9, 7)
    outside = nn.Sequential(nn.Linear(8, 9), a.gate, nn.Linear(9, 7))
    assert_moves(Two(wired(a, b), outside), [], features=7)


def test_a_gate_that_a_layer_outside_reads_and_says_so():
    """The layer moves along once the user declares that the gate is complete."""
    a, b, *_ = layers(8, 9, 7)
    a.gate.complete = True
    c = hat.HATLinear(9, 7, gate=b.gate, inputs=a.gate, activation="tanh")

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.beside = wired(a, b), c

        def forward(self, x):
            return self.first(x) + self.beside(self.first[0](x))

    assert_moves(Body(), [a.gate], features=7, outputs=b.gate)


def test_two_layers_with_one_weight():
    a, b, c = layers(8, 8, 8, 7)
    b.weight = a.weight
    assert_moves(wired(a, b, c), [c.gate])


def test_a_weight_that_a_module_along_no_gate_shares():
    a, b = layers(8, 8, 7)
    other = nn.Linear(8, 8)
    other.weight = a.weight
    assert_moves(wired(other, a, b), [b.gate])


@pytest.mark.parametrize(
    "change",
    [
        nn.utils.spectral_norm,
        parametrizations.spectral_norm,
        parametrizations.weight_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    ],
    ids=["spectral norm by hook", "spectral norm", "weight norm", "pruned"],
)
def test_a_weight_that_is_computed(change):
    """The parameters that the weight is computed from do not lie along the gate."""
    a, b = layers(8, 9, 7)
    change(a)
    torch.manual_seed(0)
    model = hat.HATModel(wired(a, b)).double()
    check(model, inputs((8,)))
    assert torch.equal(a.gate.origin, torch.arange(9))


CHANGES = {
    "replaced": lambda network: network.set_submodule("1", nn.Tanh()),
    "removed": lambda network: network.delete_submodule("4"),
    "added": lambda network: network.add_submodule("more", nn.Tanh()),
    "another layer": lambda network: network.set_submodule(
        "0", hat.HATLinear(8, 9, gate=network.get_submodule("0").gate)
    ),
    "a hook": lambda network: network.get_submodule("0").register_forward_hook(lambda m, args, out: out * UNEVEN),
    "a hook of the graph": lambda network: network.register_forward_hook(lambda m, args, out: out * UNEVEN[:7]),
}
UNEVEN = torch.linspace(0.1, 2, 9, dtype=torch.float64)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_converted_body_that_was_changed(change):
    a, b = plain(8, 9, 7)
    body = converted(a, nn.Softmax(-1), nn.ReLU(), b, nn.Hardswish())
    assert all(body.complete().values())
    change(body.network)
    assert not any(body.complete().values())
    if "4" in dict(body.network.named_modules()):
        assert_moves(body, [])


def test_a_body_that_is_changed_after_its_units_have_moved():
    a, b = plain(8, 9, 7)
    body = converted(a, nn.Softmax(-1), b, nn.Tanh())
    model = hat.HATModel(body).double()
    check(model, inputs((8,)), ["drawn"])
    assert movable(model)
    body.network.set_submodule("1", nn.LayerNorm(9).double().requires_grad_(False))
    assert not movable(model)
    before = [gate.origin.clone() for gate in model.gates.values()]
    model.begin_task(2)
    draw_units(model, "drawn", 3)
    model.end_task()
    assert all(torch.equal(x, gate.origin) for x, gate in zip(before, model.gates.values(), strict=True))


def test_a_copy_of_a_converted_body():
    body = copy.deepcopy(converted(*plain(8, 9, 7), nn.Tanh()))
    assert_moves(body, body.gates.values())


def test_a_tail_whose_units_are_not_the_features():
    def body(*behind):
        return convert_body(nn.Sequential(nn.Conv1d(8, 6, 1), *behind), torch.randn(2, 8, 5), head=None)

    (gate,) = (pooled := body(nn.AdaptiveAvgPool1d(1), nn.Flatten())).gates.values()
    assert hat.HATModel(pooled).outputs is gate
    assert hat.HATModel(body(nn.Flatten(0, 1)), features=5).outputs is None
    assert hat.HATModel(body(), features=5).outputs is None


def test_a_name_that_a_module_does_not_have():
    """A lock of nothing would forget."""
    with pytest.raises(ValueError, match="name: expected a parameter of Linear, got 'wieght'"):
        hat.Gate(8).attach(nn.Linear(8, 8), "wieght", 1)


def test_outputs_that_do_not_divide_the_features():
    body = Residual(4, 6, [5], activation="relu", bias=True)
    with pytest.raises(ValueError, match="outputs: expected units that divide 7 features, got 6"):
        hat.HATModel(body, features=7, outputs=body.stem.gate)


@SLOW_IS_FINE
@given(network=st.one_of(mlps(), convnets()), seed=st.integers(0, 2**16))
def test_a_model_that_locks_in_place_moves_nothing(network, seed):
    model = model_of(network, seed, locked_first=False)
    check(model, inputs(network[1]), seed=seed)
    assert all(torch.equal(gate.origin, torch.arange(gate.units)) for gate in model.gates.values())


def drifts(body_of, **options):
    """How much the logits of a task change when the task ends."""
    torch.manual_seed(0)
    model = hat.HATModel(body_of(), **options).double()
    check(model, inputs((8,)))


class Walks(nn.Module):
    """Takes a body apart: both layers' units are features."""

    def __init__(self):
        super().__init__()
        self.layers = wired(*layers(8, 9, 7))

    def forward(self, x):
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return torch.cat(found, -1)


class Scaled(nn.Linear):
    """Has a number of its own for every unit."""

    def __init__(self, inputs, units):
        super().__init__(inputs, units)
        self.register_buffer("each", torch.linspace(0.1, 2, units))

    def forward(self, x):
        return super().forward(x).tanh() * self.each


def test_a_body_that_is_taken_apart():
    drifts(Walks, features=16)


def test_a_derived_layer():
    drifts(lambda: converted(Scaled(8, 9), nn.Linear(9, 7), nn.Tanh()))


def test_a_model_that_does_more_with_the_features():
    class Model(hat.HATModel):
        def forward(self, x, task=None):
            return super().forward(x, task) + next(iter(self.gates.values())).used.sum()

    model = Model(converted(*plain(8, 9, 7)))
    assert not movable(model)
