"""Products of two activations, as in attention, written as sums over indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis, ModuleRule, Rule
from hat.conversion.units import constant
from hat.conversion.values import Value
from hat.tracing.substitutes import DroppedAttention

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _matmul(a: Analysis, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, y = args[:2]
    if not isinstance(x, Value) or not isinstance(y, Value) or min(len(x.shape), len(y.shape)) < 2:
        return None
    return matmul(a, x, y, a.concrete[node].shape)


def matmul(a: Analysis, x: Value, y: Value, shape: torch.Size) -> Value | None:
    """`x @ y` over the last dimension of x and the last but one of y."""
    batch = _LETTERS[: len(shape) - 2]
    left = batch[len(batch) - len(x.shape) + 2 :] + "yz"
    right = batch[len(batch) - len(y.shape) + 2 :] + "zx"
    return product(a, (x, left), (y, right), batch + "yx", shape)


def _einsum(a: Analysis, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) != 3 or not isinstance(args[0], str):
        return None
    inputs, _, out = args[0].replace(" ", "").partition("->")
    x, y = args[1:]
    letters = inputs.split(",")
    if "." in inputs or len(letters) != 2 or not all(isinstance(value, Value) for value in (x, y)):
        return None
    if any(len(set(word)) < len(word) for word in (*letters, out)) or not set(out) <= set(letters[0] + letters[1]):
        return None
    return product(a, (x, letters[0]), (y, letters[1]), out, a.concrete[node].shape)


def product(
    a: Analysis, left: tuple[Value, str], right: tuple[Value, str], out: str, shape: torch.Size
) -> Value | None:
    """`sum over the other indices of x[left] y[right]`, as `torch.einsum` writes it.

    Units that are summed over are one unit on both sides, index by index, as query and key; where only one side has
    units there, they keep their places. The units of the other indices are those of the product.
    """
    if left[0].is_parameter or right[0].is_parameter:
        return None
    summed = (set(left[1]) | set(right[1])) - set(out)
    mixes = [_varies(value, word) & summed for value, word in (left, right)]
    for value, _ in (left, right):
        a.demand(value)  # what is not summed over too: pieces of one tensor are gated in one go
    if all(mixes):
        _pair(a, left, right, out)
    for side, other, mixed in ((left, right, mixes[0]), (right, left, mixes[1])):
        if side[0].labels is not None and not all(mixes):
            _keep_places(a, side, other, mixed)
    return _result(a, [side for side, mixed in zip((left, right), mixes, strict=True) if not mixed], out, shape)


def _varies(value: Value, word: str) -> set[str]:
    if value.labels is None:
        return set()
    return {letter for dim, letter in enumerate(word) if not constant(value.labels, dim)}


def _spread(labels: Tensor, word: str, over: str) -> Tensor:
    """Labels with a dimension for each index in `over`, of length 1 where they have none."""
    kept = [letter for letter in over if letter in word]
    moved = labels.permute([word.index(letter) for letter in kept])
    shape = iter(moved.shape)
    return moved.reshape([next(shape) if letter in kept else 1 for letter in over])


def _narrow(value: Value, word: str) -> tuple[Tensor, str]:
    """Labels without the dimensions along which they do not vary."""
    assert value.labels is not None
    letters = "".join(letter for letter in word if letter in _varies(value, word))
    labels = value.labels.clamp(min=0)
    for dim, letter in enumerate(word):
        if letter not in letters:
            labels = labels.narrow(dim, 0, 1)
    return labels.reshape([size for size, letter in zip(labels.shape, word, strict=True) if letter in letters]), letters


def _pair(a: Analysis, left: tuple[Value, str], right: tuple[Value, str], out: str) -> None:
    """Query and key: the units of both are one where all indices agree that both have."""
    (x, x_word), (y, y_word) = _narrow(*left), _narrow(*right)
    over = "".join(dict.fromkeys(x_word + y_word))
    x_ids, y_ids = _spread(x, x_word, over), _spread(y, y_word, over)
    pairs = a.units.pairs(x_ids, y_ids)
    alone = [letter for letter in over if (letter in x_word) != (letter in y_word)]
    if alone and len(pairs) > max(x.numel(), y.numel()):
        a.units.fix(x)
        a.units.fix(y)
        return
    a.units.unite(x_ids, y_ids)
    heads = [letter for letter in over if letter in out]
    if heads:
        _part(a, x, x_word, heads)
        _part(a, y, y_word, heads)
    if a.per_head:
        first = _spread(x, x_word, over)
        inner = [dim for dim, letter in enumerate(over) if letter not in out]
        for dim in inner:
            a.units.unite(first, first.narrow(dim, 0, 1))


def _part(a: Analysis, labels: Tensor, word: str, letters: list[str]) -> None:
    dims = [dim for dim, letter in enumerate(word) if letter in letters]
    if dims:
        size = torch.Size(labels.shape[dim] for dim in dims)
        shape = [labels.shape[dim] if dim in dims else 1 for dim in range(labels.dim())]
        a.units.part(labels, torch.arange(size.numel()).view(shape))


def _keep_places(a: Analysis, side: tuple[Value, str], other: tuple[Value, str], mixed: set[str]) -> None:
    """Along an index that the other side has too, units meet something of their own at every place."""
    labels, word = _narrow(*side)
    extent = dict(zip(other[1], other[0].shape, strict=True))
    shared = [letter for letter in word if extent.get(letter, 1) > 1]
    if shared:
        _part(a, labels, word, shared)
        if a.per_head and not mixed:  # values, of which every head takes its own
            for dim in [dim for dim, letter in enumerate(word) if letter not in shared]:
                a.units.unite(labels, labels.narrow(dim, 0, 1))
    if mixed and len(mixed) < len(word) and set(word) - mixed - set(shared):
        a.units.fix(labels)  # what is left of them in the product belongs to no unit


def _result(a: Analysis, sides: list[tuple[Value, str]], out: str, shape: torch.Size) -> Value:
    """What keeps its units through the product: of two sides that do, the one with more of them."""
    labelled = [(value, word) for value, word in sides if value.labels is not None]
    if not labelled:
        return Value(shape)
    labelled.sort(key=lambda side: len(_varies(*side)))
    value, word = labelled.pop()
    for lost, _ in labelled:
        a.lose(lost)
    labels, letters = _narrow(value, word)
    gated = value.gated and bool((labels > 0).all())
    return Value(shape, _spread(labels, letters, out).expand(shape), gated)


def _attention(a: Analysis, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    names: dict[str, Any] = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
    query, key, value, mask = (names.get(name) for name in ("query", "key", "value", "attn_mask"))
    if not (isinstance(query, Value) and isinstance(key, Value) and isinstance(value, Value)):
        return None
    if (
        any(each.is_parameter for each in (query, key, value))
        or query.shape[:-2] != key.shape[:-2]
        or key.shape[:-2] != value.shape[:-2]
    ):
        return None  # groups of heads share a key
    a.lose(mask)
    batch = _LETTERS[: len(query.shape) - 2]
    weights_shape = torch.Size((*query.shape[:-1], key.shape[-2]))
    weights = product(a, (query, batch + "yz"), (key, batch + "xz"), batch + "yx", weights_shape)
    if weights is None or weights.labels is not None:  # a single unit, which the product does not sum over
        a.lose(query, key)
        weights = Value(weights_shape)
    if a.per_head and value.labels is not None and query.labels is not None:
        _one_unit_a_head(a, query, value)
    return product(a, (weights, batch + "yx"), (value, batch + "xz"), batch + "yz", a.concrete[node].shape)


def _dropped_attention(
    a: Analysis, node: fx.Node, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    return _attention(a, node, args, kwargs)


def _one_unit_a_head(a: Analysis, query: Value, value: Value) -> None:
    assert query.labels is not None
    assert value.labels is not None
    q, v = query.labels[..., :1, :1].clamp(min=0), value.labels[..., :1, :].clamp(min=0)
    a.units.unite(q, v)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm", "__matmul__", "mm"), _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}

MODULES: dict[type[nn.Module], ModuleRule] = {DroppedAttention: _dropped_attention}
