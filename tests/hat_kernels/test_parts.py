"""Updates part by part: movable elements follow the equation, locked elements keep their bits."""

import pytest
import torch

from hat_kernels import Lock
from hat_kernels.parts import parts
from tests.hat_kernels.locks import KINDS, lock_for, rates
from tests.hat_kernels.shapes import DTYPES, LAYOUTS, PARAMETER_SHAPES, lay_out, normal


def locked_add_(parameter, step, lock, alpha):
    """The steps of an update on each part."""
    for part in parts(parameter, lock):
        target = parameter[part.rows]
        part.write_(target, part.working_copy(target).add_(part.scaled(step[part.rows]) * alpha))


def bits(values):
    return values.contiguous().view(torch.uint8)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("shape", [*PARAMETER_SHAPES, (700, 300)])  # the last shape has several parts
def test_is_the_equation(shape, kind, soft):
    parameter, step = normal(shape, torch.float64), normal(shape, torch.float64, 1)
    lock = lock_for(parameter, kind, soft=soft)
    expected = parameter - 0.1 * rates(parameter, lock) * step
    locked_add_(parameter, step, lock, -0.1)
    assert torch.allclose(parameter, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lr", [0.0, 0.1])
def test_locked_elements_keep_their_bits_even_minus_zero(dtype, lr):
    parameter = normal((700, 300), dtype)
    parameter[::3] = -0.0
    lock = lock_for(parameter, "both")
    locked = rates(parameter, lock) == 0
    step = normal((700, 300), dtype, 1)
    for index, value in enumerate((torch.inf, -torch.inf, torch.nan, -1.0, -0.0)):
        step[index::7] = torch.where(locked[index::7], value, step[index::7].double()).to(dtype)
    before = parameter.clone()
    locked_add_(parameter, step, lock, -lr)
    assert torch.equal(bits(parameter[locked]), bits(before[locked]))
    assert torch.isfinite(parameter).all()
    assert lr == 0 or not torch.equal(parameter[~locked], before[~locked])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_step(layout):
    parameter = normal((13, 31), torch.float64)
    lock, step = lock_for(parameter, "both"), lay_out(normal((13, 31), torch.float64, 1), layout)
    expected = parameter - 0.1 * rates(parameter, lock) * step
    locked_add_(parameter, step, lock, -0.1)
    assert torch.allclose(parameter, expected, rtol=0, atol=1e-15)


def test_groups_and_repeats():
    parameter, step = torch.zeros(4, 2, 3), torch.ones(4, 2, 3)
    locked_add_(parameter, step, Lock(torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 1, 0, 1]), groups=2), -1.0)
    assert torch.equal(parameter[:, :, 0], -torch.tensor([[1.0, 1], [0, 1], [0, 1], [0, 1]]))
    parameter = torch.zeros(2, 4)
    locked_add_(parameter, torch.ones(2, 4), Lock(torch.zeros(2), torch.tensor([0.0, 1]), column_repeat=2), -1.0)
    assert torch.equal(parameter, -torch.tensor([[0.0, 0, 1, 1]] * 2))


def test_low_precision_parameter_of_a_wide_step():
    parameter = torch.ones(3, 2, dtype=torch.bfloat16)
    locked_add_(parameter, torch.ones(3, 2), Lock(torch.tensor([1.0, 0.0, 0.5])), -0.5)
    assert parameter[:, 0].tolist() == [0.5, 1.0, 0.75]


def test_scalar():
    parameter = torch.tensor(1.0)
    locked_add_(parameter, torch.tensor(2.0), Lock(torch.ones(1)), -0.25)
    assert parameter.item() == 0.5


def test_mended_values_stay_in_the_range_of_float16():
    parameter = torch.zeros(2, 5)
    lock = Lock(torch.tensor([1.0, 0.0]))
    values = torch.tensor([torch.inf, torch.nan, 1e5, -1e5, 3.0]).expand(2, 5)
    for part in parts(parameter, lock):
        part.write_(parameter[part.rows], values[part.rows], mend=True)
    assert parameter.tolist() == [[0, 0, 65504, -65504, 3], [0] * 5]


def test_without_a_lock_there_is_one_part_and_no_copy():
    parameter = torch.ones(700, 300)
    (part,) = parts(parameter, None)
    assert part.working_copy(parameter).data_ptr() == parameter.data_ptr()
