"""The single autograd node for a CPU against the reference: the same draws and gradients, in place if allowed."""

import pytest
import torch

import hat_kernels
from hat_kernels import GateForm
from hat_kernels.limits import GATE_FLOOR
from tests.hat_kernels.shapes import LAYOUTS, SHAPES, lay_out, normal

EPS = torch.finfo(torch.float32).eps
# (shape, unit_dim)
PLACES = [(shape, -1) for shape in SHAPES] + [((7,), -1), ((7,), 0), ((3, 5, 7), -1), ((3, 5, 7), 1), ((3, 5, 7), -2)]
PLACES += [((2, 5, 3, 4), 1), ((2, 7, 1, 3, 2), 1), ((0, 5, 4), 1), ((3, 5, 0), 1), ((7, 5), 0), ((1, 1, 1), 1)]


def form(units, compensation="none", scale=1.5, low=0):
    """The arguments of a gate; with `low`, some units are far below the floor."""
    embedding = normal((units,), seed=3)
    embedding[:low] = -40.0
    return GateForm(embedding=embedding, scale=torch.tensor(scale), s_max=90.0, compensation=compensation)


def run(x, dy, backend, form, **options):
    """(y, dx, d_embedding) with a fixed seed for dropout."""
    torch.manual_seed(5)
    x, embedding = x.detach().requires_grad_(), form.embedding.clone().requires_grad_()
    with hat_kernels.backend(backend):
        y = hat_kernels.gated_activation(x, gate=form._replace(embedding=embedding), **options)
    return y.detach(), *torch.autograd.grad(y, (x, embedding), dy)


def check(x, dy, form, unit_dim=-1, **options):
    """y agrees in each bit, dx to the rounding of two products, d_embedding to that of a sum in another order.

    The gradient of the embedding is linear in the gradient of the gate. So the sum of absolute values, which bounds the
    rounding of the sum, is multiplied by the same factor.
    """
    y, dx, de = run(x, dy, "auto", form, unit_dim=unit_dim, **options)
    y0, dx0, de0 = run(x, dy, "reference", form, unit_dim=unit_dim, **options)
    assert torch.equal(y, y0)
    assert ((dx - dx0).abs() <= 2 * EPS * dx0.abs()).all()
    sizes = run(x, dy.abs(), "reference", form, unit_dim=unit_dim, **options)[2]
    terms = x.numel() // max(1, x.shape[unit_dim])
    assert de.shape == de0.shape
    assert torch.equal(de.isfinite(), de0.isfinite())
    finite = de0.isfinite()
    assert ((de - de0).abs() <= (terms + 4) * EPS * sizes.abs())[finite].all()
    return y, dx, de


def test_this_is_what_runs():
    x = normal((3, 5)).requires_grad_()
    y = hat_kernels.gated_activation(x, gate=form(5))
    assert type(y.grad_fn).__name__ == "_GatedReLUBackward"
    with hat_kernels.backend("reference"):
        y = hat_kernels.gated_activation(x, gate=form(5))
    assert type(y.grad_fn).__name__ != "_GatedReLUBackward"


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.5])
@pytest.mark.parametrize(("shape", "unit_dim"), PLACES)
def test_shapes(shape, unit_dim, dropout):
    units = shape[unit_dim]
    check(normal(shape), normal(shape, seed=1), form(units, low=units // 3), unit_dim, dropout=dropout)


@pytest.mark.parametrize("scale", [1 / 90, 1.0, 20.0, 90.0])
@pytest.mark.parametrize("compensation", ["none", "published", "exact"])
def test_compensation(compensation, scale):
    check(normal((13, 31)), normal((13, 31), seed=1), form(31, compensation, scale, low=4), dropout=0.3)


def test_gates_below_the_floor_are_0_and_still_learn():
    gate = form(8, "exact", 20.0, low=3)
    y, dx, de = check(normal((5, 8)).abs(), normal((5, 8), seed=1), gate)
    assert torch.sigmoid(gate.scale * gate.embedding)[:3].max() < GATE_FLOOR
    assert not y[:, :3].any()
    assert not dx[:, :3].any()
    gate.embedding[:3] = -2.0  # sigmoid(-40) is below the floor, but its gradient is not 0
    y, dx, de = check(normal((5, 8)).abs(), normal((5, 8), seed=1), gate)
    assert not y[:, :3].any()
    assert de[:3].all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    x, dy = lay_out(normal((13, 31)), layout), lay_out(normal((13, 31), seed=1), layout)
    before = x.clone()
    check(x, dy, form(31), dropout=0.5)
    assert torch.equal(x, before)


def test_stride_0_gradient():
    x = normal((5, 17))
    check(x, torch.ones(()).expand(5, 17), form(17))


@pytest.mark.parametrize("value", [0.0, -0.0, torch.inf, -torch.inf, torch.nan])
def test_special_values(value):
    x = normal((4, 6))
    x[1:3] = value
    gate = form(6)
    actual, expected = (run(x, torch.ones(4, 6), backend, gate) for backend in ("auto", "reference"))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=8 * EPS, atol=0, equal_nan=True)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("shape", "unit_dim"), [((13, 31), -1), ((3, 5, 7), -1), ((2, 5, 3, 4), 1), ((7,), 0)])
