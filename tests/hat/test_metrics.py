"""The measures of continual learning: values worked out by hand, and properties that hold for any matrix."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat import metrics

NAN = math.nan
THREE = [[0.9, NAN, NAN], [0.8, 0.7, NAN], [0.6, 0.75, 0.5]]
MEASURES = [metrics.average_accuracy, metrics.learning_accuracy, metrics.backward_transfer]


def test_three_tasks_by_hand():
    assert metrics.average_accuracy(THREE) == pytest.approx((0.6 + 0.75 + 0.5) / 3)
    assert metrics.learning_accuracy(THREE) == pytest.approx((0.9 + 0.7 + 0.5) / 3)
    assert metrics.backward_transfer(THREE) == pytest.approx(((0.6 - 0.9) + (0.75 - 0.7)) / 2)


def test_forgetting_ratio_by_hand():
    got = metrics.forgetting_ratio(THREE, [0.9, 0.8, 0.5], [0.1, 0.2, 0.1])
    first, second = (0.8 - 0.1) / 0.8 - 1, (0.7 - 0.2) / 0.6 - 1
    last = [(0.6 - 0.1) / 0.8 - 1, (0.75 - 0.2) / 0.6 - 1, 0.0]
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx([0.0, (first + second) / 2, sum(last) / 3])


def test_forgetting_ratio_against_joint_training_on_the_tasks_so_far():
    joint = [[0.9, NAN, NAN], [0.8, 0.9, NAN], [0.7, 0.8, 0.6]]
    got = metrics.forgetting_ratio(THREE, joint, [0.1, 0.2, 0.1])
    last = [(0.6 - 0.1) / 0.6 - 1, (0.75 - 0.2) / 0.6 - 1, (0.5 - 0.1) / 0.5 - 1]
    assert got.tolist() == pytest.approx([0.0, (0.0 + (0.7 - 0.2) / 0.7 - 1) / 2, sum(last) / 3])


def test_a_single_task():
    assert metrics.average_accuracy([[0.4]]) == metrics.learning_accuracy([[0.4]]) == 0.4
    assert metrics.backward_transfer([[0.4]]) == 0.0
    assert metrics.forgetting_ratio([[0.4]], [0.7], [0.1]).tolist() == pytest.approx([-0.5])


def test_tasks_that_joint_training_only_guesses_are_left_out():
    got = metrics.forgetting_ratio(THREE, [0.9, 0.2, 0.5], [0.1, 0.2, 0.1])
    ratios = [[(THREE[t][k] - 0.1) / ([0.9, 0.2, 0.5][k] - 0.1) - 1 for k in (0, 2) if k <= t] for t in range(3)]
    assert got.tolist() == pytest.approx([sum(row) / len(row) for row in ratios])
    assert metrics.forgetting_ratio([[1.0]], [1.0], [1.0]).isnan().all()
    first = metrics.forgetting_ratio(THREE, [0.05, 0.8, 0.5], [0.1, 0.2, 0.1])
    assert first.isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("measure", MEASURES)
def test_every_form_of_input_gives_the_same(measure):
    expected = measure(THREE)
    tensor = torch.tensor(THREE, dtype=torch.float64, requires_grad=True)
    for form in (tensor, list(tensor), tensor.detach().numpy(), np.array(THREE)):
        got = measure(form)
        assert type(got) is float
        assert got == expected


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("accuracy", "message"),
    [
        ([], r"^accuracy: expected a square matrix \[T, T\], got \(0,\)$"),
        (0.5, r"expected a square matrix \[T, T\], got \(\)"),
        ([0.5, 0.5], r"got \(2,\)"),
        ([[0.5, 0.5]], r"got \(1, 2\)"),
        ([[0.5], [0.5, 0.5]], "^accuracy: expected numbers in rows of one length, got"),
        ([["a"]], "^accuracy: expected numbers"),
        ([[10**400]], "^accuracy: expected numbers"),
        (torch.ones(1, 1, dtype=torch.complex64), "^accuracy: expected numbers"),
        (torch.ones(1, 1).to_sparse(), "^accuracy: expected numbers"),
        (torch.zeros(0, 0), "expected a square"),
        ([[90.0]], "^accuracy: expected values from 0 to 1, got 90$"),
        ([[-0.1]], "got -0.1"),
        ([[0.5, NAN], [NAN, 0.5]], "got nan"),
        ([[0.5, NAN], [0.5, math.inf]], "got inf"),
    ],
)
def test_bad_accuracy(measure, accuracy, message):
    with pytest.raises(ValueError, match=message):
        measure(accuracy)


@pytest.mark.parametrize(
    ("joint", "random", "message"),
    [
        ([0.9, 0.8], [0.1] * 3, r"^joint: expected shape \(3,\) or \(3, 3\), got \(2, 2\)|got \(3, 2\)$"),
        (0.9, [0.1] * 3, r"^joint: expected shape \(3,\) or \(3, 3\), got \(\)$"),
        ([[0.9] * 2] * 2, [0.1] * 3, r"^joint: expected shape .* got \(2, 2\)$"),
        ([0.9] * 3, [0.1], r"^random: expected shape \(3,\), got \(1,\)$"),
        ([90.0] * 3, [0.1] * 3, "^joint: expected values from 0 to 1, got 90$"),
        ([0.9, NAN, 0.9], [0.1] * 3, "^joint: expected values from 0 to 1, got nan$"),
        ([0.9] * 3, [0.1, NAN, 0.1], "^random: expected values from 0 to 1, got nan$"),
    ],
)
def test_bad_references(joint, random, message):
    with pytest.raises(ValueError, match=message):
        metrics.forgetting_ratio(THREE, joint, random)


unit = st.floats(0, 1)


@st.composite
def matrices(draw):
    tasks = draw(st.integers(1, 6))
    return torch.tensor(draw(st.lists(st.lists(unit, min_size=tasks, max_size=tasks), min_size=tasks, max_size=tasks)))


@settings(max_examples=50, deadline=None)
@given(matrix=matrices())
def test_what_holds_for_any_matrix(matrix):
    tasks = len(matrix)
    average, learned = metrics.average_accuracy(matrix), metrics.learning_accuracy(matrix)
    transfer = metrics.backward_transfer(matrix)
    assert 0 <= average <= 1
    assert 0 <= learned <= 1
    assert -1 <= transfer <= 1
    assert average - learned == pytest.approx(transfer * (tasks - 1) / tasks)

    ratio = metrics.forgetting_ratio(matrix, torch.ones(tasks), torch.zeros(tasks))
    assert float(ratio[-1]) == pytest.approx(average - 1)

    future = torch.ones(tasks, tasks, dtype=torch.bool).triu(1)
    for measure in MEASURES:  # what was not learned yet is not read
        assert measure(matrix.masked_fill(future, NAN)) == measure(matrix.masked_fill(future, 7.0)) == measure(matrix)


@settings(max_examples=25, deadline=None)
@given(diagonal=st.lists(unit, min_size=1, max_size=6))
def test_nothing_forgotten_is_exactly_zero(diagonal):
    kept = torch.tensor(diagonal).expand(len(diagonal), -1)
    assert metrics.backward_transfer(kept) == 0.0
    assert metrics.average_accuracy(kept) == metrics.learning_accuracy(kept)


@settings(max_examples=25, deadline=None)
@given(matrix=matrices(), guess=st.floats(0, 0.9))
def test_joint_training_scores_zero_and_guessing_minus_one(matrix, guess):
    tasks = len(matrix)
    better = guess + (1 - guess) * (0.1 + 0.9 * matrix.double())
    guesses = [guess] * tasks
    assert metrics.forgetting_ratio(better, better, guesses).tolist() == pytest.approx([0.0] * tasks)
    floor = torch.full((tasks, tasks), guess, dtype=torch.float64)
    assert metrics.forgetting_ratio(floor, better, guesses).tolist() == pytest.approx([-1.0] * tasks)


def test_table_by_hand():
    got = metrics.table(["digits", "x"], [0.98765, 1], [0.5, 0], extra={"alone": [NAN, 0.25]})
    assert got.splitlines() == [
        "task    learned     now   alone",
        "-------------------------------",
        "digits   98.77%  50.00%       -",
        "x       100.00%   0.00%  25.00%",
        "-------------------------------",
        "mean     99.38%  25.00%  25.00%",
    ]


@settings(max_examples=25, deadline=None)
@given(names=st.lists(st.text(max_size=30), min_size=1, max_size=5), data=st.data())
def test_table_is_aligned_whatever_the_names(names, data):
    column = st.lists(unit | st.just(NAN), min_size=len(names), max_size=len(names))
    lines = metrics.table(names, data.draw(column), data.draw(column), extra={"a long heading": data.draw(column)})
    rows = lines.split("\n")
    assert len(rows) == len(names) + 4
    assert len({len(row) for row in rows}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], []), "^names: expected at least one task"),
        ((["a", "b"], [0.1], [0.1, 0.2]), r"^learned: expected shape \(2,\), got \(1,\)$"),
        ((["a"], [0.1], [1.2]), "^now: expected values from 0 to 1, got 1.2$"),
        ((["a"], [0.1], [0.2], {"joint": [0.1, 0.2]}), r"^joint: expected shape \(1,\), got \(2,\)$"),
    ],
)
def test_bad_table(arguments, message):
    names, learned, now, *extra = arguments
    with pytest.raises(ValueError, match=message):
        metrics.table(names, learned, now, extra=extra[0] if extra else None)


@pytest.mark.parametrize(("names", "extra", "name"), [(5, None, "names"), (None, None, "names"), (["a"], 3, "extra")])
def test_a_table_of_something_else(names, extra, name):
    with pytest.raises(TypeError, match=f"^{name}: expected a "):
        metrics.table(names, [0.5], [0.5], extra=extra)
