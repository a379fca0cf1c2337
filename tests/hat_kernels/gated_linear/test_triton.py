"""The matmuls with their fused prologues and epilogues against the reference."""

from unittest import mock

import pytest
import torch

import hat_kernels
from hat_kernels import GateForm
from hat_kernels.gated_linear import blocks
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.forms import FORMS
from tests.hat_kernels.gated_activation.kernel import gate_of
from tests.hat_kernels.gated_linear.kernel import check, chosen, inputs, results
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.poison import poisoned
from tests.hat_kernels.shapes import LAYOUTS, lay_out, normal

pytest.importorskip("triton")

from hat_kernels.gated_linear.matmul import kind, precision

# (batch, inputs, units): 1, primes, just past a block of each pass, empty in each dimension.
SIZES = [(1, 1, 1), (3, 7, 5), (67, 71, 73), (33, 65, 129), (130, 17, 31), (0, 5, 3), (4, 0, 3), (4, 5, 0)]
ALL = [torch.float32, torch.float16] if DEVICE == "cpu" else [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", FORMS)
def test_as_accurate_as_the_reference(name, sizes):
    check(*inputs(*sizes), gate_of(name, sizes[2], sizes[0]))


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
def test_dtypes_and_compensations(compensation, dtype):
    check(*inputs(66, 40, 70, dtype), gate_of("embedding", 70, 66, compensation)._replace(s_max=20.0))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", hat_kernels.ACTIVATIONS)
def test_activations(activation, bias):
    check(*inputs(9, 6, 35, bias=bias), gate_of("embedding" if bias else "mask", 35, 9), activation=activation)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x, weight, bias, dy = inputs(20, 24, 40)
    check(lay_out(x, layout), lay_out(weight, layout), bias, lay_out(dy, layout), gate_of("embedding", 40, 20))


@pytest.mark.parametrize("name", ["narrow", "square", "wide"])
def test_every_block(name):
    """Several tiles, and more tiles than persistent programs."""
    with chosen(name):
        m, n = blocks.BLOCKS["forward"][name].m + 3, 2 * blocks.BLOCKS["forward"][name].n + 5
        check(*inputs(m, 40, n, torch.float16), gate_of("embedding", n, m))
        check(*inputs(m, n, 24, torch.float16), gate_of("none", 24, m))


@pytest.mark.parametrize("purposes", [("forward",), ("dx",), ("dw",), ()])
def test_every_pass_by_the_vendor_or_by_a_kernel(purposes):
    """The backend `auto` of a GPU, when our kernel was measured to be faster in some passes."""
    x, weight, bias, dy = inputs(21, 24, 40)
    gate, frozen = gate_of("embedding", 40, 21), (10, 12)
    with hat_kernels.backend("reference"):
        expected = results(x, weight, bias, dy, gate, {"frozen": frozen})
    names = {"forward": "gated_linear_forward", "dx": "gated_linear_backward", "dw": "gated_linear_gradient"}
    by_choice = mock.patch("hat_kernels.gated_linear.api.forced", return_value=False)
    with chosen("plain", purposes), hat_kernels.backend("triton"), by_choice, poisoned(), count_launches() as launches:
        actual = results(x, weight, bias, dy, gate, {"frozen": frozen})
    if not purposes:  # without the operator of gated_linear, gated_activation adds the bias, and it has no frozen rows
        actual[3][: frozen[0]] = 0
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert {name for name, kernel in names.items() if launches[kernel]} == set(purposes)


@pytest.mark.parametrize("frozen", [(0, 0), (64, 32), (70, 40), (90, 50), (13, 50), (90, 1), (1, 0)])
@pytest.mark.parametrize("dtype", ALL)
def test_frozen(dtype, frozen):
    """The gradients of the frozen block and of the bias of the frozen rows are 0, whatever dy and x hold."""
    actual = check(*inputs(9, 50, 90, dtype), gate_of("embedding", 90, 9), frozen=frozen)
    assert not actual[2][: frozen[0], : frozen[1]].any()
    assert not actual[3][: frozen[0]].any()


def test_a_frozen_block_hides_overflow():
    x, weight, bias, dy = inputs(9, 50, 90)
    dy[:, :70] = torch.inf
    with hat_kernels.backend("triton"):
        dw, db = results(x, weight, bias, dy, None, {"frozen": (70, 40), "activation": "identity"})[2:]
    assert not dw[:70, :40].any()
    assert not db[:70].any()
    assert not dw[:70, 40:].isfinite().any()
    assert dw[70:].isfinite().all()


def test_off_units_hide_overflow():
    weight = torch.tensor([[torch.inf, 1.0], [1.0, 1.0]], device=DEVICE)
    gate = GateForm(mask=torch.tensor([0.0, 1.0], device=DEVICE))
    with hat_kernels.backend("triton"):
        actual = hat_kernels.gated_linear(torch.ones(3, 2, device=DEVICE), weight, gate=gate)
    assert torch.equal(actual, torch.tensor([[0.0, 2.0]] * 3, device=DEVICE))


@pytest.mark.parametrize("leading", [(), (2, 3), (1, 1, 4)])
def test_leading_dimensions(leading):
    x, weight = normal((*leading, 5)).to(DEVICE), normal((7, 5), seed=1).to(DEVICE)
    gate = GateForm(mask=torch.ones(7, device=DEVICE))
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    with hat_kernels.backend("triton"):
        y = hat_kernels.gated_linear(*leaves, gate=gate)
    expected = torch.relu(torch.nn.functional.linear(*leaves))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("leading", [(4, 3), (4, 2, 3)])
def test_a_task_per_sample_of_several_rows(leading):
    x, weight, bias, _ = inputs(1, 5, 33)
    x, dy = normal((*leading, 5)).to(DEVICE), normal((*leading, 33), seed=4).to(DEVICE)
    gate = gate_of("task", 33, 4)
    actual = {}
    for backend in ("triton", "reference"):
        with hat_kernels.backend(backend):
            actual[backend] = results(x, weight, bias, dy, gate, {})
    torch.testing.assert_close(actual["triton"], actual["reference"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.25, 0.5])
def test_dropout_drops_what_gated_activation_drops(dropout):
    """The random bits of an element depend on its place in the row, not on the tiles. Each pass has several tiles."""
    x, weight, bias, dy = inputs(70, 24, 300)
    gate = gate_of("embedding", 300, 70)
    options = {"dropout": dropout, "activation": "silu"}
    with hat_kernels.backend("triton"):
        torch.manual_seed(3)
        actual = results(x, weight, bias, dy, gate, options)
        leaves = [leaf.clone().requires_grad_() for leaf in (x, weight, bias, gate.embedding)]
        torch.manual_seed(3)
        z = torch.nn.functional.linear(*leaves[:3])
        y = hat_kernels.gated_activation(z, gate=gate._replace(embedding=leaves[3]), **options)
        expected = [y.detach(), *torch.autograd.grad(y, leaves, dy)]
    assert torch.equal(actual[0] == 0, expected[0] == 0)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [5, 70])
