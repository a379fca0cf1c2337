"""Rules of products of two activations, as in attention. A product is written with index letters, as in `torch.einsum`.

Example: the scores of attention with 2 heads of 3 dimensions, query [B, 2, L, 3] times key [B, 2, L, 3], are
`ahyz,ahxz->ahyx`. The index z is summed over. Query and key both have units along h and z, so a dimension of a head of
the query and the same dimension of the same head of the key are united. Dimensions change places only within a head.
The scores have no units. Then `ahyx,ahxz->ahyz` with the value: z is not summed over, so the result has the units of
the value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis, Args, Kwargs, ModuleRule, Rule
from hat.conversion.maps import words
from hat.conversion.units import constant
from hat.conversion.values import Value
from hat.tracing.substitutes import DroppedAttention

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _matmul(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    x, y = args[:2]
    if not isinstance(x, Value) or not isinstance(y, Value) or min(len(x.shape), len(y.shape)) < 2:
        return None
    return matmul(analysis, x, y, analysis.concrete[node].shape)


def matmul(analysis: Analysis, x: Value, y: Value, shape: torch.Size) -> Value | None:
    """`x @ y`, a sum over the last dimension of x and the last dimension but one of y."""
    batch = _LETTERS[: len(shape) - 2]
    left = batch[len(batch) - len(x.shape) + 2 :] + "yz"
    right = batch[len(batch) - len(y.shape) + 2 :] + "zx"
    return product(analysis, (x, left), (y, right), batch + "yx", shape)


def _einsum(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    parsed = words(args[0]) if len(args) == 3 else None
    if parsed is None:
        return None
    letters, out = parsed
    x, y = args[1:]
    if len(letters) != 2 or not all(isinstance(value, Value) for value in (x, y)):
        return None
    if any(len(set(word)) < len(word) for word in (*letters, out)) or not set(out) <= set(letters[0] + letters[1]):
        return None
    return product(analysis, (x, letters[0]), (y, letters[1]), out, analysis.concrete[node].shape)


def product(
    analysis: Analysis, left: tuple[Value, str], right: tuple[Value, str], out: str, shape: torch.Size
) -> Value | None:
    """The product `torch.einsum("left,right->out", x, y)`; None if one factor is a parameter.

    - Both factors have units along an index that is summed over, as query and key: the two units at every index are
      united.
    - Only one factor has units there: these units keep their places.
    - A factor has units along other indices only: they are the units of the product.

    Args:
        analysis: the analysis.
        left: the first factor, and the letters of its dimensions.
        right: the second factor, and the letters of its dimensions.
        out: the letters of the dimensions of the product.
        shape: the shape of the product.
    """
    if left[0].is_parameter or right[0].is_parameter:
        return None
    summed = (set(left[1]) | set(right[1])) - set(out)
    mixes = [_varies(value, word) & summed for value, word in (left, right)]
    for value, _ in (left, right):
        analysis.demand(value)  # even if no unit is summed over: one kernel then gates all pieces of one tensor
    if all(mixes):
        _pair(analysis, left, right, out)
    for factor, other_factor, mixed in ((left, right, mixes[0]), (right, left, mixes[1])):
        if factor[0].labels is not None and not all(mixes):
            _keep_places(analysis, factor, other_factor, mixed)
    return _result(
        analysis, [factor for factor, mixed in zip((left, right), mixes, strict=True) if not mixed], out, shape
    )


def _varies(value: Value, word: str) -> set[str]:
    """The letters of the dimensions along which the labels vary."""
    if value.labels is None:
        return set()
    return {letter for dim, letter in enumerate(word) if not constant(value.labels, dim)}


def _spread(labels: Tensor, word: str, over: str) -> Tensor:
    """The labels with one dimension for every letter in `over`, of length 1 for a letter that is not in `word`."""
    kept = [letter for letter in over if letter in word]
    moved = labels.permute([word.index(letter) for letter in kept])
    shape = iter(moved.shape)
    return moved.reshape([next(shape) if letter in kept else 1 for letter in over])


def _narrow(value: Value, word: str) -> tuple[Tensor, str]:
    """(labels, letters) without the dimensions along which the labels do not vary."""
    assert value.labels is not None
    letters = "".join(letter for letter in word if letter in _varies(value, word))
    labels = value.labels.clamp(min=0)
    for dim, letter in enumerate(word):
        if letter not in letters:
            labels = labels.narrow(dim, 0, 1)
    return labels.reshape([size for size, letter in zip(labels.shape, word, strict=True) if letter in letters]), letters


def _pair(analysis: Analysis, left: tuple[Value, str], right: tuple[Value, str], out: str) -> None:
    """Unite the units of two factors, as query and key: two units are one if all their common indices are equal."""
    (x, x_word), (y, y_word) = _narrow(*left), _narrow(*right)
    over = "".join(dict.fromkeys(x_word + y_word))
    x_ids, y_ids = _spread(x, x_word, over), _spread(y, y_word, over)
    pairs = analysis.units.pairs(x_ids, y_ids)
    alone = [letter for letter in over if (letter in x_word) != (letter in y_word)]
    if alone and len(pairs) > max(x.numel(), y.numel()):
        analysis.units.fix(x)
        analysis.units.fix(y)
        return
    analysis.units.unite(x_ids, y_ids)
    heads = [letter for letter in over if letter in out]
    if heads:
        _part(analysis, x, x_word, heads)
        _part(analysis, y, y_word, heads)
    if analysis.per_head:
        first = _spread(x, x_word, over)
        inner = [dim for dim, letter in enumerate(over) if letter not in out]
        for dim in inner:
            analysis.units.unite(first, first.narrow(dim, 0, 1))


def _part(analysis: Analysis, labels: Tensor, word: str, letters: list[str]) -> None:
    """Let units change places only with units that have the same indices for these letters."""
    dims = [dim for dim, letter in enumerate(word) if letter in letters]
    if dims:
        size = torch.Size(labels.shape[dim] for dim in dims)
        shape = [labels.shape[dim] if dim in dims else 1 for dim in range(labels.dim())]
        analysis.units.part(labels, torch.arange(size.numel()).view(shape))


def _keep_places(analysis: Analysis, factor: tuple[Value, str], other: tuple[Value, str], mixed: set[str]) -> None:
    """Let units of a factor keep their places along the indices that the other factor has too.

    At every such index, a unit meets another element of the other factor.
    """
    labels, word = _narrow(*factor)
    extent = dict(zip(other[1], other[0].shape, strict=True))
    shared = [letter for letter in word if extent.get(letter, 1) > 1]
    if shared:
        _part(analysis, labels, word, shared)
        if analysis.per_head and not mixed:  # the value of attention: all dimensions of a head become one unit
            for dim in [dim for dim, letter in enumerate(word) if letter not in shared]:
                analysis.units.unite(labels, labels.narrow(dim, 0, 1))
    if mixed and len(mixed) < len(word) and set(word) - mixed - set(shared):
        analysis.units.fix(labels)  # the units are summed over in part, so the product has no units of them


def _result(analysis: Analysis, factors: list[tuple[Value, str]], out: str, shape: torch.Size) -> Value:
    """The product with the units of the factors whose units are not summed over.

    If both factors have such units, the product has the units of the factor whose labels vary along more dimensions.
    """
    labelled = [(value, word) for value, word in factors if value.labels is not None]
    if not labelled:
        return Value(shape)
    labelled.sort(key=lambda factor: len(_varies(*factor)))
    value, word = labelled.pop()
    for lost, _ in labelled:
        analysis.lose(lost)
    labels, letters = _narrow(value, word)
    gated = value.gated and bool((labels > 0).all())
    return Value(shape, _spread(labels, letters, out).expand(shape), gated)


def _attention(analysis: Analysis, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
    names: dict[str, Any] = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
    query, key, value, mask = (names.get(name) for name in ("query", "key", "value", "attn_mask"))
    if not (isinstance(query, Value) and isinstance(key, Value) and isinstance(value, Value)):
        return None
    if (
        any(factor.is_parameter for factor in (query, key, value))
        or query.shape[:-2] != key.shape[:-2]
        or key.shape[:-2] != value.shape[:-2]
    ):
        return None  # several heads share one key
    analysis.lose(mask)
    batch = _LETTERS[: len(query.shape) - 2]
    weights_shape = torch.Size((*query.shape[:-1], key.shape[-2]))
    weights = product(analysis, (query, batch + "yz"), (key, batch + "xz"), batch + "yx", weights_shape)
    if weights is None or weights.labels is not None:  # the labels do not vary along z: there is only one unit
        analysis.lose(query, key)
        weights = Value(weights_shape)
    if analysis.per_head and value.labels is not None and query.labels is not None:
        _unite_heads(analysis, query, value)
    return product(
        analysis, (weights, batch + "yx"), (value, batch + "xz"), batch + "yz", analysis.concrete[node].shape
    )


def _dropped_attention(analysis: Analysis, node: fx.Node, module: nn.Module, args: Args, kwargs: Kwargs) -> Any:
    return _attention(analysis, node, args, kwargs)


def _unite_heads(analysis: Analysis, query: Value, value: Value) -> None:
    """Unite the unit of every head of the query with the unit of the same head of the value."""
    assert query.labels is not None
    assert value.labels is not None
    q, v = query.labels[..., :1, :1].clamp(min=0), value.labels[..., :1, :].clamp(min=0)
    analysis.units.unite(q, v)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm", "__matmul__", "mm"), _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
}

MODULES: dict[type[nn.Module], ModuleRule] = {DroppedAttention: _dropped_attention}
