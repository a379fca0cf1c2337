"""Where the units lie in a tensor, before and after some units have gone and others have joined."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.units.layout import Layout, Unfit


def laid(units):
    units = torch.tensor(units)
    return Layout(units.shape, units)


def named(layout):
    """A tensor with a different number in every element."""
    return torch.arange(layout.shape.numel()).view(layout.shape)


def test_one_dimension():
    layout, counts = laid([[2, 0, -1, 1]]), torch.tensor([0, 1, 2])
    assert layout.varying == (1,)
    assert layout.along(counts) == 1
    assert layout.counted(counts).tolist() == [[2, 0, 1, 1]]
    # A unit that joins has the values of the unit in front of it.
    assert layout.taken(named(layout), counts).tolist() == [[0, 0, 2, 3]]
    assert layout.resized(counts).units.tolist() == [[1, 2, -1, 0]]  # the new numbers
    assert layout.first(layout.taken(named(layout), counts), counts).tolist() == [[0, 2, 3]]


def test_nothing_changes():
    layout, counts = laid([[2, 0, -1, 1]]), torch.ones(3, dtype=torch.int64)
    assert layout.along(counts) is None
    assert layout.taken(named(layout), counts).tolist() == named(layout).tolist()
    assert torch.equal(layout.resized(counts).units, layout.units)


def test_channels_behind_a_flatten_stay_together():
    layout, counts = laid([0, 0, 0, 1, 1, 1, 2, 2, 2]), torch.tensor([2, 0, 1])
    places, copies = layout.index(0, counts)
    assert places.tolist() == [0, 1, 2, 0, 1, 2, 6, 7, 8]
    assert copies.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert layout.resized(counts).units.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_positions_in_front_of_channels():
    layout, counts = laid([0, 1, 2, 0, 1, 2]), torch.tensor([1, 0, 1])
    assert layout.taken(named(layout), counts).tolist() == [0, 2, 3, 5]
    assert layout.resized(counts).units.tolist() == [0, 1, 0, 1]


def test_heads_of_one_length():
    layout = laid([[0, 1, 2], [3, 4, 5]])
    counts = torch.tensor([0, 1, 1, 1, 0, 1])
    assert layout.along(counts) == 1
    assert layout.taken(named(layout), counts).tolist() == [[1, 2], [3, 5]]
    assert layout.resized(counts).units.tolist() == [[0, 1], [2, 3]]
    whole = torch.tensor([0, 0, 0, 1, 1, 1])
    assert layout.along(whole) == 0
    assert layout.taken(named(layout), whole).tolist() == [[3, 4, 5]]


def test_heads_of_several_lengths_do_not_fit():
    layout, counts = laid([[0, 1, 2], [3, 4, 5]]), torch.tensor([0, 1, 1, 1, 1, 1])
    for call in (layout.along, layout.resized, lambda counts: layout.taken(named(layout), counts)):
        with pytest.raises(Unfit, match="6 units do not fit") as caught:
            call(counts)
        assert caught.value.units.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(Unfit):
        layout.index(1, counts)


def test_a_dimension_of_length_1_stands_for_all_indices():
    layout, counts = Layout(torch.Size((5, 3)), torch.tensor([[0, 1, 2]])), torch.tensor([1, 0, 1])
    assert layout.taken(named(layout), counts).tolist() == [[0, 2], [3, 5], [6, 8], [9, 11], [12, 14]]
    assert layout.resized(counts).shape == (5, 2)


@settings(max_examples=60)
@given(st.lists(st.integers(-1, 4), min_size=2, max_size=12), st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_any_row(units, counts):
    """Compared with the definition: every run of a unit is repeated as often as the count of the unit says."""
    layout, counts = laid(units), torch.tensor([*counts, 1])  # at least one unit stays
    runs, expected = [], []
    for place, unit in enumerate(units):
        if runs and units[runs[-1][0]] == unit:
            runs[-1].append(place)
        else:
            runs.append([place])
    for run in runs:
        times = 1 if units[run[0]] < 0 else int(counts[units[run[0]]])
        expected += [(place, copy) for copy in range(times) for place in run]
    places, copies = layout.index(0, counts)
    assert list(zip(places.tolist(), copies.tolist(), strict=True)) == expected
    kept = [place for place, copy in expected if copy == 0]
    taken = layout.taken(named(layout), counts)
    if layout.along(counts) is not None:
        assert taken.tolist() == [place for place, _ in expected]
    assert layout.first(taken, counts).tolist() == kept