def test_launches(rows):
    x, weight, bias, dy = inputs(rows, 24, 40)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    sums = {"gated_activation_sums": 1} if rows > 64 else {}  # of several rows of tiles
    with hat_kernels.backend("triton"), count_launches() as launches:
        y = hat_kernels.gated_linear(*leaves, gate=gate_of("mask", 40, rows))
        assert launches == {"gated_linear_forward": 1}
        torch.autograd.grad(y, leaves, dy)
    assert launches == {"gated_linear_forward": 1, "gated_linear_backward": 1, "gated_linear_gradient": 1} | sums


def test_launches_of_a_first_layer():
    x, weight, bias, dy = inputs(5, 24, 40)
    leaves = [leaf.requires_grad_() for leaf in (weight, bias)]
    with hat_kernels.backend("triton"), count_launches() as launches:
        torch.autograd.grad(hat_kernels.gated_linear(x, *leaves, gate=gate_of("mask", 40, 5)), leaves, dy)
    assert launches == {
        "gated_linear_forward": 1,
        "gated_activation_rows_backward": 1,
        "gated_linear_gradient": 1,
    }


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2), (1, 3)])
def test_gradients_of_some(wanted):
    x, weight, bias, dy = inputs(20, 24, 40)
    gate = gate_of("embedding", 40, 20)
    leaves = [x, weight, bias, gate.embedding]
    gradients = {}
    for backend in ("triton", "reference"):
        copies = [leaf.clone().requires_grad_(index in wanted) for index, leaf in enumerate(leaves)]
        with hat_kernels.backend(backend), poisoned():
            form = gate._replace(embedding=copies[3])
            y = hat_kernels.gated_linear(*copies[:3], activation="identity", frozen=(3, 4), gate=form)
            gradients[backend] = torch.autograd.grad(y, [copies[index] for index in wanted], dy)
    torch.testing.assert_close(gradients["triton"], gradients["reference"], rtol=1e-4, atol=1e-5)


