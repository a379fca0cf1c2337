"""The gradient of the free weights is that of a convolution; the gradient of the frozen weights is 0."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

import hat_kernels
from tests.hat_kernels.locked_linear.rounding import assert_same_sums
from tests.hat_kernels.shapes import normal

CONVS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
# (inputs, units, groups): one, several, depthwise, depthwise with two units a group
CHANNELS = [(1, 1, 1), (3, 5, 1), (4, 6, 2), (3, 3, 3), (3, 6, 3)]
# (size, kernel, stride, padding, dilation) along every dimension
WINDOWS = [(5, 3, 1, 0, 1), (5, 3, 1, 1, 1), (6, 2, 2, 0, 1), (7, 3, 2, 1, 2), (4, 1, 1, 0, 1), (3, 3, 1, 0, 1)]


def frozen_parts(inputs, units, groups):
    """(rows, columns): a part, whole rows, everything; with groups also whole groups, and a part of a group."""
    columns = {1, (inputs + 1) // 2, inputs} if groups == 1 else {inputs // groups}
    return sorted({(r, c) for r in (1, (units + 1) // 2, units) for c in columns})


def geometry(window, dims):
    _, _, stride, padding, dilation = window
    return {"stride": [stride] * dims, "padding": [padding] * dims, "dilation": [dilation] * dims}


def drawn(dims, channels, window, dtype=torch.float32, batch=2):
    inputs, units, groups = channels
    size, kernel, *_ = window
    x = normal((batch, inputs, *[size] * dims), dtype)
    weight, bias = normal((units, inputs // groups, *[kernel] * dims), dtype, 1), normal((units,), dtype, 2)
    shape = CONVS[dims](x, weight, bias, groups=groups, **geometry(window, dims)).shape
    return x, weight, bias, normal(shape, dtype, 3)


def expected_gradients(x, weight, bias, dy, dims, groups, window, frozen):
    rows, columns = frozen
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = CONVS[dims](*leaves, groups=groups, **geometry(window, dims))
    dx, dw, db = torch.autograd.grad(y, leaves, dy)
    dw, db = dw.clone(), db.clone()
    dw[:rows, :columns] = 0
    db[:rows] = 0
    return dx, dw, db


def gradients(x, weight, bias, dy, dims, groups, window, frozen):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = hat_kernels.locked_conv(*leaves, groups=groups, **geometry(window, dims), frozen=frozen)
    assert torch.equal(y, CONVS[dims](*leaves, groups=groups, **geometry(window, dims)))
    return torch.autograd.grad(y, leaves, dy)


def check(tensors, *options):
    x, weight, _, dy = tensors
    per_weight = len(x) * dy[0, 0].numel()
    terms = (len(weight) * weight[0, 0].numel(), per_weight, per_weight)
    assert_same_sums(gradients(*tensors, *options), lambda *t: expected_gradients(*t, *options), tensors, terms)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_gradients(dims, channels, window):
    tensors = drawn(dims, channels, window)
    for frozen in frozen_parts(*channels):
        check(tensors, dims, channels[2], window, frozen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels", CHANNELS)
def test_dtypes(channels, dtype):
    tensors = drawn(2, channels, WINDOWS[3], dtype)
    for frozen in frozen_parts(*channels):
        check(tensors, 2, channels[2], WINDOWS[3], frozen)


@pytest.mark.parametrize("channels", CHANNELS)
def test_rows_alone_or_columns_alone_freeze_nothing_of_the_weight(channels):
    inputs, units, groups = channels
    for frozen in ((0, 0), (0, inputs // groups), (units, 0)):
        check(drawn(1, channels, WINDOWS[0]), 1, groups, WINDOWS[0], frozen)


def test_an_empty_batch():
    x, weight, bias, dy = drawn(1, (3, 5, 1), WINDOWS[0], batch=0)
    assert not any(g.any() for g in gradients(x, weight, bias, dy, 1, 1, WINDOWS[0], (2, 2)))


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(form):
    x, weight, bias, dy = drawn(2, (3, 5, 1), WINDOWS[1])
    x, weight, dy = (t.to(memory_format=form) for t in (x, weight, dy))
    check((x, weight, bias, dy), 2, 1, WINDOWS[1], (2, 2))


def test_stride_0_gradient():
    """The gradient of a sum has stride 0."""
    x, weight, bias, dy = drawn(1, (3, 5, 1), WINDOWS[0])
    check((x, weight, bias, torch.ones(()).expand(dy.shape)), 1, 1, WINDOWS[0], (2, 2))


@pytest.mark.parametrize("needed", [(True, True, False), (False, True, True), (False, True, False)])
def test_only_what_is_needed(needed):
    tensors = drawn(2, (4, 6, 2), WINDOWS[1])
    *values, dy = tensors
    leaves = [t.clone().requires_grad_(need) for t, need in zip(values, needed, strict=True)]
    hat_kernels.locked_conv(*leaves, groups=2, **geometry(WINDOWS[1], 2), frozen=(4, 2)).backward(dy)
    for leaf, need, expected in zip(
        leaves, needed, expected_gradients(*tensors, 2, 2, WINDOWS[1], (4, 2)), strict=True
    ):
        assert (leaf.grad is not None) == need
        if need:
            torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("groups", "frozen"), [(1, (2, 1)), (1, (4, 2)), (1, (3, 2)), (2, (2, 1)), (2, (3, 1))])
def test_gradcheck_of_what_may_move(groups, frozen, bias):
    """The checked function treats the frozen block as a constant."""
    rows, columns = frozen
    x, whole, b, _ = drawn(1, (2, 4, groups), (5, 2, 2, 1, 1), torch.float64)

    def run(x, below, beside, b):
        weight = torch.cat([torch.cat([whole[:rows, :columns], beside], 1), below])
        b = torch.cat([torch.zeros(rows, dtype=torch.float64), b]) if bias else None
        return hat_kernels.locked_conv(
            x, weight, b, stride=[2], padding=[1], dilation=[1], groups=groups, frozen=frozen
        )

    leaves = [x, whole[rows:].clone(), whole[:rows, columns:].clone(), b[rows:].clone()]
    assert gradcheck(run, [leaf.requires_grad_() for leaf in leaves])


def test_differentiable_once():
    x, weight, _, _ = (t.requires_grad_() for t in drawn(1, (3, 5, 1), WINDOWS[0]))
    y = hat_kernels.locked_conv(x, weight, **geometry(WINDOWS[0], 1), frozen=(2, 2))
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("groups", [1, 2])
def test_autocast(groups):
    """Gradients are float32, computed by convolutions in bfloat16. They differ from autograd by one more rounding."""
    x, weight, bias, dy = drawn(2, (4, 6, groups), WINDOWS[1])
    frozen = (3, 4 // groups)
    options = {"groups": groups, **geometry(WINDOWS[1], 2)}
    results = []
    for op in (F.conv2d, lambda *t, **o: hat_kernels.locked_conv(*t, **o, frozen=frozen)):
        leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
        with torch.autocast("cpu", torch.bfloat16):
            y = op(*leaves, **options)
        assert y.dtype == torch.bfloat16
        results.append(torch.autograd.grad(y, leaves, dy.bfloat16()))
    plain, locked = results
    assert {g.dtype for g in locked} == {torch.float32}
    plain[1][: frozen[0], : frozen[1]] = 0
    plain[2][: frozen[0]] = 0
    assert not locked[1][: frozen[0], : frozen[1]].any()
    for a, b in zip(plain, locked, strict=True):
        assert (a - b).abs().max() <= torch.finfo(torch.bfloat16).eps * a.abs().max()


def test_inf_and_nan_stay_out_of_the_frozen_block():
    x, weight, _, _ = drawn(1, (3, 5, 1), WINDOWS[0])
    weight.requires_grad_()
    hat_kernels.locked_conv(x * torch.nan, weight, **geometry(WINDOWS[0], 1), frozen=(2, 2)).sum().backward()
    assert not weight.grad[:2, :2].any()
    assert weight.grad[2:].isnan().all()


def test_compiles_as_one_graph():
    x, weight, _, _ = drawn(1, (3, 5, 1), WINDOWS[0])
    weight.requires_grad_()

    def run(x):
        return hat_kernels.locked_conv(x * 2, weight, **geometry(WINDOWS[0], 1), frozen=(2, 2)).square()

    (expected,) = torch.autograd.grad(run(x).sum(), weight)
    (actual,) = torch.autograd.grad(torch.compile(run, fullgraph=True, backend="aot_eager")(x).sum(), weight)
    assert not actual[:2, :2].any()
    torch.testing.assert_close(actual, expected)
