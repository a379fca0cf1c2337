"""The memory of a gradient is given out again once nobody uses it, and never earlier."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

from hat_kernels import gradient_memory, locked_linear
from hat_kernels.gradient_memory import complete, norm_bound, release, take
from tests.hat_kernels.shapes import normal

FROZEN = (3, 2)
EPS = torch.finfo(torch.float32).eps


def parameter(shape=(5, 4), dtype=torch.float32):
    return torch.nn.Parameter(normal(shape, dtype))


def backward(weight, seed=1, frozen=FROZEN):
    """Add the gradient of a random loss to `.grad`, and return `.grad`."""
    x, dy = normal((3, weight.shape[1]), weight.dtype, seed), normal((3, len(weight)), weight.dtype, seed + 100)
    locked_linear(x, weight, frozen=frozen).backward(dy)
    twin = weight.detach().clone().requires_grad_()
    F.linear(x, twin).backward(dy)
    twin.grad[: frozen[0], : frozen[1]] = 0
    return twin.grad


def assert_is(got, expected, frozen=FROZEN):
    torch.testing.assert_close(got, expected, rtol=4 * EPS, atol=16 * EPS)
    assert not got[: frozen[0], : frozen[1]].any()


def squatters(tensor):
    """Tensors of this shape: the allocator gives them memory of this size that was freed just now."""
    return [torch.full_like(tensor, torch.nan) for _ in range(8)]


# ---------------------------------------------------------------- when it is used again


def test_used_again_when_nobody_holds_the_gradient():
    weight, places = parameter(), set()
    for seed in range(4):
        weight.grad = None
        occupied = squatters(weight.detach())
        expected = backward(weight, seed)
        assert_is(weight.grad, expected)
        places.add(weight.grad.data_ptr())
        assert all(tensor.isnan().all() for tensor in occupied)
    assert len(places) == 1


@pytest.mark.parametrize(
    "hold",
    [
        lambda grad: grad,
        lambda grad: grad[1:],
        lambda grad: grad[:, :1],
        lambda grad: grad.view(-1),
        lambda grad: grad.detach(),
        lambda grad: grad.data,
        lambda grad: grad.t(),
        lambda grad: grad.numpy(),
        lambda grad: torch.utils.dlpack.to_dlpack(grad),
        lambda grad: grad.untyped_storage(),
    ],
    ids=["grad", "rows", "columns", "view", "detach", "data", "transposed", "numpy", "dlpack", "storage"],
)
def test_never_while_a_user_holds_it(hold):
    weight = parameter()
    first = backward(weight, 1)
    kept, before = hold(weight.grad), weight.grad.data_ptr()
    weight.grad = None
    gc.collect()
    second = backward(weight, 2)
    assert weight.grad.data_ptr() != before
    assert_is(weight.grad, second)
    if isinstance(kept, torch.Tensor) and kept.shape == weight.shape:
        assert_is(kept, first)


def test_used_again_once_it_is_let_go():
    weight = parameter()
    backward(weight, 1)
    held = weight.grad
    weight.grad = None
    backward(weight, 2)
    second = weight.grad.data_ptr()
    weight.grad = held = None  # noqa: F841
    backward(weight, 3)
    assert weight.grad.data_ptr() == second


def test_what_autograd_returns_is_the_users():
    weight, grads, expected = parameter(), [], []
    for seed in range(3):
        x, dy = normal((3, 4), seed=seed), normal((3, 5), seed=seed + 100)
        grads += torch.autograd.grad(locked_linear(x, weight, frozen=FROZEN), weight, dy)
        expected.append(backward(copy.deepcopy(weight), seed))
    for actual, expected_grad in zip(grads, expected, strict=True):
        assert_is(actual, expected_grad)


def test_every_weight_has_its_own():
    first_weight, second_weight = parameter(), parameter()
    first, second = backward(first_weight, 1), backward(second_weight, 2)
    assert first_weight.grad.data_ptr() != second_weight.grad.data_ptr()
    assert_is(first_weight.grad, first)
    assert_is(second_weight.grad, second)


def test_gone_with_its_weight():
    weight = parameter()
    backward(weight)
    kept = weakref.ref(gradient_memory._kept[weight])
    del weight
    gc.collect()
    assert kept() is None


def test_released_on_request():
    weight = parameter()
    backward(weight)
    assert norm_bound(weight) is not None
    release(weight)
    assert norm_bound(weight) is None
    release(weight)
    weight.grad = None
    expected = backward(weight, 2)
    assert_is(weight.grad, expected)


def test_without_the_private_count_nothing_is_used_again(monkeypatch):
    monkeypatch.delattr(torch._C, "_storage_Use_Count")
    weight = parameter()
    backward(weight, 1)
    before = weight.grad.data_ptr()
    weight.grad = None
    expected = backward(weight, 2)
    assert weight.grad.data_ptr() != before
    assert_is(weight.grad, expected)


@pytest.mark.parametrize("change", [lambda w: w.data.bfloat16(), lambda w: w.data[:, :3].clone()])
def test_a_weight_that_has_become_another(change):
    """The same Parameter with other data, as after `module.to(dtype)` or growing."""
    weight = parameter()
    backward(weight)
    weight.grad = None
    weight.data = change(weight)
    expected = backward(weight, 2)
    assert weight.grad.shape == weight.shape
    assert weight.grad.dtype == weight.dtype
    eps = torch.finfo(weight.dtype).eps
    torch.testing.assert_close(weight.grad, expected, rtol=2 * eps, atol=16 * eps)


def test_a_transposed_weight():
    """Autograd gives such a weight a gradient in the layout of the weight."""
    weight = torch.nn.Parameter(normal((4, 5)).t())
    for seed in range(3):
        weight.grad = None
        expected = backward(weight, seed)
        assert_is(weight.grad, expected)


# ---------------------------------------------------------------- zeros stay in place


@pytest.mark.parametrize(
    "change",
    [
        lambda p: torch.nn.utils.clip_grad_norm_([p], 0.1),
        lambda p: torch.nn.utils.clip_grad_value_([p], 0.1),
        lambda p: p.grad.add_(1.0),
        lambda p: p.grad.fill_(torch.nan),
        lambda p: p.grad[:2].add_(1.0),
        lambda p: p.grad.view(-1)[0].fill_(9.0),
        lambda p: torch._foreach_add_([p.grad], 1.0),
        lambda p: p.grad.copy_(torch.ones_like(p)),
    ],
    ids=["clip", "clip value", "add", "fill", "rows", "element", "foreach", "copy"],
)
def test_a_change_does_not_leak_into_the_next_gradient(change):
    weight = parameter()
    backward(weight, 1)
    before = weight.grad.data_ptr()
    change(weight)
    weight.grad = None
    expected = backward(weight, 2)
    assert weight.grad.data_ptr() == before
    assert_is(weight.grad, expected)


@pytest.mark.parametrize("frozen", [[(3, 2), (4, 3), (5, 4)], [(5, 4), (2, 1), (0, 0)], [(4, 1), (1, 4), (2, 2)]])
def test_another_block(frozen):
    """After one more task, more is frozen; after loading an older state, less."""
    weight = parameter()
    for seed, block in enumerate(frozen):
        weight.grad = None
        expected = backward(weight, seed, block)
        assert_is(weight.grad, expected, block)


def test_what_failed_half_way_leaves_no_trace():
    weight = parameter()
    backward(weight, 1)
    weight.grad = None
    take(weight, FROZEN).fill_(torch.nan)  # without `complete`
    expected = backward(weight, 2)
    assert_is(weight.grad, expected)


# ---------------------------------------------------------------- accumulation


@pytest.mark.parametrize("passes", [2, 3, 4])
def test_accumulation(passes):
    weight = parameter()
    for _ in range(2):
        expected = sum(backward(weight, seed) for seed in range(passes))
        assert_is(weight.grad, expected)
        weight.grad = None


def test_accumulation_after_zeros_in_place():
    weight, expected = parameter(), 0
    for step in range(3):
        if weight.grad is not None:
            weight.grad.zero_()
        expected = backward(weight, 2 * step) + backward(weight, 2 * step + 1)
        assert_is(weight.grad, expected)


def test_a_weight_that_is_used_twice():
    weight, x = parameter((4, 4)), normal((3, 4), seed=1)
    twin = weight.detach().clone().requires_grad_()
    for _ in range(2):
        locked_linear(locked_linear(x, weight, frozen=FROZEN).tanh(), weight, frozen=FROZEN).sum().backward()
        F.linear(F.linear(x, twin).tanh(), twin).sum().backward()
    twin.grad[: FROZEN[0], : FROZEN[1]] = 0
    assert_is(weight.grad, twin.grad)


def test_a_graph_that_is_walked_twice():
    weight, x = parameter(), normal((3, 4), seed=1)
    loss = locked_linear(x, weight, frozen=FROZEN).sum()
    loss.backward(retain_graph=True)
    once = weight.grad.clone()
    loss.backward()
    assert torch.equal(weight.grad, 2 * once)


def test_a_copy_has_a_gradient_of_its_own():
    weight = parameter()
    first = backward(weight, 1)
    copied = copy.deepcopy(weight)
    assert norm_bound(copied) is None
    second, third = first + backward(weight, 2), backward(copied, 3)
    assert_is(weight.grad, second)
    assert_is(copied.grad, third)


# ---------------------------------------------------------------- the bound of the norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_the_bound_is_no_less_than_the_norm(rows, dtype):
    """The bound holds up to the rounding of two float32 norms. For one row, bound and norm are equal."""
    for seed in range(30):
        weight = parameter((30, 20), dtype)
        x, dy = normal((rows, 20), dtype, seed), normal((rows, 30), dtype, seed + 100)
        locked_linear(x, weight, frozen=(2, 2)).backward(dy)
        assert norm_bound(weight) >= weight.grad.double().norm().item() * (1 - 8 * EPS)


def test_the_bound_is_that_of_cauchy_and_schwarz():
    """The bound is only a little larger than needed: with a loose bound, every gradient would be measured."""
    weight, x, dy = parameter(), normal((3, 4), seed=1), normal((3, 5), seed=2)
    locked_linear(x, weight, frozen=FROZEN).backward(dy)
    norms = (x.norm() * dy.norm()).item()
    assert norms * (1 - 8 * EPS) <= norm_bound(weight) <= 1.02 * norms


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.grad.mul_(3.0),
        lambda p: p.grad[4:].add_(100.0),
        lambda p: torch.nn.utils.clip_grad_norm_([p], 0.1),
        lambda p: torch._foreach_mul_([p.grad], 3.0),
        lambda p: setattr(p, "grad", p.grad.clone()),
        lambda p: setattr(p, "grad", torch.ones_like(p)),
        lambda p: setattr(p, "grad", None),
        lambda p: backward(p, 2),
    ],
    ids=["mul", "part", "clip", "foreach", "clone", "other", "none", "accumulated"],
)
def test_no_bound_after_a_change(change):
    weight = parameter()
    backward(weight, 1)
    change(weight)
    assert norm_bound(weight) is None


def test_a_bound_again_after_the_next_backward_pass():
    weight = parameter()
    backward(weight, 1)
    weight.grad.mul_(3.0)
    weight.grad = None
    backward(weight, 2)
    assert norm_bound(weight) >= weight.grad.norm().item() * (1 - 8 * EPS)


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e30])
def test_the_bound_of_what_is_not_finite_is_not_finite(value):
    """If squares overflow, the bound is not finite, and the norm is measured."""
    weight = parameter()
    locked_linear(torch.full((2, 4), value), weight, frozen=FROZEN).sum().backward()
    assert not norm_bound(weight) < torch.inf


def test_no_bound_of_what_was_never_computed():
    weight = parameter()
    assert norm_bound(weight) is None
    weight.grad = torch.ones_like(weight)
    assert norm_bound(weight) is None
    complete(weight, weight.grad, lambda: torch.tensor(1.0))
    assert norm_bound(weight) is None