def test_nothing_is_kept_without_a_gradient():
    x, weight, bias, _ = inputs(5, 24, 40)
    with hat_kernels.backend("triton"), torch.no_grad(), poisoned():
        y = hat_kernels.gated_linear(x, weight.requires_grad_(), bias)
    torch.testing.assert_close(y, torch.relu(torch.nn.functional.linear(x, weight, bias)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    """The matmul is in half precision; the bias and the gradients of the parameters keep their dtypes."""
    leaves = [normal(shape, seed=seed).to(DEVICE).requires_grad_() for seed, shape in enumerate([(5, 6), (4, 6), (4,)])]
    with hat_kernels.backend("triton"), torch.autocast(DEVICE, dtype=dtype):
        y = hat_kernels.gated_linear(*leaves, gate=gate_of("embedding", 4, 5))
    assert y.dtype == dtype
    assert [g.dtype for g in torch.autograd.grad(y.sum(), leaves)] == [torch.float32] * 3


@pytest.mark.parametrize("setting", ["highest", "high"])
def test_precision_is_asked_at_every_call(setting):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        answers = precision(torch.float32), kind(torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)
    assert answers == {"highest": ("ieee", "fp32"), "high": ("tf32", "tf32")}[setting]
    assert [kind(dtype) for dtype in (torch.bfloat16, torch.float16)] == ["bf16", "fp16"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "swish"}, "activation: expected one of .*, got 'swish'"),
        ({"dropout": 2.0}, r"dropout: expected in \[0, 1\), got 2\.0"),
        ({"gate": {"embedding": torch.zeros(5)}}, "embedding, scale: expected both or neither"),
        ({"gate": {"mask": torch.ones(3)}}, r"mask: expected shape \(5,\), got \(3,\)"),
        ({"gate": {"mask": torch.ones(2, 5), "task": torch.tensor([0, 2])}}, "task: expected 0 to 1, got 0 to 2"),
        ({"frozen": (6, 0)}, "frozen: expected 0 to 5 rows, got 6"),
    ],
)
def test_errors(options, message):
    form = {name: value.to(DEVICE) for name, value in options.get("gate", {}).items()}
    options = options | ({"gate": GateForm(**form)} if form else {})
    if "task" in form and DEVICE != "cpu":
        pytest.skip("to look at a task on a GPU would be to wait")
    x, weight = torch.zeros(2, 3, device=DEVICE), torch.zeros(5, 3, device=DEVICE)
    with hat_kernels.backend("triton"), pytest.raises(ValueError, match=message):
        hat_kernels.gated_linear(x, weight, **options)
