"""The kernels of folded_weight against the reference."""

import pytest
import torch

import hat_kernels
from hat_kernels import GATE_FLOOR, GateForm
from tests.hat_kernels.device import DEVICE
from tests.hat_kernels.folded_weight.cases import inputs, results
from tests.hat_kernels.launches import count_launches
from tests.hat_kernels.poison import poisoned
from tests.hat_kernels.shapes import LAYOUTS, PARAMETER_SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import assert_as_accurate

pytest.importorskip("triton")

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
COMPENSATIONS = ["none", "published", "exact"]
LARGER = [(4, 0), (2, 257), (70, 64), (3, 2048), (5, 1500), (300, 3)]


def kernel_results(*given, **options):
    with poisoned():
        return results(*given, backend="triton", **options)


def compare(given, **options):
    actual = kernel_results(*given, **options)
    assert_as_accurate(actual, lambda *given: results(*given, **{**options, "dtype": None}), *given)
    return actual


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [*PARAMETER_SHAPES, *LARGER])
def test_as_accurate_as_the_reference(shape, bias):
    compare(inputs(shape, bias=bias))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("compensation", COMPENSATIONS)
@pytest.mark.parametrize("shape", [(33, 129), (40, 4, 3, 3), (19, 1500)])
def test_dtypes_and_compensations(shape, compensation, dtype):
    actual = compare(inputs(shape, dtype, folded=torch.bfloat16), compensation=compensation, dtype=torch.bfloat16)
    assert [value.dtype for value in actual] == [torch.bfloat16] * 2 + [dtype] * 2 + [torch.float32]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(9,), (1, 6), (5, 17), (16, 40), (7, 3, 5), (6, 4, 3, 3), (2, 3, 1, 2, 5)])
def test_layouts(shape, layout):
    arguments = inputs(shape)
    arguments[0], arguments[4] = lay_out(arguments[0], layout), lay_out(arguments[4], "transposed")
    compare(arguments)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (2, 3, 2, 2, 5)])
def test_channels_last_stays(shape):
    form = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    arguments = inputs(shape)
    arguments[0], arguments[4] = (arguments[index].to(memory_format=form) for index in (0, 4))
    actual = compare(arguments)
    assert all(value.is_contiguous(memory_format=form) for value in (actual[0], actual[2]))


def test_rows_of_a_larger_tensor():
    arguments = inputs((6, 40))
    arguments[0] = torch.full((6, 48), torch.nan, device=DEVICE)[:, :40].copy_(arguments[0])
    arguments[4] = torch.ones((), device=DEVICE).expand(6, 40)  # the gradient of a sum has stride 0
    compare(arguments)


@pytest.mark.parametrize("compensation", COMPENSATIONS)
def test_saturation_floor_and_clamp_are_those_of_the_reference(compensation):
    embedding = torch.linspace(-6, 6, 241, device=DEVICE)
    for scale in (1 / 400, 7.0, 400.0):
        arguments = [normal((241, 3)), normal((241,), seed=1), embedding, torch.tensor(scale)]
        arguments = [t.to(DEVICE) for t in (*arguments, normal((241, 3), seed=2), normal((241,), seed=3))]
        actual, expected = (f(*arguments, compensation=compensation) for f in (kernel_results, results))
        se = scale * embedding
        for mine, theirs in zip(actual[:4], expected[:4], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=1e-30)
        for near, rtol in ((se.abs() < 16, 1e-4), (se < -16, 2e-5)):
            torch.testing.assert_close(
                actual[4][near], expected[4][near], rtol=rtol, atol=1e-6 * expected[4].abs().max()
            )
        if compensation != "exact":
            assert torch.equal(actual[4][se > 18], expected[4][se > 18])
        assert (actual[0] / arguments[0]).min() >= GATE_FLOOR * (1 - 1e-6)


def test_nan_shows():
    arguments = inputs((2, 3))
    arguments[2][0] = torch.nan
    assert kernel_results(*arguments)[0].isnan().any(1).tolist() == [True, False]


@pytest.mark.parametrize(("shape", "parts"), [((6, 4, 3, 3), 1), ((2, 1500), 2)])
def test_launches(shape, parts):
    """One launch forward and one backward, and one more to add partial sums of long rows."""
    with count_launches() as launches:
        kernel_results(*inputs(shape))
    expected = {"folded_weight_forward": 1, "folded_weight_backward": 1}
    assert launches == (expected if parts == 1 else {**expected, "gated_activation_sums": 1})


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_needs_a_gradient_gets_one(needs):
    weight, bias, embedding, scale, *upstream = inputs((2, 1500))
    expected_gradients = results(weight, bias, embedding, scale, *upstream)[2:]
    leaves = [t.requires_grad_(need) for t, need in zip((weight, bias, embedding), needs, strict=True)]
    with hat_kernels.backend("triton"), poisoned():
        outputs = hat_kernels.folded_weight(weight, bias, gate=GateForm(embedding=embedding, scale=scale))
        chosen = [(o, u) for o, u in zip(outputs, upstream, strict=True) if o.requires_grad]
        torch.autograd.backward([o for o, _ in chosen], [u for _, u in chosen])
    for leaf, expected in zip(leaves, expected_gradients, strict=True):
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("arrange", [lambda w: w, lambda w: w.to(memory_format=torch.channels_last)])
def test_opcheck(arrange, bias):
    weight, b, embedding, scale, dfolded, dbias = inputs((5, 3, 2, 2), bias=bias)
    kernel_results(weight, b, embedding, scale, dfolded, dbias)  # registers the operators
    weight = arrange(weight)
    leaves = [None if t is None else t.clone().requires_grad_() for t in (weight, b, embedding)]
    arguments = (*leaves, scale, 400.0, "published", torch.float32)
    torch.library.opcheck(torch.ops.hat_kernels.folded_weight, arguments)
    arguments = (dfolded, dbias if bias else None, weight, b, embedding, scale, 400.0, "published", True, bias, True)
    torch.library.opcheck(torch.ops.hat_kernels.folded_weight_backward, arguments)


def test_compile():
    """One graph forward and one backward, with the numbers of the eager kernel."""
    weight, bias, embedding, scale, *_ = inputs((5, 7))

    def step(weight, bias, embedding):
        gate = GateForm(embedding=embedding, scale=scale)
        w, b = hat_kernels.folded_weight(2 * weight, bias, gate=gate, dtype=torch.bfloat16)
        return (w.float() ** 2).sum() + (b.float() ** 3).sum()

    def gradients(function):
        leaves = [t.clone().requires_grad_() for t in (weight, bias, embedding)]
        return torch.autograd.grad(function(*leaves), leaves)

    with hat_kernels.backend("triton"):
        expected = gradients(step)
        torch._dynamo.reset()
        actual = gradients(torch.compile(step, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(actual, expected)


def test_a_second_backward_is_refused():
    weight, _, embedding, scale, *_ = inputs((5, 7))
    weight.requires_grad_()
    with hat_kernels.backend("triton"):
        folded, _ = hat_kernels.folded_weight(weight, gate=GateForm(embedding=embedding, scale=scale))
    (gradient,) = torch.autograd.grad((folded**2).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="folded_weight: differentiable once"):
        gradient.sum().backward()
