"""The two layers of a transformer that work on every token by itself."""

import pytest
import torch
import torch.nn.functional as F

import hat
from hat.units.locks import sides, unlocked
from hat.units.state import OPEN, Finished
from tests.hat.nets import anneal, answer_for, same_gradients, soft, use

KINDS = [hat.FeedForward, hat.SwiGLU]


def make(kind, **options):
    torch.manual_seed(0)
    layer = kind(4, 6, gate=hat.Gate(4), inputs=hat.Gate(4), dtype=torch.float64, **options)
    return layer, torch.randn(2, 3, 4, dtype=torch.float64)


def by_hand(layer, x, hidden, out):
    h = F.linear(x, layer.up.weight, layer.up.bias)
    is_switched = isinstance(layer, hat.SwiGLU)
    h = h * F.silu(F.linear(x, layer.switch.weight, layer.switch.bias)) if is_switched else F.gelu(h)
    return F.linear(h * hidden, layer.down.weight, layer.down.bias) * out


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_with_open_gates(kind, bias):
    layer, x = make(kind, bias=bias)
    torch.testing.assert_close(answer_for(layer, OPEN)(x), by_hand(layer, x, 1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_computation_by_hand(kind):
    """Both halves of a hidden unit are gated once."""
    layer, x = make(kind)
    anneal(layer, 0.005)
    x.requires_grad_()
    expected = by_hand(layer, x, soft(layer.up.gate), soft(layer.gate))
    same_gradients([x, *layer.parameters()], layer(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_off_units_have_no_part(kind):
    layer, x = make(kind)
    use(layer.up.gate, [1, 0, 1, 0, 0, 1])
    use(layer.gate, [0, 1, 1, 0])
    y = answer_for(layer, Finished(0))(x)
    assert not y[..., [0, 3]].any()
    with torch.no_grad():
        for producer in (layer.up, getattr(layer, "switch", layer.up)):
            producer.weight[[1, 3, 4]] = float("nan")
        layer.down.weight[:, [1, 3, 4]] += 1
        layer.down.weight[[0, 3]] = float("inf")
    assert torch.equal(layer(x), y)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_lies_along_its_gates(kind):
    layer, _ = make(kind)
    inputs = layer.up.inputs[0]
    found = sides(torch.nn.ModuleList([inputs, layer]))
    for up in {layer.up, getattr(layer, "switch", layer.up)}:
        assert found[up.weight].lock.rows is layer.up.gate.free
        assert found[up.weight].lock.columns is inputs.free
    assert found[layer.down.weight].lock.rows is layer.gate.free
    assert found[layer.down.weight].lock.columns is layer.up.gate.free
    assert unlocked(layer) == {}
    assert layer.up.gate.complete
    assert not layer.gate.complete


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_is_derived_does_not_say_that_its_units_may_move(kind):
    derived = type("Derived", (kind,), {})
    assert not make(derived)[0].up.gate.complete


@pytest.mark.parametrize("kind", KINDS)
def test_locked_blocks_have_no_gradient_and_the_rest_has_the_same(kind):
    layer, x = make(kind)
    anneal(layer, 0.005)
    whole = torch.autograd.grad(layer(x).sum(), [layer.up.weight, layer.down.weight])
    use(layer.up.inputs[0], [1, 1, 0, 0])
    use(layer.up.gate, [1, 1, 1, 0, 0, 0])
    use(layer.gate, [1, 0, 0, 0])
    got = torch.autograd.grad(layer(x).sum(), [layer.up.weight, layer.down.weight])
    for one, other, (rows, columns) in zip(got, whole, ((3, 2), (1, 3)), strict=True):
        wanted = other.clone()
        wanted[:rows, :columns] = 0
        torch.testing.assert_close(one, wanted)
        assert wanted.any()


@pytest.mark.parametrize("kind", KINDS)
def test_dropout(kind):
    layer, x = make(kind, dropout=0.5)
    answer_for(layer, OPEN)
    y = layer(x.expand(2, 3, 4).repeat(50, 1, 1))
    assert 0.4 < (y == 0).double().mean() < 0.6
    layer.down.dropout = 0.0  # that of the hidden units is left
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), by_hand(layer, x, 1, 1))
    with pytest.raises(ValueError, match=r"dropout: expected in \[0, 1\), got 1"):
        kind(4, 6, dropout=1.0)
