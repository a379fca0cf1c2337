"""The gradient of the free weights is that of `linear`; the gradient of the frozen weights is 0."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

import hat_kernels
from tests.hat_kernels.locked_linear.rounding import assert_same_sums
from tests.hat_kernels.shapes import LAYOUTS, lay_out, normal

# (batch, inputs, units)
SIZES = [(1, 1, 1), (3, 7, 5), (5, 1, 17), (13, 129, 31), (33, 65, 129), (0, 5, 3), (4, 0, 3), (4, 5, 0)]


def blocks(units, inputs):
    """(rows, columns): nothing, a part, whole rows, whole columns, everything."""
    return sorted({(r, c) for r in (0, units // 2, units) for c in (0, (inputs + 1) // 2, inputs)})


def expected_gradients(x, weight, bias, dy, frozen):
    rows, columns = frozen
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    dx, dw, db = torch.autograd.grad(F.linear(*leaves), leaves, dy)
    dw, db = dw.clone(), db.clone()
    dw[:rows, :columns] = 0
    db[:rows] = 0
    return dx, dw, db


def gradients(x, weight, bias, dy, frozen):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    return torch.autograd.grad(hat_kernels.locked_linear(*leaves, frozen=frozen), leaves, dy)


def drawn(batch, inputs, units, dtype=torch.float32):
    shapes = [(batch, inputs), (units, inputs), (units,), (batch, units)]
    return [normal(shape, dtype, seed) for seed, shape in enumerate(shapes)]


def check(tensors, frozen):
    x, weight, _, dy = tensors
    actual, rows = gradients(*tensors, frozen), dy.shape[:-1].numel()
    terms = (len(weight), rows, rows)
    assert_same_sums(actual, lambda *t: expected_gradients(*t, frozen), tensors, terms)
    assert not actual[1][: frozen[0], : frozen[1]].any()
    assert not actual[2][: frozen[0]].any()
    assert actual[0].shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients(sizes, dtype):
    for frozen in blocks(sizes[2], sizes[1]):
        check(drawn(*sizes, dtype), frozen)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_result_is_that_of_linear(sizes):
    x, weight, bias, _ = drawn(*sizes)
    weight.requires_grad_()
    for b in (bias, None):
        actual = hat_kernels.locked_linear(x, weight, b, frozen=(sizes[2] // 2, sizes[1]))
        assert torch.equal(actual, F.linear(x, weight, b))


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 4), (0, 3)])
def test_leading_dimensions(leading):
    x, weight, bias = normal((*leading, 5)), normal((7, 5), seed=1), normal((7,), seed=2)
    check((x, weight, bias, normal((*leading, 7), seed=3)), (3, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    check([lay_out(t, layout) for t in drawn(13, 17, 31)], (11, 6))


def test_stride_0_gradient():
    """The gradient of a sum has stride 0."""
    x, weight, bias, _ = drawn(13, 17, 31)
    check((x, weight, bias, torch.ones(()).expand(13, 31)), (11, 6))


@pytest.mark.parametrize("needed", [(True, True, False), (False, True, True), (False, True, False)])
def test_only_what_is_needed(needed):
    x, weight, bias, dy = drawn(4, 3, 5)
    leaves = [t.clone().requires_grad_(need) for t, need in zip((x, weight, bias), needed, strict=True)]
    hat_kernels.locked_linear(*leaves, frozen=(2, 2)).backward(dy)
    for leaf, need, expected in zip(leaves, needed, expected_gradients(x, weight, bias, dy, (2, 2)), strict=True):
        assert (leaf.grad is not None) == need
        if need:
            torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [(0, 0), (2, 1), (2, 3), (4, 3)])
def test_gradcheck_of_what_may_move(frozen, bias):
    """The checked function treats the frozen block as a constant."""
    rows, columns = frozen
    x, whole, b, _ = drawn(3, 3, 4, torch.float64)

    def run(x, below, beside, b):
        weight = torch.cat([torch.cat([whole[:rows, :columns], beside], 1), below])
        b = torch.cat([torch.zeros(rows, dtype=torch.float64), b]) if bias else None
        return hat_kernels.locked_linear(x, weight, b, frozen=frozen)

    leaves = [x, whole[rows:].clone(), whole[:rows, columns:].clone(), b[rows:].clone()]
    assert gradcheck(run, [leaf.requires_grad_() for leaf in leaves])


def test_differentiable_once():
    x, weight = normal((3, 4)).requires_grad_(), normal((5, 4), seed=1).requires_grad_()
    y = hat_kernels.locked_linear(x, weight, frozen=(2, 2))
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("bias", [True, False])
def test_autocast(bias):
    """Gradients are float32, computed by matmuls in bfloat16. They differ from autograd by one more rounding."""
    x, weight, b, dy = drawn(13, 17, 31)
    results = []
    for op in (F.linear, lambda *t: hat_kernels.locked_linear(*t, frozen=(11, 6))):
        leaves = [t.clone().requires_grad_() for t in (x, weight, b)[: 2 + bias]]
        with torch.autocast("cpu", torch.bfloat16):
            y = op(*leaves)
        assert y.dtype == torch.bfloat16
        results.append(torch.autograd.grad(y, leaves, dy.bfloat16()))
    plain, locked = results
    assert {g.dtype for g in locked} == {torch.float32}
    assert not locked[1][:11, :6].any()
    plain[1][:11, :6] = 0
    if bias:
        assert not locked[2][:11].any()
        plain[2][:11] = 0
    for a, b in zip(plain, locked, strict=True):
        assert (a - b).abs().max() <= torch.finfo(torch.bfloat16).eps * a.abs().max()


def test_what_update_is_given_and_what_it_leaves_behind():
    x, weight, bias, dy = drawn(6, 3, 5)
    updates = []
    for answer in (True, False):
        leaves = [t.clone().requires_grad_() for t in (x.view(2, 3, 3), weight, bias)]

        def update(w, dz, inputs, answer=answer, leaves=leaves):
            updates.append((w is leaves[1], dz, inputs))
            return answer

        hat_kernels.locked_linear(*leaves, frozen=(2, 2), update=update).backward(dy.view(2, 3, 5))
        assert (leaves[1].grad is None) == answer
        assert leaves[0].grad is not None
        assert not leaves[2].grad[:2].any()
    for is_the_weight, dz, inputs in updates:
        assert is_the_weight
        assert torch.equal(dz, dy)
        assert torch.equal(inputs, x)
    torch.testing.assert_close(leaves[1].grad, expected_gradients(x, weight, bias, dy, (2, 2))[1])


def test_inf_and_nan_stay_out_of_the_frozen_block():
    weight = normal((5, 3)).requires_grad_()
    hat_kernels.locked_linear(torch.full((2, 3), torch.nan), weight, frozen=(2, 2)).sum().backward()
    assert not weight.grad[:2, :2].any()
    assert weight.grad[2:].isnan().all()


def test_compiles_as_one_graph():
    weight = normal((5, 3)).requires_grad_()

    def run(x):
        return hat_kernels.locked_linear(x * 2, weight, frozen=(2, 2)).square()

    x = normal((4, 3), seed=1)
    (expected,) = torch.autograd.grad(run(x).sum(), weight)
    (actual,) = torch.autograd.grad(torch.compile(run, fullgraph=True, backend="aot_eager")(x).sum(), weight)
    assert not actual[:2, :2].any()
    torch.testing.assert_close(actual, expected)
