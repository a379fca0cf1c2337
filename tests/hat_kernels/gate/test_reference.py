"""The gate and its three gradients against the formulas, evaluated in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hat_kernels
from hat_kernels import GATE_FLOOR
from tests.hat_kernels.shapes import generator, normal
from tests.hat_kernels.tolerance import assert_as_accurate

S_MAX = 400.0
SCALES = [1 / 400, 0.1, 1.0, 3.0, 17.0, 100.0, 400.0]
SIZES = [0, 1, 7, 31, 129, 1031]


def formula(embedding, scale):
    return 1 / (1 + torch.exp(-scale * embedding))


def plain_gradient(embedding, scale, da):
    a = 1 / (1 + torch.exp(-scale * embedding))
    return da * scale * a * (1 - a)


def published_gradient(embedding, scale, da):
    q = da * scale * torch.sigmoid(scale * embedding) * (1 - torch.sigmoid(scale * embedding))
    return q * S_MAX * (torch.cosh((scale * embedding).clamp(-50, 50)) + 1) / (scale * (torch.cosh(embedding) + 1))


def exact_gradient(embedding, scale, da):
    return da * S_MAX * torch.sigmoid(embedding) * (1 - torch.sigmoid(embedding))


def gradient(embedding, scale, da, compensation, s_max=S_MAX):
    embedding = embedding.detach().clone().requires_grad_()
    hat_kernels.gate(embedding, scale, s_max=s_max, compensation=compensation).backward(da)
    return embedding.grad


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", SIZES)
def test_gate_is_the_sigmoid(size, scale):
    embedding = normal((size,)).clamp(-6, 6)
    scale = torch.tensor(scale)
    a = hat_kernels.gate(embedding, scale)
    assert a.dtype == torch.float32
    assert a.shape == (size,)
    assert_as_accurate(a, formula, embedding, scale)


@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
def test_all_compensations_have_one_forward(compensation):
    embedding, scale = normal((131,)), torch.tensor(7.0)
    expected = hat_kernels.gate(embedding, scale, compensation="none")
    assert torch.equal(hat_kernels.gate(embedding, scale, compensation=compensation), expected)


@pytest.mark.parametrize("embedding", [normal((64,))[::3], normal((1,)).expand(5), normal((8, 3)).t()[1]])
def test_non_contiguous_embeddings(embedding):
    scale = torch.tensor(2.0)
    assert torch.equal(hat_kernels.gate(embedding, scale), hat_kernels.gate(embedding.contiguous(), scale))
    da = torch.ones(()).expand(embedding.shape)  # the gradient of a sum has stride 0
    assert torch.equal(
        gradient(embedding, scale, da, "published"),
        gradient(embedding.contiguous(), scale, da.contiguous(), "published"),
    )


def test_plain_gradient_passes_gradcheck():
    embedding = normal((9,), torch.float64).requires_grad_()
    scale = torch.tensor(1.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda e: hat_kernels.gate(e, scale, compensation="none"), embedding)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("compensation", "wanted"), [("none", plain_gradient), ("published", published_gradient), ("exact", exact_gradient)]
)
@pytest.mark.parametrize("size", SIZES)
def test_gradient_is_the_formula(size, compensation, wanted, scale):
    """For s e where 1 - a is exact in float32. Saturation has tests of its own below."""
    embedding, scale = normal((size,)).clamp(-6, 6), torch.tensor(scale)
    embedding = torch.where(scale * embedding > 8, 8 / scale, embedding)
    da = normal((size,), seed=1)
    assert_as_accurate(gradient(embedding, scale, da, compensation), wanted, embedding, scale, da)


@given(
    e=st.floats(-6, 6, width=32),
    s=st.floats(1 / 400, 400, width=64),
    s_max=st.sampled_from([2.0, 50.0, 400.0, 1000.0]),
)
def test_identity_1_compensation_cancels_the_annealing(e, s, s_max):
    """In float64 both compensations are the same function, if |s e| <= 50 (no clamp) and s e < 30 (1 - a is exact).

    The tolerance is the sum of the relative errors: eps / (1 - a) for the 1 - a of each sigmoid, |s e| eps for the
    rounding of s e, and one rounding for each other operation.
    """
    s = min(s, 20 / abs(e)) if e else s
    embedding, scale = torch.tensor([e], dtype=torch.float64), torch.tensor(s, dtype=torch.float64)
    unit_grad = torch.ones(1, dtype=torch.float64)
    published, exact = (gradient(embedding, scale, unit_grad, c, s_max).item() for c in ("published", "exact"))
    a = 1 / (1 + math.exp(-s * e))
    by_hand = s * a * (1 - a) * s_max * (math.cosh(s * e) + 1) / (s * (math.cosh(e) + 1))
    relative = torch.finfo(torch.float64).eps * (16 + abs(s * e) + 1 / (1 - a) + 1 + math.exp(e))
    assert abs(published - exact) <= relative * exact
    assert abs(by_hand - exact) <= relative * exact


def test_published_saturates_above_and_not_below():
    scale = torch.tensor(400.0)
    embedding = torch.tensor([17.4, 20.0, 40.0, 2400.0, -17.4, -20.0, -40.0]) / 400
    actual = gradient(embedding, scale, torch.ones(7), "published")
    assert torch.equal(actual[:4], torch.zeros(4))
    assert (actual[4:] > 0).all()
    below = exact_gradient(embedding[4:].double(), scale.double(), 1.0)
    assert torch.allclose(actual[4:].double(), below, rtol=1e-4, atol=0)  # e^40 in float32: 40 ulp of s e is 5e-6
    assert (gradient(embedding, scale, torch.ones(7), "exact") > 0).all()


def test_published_clamps_cosh_at_50():
    """Below s e = -50 the numerator stays cosh(50) + 1, so the gradient gets smaller with the gate."""
    scale, embedding = torch.tensor(400.0), torch.tensor([-60.0 / 400, -80.0 / 400])
    actual = gradient(embedding, scale, torch.ones(2), "published").double()
    expected = published_gradient(embedding.double(), scale.double(), 1.0)
    assert torch.allclose(actual, expected, rtol=1e-4, atol=0)
    unclamped = exact_gradient(embedding.double(), scale.double(), 1.0)
    assert (actual < 1e-3 * unclamped).all()


@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
@pytest.mark.parametrize("scale", [1 / 400, 1.0, 400.0])
def test_nothing_overflows_at_the_clamp(compensation, scale):
    embedding = torch.tensor([-6.0, 6.0, 0.0, -0.125, 0.125])
    actual = gradient(embedding, torch.tensor(scale), torch.ones(5), compensation)
    assert torch.isfinite(actual).all()
    assert (actual >= 0).all()


def test_exact_at_the_clamp_is_the_formula():
    embedding, scale = torch.tensor([-6.0, 6.0]), torch.tensor(400.0)
    assert_as_accurate(
        gradient(embedding, scale, torch.ones(2), "exact"), exact_gradient, embedding, scale, torch.ones(2)
    )


def test_floor_snaps_small_gates_to_zero():
    scale = torch.tensor(400.0)
    edge = math.log(GATE_FLOOR) / 400  # sigmoid(s e) = e^(s e) out here
    embedding = torch.tensor([edge * 1.01, edge * 0.99, -6.0])
    a = hat_kernels.gate(embedding, scale)
    assert a[0] == 0
    assert a[1] >= GATE_FLOOR
    assert a[2] == 0
    assert not ((a > 0) & (a < GATE_FLOOR)).any()


@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
def test_floor_does_not_touch_the_gradient(compensation):
    edge = math.log(GATE_FLOOR) / 400
    embedding, scale = torch.tensor([edge * 1.01, edge * 0.99, edge * 1.5]), torch.tensor(400.0)
    formulas = {"none": plain_gradient, "published": published_gradient, "exact": exact_gradient}
    actual = gradient(embedding, scale, torch.ones(3), compensation)
    assert (actual > 0).all()
    for index in range(3):  # each by itself, because they span decades
        arguments = (embedding[index : index + 1], scale, torch.ones(1))
        assert_as_accurate(actual[index : index + 1], formulas[compensation], *arguments)


def test_no_gate_is_subnormal():
    tiny = torch.finfo(torch.float32).tiny
    embedding = torch.linspace(-6, 6, 4001)
    for scale in torch.logspace(-2, 2.602, 50):
        a = hat_kernels.gate(embedding, scale)
        assert not ((a > 0) & (a < tiny)).any()
        assert not ((a > 0) & (a < GATE_FLOOR)).any()


def test_scale_gets_no_gradient():
    embedding = torch.randn(3, generator=generator()).requires_grad_()
    scale = torch.tensor(1.0, requires_grad=True)
    hat_kernels.gate(embedding, scale).sum().backward()
    assert scale.grad is None
    assert embedding.grad is not None


def test_nan_embedding_shows():
    assert hat_kernels.gate(torch.tensor([torch.nan, 1.0]), torch.tensor(1.0)).isnan().tolist() == [True, False]