def test_overwrite_is_the_same_numbers(shape, unit_dim, dropout):
    results = []
    for overwrite in (False, True):
        leaf, embedding = normal(shape).requires_grad_(), normal(shape[unit_dim : unit_dim + 1 or None], seed=3)
        embedding.requires_grad_()
        torch.manual_seed(5)
        x = leaf * 1  # the operation that made x does not need x again
        y = hat_kernels.gated_activation(
            x,
            gate=GateForm(embedding=embedding, scale=torch.tensor(1.5)),
            dropout=dropout,
            unit_dim=unit_dim,
            overwrite=overwrite,
        )
        results.append((y.detach(), *torch.autograd.grad(y, (leaf, embedding), normal(shape, seed=1))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_x_is_kept_unless_it_may_be_overwritten(dropout, backend):
    x = normal((13, 31))
    before = x.clone()
    run(x, torch.ones(13, 31), backend, form(31), dropout=dropout)
    assert torch.equal(x, before)


def test_overwrite_uses_the_memory_of_x():
    x = normal((13, 31))
    hat_kernels.gated_activation(x, gate=form(31), overwrite=True)
    assert (x >= 0).all()


def test_what_made_x_and_needs_it_is_told():
    """An exponential saves its result. Overwriting it must raise an error instead of giving a wrong gradient."""
    leaf = normal((3, 5)).requires_grad_()
    y = hat_kernels.gated_activation(leaf.exp() - 0, gate=form(5), overwrite=True)
    y.sum().backward()
    y = hat_kernels.gated_activation(leaf.exp(), gate=form(5), overwrite=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_what_is_needed(needed):
    x, gate, dy = normal((13, 31)), form(31), normal((13, 31), seed=1)
    expected = run(x, dy, "auto", gate)[1:]
    leaves = [t.clone().requires_grad_(need) for t, need in zip((x, gate.embedding), needed, strict=True)]
    hat_kernels.gated_activation(leaves[0], gate=gate._replace(embedding=leaves[1])).backward(dy)
    for leaf, need, expected_gradient in zip(leaves, needed, expected, strict=True):
        assert torch.equal(leaf.grad, expected_gradient) if need else leaf.grad is None


def test_without_a_gradient():
    x, gate = normal((13, 31)), form(31)
    with torch.no_grad():
        y = hat_kernels.gated_activation(x, gate=gate)
    assert torch.equal(y, run(x, torch.ones(13, 31), "reference", gate)[0])


def test_the_dtype_of_x_whatever_that_of_the_embedding():
    """float64 embeddings are allowed for a gradcheck."""
    embedding, scale = normal((5,), torch.float64), torch.tensor(1.5, dtype=torch.float64)
    y = hat_kernels.gated_activation(normal((3, 5)), gate=GateForm(embedding=embedding, scale=scale))
    assert y.dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "bias", "activation"),
    [
        (torch.float64, False, "relu"),
        (torch.bfloat16, False, "relu"),
        (torch.float32, True, "relu"),
        (torch.float32, False, "tanh"),
    ],
)
def test_what_it_leaves_to_the_reference(dtype, bias, activation):
    x, gate = normal((3, 5), dtype).requires_grad_(), form(5)
    b = normal((5,), dtype, 1) if bias else None
    y = hat_kernels.gated_activation(x, b, activation=activation, gate=gate)
    assert type(y.grad_fn).__name__ != "_GatedReLUBackward"
    with hat_kernels.backend("reference"):
        assert torch.equal(y, hat_kernels.gated_activation(x, b, activation=activation, gate=gate))


def test_compiled_code_runs_the_reference():
    x, gate = normal((4, 6)).requires_grad_(), form(6)

    def run_it(x):
        return hat_kernels.gated_activation(x * 2, gate=gate).square()

    (expected,) = torch.autograd.grad(run_it(x).sum(), x)
    (actual,) = torch.autograd.grad(torch.compile(run_it, fullgraph=True, backend="aot_eager")(x).sum(), x)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("activation", ["relu", "identity", "gelu"])
@pytest.mark.parametrize(("shape", "unit_dim"), [((13, 31), -1), ((3, 5, 7), 1), ((2, 5, 3, 4), 1), ((0, 5), -1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finished_tasks_have_the_bits_of_the_reference(dtype, shape, unit_dim, activation, overwrite):
    units = shape[unit_dim]
    masks = torch.rand(3, units, generator=torch.Generator().manual_seed(0))
    masks[:, ::2] = torch.tensor([[0.0], [1.0], [0.0]])
    x = normal(shape).to(dtype)
    for value, index in ((torch.inf, 0), (-torch.inf, 3), (torch.nan, 4), (-0.0, 6)):
        x.view(-1)[index:][::7] = value
    forms = [GateForm(mask=masks[0]), GateForm(mask=masks, task=torch.arange(shape[0]) % 3)]
    for form in forms:
        results = []
        for backend in ("auto", "reference"):
            torch.manual_seed(5)
            with hat_kernels.backend(backend), torch.no_grad():
                arguments = x.clone()
                options = {"activation": activation, "dropout": 0.3, "overwrite": overwrite, "unit_dim": unit_dim}
                results.append(hat_kernels.gated_activation(arguments, gate=form, **options))
            assert overwrite or torch.equal(arguments.nan_to_num(), x.nan_to_num())
        first, second = results
        assert torch.equal(first.isnan(), second.isnan())
        assert torch.equal(first.nan_to_num(), second.nan_to_num())
        assert torch.equal(first.signbit() & ~first.isnan(), second.signbit() & ~second.isnan())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_finished_tasks_of_any_layout(layout):
    x, gate = lay_out(normal((13, 31)), layout), GateForm(mask=(torch.arange(31) % 3 > 0).float())
    before = x.clone()
    for activation in ("identity", "relu"):
        actual = hat_kernels.gated_activation(x, activation=activation, gate=gate)
        with hat_kernels.backend("reference"):
            assert torch.equal(actual, hat_kernels.gated_activation(x, activation=activation, gate=gate))
    assert torch.equal(x, before)
