"""Locked SGD against torch.optim.SGD without a lock, and against the equations in float64 with a lock."""

import itertools

import pytest
import torch

import hat_kernels
from hat_kernels import Lock
from tests.hat_kernels.locks import KINDS, lock_for, rates
from tests.hat_kernels.shapes import DTYPES, PARAMETER_SHAPES, lay_out, normal
from tests.hat_kernels.tolerance import FACTOR

STEPS = 4
OPTIONS = [
    {"momentum": m, "dampening": d, "nesterov": n, "weight_decay": w, "maximize": x}
    for m, d, n, w, x in itertools.product([0.0, 0.9], [0.0, 0.3], [False, True], [0.0, 0.01], [False, True])
    if not (n and (m == 0 or d != 0)) and not (m == 0 and d != 0)
]


def grads_of(step, shapes, dtype):
    return [normal(shape, dtype, 100 * step + index) for index, shape in enumerate(shapes)]


def run(parameters, locks, dtype, *, lr, grad_scales=None, layout="contiguous", **options):
    """Make STEPS steps; the parameters are changed in place."""
    shapes = [tuple(p.shape) for p in parameters]
    buffers = [torch.full_like(p, torch.nan) for p in parameters] if options.get("momentum") else []
    for step in range(STEPS):
        grads = [lay_out(g, layout) for g in grads_of(step, shapes, dtype)]
        scale = None if grad_scales is None else grad_scales[step]
        hat_kernels.sgd_update_(
            parameters, grads, buffers, locks, lr=lr, grad_scale=scale, is_first_step=step == 0, **options
        )


def transcribe(parameters, rate, dtype, arithmetic, *, lr, grad_scales=None, layout="contiguous", **options):
    """The equations of the docstring, in `arithmetic`, on copies of the parameters."""
    momentum, decay = options.get("momentum", 0.0), options.get("weight_decay", 0.0)
    result = []
    for index, (parameter, r) in enumerate(zip(parameters, rate, strict=True)):
        weight, r, velocity = parameter.to(arithmetic), r.to(arithmetic), None
        for step in range(STEPS):
            grad = lay_out(normal(tuple(parameter.shape), dtype, 100 * step + index), layout).to(arithmetic)
            scale = 1.0 if grad_scales is None else grad_scales[step].item()
            g = scale * grad * (-1 if options.get("maximize") else 1) + decay * weight
            velocity = g if velocity is None else momentum * velocity + (1 - options.get("dampening", 0.0)) * g
            d = g + momentum * velocity if options.get("nesterov") else velocity if momentum else g
            weight = weight - float(lr) * r * d
        result.append(weight)
    return result


