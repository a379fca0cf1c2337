"""Attention against that of torch, and against a computation by hand."""

import copy
import math

import pytest
import torch
from torch import nn

import hat
from hat.units.locks import sides, unlocked
from hat.units.state import OPEN, Finished, PerSample
from tests.hat.nets import anneal, answer_for, same_gradients, soft, use

BOTH = pytest.mark.parametrize("per_head", [False, True], ids=["dimensions", "heads"])


def make(embed_dim=6, heads=3, **options):
    torch.manual_seed(0)
    layer = hat.HATMultiheadAttention(embed_dim, heads, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def stream(count=4, width=6, seed=1):
    return torch.randn(2, count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def torch_own(layer, **options):
    """The layer of torch with the same weights."""
    own = nn.MultiheadAttention(
        layer.out.in_features, layer.num_heads, batch_first=True, dtype=torch.float64, **options
    ).eval()
    projections = [layer.query, layer.key, layer.value]
    with torch.no_grad():
        if own.in_proj_weight is None:
            for name, each in zip("qkv", projections, strict=True):
                getattr(own, f"{name}_proj_weight").copy_(each.weight)
        else:
            own.in_proj_weight.copy_(torch.cat([each.weight for each in projections]))
        own.out_proj.weight.copy_(layer.out.weight)
        if own.in_proj_bias is not None:
            own.in_proj_bias.copy_(torch.cat([each.bias for each in projections]))
            own.out_proj.bias.copy_(layer.out.bias)
    return own


def by_hand(layer, x, products, values, heads, out):
    """With a gate of the dimensions of queries and keys, one of values, one of heads, one of what comes out."""
    q, k, v = ((x @ each.weight.t() + each.bias) for each in (layer.query, layer.key, layer.value))
    count, width = layer.num_heads, x.shape[-1] // layer.num_heads
    found = []
    for head in range(count):
        own = slice(head * width, (head + 1) * width)
        scores = (q * products)[..., own] @ (k * products)[..., own].transpose(1, 2) / math.sqrt(width)
        found.append(scores.softmax(-1) @ (v * values)[..., own] * heads[head])
    return (torch.cat(found, -1) @ layer.out.weight.t() + layer.out.bias) * out


# ---------------------------------------------------------------- with open gates it is that of torch


@BOTH
@pytest.mark.parametrize("bias", [True, False])
def test_self_attention(bias, per_head):
    layer = answer_for(make(bias=bias, per_head=per_head), OPEN)
    x = stream()
    torch.testing.assert_close(layer(x), torch_own(layer, bias=bias)(x, x, x)[0])


@BOTH
@pytest.mark.parametrize("mask", ["bool", "added", "per sample", "causal"])
def test_masks(mask, per_head):
    """As those of scaled_dot_product_attention: True is what takes part, and nn.MultiheadAttention has it turned."""
    layer, x = answer_for(make(per_head=per_head), OPEN), stream()
    own, earlier = torch_own(layer), torch.ones(4, 4, dtype=torch.bool).tril()
    if mask == "causal":
        got, expected = layer(x, is_causal=True), own(x, x, x, attn_mask=~earlier)[0]
    elif mask == "bool":
        got, expected = layer(x, attn_mask=earlier), own(x, x, x, attn_mask=~earlier)[0]
    elif mask == "added":
        added = torch.randn(4, 4, dtype=torch.float64)
        got, expected = layer(x, attn_mask=added), own(x, x, x, attn_mask=added)[0]
    else:
        present = torch.tensor([[True, True, True, False], [True, False, True, True]])
        got, expected = layer(x, attn_mask=present[:, None, None]), own(x, x, x, key_padding_mask=~present)[0]
    torch.testing.assert_close(got, expected)


@BOTH
def test_keys_and_values_of_other_widths(per_head):
    layer = answer_for(make(kdim=5, vdim=7, per_head=per_head), OPEN)
    query, key, value = stream(), stream(count=3, width=5), stream(count=3, width=7)
    torch.testing.assert_close(layer(query, key, value), torch_own(layer, kdim=5, vdim=7)(query, key, value)[0])


def test_a_memory():
    stream_gate, memory = hat.Gate(6), hat.Gate(6)
    layer = answer_for(make(gate=stream_gate, inputs=stream_gate, memory=memory), OPEN)
    query, other = stream(), stream(count=3, seed=2)
    torch.testing.assert_close(layer(query, other), torch_own(layer)(query, other, other)[0])
    assert layer.query.inputs == [stream_gate]
    assert layer.key.inputs == layer.value.inputs == [memory]


# ---------------------------------------------------------------- gates


def leaves(layer, x):
    """But for the bias of the keys: it adds the same to all products of a query, and has a gradient of 0."""
    return [x, *(parameter for name, parameter in layer.named_parameters() if name != "key.bias")]


@BOTH
def test_gradients_of_a_computation_by_hand(per_head):
    layer, x = anneal(make(per_head=per_head), 0.005), stream().requires_grad_()
    if per_head:
        expected = by_hand(layer, x, 1, 1, soft(layer.value.gate), soft(layer.gate))
    else:
        expected = by_hand(layer, x, soft(layer.query.gate), soft(layer.value.gate), [1, 1, 1], soft(layer.gate))
    same_gradients(leaves(layer, x), layer(x), expected)


def test_off_dimensions_have_no_part():
    """Neither in a product of a query and a key nor in what comes out."""
    layer, x = make(), stream()
    use(layer.query.gate, [1, 0, 1, 1, 0, 0])
    use(layer.value.gate, [1, 1, 0, 1, 0, 0])
    use(layer.gate, [0, 1, 1, 0, 1, 1])
    y = answer_for(layer, Finished(0))(x)
    assert not y[..., [0, 3]].any()
    with torch.no_grad():
        for producer, off in ((layer.query, [1, 4, 5]), (layer.key, [1, 4, 5]), (layer.value, [2, 4, 5])):
            producer.weight[off] = float("nan")
            producer.bias[off] = float("inf")
        layer.out.weight[:, [2, 4, 5]] += 1
        layer.out.weight[[0, 3]] = float("nan")
    assert torch.equal(layer(x), y)


def test_an_off_head_has_no_part():
    layer, x = make(per_head=True), stream()
    use(layer.query.gate, [1, 0, 1])
    use(layer.gate, [1] * 6)
    y = answer_for(layer, Finished(0))(x)
    with torch.no_grad():
        for producer in (layer.query, layer.key, layer.value):
            producer.weight[2:4] = float("nan")
        layer.out.weight[:, 2:4] += 1
    assert torch.equal(layer(x), y)
    use(layer.query.gate, [0, 0, 0])
    torch.testing.assert_close(layer(x), layer.out.bias.expand_as(x))


@BOTH
def test_a_task_per_sample(per_head):
    layer, x = make(per_head=per_head), stream()
    torch.manual_seed(0)
    for gate in {layer.query.gate, layer.value.gate, layer.gate}:
        masks = torch.randint(2, (2, gate.units)).float()
        gate.load_state_dict({**gate.state_dict(), "masks": masks})
    one, other = (answer_for(layer, Finished(task))(x) for task in (0, 1))
    assert not torch.equal(one, other)
    y = answer_for(layer, PerSample(torch.tensor([1, 0])))(x)
    torch.testing.assert_close(y, torch.stack([other[0], one[1]]))


def test_units_of_a_head_stay_in_it():
    layer = make()
    for gate in (layer.query.gate, layer.value.gate):
        assert gate.segments.tolist() == [0, 0, 1, 1, 2, 2]
        assert gate.complete
    assert layer.query.gate is layer.key.gate
    assert layer.query.gate is not layer.value.gate
    assert layer.gate.segments is None
    assert not layer.gate.complete


def test_heads_may_change_places():
    layer = make(per_head=True)
    assert layer.query.gate is layer.key.gate is layer.value.gate
    assert (layer.query.gate.units, layer.query.gate.segments, layer.query.gate.complete) == (3, None, True)


def test_one_that_is_derived_does_not_say_that_its_units_may_move():
    derived = type("Derived", (hat.HATMultiheadAttention,), {})(6, 3)
    assert not derived.query.gate.complete
    assert not derived.value.gate.complete


# ---------------------------------------------------------------- locks


@BOTH
def test_every_parameter_lies_along_its_gates(per_head):
    gate = hat.Gate(6)
    layer = make(gate=gate, inputs=gate, per_head=per_head)
    found, repeat = sides(layer), 2 if per_head else 1
    for each in (layer.query, layer.key, layer.value):
        lock = found[each.weight].lock
        assert lock.rows is each.gate.free
        assert lock.columns is gate.free
        assert (lock.row_repeat, lock.column_repeat) == (repeat, 1)
        assert found[each.bias].lock.row_repeat == repeat
    lock = found[layer.out.weight].lock
    assert (lock.rows, lock.columns) == (gate.free, layer.value.gate.free)
    assert (lock.row_repeat, lock.column_repeat) == (1, repeat)
    assert unlocked(layer) == {}


@BOTH
def test_without_a_gate_of_what_comes_in_whole_rows_are_locked(per_head):
    layer = make(per_head=per_head)
    found = sides(layer)
    assert all(found[each.weight].columns is None for each in (layer.query, layer.key, layer.value))


@BOTH
def test_locked_blocks_have_no_gradient_and_the_rest_has_the_same(per_head):
    gate = hat.Gate(6)
    layer, x = anneal(make(gate=gate, inputs=gate, per_head=per_head), 0.005), stream()
    weights = [layer.query.weight, layer.key.weight, layer.value.weight, layer.out.weight]
    whole = torch.autograd.grad(layer(x).square().sum(), weights)
    use(gate, [1, 1, 1, 0, 0, 0])
    for own in (layer.query.gate, layer.value.gate):
        use(own, [1, 0, 0] if per_head else [1, 1, 0, 0, 0, 0])
    got = torch.autograd.grad(layer(x).square().sum(), weights)
    for one, other, (rows, columns) in zip(got, whole, ((2, 3), (2, 3), (2, 3), (3, 2)), strict=True):
        wanted = other.clone()
        wanted[:rows, :columns] = 0
        torch.testing.assert_close(one, wanted)
        assert other[:rows, :columns].all()


# ---------------------------------------------------------------- the rest


@BOTH
def test_dropout_in_training_only(per_head):
    layer, x = answer_for(make(dropout=0.5, per_head=per_head), OPEN), stream()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    torch.testing.assert_close(layer(x), torch_own(layer)(x, x, x)[0])


@BOTH
def test_under_autocast(per_head):
    layer, x = make(per_head=per_head).float(), stream().float()
    use(layer.query.gate, [1, 0, 1] if per_head else [1, 0, 1, 1, 0, 1])
    use(layer.value.gate, [1, 0, 1] if per_head else [0, 1, 1, 1, 1, 1])
    use(layer.gate, [0, 1, 1, 1, 1, 1])
    expected = answer_for(layer, Finished(0))(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert not y[..., 0].any()
    assert (y - expected).abs().max() < 8 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


@BOTH
def test_a_copy_and_other_dtypes(per_head):
    layer, x = answer_for(make(per_head=per_head), OPEN), stream()
    twin = copy.deepcopy(layer)
    assert twin.query.gate is twin.key.gate
    assert twin.query.gate is not layer.query.gate
    assert torch.equal(twin(x), layer(x))
    twin.half()
    if not per_head:
        assert torch.equal(twin.query.gate.segments, layer.query.gate.segments)
    assert "query.gate.segments" not in layer.state_dict()
    assert layer.state_dict().keys() == twin.state_dict().keys()


def test_keys_that_are_not_what_the_locks_take_them_for():
    one, other = hat.Gate(6), hat.Gate(6)
    x, memory = stream(), stream(seed=2)
    itself = make(inputs=one)
    assert torch.equal(itself.eval()(x, x, x), itself(x))
    with pytest.raises(ValueError, match="key: expected the queries, as `inputs` are the units of both"):
        itself(x, memory)
    with pytest.raises(ValueError, match="key: expected the queries, as `inputs` are the units of both"):
        itself(x, value=memory)
    with pytest.raises(ValueError, match="key: expected keys and values of the units of `memory`, got the queries"):
        make(inputs=one, memory=other)(x)
    same = make(inputs=one, memory=one).eval()
    assert torch.equal(same(x), same(x, x.clone()))
    assert make()(x, memory).shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4}, "num_heads: expected a divisor of 6, got 4"),
        ({"num_heads": 0}, "num_heads: expected a divisor of 6, got 0"),
        ({"dropout": 1.0}, r"dropout: expected in \[0, 1\), got 1.0"),
        ({"gate": hat.Gate(5)}, "weight: expected 5 units x 1 along dimension 0"),
        ({"inputs": hat.Gate(5)}, "inputs: expected 5 units x 1, got 6 inputs"),
        ({"memory": hat.Gate(6), "vdim": 5}, "inputs: expected 6 units x 1, got 5 inputs"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        hat.HATMultiheadAttention(6, **{"num_heads": 3, **options})
