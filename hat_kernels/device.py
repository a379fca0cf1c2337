"""Maths that the kernels share, in float32: the gate and its gradient, activations, the rate, dropout.

The Triton interpreter has no libdevice. The hyperbolic functions are therefore written with the exponential.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl

from hat_kernels.limits import GATE_FLOOR as _GATE_FLOOR

GATE_FLOOR = tl.constexpr(_GATE_FLOOR)
COSH_LIMIT = tl.constexpr(50.0)
LEAKY_SLOPE = tl.constexpr(0.01)
SQRT_HALF = tl.constexpr(0.7071067811865476)
INV_SQRT_2_PI = tl.constexpr(0.3989422804014327)
TWICE_SQRT_2_OVER_PI = tl.constexpr(1.5957691216057308)
GELU_CUBIC = tl.constexpr(0.044715)
LOG2_E = tl.constexpr(1.4426950408889634)
LN2_HIGH = tl.constexpr(0.693359375)  # 10 bits: its product with an exponent is exact in float32
LN2_LOW = tl.constexpr(-2.12194440e-4)
PHILOX_ROUNDS = tl.constexpr(7)  # the fewest that pass BigCrush (Salmon et al. 2011); 10 would bind on arithmetic


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def sigmoid_and_slope(x):
    """(s, s (1 - s)) with s = sigmoid(x); the slope is computed without the subtraction 1 - s, which would cancel."""
    e = tl.exp(-tl.abs(x))
    inverse = 1.0 / (1.0 + e)
    s = tl.where(x >= 0, inverse, e * inverse)
    return s, e * inverse * inverse


@triton.jit
def tanh(x):
    """tanh(x), to about one ulp. Near 0 the quotient would cancel, so a polynomial is used there (from Cephes)."""
    square = x * x
    series = square * -5.70498872745e-3 + 2.06390887954e-2
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    e = tl.exp(-2.0 * tl.abs(x))
    far = 1.0 - 2.0 * e / (1.0 + e)
    return tl.where(square < 0.390625, x + x * square * series, tl.where(x < 0, -far, far))


@triton.jit
def precise_exp(x):
    """e^x, to 2 ulp for every x. `tl.exp` multiplies x by log2(e) first, so that its error grows to |x| ulp."""
    x = tl.where(x > 200.0, 200.0, tl.where(x < -200.0, -200.0, x))  # selects let NaN through
    k = tl.floor(x * LOG2_E + 0.5)
    remainder = x - k * LN2_HIGH - k * LN2_LOW
    half = tl.floor(k * 0.5)  # 2^k in two factors: e^-88 must not underflow before its product does
    return tl.exp2(remainder * LOG2_E) * tl.exp2(half) * tl.exp2(k - half)


@triton.jit
def cosh(x):
    return 0.5 * (precise_exp(x) + precise_exp(-x))


@triton.jit
def precise_sigmoid(x):
    return tl.div_rn(1.0 + x * 0.0, 1.0 + precise_exp(-x))


@triton.jit
def gate_value(embedding, scale):
    """sigmoid(scale * embedding), or 0 if that is below GATE_FLOOR."""
    a = precise_sigmoid(scale * embedding)
    return tl.where(a < GATE_FLOOR, 0.0, a)


@triton.jit
def gate_gradient(grad, embedding, scale, s_max, COMPENSATION: tl.constexpr):
    """The gradient of the embedding, from `grad`, the gradient of the gate.

    The order of the operations is that of the reference, so that 1 - a saturates in the same way.
    """
    if COMPENSATION == "exact":
        unit = precise_sigmoid(embedding)
        result = grad * (s_max * unit * (1.0 - unit))
    else:
        se = scale * embedding
        a = precise_sigmoid(se)
        result = grad * (1.0 - a) * a * scale
        if COMPENSATION == "published":
            clamped = tl.where(se > COSH_LIMIT, COSH_LIMIT, tl.where(se < -COSH_LIMIT, -COSH_LIMIT, se))
            numerator = cosh(clamped) + 1.0
            result = result * tl.div_rn(tl.div_rn(s_max, scale) * numerator, cosh(embedding) + 1.0)
        else:
            tl.static_assert(COMPENSATION == "none")
    return result


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "identity":
        h = z
    elif ACTIVATION == "relu":
        h = tl.where(z <= 0, 0.0, z)  # NaN passes through
    elif ACTIVATION == "leaky_relu":
        h = tl.where(z > 0, z, z * LEAKY_SLOPE)
    elif ACTIVATION == "gelu":
        h = 0.5 * z * (1.0 + tl.erf(z * SQRT_HALF))
    elif ACTIVATION == "gelu_tanh":
        h = z * sigmoid((z + z * z * z * GELU_CUBIC) * TWICE_SQRT_2_OVER_PI)  # (1 + tanh(u)) / 2 = sigmoid(2 u)
    elif ACTIVATION == "silu":
        h = z * sigmoid(z)
    elif ACTIVATION == "tanh":
        h = tanh(z)
    else:
        tl.static_assert(ACTIVATION == "sigmoid")
        h = sigmoid(z)
    return h


@triton.jit
def activate_backward(z, dh, ACTIVATION: tl.constexpr):
    """`dh` times the derivative of the activation at z.

    The rectifiers use a select instead of a product: 0 times an infinite `dh` would be NaN.
    """
    if ACTIVATION == "identity":
        dz = dh
    elif ACTIVATION == "relu":
        dz = tl.where(z <= 0, 0.0, dh)
    elif ACTIVATION == "leaky_relu":
        dz = tl.where(z > 0, dh, dh * LEAKY_SLOPE)
    elif ACTIVATION == "gelu":
        dz = dh * (0.5 * (1.0 + tl.erf(z * SQRT_HALF)) + z * INV_SQRT_2_PI * tl.exp(-0.5 * z * z))
    elif ACTIVATION == "gelu_tanh":
        s, slope = sigmoid_and_slope((z + z * z * z * GELU_CUBIC) * TWICE_SQRT_2_OVER_PI)
        dz = dh * (s + z * slope * ((1.0 + z * z * (3.0 * GELU_CUBIC)) * TWICE_SQRT_2_OVER_PI))
    elif ACTIVATION == "silu":
        s, slope = sigmoid_and_slope(z)
        dz = dh * (s + z * slope)
    elif ACTIVATION == "tanh":
        t = tanh(z)
        dz = dh * (1.0 - t * t)
    else:
        tl.static_assert(ACTIVATION == "sigmoid")
        s, slope = sigmoid_and_slope(z)
        dz = dh * slope
    return dz


@triton.jit
def rate_of(free_row, free_column):
    """How far a weight may move: max(free_row, free_column) = 1 - min(used_row, used_column)."""
    return tl.maximum(free_row, free_column)


@triton.jit
def dropout_keep(seed, row, first_quad, row_quads, threshold, BLOCK_ROWS: tl.constexpr, BLOCK_QUADS: tl.constexpr):
    """[BLOCK_ROWS, 4 BLOCK_QUADS] bool: which elements dropout keeps.

    Every element gets 32 random bits. The element is kept if these bits, read as int32, are at least the threshold.
    One call of Philox serves four neighbours in a row, a quad. The counter of the call is the index of the quad in the
    whole tensor: the same element gets the same bits in any tiling, forward and backward.

    Args:
        seed: scalar int64.
        row: [BLOCK_ROWS] int64, the index of each row of the tile.
        first_quad: the first quad of the tile in its row.
        row_quads: how many quads a whole row has.
        threshold: int32, p 2^32 - 2^31 for the dropout probability p.
    """
    quad = (row * row_quads)[:, None] + (first_quad + tl.arange(0, BLOCK_QUADS))[None, :]
    a, b, c, d = tl.randint4x(seed, quad, PHILOX_ROUNDS)
    words = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (BLOCK_ROWS, 4 * BLOCK_QUADS))
    return words.to(tl.int32, bitcast=True) >= threshold
