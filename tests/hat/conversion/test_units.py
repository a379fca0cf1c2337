"""Ids of units: classes that are united, parted and grouped, compared with sets of Python."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.conversion.units import Units, constant, narrowed, varying

COUNT = 12
ids = st.lists(st.integers(0, COUNT), min_size=1, max_size=8)


def drawn():
    units = Units()
    units.new(COUNT)
    return units


@settings(deadline=None)
@given(st.lists(st.tuples(ids, ids), max_size=6))
def test_classes_are_those_of_sets(meetings):
    units, sets = drawn(), {number: {number} for number in range(1, COUNT + 1)}
    for left, right in meetings:
        length = min(len(left), len(right))
        left, right = left[:length], right[:length]
        units.unite(torch.tensor(left), torch.tensor(right))
        for a, b in zip(left, right, strict=True):
            if a and b and sets[a] is not sets[b]:
                joined = sets[a] | sets[b]
                for number in joined:
                    sets[number] = joined
    classes = units.find(torch.arange(COUNT + 1))
    assert classes.tolist() == [0, *(min(sets[number]) for number in range(1, COUNT + 1))]


def test_zero_is_never_united():
    units = drawn()
    units.unite(torch.tensor([0, 1, 2]), torch.tensor([3, 0, 4]))
    assert units.find(torch.tensor([0, 1, 2, 3, 4])).tolist() == [0, 1, 2, 3, 2]


def test_ids_that_broadcast_are_united_as_if_they_were_spread():
    narrow, spread = drawn(), drawn()
    rows, columns = torch.tensor([[1], [2]]), torch.tensor([[4, 5, 6]])
    narrow.unite(rows, columns)
    spread.unite(rows.expand(2, 3).contiguous(), columns.expand(2, 3).contiguous())
    all_ids = torch.arange(COUNT + 1)
    assert torch.equal(narrow.find(all_ids), spread.find(all_ids))


def test_pairs_are_those_of_classes_that_meet():
    units = drawn()
    units.unite(torch.tensor([1]), torch.tensor([2]))
    assert units.pairs(torch.tensor([1, 2, 0, 3]), torch.tensor([4, 4, 5, 6])).tolist() == [[1, 4], [3, 6]]


def test_segments_are_those_of_equal_marks():
    units = drawn()
    classes = torch.arange(1, 6)
    units.part(torch.tensor([1, 2, 3, 4]), torch.tensor([0, 0, 1, 1]))
    one, two, three, four, five = units.segments(classes).tolist()
    assert one == two != three == four
    assert five not in (one, three)
    units.fix(torch.tensor([3, -1, 0]))
    segments = units.segments(classes).tolist()
    assert len(set(segments)) == 4
    assert segments[0] == segments[1]


def test_marks_count():
    """A unit that has a mark twice differs from a unit that has it once. The order of the marks does not matter."""
    units = drawn()
    marks = [(torch.tensor([1, 2, 2, 3]), torch.zeros(4, dtype=torch.int64))]
    one, two, three = units.group(torch.tensor([1, 2, 3]), marks).tolist()
    assert one == three != two


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, COUNT), st.integers(-2, 2)), max_size=20), st.integers(1, 3))
def test_groups_are_those_of_bags(pairs, parts):
    units, classes = drawn(), torch.arange(1, COUNT + 1)
    marks = [pairs[start::parts] for start in range(parts)]
    tensors = [(torch.tensor([p[0] for p in m], dtype=torch.int64), torch.tensor([p[1] for p in m])) for m in marks]
    found = units.group(classes, [(i, v.long()) for i, v in tensors]).tolist()
    bags = [tuple(tuple(sorted(v for c, v in m if c == number)) for m in marks) for number in range(1, COUNT + 1)]
    for a in range(COUNT):
        for b in range(COUNT):
            assert (found[a] == found[b]) == (bags[a] == bags[b])


def test_dimensions_that_vary():
    labels = torch.arange(1, 4).view(1, 3, 1).expand(2, 3, 4)
    assert varying(labels) == (1,)
    assert varying(labels.contiguous()) == (1,)
    assert constant(labels, 0)
    assert not constant(labels, 1)
    assert [tuple(t.shape) for t in narrowed(labels, torch.arange(4))] == [(1, 3, 1), (1, 1, 4)]


def test_a_single_id_is_found_as_any_other():
    """An index without dimensions gives a view of the table that is written to."""
    units = Units()
    units.unite(units.new(3), units.new(3))
    assert units.find(torch.tensor(5)).item() == 2
    assert units.find(torch.tensor(5)).shape == ()
    assert units.find(torch.tensor([[5, 4]])).tolist() == [[2, 1]]
