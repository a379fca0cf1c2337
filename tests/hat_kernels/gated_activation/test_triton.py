"""The kernels against the reference."""

import pytest
import torch

import hat_kernels
from hat_kernels import ACTIVATIONS, GateForm
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.forms import FORMS
from tests.hat_kernels.gated_activation.kernel import check, gate_of, kernel_results
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.shapes import LAYOUTS, SHAPES, lay_out, normal

pytest.importorskip("triton")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def on_device(shape, dtype=torch.float32, seed=0):
    return normal(shape, dtype, seed).to(DEVICE)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, dtype):
    x, bias, dy = 2 * on_device((13, 31), dtype), on_device((31,), dtype, 1), on_device((13, 31), dtype, 2)
    for name in FORMS:
        actual = check(x, bias, dy, gate_of(name, 31, 13), activation=activation)
        assert [g.dtype for g in actual[:3]] == [dtype] * 3


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, name):
    x, bias, dy = on_device(shape), on_device(shape[1:], seed=1), on_device(shape, seed=2)
    check(x, bias, dy, gate_of(name, shape[1], shape[0]), activation="silu")


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "contiguous"])
@pytest.mark.parametrize("shape", SHAPES[:-3] + SHAPES[-2:])
def test_layouts_of_x_and_of_the_gradient(shape, layout):
    """The gradient of a sum is expanded: its stride is 0."""
    x, bias, dy = on_device(shape), on_device(shape[1:], seed=1), on_device(shape, seed=2)
    gate = gate_of("embedding", shape[1], shape[0])
    check(lay_out(x, layout), bias, dy, gate)
    check(x, bias, lay_out(dy, layout), gate)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "shape",
    [(3, 5, 7), (2, 5, 3, 4), (1, 1, 1), (2, 7, 1, 3, 2), (3, 5, 1, 1), (2, 17, 300), (7, 3, 8, 8), (0, 5, 4)],
)
def test_channels(shape, name):
    x, dy = on_device(shape), on_device(shape, seed=2)
    check(x, on_device(shape[1:2], seed=1), dy, gate_of(name, shape[1], shape[0]), unit_dim=1)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.channels_last_3d])
def test_channels_last_stays_channels_last(memory_format, name):
    shape = (3, 12, 5, 4) if memory_format == torch.channels_last else (2, 12, 2, 3, 2)
    x, dy = on_device(shape).to(memory_format=memory_format), on_device(shape, seed=2)
    y, dx, *_ = check(x, on_device((12,), seed=1), dy, gate_of(name, 12, shape[0]), unit_dim=1)
    assert y.is_contiguous(memory_format=memory_format)
    assert dx.is_contiguous(memory_format=memory_format)
    with count_launches() as launches:
        kernel_results(x, None, dy, None, {"unit_dim": 1})
    assert set(launches) == {"gated_activation_rows_forward", "gated_activation_rows_backward"}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("make", "unit_dim"),
    [
        (lambda: on_device((4, 20, 6))[:, 3:11], 1),  # some of the channels: gaps between the samples
        (lambda: on_device((9, 40))[:, 5:18], -1),  # rows with gaps, not aligned
        (lambda: on_device((9, 40))[::2, :16], -1),
        (lambda: on_device((5, 3, 8)).transpose(0, 1), -1),  # (time, batch, units) as (batch, time, units)
        (lambda: on_device((3, 4, 8)).permute(0, 2, 1), 1),  # units are dimension 1, and innermost in memory
        (lambda: on_device((8, 3, 4)).permute(1, 0, 2), 1),  # units are outermost in memory
        (lambda: on_device((2, 6, 3, 8)).permute(0, 2, 1, 3)[..., ::2], 1),
        (lambda: on_device((7,)), 0),
        (lambda: on_device((2, 3, 4, 5)), 2),
    ],
)
def test_views(make, unit_dim, name):
    x = make()
    if name == "task" and unit_dim == 0:
        return
    units = x.shape[unit_dim]
    dy = torch.randn_like(x)
    check(x, on_device((units,), seed=1), dy, gate_of(name, units, x.shape[0]), unit_dim=unit_dim, activation="tanh")


