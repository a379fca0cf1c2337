"""The parts of a parameter that may move: the blocks hold every free element once, and the frozen block none."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hat
from hat.units.blocks import Block, Side, Sides, cut, join, pack, unpack
from hat_kernels.lock import check_lock, rate
from tests.hat.nets import use, wired

HOUSE = settings(deadline=None, max_examples=150)


def side(free, repeat=1):
    """The `Side` that a gate with these free units makes."""
    used = [1 - f for f in free]
    locked = used.index(0) if 0 in used else len(used)
    return Side(torch.tensor(free, dtype=torch.float32), repeat, locked, not any(used[locked:]))


def units(count):
    """A strategy for the free units: in any order, or with the locked units first."""
    anything = st.lists(st.sampled_from([0, 1]), min_size=count, max_size=count)
    return st.one_of(anything, anything.map(sorted))


@st.composite
def parameters(draw):
    """(sides, parameter): biases, matrices, convolutions with and without groups, rows or columns alone."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    rows, columns = (draw(st.integers(1, 5)) * groups for _ in range(2))
    row_repeat, column_repeat = (draw(st.integers(1, 3)) if groups == 1 else 1 for _ in range(2))
    row_side, column_side = side(draw(units(rows)), row_repeat), side(draw(units(columns)), column_repeat)
    shape = [rows * row_repeat, columns * column_repeat // groups, *draw(st.sampled_from([(), (2,), (1, 3)]))]
    kind = draw(st.sampled_from(["both", "rows", "columns", "bias"])) if groups == 1 else "both"
    if kind == "bias":
        return Sides(row_side), torch.randn(shape[:1])
    sides_by_kind = {
        "both": Sides(row_side, column_side, groups),
        "rows": Sides(row_side),
        "columns": Sides(None, column_side),
    }
    return sides_by_kind[kind], torch.randn(shape)


def rates(lock, parameter):
    return torch.ones_like(parameter) if lock is None else rate(lock, parameter).expand_as(parameter)


@HOUSE
@given(parameters())
def test_blocks_hold_all_that_may_move_once(case):
    sides, parameter = case
    whole, seen = rates(sides.lock, parameter), torch.zeros_like(parameter)
    for block, view in zip(sides.blocks(parameter), cut(seen, sides.blocks(parameter)), strict=True):
        assert view.numel()
        view += 1
        check_lock(block.lock, view)
        expected = whole[block.where]
        assert torch.equal(rates(block.lock, view), expected)
        assert not block.free or (expected == 1).all()
    assert seen.max() <= 1
    assert not whole[seen == 0].any()


@HOUSE
@given(parameters())
def test_the_blocks_hold_everything_but_the_frozen_block(case):
    sides, parameter = case
    rows, columns = sides.frozen(parameter.shape)
    seen = torch.zeros_like(parameter)
    for view in cut(seen, sides.blocks(parameter)):
        view += 1
    if parameter.dim() == 1:
        assert seen[rows:].all()
        assert not seen[:rows].any()
        return
    left = torch.ones_like(parameter)
    left[:rows, :columns] = 0
    assert torch.equal(seen, left)


@pytest.mark.parametrize("used", [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
def test_locked_units_first_leave_nothing_locked_behind(used):
    """A step then works on exactly the elements that may move."""
    rows, columns = side([1 - u for u in used]), side([1 - u for u in used], 3)
    parameter = torch.randn(4, 12)
    blocks = Sides(rows, columns).blocks(parameter)
    assert all(block.free for block in blocks)
    assert sum(part.numel() for part in cut(parameter, blocks)) == rates(Sides(rows, columns).lock, parameter).sum()


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_only_whole_groups_are_frozen(groups):
    rows, columns = side([0, 0, 0, 0, 1, 1]), side([0, 0, 0, 0, 0, 1])
    parameter = torch.randn(6, 6 // groups, 3)
    locked = {2: 1, 3: 2, 6: 4}[groups]
    assert Sides(rows, columns, groups).frozen(parameter.shape) == (locked * 6 // groups, 6 // groups)


def test_a_group_that_would_cut_a_unit_freezes_nothing():
    """There are two groups of three rows, and each unit has two rows."""
    sides = Sides(side([0, 0, 1], 2), side([0, 0, 0, 1]), 2)
    assert sides.frozen((6, 2)) == (0, 0)
    (block,) = sides.blocks(torch.randn(6, 2))
    assert block[0] == ()


def test_a_scalar():
    parameter = torch.tensor(3.0)
    assert Sides(side([0])).blocks(parameter) == []
    (block,) = Sides(side([1])).blocks(parameter)
    assert cut(parameter, [block])[0].shape == ()


@HOUSE
@given(st.data())
def test_two_gates_along_one_dimension(data):
    """An index is free if both of its units are free, for any two repeats."""
    length = 12
    repeats = data.draw(st.sampled_from([(1, 1), (2, 2), (1, 3), (4, 2)]))
    first, second = (side(data.draw(units(length // repeat)), repeat) for repeat in repeats)
    met = first.meet(second)
    free = torch.minimum(*(s.free.repeat_interleave(s.repeat) for s in (first, second)))
    assert torch.equal(met.free.repeat_interleave(met.repeat), free)
    assert not free[: met.behind].any()
    assert not met.in_order or free[met.behind :].all()
    assert met.behind == max(first.behind, second.behind)
    assert torch.equal(met.rest, met.free[met.locked :])


# ---------------------------------------------------------------- parts


@HOUSE
@given(parameters())
def test_join_undoes_cut_except_for_locked_elements(case):
    sides, parameter = case
    blocks = sides.blocks(parameter)
    whole = join([part.clone() for part in cut(parameter, blocks)], blocks, parameter)
    ones = join([torch.ones_like(part) for part in cut(parameter, blocks)], blocks, parameter)
    assert torch.equal(whole, parameter * ones)
    assert whole.shape == parameter.shape


def test_join_has_the_dtype_of_its_parts():
    like = torch.randn(2, 3, dtype=torch.bfloat16)
    assert join([torch.ones(2, 3)], [Block()], like).dtype == torch.float32
    assert torch.equal(join([], [], like), torch.zeros_like(like))


@HOUSE
@given(parameters())
def test_unpack_takes_packed_parts_or_a_state_of_the_whole_parameter(case):
    sides, parameter = case
    blocks = sides.blocks(parameter)
    parts = [torch.randn(view.shape) for view in cut(parameter, blocks)]
    packed = pack(parts)
    assert isinstance(packed, torch.Tensor) == (len(blocks) == 1)
    for part, expected in zip(unpack(packed, blocks, parameter), parts, strict=True):
        assert part.data_ptr() == expected.data_ptr()
        assert torch.equal(part, expected)
    for part, view in zip(unpack(parameter, blocks, parameter), cut(parameter, blocks), strict=True):
        assert torch.equal(part, view)
        # A part does not keep the memory of the whole state.
        assert part.shape == parameter.shape or part.data_ptr() != view.data_ptr()


@pytest.mark.parametrize("state", [torch.zeros(3, 3), [torch.zeros(2, 4)], [], [torch.zeros(2, 4), torch.zeros(2, 3)]])
def test_a_state_of_other_blocks_is_refused(state):
    like, blocks = torch.zeros(4, 4), Sides(side([0, 0, 1, 1]), side([0, 0, 1, 1])).blocks(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"state: expected tensors of \[\(2, 4\), \(2, 2\)\], the parts that may move"):
        unpack(state, blocks, like)


# ---------------------------------------------------------------- blocks of a model


@pytest.fixture
def model():
    body = wired(hat.HATLinear(3, 4), hat.HATLinear(4, 4), hat.HATLinear(4, 5))
    model = hat.HATModel(body)
    model.begin_task(2)
    return model


@pytest.mark.filterwarnings("ignore::hat.CapacityWarning")
def test_nothing_is_locked_in_the_first_task(model):
    assert all(blocks == [Block()] for blocks in model.blocks().values())
    model.end_task()
    assert not all(blocks == [Block()] for blocks in model.blocks().values())


def test_blocks_are_made_once_per_task_and_again_after_a_load(model):
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.fill_(-1.0)[0] = 1.0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.blocks() is model.blocks()
    model.end_task()
    after = model.blocks()
    assert after is model.blocks()
    assert cut(model.body[1].weight, after[model.body[1].weight])[0].shape == (3, 4)
    model.load_state_dict(before)
    assert all(blocks == [Block()] for blocks in model.blocks().values())
    model.end_task()
    use(model.body[1].gate, [1, 1, 0, 0])
    assert cut(model.body[1].weight, model.blocks()[model.body[1].weight])[0].shape == (2, 4)


def test_blocks_of_a_parameter_that_was_replaced(model):
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.fill_(-1.0)[0] = 1.0
    model.end_task()
    old = model.body[1].weight
    assert old in model.blocks()
    model.body[1].weight = torch.nn.Parameter(old.detach().clone())
    assert model.body[1].weight in model.blocks()
    assert old not in model.blocks()
