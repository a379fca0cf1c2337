import torch

from hat.tracing.checks import other_inputs
from hat.tracing.different import AllDifferent


def test_no_number_comes_twice():
    numbers = AllDifferent()
    taken = [numbers.take(shape) for shape in ((300, 700), (5,), (), (0, 3), (64, 3, 7, 7))]
    together = torch.cat([part.flatten() for part in taken])
    assert [part.shape for part in taken] == [(300, 700), (5,), (), (0, 3), (64, 3, 7, 7)]
    assert len(together.float().unique()) == len(together)
    assert together.min() >= 0
    assert together.max() < 1
    assert together[:4].tolist() == AllDifferent().take((4,)).tolist()


def test_a_tensor_longer_than_the_sequence_gets_different_numbers():
    numbers = AllDifferent()
    numbers.take((12345,))
    count = 2**24 + 1  # float32 has no more numbers of equal distance in [0, 1)
    assert len(numbers.take((count,)).unique()) == count


def test_rows_of_a_matrix_are_independent():
    for rows in (2, 3, 5, 8, 64, 89, 128):
        matrix = AllDifferent().around_zero((rows, 128))
        assert torch.linalg.matrix_rank(matrix) == rows
        assert matrix.mean().abs() < 0.2
        assert 0.8 < matrix.std() < 1.2


def test_other_inputs_draw_nothing_and_are_all_different():
    example = (torch.zeros(3, 4), torch.zeros(2), torch.ones(3, 2, dtype=torch.bfloat16))
    before = torch.get_rng_state()
    inputs = other_inputs(example, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert [part.shape for part in inputs] == [(5, 4), (2,), (5, 2)]
    assert len(torch.cat([part.flatten() for part in inputs[:2]]).unique()) == 22
    assert all(torch.equal(one, other) for one, other in zip(inputs, other_inputs(example, 2), strict=True))


def test_other_integers_are_those_of_the_example():
    """Tokens stay in the vocabulary, lengths fit together, and a mask lets some values through."""
    for values in ([[1, 2], [3, 4]], [[1, 2], [2, 1]], [[7, 0], [0, 7]], [[True, False], [True, True]]):
        example = torch.tensor(values)
        (inputs,) = other_inputs((example,), 0)
        assert inputs.dtype == example.dtype
        assert torch.equal(inputs.flatten().sort().values, example.flatten().sort().values)
        assert not torch.equal(inputs, example)
    (inputs,) = other_inputs((torch.full((2, 3), 4),), 1)
    assert torch.equal(inputs, torch.full((3, 3), 4))