@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
@pytest.mark.parametrize(
    ("shape", "unit_dim", "launches"), [((40, 40), -1, 2), ((300, 40), -1, 3), ((2, 6, 9), 1, 2), ((9, 6, 16), 1, 3)]
)
def test_sums_in_one_stage_and_in_two(shape, unit_dim, launches, compensation):
    """Few rows are added in the same pass, many in a second launch over partial sums; two runs have the same bits."""
    units = shape[unit_dim]
    arguments = on_device(shape), on_device((units,), seed=1), on_device(shape, seed=2)
    gate = gate_of("embedding", units, shape[0], compensation)
    first = check(*arguments, gate, unit_dim=unit_dim)
    with count_launches() as counted:
        again = kernel_results(*arguments, gate, {"unit_dim": unit_dim})
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert counted.total() == launches


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias_dtype", DTYPES)
def test_a_bias_of_its_own_dtype(bias_dtype, dtype):
    """The bias may have another dtype, as under autocast; its gradient has the dtype of the bias."""
    x, bias, dy = on_device((300, 24), dtype), on_device((24,), bias_dtype, 1), on_device((300, 24), dtype, 2)
    actual = check(x, bias, dy, None)
    assert [g.dtype for g in actual] == [dtype, dtype, bias_dtype]
    x, dy = (t[:24].t().reshape(2, 12, 24).transpose(1, 2).contiguous() for t in (x, dy))
    assert check(x, bias, dy, None, unit_dim=1)[2].dtype == bias_dtype


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("unit_dim", [-1, 1])
@pytest.mark.parametrize("name", ["mask", "task"])
def test_off_units_are_exactly_zero_whatever_they_hold(name, unit_dim, value):
    mask = torch.tensor([1.0, 0, 1, 0, 0.5, 0], device=DEVICE)
    gate = GateForm(mask=mask)
    if name == "task":
        gate = GateForm(mask=mask.repeat(2, 1), task=torch.tensor([0, 1, 1, 0]).to(DEVICE))
    shape = (4, 6) if unit_dim == -1 else (4, 6, 5)
    for activation in ("relu", "gelu"):
        x, bias = on_device(shape), on_device((6,), seed=1)
        options = {"activation": activation, "unit_dim": unit_dim}
        clean = kernel_results(x, bias, torch.ones_like(x), gate, options)
        x[:, mask == 0] = value
        actual = kernel_results(x, bias, torch.ones_like(x), gate, options)
        assert all(torch.equal(a, b) for a, b in zip(clean, actual, strict=True))
        for result in actual[:2]:
            assert not result[:, mask == 0].any()
        assert not actual[2][mask == 0].any()


def test_nan_and_infinity_pass_where_a_unit_is_on():
    x = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1.0]], device=DEVICE)
    with hat_kernels.backend("triton"):
        y = hat_kernels.gated_activation(x, gate=GateForm(mask=torch.ones(4, device=DEVICE)))
    assert y.isnan().tolist() == [[True, False, False, False]]
    assert y[0, 1:].tolist() == [torch.inf, 0.0, 1.0]


def test_a_task_that_does_not_exist_shows():
    """On a GPU the host does not read and check task ids. An unknown id gives NaN, not the mask of another task."""
    op = torch.ops.hat_kernels.gated_activation
    for shape, unit_dim in (((3, 4), -1), ((3, 4, 2), 1)):
        x, mask, task = torch.ones(shape, device=DEVICE), torch.ones(2, 4, device=DEVICE), torch.tensor([0, 2, -1])
        y = op(x, None, None, *GateForm(mask=mask, task=task.to(DEVICE)), "relu", 0.0, unit_dim)
        assert y.flatten(1).isnan().all(1).tolist() == [False, True, True]


@pytest.mark.parametrize("unit_dim", [-1, 1])
def test_only_what_is_needed(unit_dim):
    """A gradient has the same values, whichever others are computed."""
    shape = (5, 6) if unit_dim == -1 else (5, 6, 7)
    tensors = [on_device(shape), on_device((6,), seed=1), on_device((6,), seed=3)]
    dy, scale = on_device(shape, seed=2), torch.tensor(1.5, device=DEVICE)

    def gradients(activation, expected):
        leaves = [t.clone().requires_grad_(i in expected) for i, t in enumerate(tensors)]
        with hat_kernels.backend("triton"):
            gate = GateForm(embedding=leaves[2], scale=scale)
            y = hat_kernels.gated_activation(*leaves[:2], gate=gate, unit_dim=unit_dim, activation=activation)
        return torch.autograd.grad(y, [leaves[i] for i in expected], dy)

    for activation in ("relu", "identity"):
        everything = gradients(activation, [0, 1, 2])
        for expected in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
            alone = gradients(activation, expected)
            assert all(torch.equal(actual, everything[i]) for actual, i in zip(alone, expected, strict=True))


def test_the_identity_keeps_no_activations():
    """dx is dy times the gate, which does not need x: saving x would waste memory."""
    x = on_device((5, 6)).requires_grad_()
    with hat_kernels.backend("triton"):
        gate = GateForm(mask=torch.ones(6, device=DEVICE))
        y = hat_kernels.gated_activation(x, activation="identity", gate=gate)
    assert not any(t is x for t in y.grad_fn.saved_tensors)


@pytest.mark.parametrize("unit_dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0), (2, 0, 3), (2, 3, 0)])
def test_empty(shape, unit_dim):
    units = shape[unit_dim]
    x, bias, dy = on_device(shape), on_device((units,), seed=1), on_device(shape, seed=2)
    with count_launches() as launches:
        actual = check(x, bias, dy, gate_of("embedding", units, shape[0]), unit_dim=unit_dim)
    assert not launches.total()
    assert [g.shape for g in actual] == [x.shape, x.shape, bias.shape, bias.shape]


def test_offsets_past_32_bits():
    """Two rows 2^31 + 8 elements apart; the memory between is never touched."""
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=DEVICE)
    for shape, unit_dim in (((2, 16), -1), ((2, 4, 4), 1)):
        x = far.as_strided(shape, (2**31 + 8, *torch.empty(shape[1:], device="meta").stride(), 1)[: len(shape)])
        values = on_device(shape, torch.float16)
        x.copy_(values)
        bias, dy = on_device((shape[1],), torch.float16, 1), on_device(shape, torch.float16, 2)
        actual = kernel_results(x, bias, dy, None, {"unit_dim": unit_dim})
        expected = kernel_results(values, bias, dy, None, {"unit_dim": unit_dim})
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