def assert_close(got, precise, rounded, dtype):
    for actual, exact, rounded_tensor in zip(got, precise, rounded, strict=True):
        if not actual.numel():
            continue
        # Each step rounds the stored weight and the stored momentum to their dtype once.
        ulp = torch.finfo(dtype).eps * exact.abs().max().item()
        allowed = FACTOR * (rounded_tensor.double() - exact).abs().max().item() + STEPS * ulp
        assert (actual.double() - exact).abs().max().item() <= allowed


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_torch_sgd_where_nothing_is_locked(dtype, tensor_lr, options):
    """The results agree to rounding: torch multiplies by lr inside an addition."""
    shapes = [s for s in PARAMETER_SHAPES if 0 not in s]
    lr = torch.tensor(0.05) if tensor_lr else 0.05
    parameters = [normal(shape, dtype, index) for index, shape in enumerate(shapes)]
    theirs = [p.clone().requires_grad_() for p in parameters]
    start = [p.clone() for p in parameters]
    optimizer = torch.optim.SGD(theirs, lr=lr, foreach=False, **options)
    for step in range(STEPS):
        for p, grad in zip(theirs, grads_of(step, shapes, dtype), strict=True):
            p.grad = grad
        optimizer.step()
    run(parameters, [None] * len(parameters), dtype, lr=lr, **options)
    ones = [torch.ones(shape, dtype=torch.float64) for shape in shapes]
    precise = transcribe(start, ones, dtype, torch.float64, lr=lr, **options)
    assert_close(parameters, precise, [p.detach() for p in theirs], dtype)
    if not tensor_lr:  # the same sums in the same order
        assert all(torch.equal(a, b) for a, b in zip(parameters, theirs, strict=True))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_equation_under_locks(kind, options):
    parameters = [normal(shape, seed=index) for index, shape in enumerate(PARAMETER_SHAPES)]
    locks = [lock_for(p, kind, soft=True, seed=index) for index, p in enumerate(parameters)]
    rate = [rates(p, lock) for p, lock in zip(parameters, locks, strict=True)]
    scales = [torch.tensor(s) for s in (1.0, 0.5, 0.25, 1.0)]
    arguments = {"lr": 0.05, "grad_scales": scales, **options}
    precise = transcribe(parameters, rate, torch.float32, torch.float64, **arguments)
    rounded = transcribe(parameters, rate, torch.float32, torch.float32, **arguments)
    run(parameters, locks, torch.float32, **arguments)
    assert_close(parameters, precise, rounded, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_dtypes(momentum, dtype):
    parameters = [normal((13, 31), dtype), normal((31,), dtype)]
    locks = [lock_for(p, "both", soft=True) for p in parameters]
    rate = [rates(p, lock) for p, lock in zip(parameters, locks, strict=True)]
    arguments = {"lr": 0.05, "momentum": momentum, "weight_decay": 0.01}
    precise = transcribe(parameters, rate, dtype, torch.float64, **arguments)
    rounded = transcribe(parameters, rate, dtype, torch.promote_types(dtype, torch.float32), **arguments)
    run(parameters, locks, dtype, **arguments)
    assert all(p.dtype == dtype for p in parameters)
    assert_close(parameters, precise, rounded, dtype)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_gradients_of_any_layout(layout, momentum):
    parameters = [normal((13, 31)), normal((31,))]
    locks = [lock_for(p, "both") for p in parameters]
    rate = [rates(p, lock) for p, lock in zip(parameters, locks, strict=True)]
    arguments = {"lr": 0.05, "momentum": momentum, "layout": layout}
    precise = transcribe(parameters, rate, torch.float32, torch.float64, **arguments)
    rounded = transcribe(parameters, rate, torch.float32, torch.float32, **arguments)
    run(parameters, locks, torch.float32, **arguments)
    assert_close(parameters, precise, rounded, torch.float32)


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_parameters_of_any_layout(layout):
    parameter, plain = lay_out(normal((13, 31)), layout), normal((13, 31))
    lock = lock_for(plain, "both")
    run([parameter], [lock], torch.float32, lr=0.05)
    run([plain], [lock], torch.float32, lr=0.05)
    assert torch.equal(parameter, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e4])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, {"maximize": True}]
)
def test_a_locked_weight_keeps_its_bits_whatever_the_gradient(options, value, dtype):
    parameter = normal((7, 9), dtype)
    lock = lock_for(parameter, "both")
    locked, before = rates(parameter, lock) == 0, parameter.clone()
    buffers = [torch.empty_like(parameter)] if options.get("momentum") else []
    for step in range(3):
        grad = torch.full_like(parameter, value)
        hat_kernels.sgd_update_([parameter], [grad], buffers, [lock], lr=0.1, is_first_step=step == 0, **options)
    assert locked.any()
    assert torch.equal(parameter[locked], before[locked])
    assert not torch.equal(parameter[~locked], before[~locked])


def test_a_stale_momentum_cannot_move_a_locked_weight():
    parameter, buffer = normal((7, 9)), 100 * normal((7, 9), seed=1)
    lock = lock_for(parameter, "both")
    locked, before = rates(parameter, lock) == 0, parameter.clone()
    hat_kernels.sgd_update_([parameter], [torch.zeros(7, 9)], [buffer], [lock], lr=0.1, momentum=0.9)
    assert torch.equal(parameter[locked], before[locked])


def locked_bits_after(values, lr, options):
    parameter = values.clone()
    lock = Lock(torch.zeros(values.shape[0]))
    for grad in (1.0, -1.0):
        buffers = [torch.zeros_like(parameter)] if "momentum" in options else []
        hat_kernels.sgd_update_([parameter], [torch.full_like(parameter, grad)], buffers, [lock], lr=lr, **options)
    return parameter.view(torch.int32)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"maximize": True}, {"weight_decay": 0.1}])
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_a_locked_negative_zero_keeps_its_sign(lr, options):
    """-0.0 + 0.0 is 0.0."""
    values = torch.tensor([-0.0, 0.0, 1.0, 1e-40])
    assert torch.equal(locked_bits_after(values, lr, options), values.view(torch.int32))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}])
def test_a_locked_subnormal_is_not_flushed(options):
    """In flush mode, which training sets on a CPU, a subnormal plus 0 is 0."""
    values = torch.tensor([1e-40, -1e-40])
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    actual = locked_bits_after(values, 0.1, options)
    torch.set_flush_denormal(False)
    assert torch.equal(actual, values.view(torch.int32))


def test_gradients_are_not_changed():
    parameter, grad = normal((5, 7)), normal((5, 7), seed=1)
    for options in ({}, {"momentum": 0.9, "weight_decay": 0.1}, {"maximize": True}, {"grad_scale": torch.tensor(0.5)}):
        copy = grad.clone()
        buffers = [torch.empty(5, 7)] if "momentum" in options else []
        hat_kernels.sgd_update_([parameter], [grad], buffers, [None], lr=0.1, is_first_step=True, **options)
        assert torch.equal(grad, copy)
        assert not buffers or buffers[0].data_ptr() != grad.data_ptr()


def test_no_parameters():
    hat_kernels.sgd_update_([], [], [], [], lr=0.1)
