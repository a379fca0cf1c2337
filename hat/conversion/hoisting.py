"""Where gates are put. A gate moves up in the graph if one kernel gates more there, or if the gate is free there.

Example: `q, k, v = linear(x).chunk(3, -1)`, and all three pieces must be gated. The value of `linear` is gated instead,
once, by the layer itself.
"""

from __future__ import annotations

from torch import fx, nn

from hat.conversion.analysis import Analysis, real_users
from hat.conversion.fusion import Fusion
from hat.conversion.values import Value
from hat.layers.folding import POOLS
from hat.layers.norms import NORMS
from hat.tracing.known import known_type
from hat.tracing.names import operation


def hoisted(analysis: Analysis) -> list[fx.Node]:
    """The nodes whose values are gated, each as far up in the graph as `_above` allows."""
    gated = dict(analysis.gates)
    waiting = list(gated)
    while waiting:
        node = waiting.pop()
        above = _above(analysis, node, gated) if node in gated else None
        if above is not None:
            for piece in _siblings(node):
                gated.pop(piece, None)
            gated[above] = None
            waiting.append(above)
    return list(gated)


def _above(analysis: Analysis, node: fx.Node, gated: dict[fx.Node, None]) -> fx.Node | None:
    """The node in front of `node` whose value may be gated instead, or None.

    There are two cases: `node` only moves all the data of the node in front, or it pools the result of a norm.
    """
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if not _moves_only(analysis.network, node):
        return source if _pools_a_norm(analysis, node, source) else None
    pieces = _pieces(source)
    if pieces:  # `source` splits a tensor; all pieces must be gated
        whole = source.args[0]
        if not all(piece in gated for piece in pieces) or not isinstance(whole, fx.Node):
            return None
        return whole if len(real_users(whole)) == 1 and _is_whole(analysis, whole, pieces) else None
    if len(real_users(source)) > 1 or not isinstance(analysis.values.get(source), Value):
        return None
    return source if _is_whole(analysis, source, [node]) else None


def _moves_only(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node only gives the elements of its input another order or shape."""
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.Flatten | nn.Unflatten)
    return operation(node) in _COMMUTES


def _pools_a_norm(analysis: Analysis, node: fx.Node, source: fx.Node) -> bool:
    """Whether a node pools the result of a norm.

    A gate commutes with a pool. In front of this pool the gate costs nothing, because it goes into the affine part of
    the norm.
    """
    network = analysis.network
    if node.op != "call_module" or type(network.get_submodule(str(node.target))) not in POOLS:
        return False
    if len(source.users) > 1 or source in analysis.joining or node in analysis.joining:
        return False
    fusion = Fusion.ending_at(network, source, analysis.gates)
    norm = None if fusion.layer is None else network.get_submodule(str(fusion.layer.target))
    folds = fusion.activation in ("identity", "relu", "leaky_relu") and not fusion.dropout and fusion.pool is None
    value = analysis.values.get(source)
    return (
        norm is not None
        and known_type(norm) in NORMS
        and folds
        and isinstance(value, Value)
        and value.labels is not None
    )


def _siblings(node: fx.Node) -> list[fx.Node]:
    """All pieces of the tensor that `node` is a piece of, including `node`; only `node` if it is no piece."""
    source = node.args[0]
    return (_pieces(source) if isinstance(source, fx.Node) else []) or [node]


def _pieces(node: fx.Node) -> list[fx.Node]:
    """The nodes that take the pieces, if `node` splits a tensor; else no nodes."""
    if operation(node) not in ("chunk", "split", "unbind", "tensor_split", "split_with_sizes"):
        return []
    users = list(node.users)
    return users if all(operation(user) == "getitem" for user in users) else []


def _is_whole(analysis: Analysis, whole: fx.Node, parts: list[fx.Node]) -> bool:
    """Whether the parts together have all elements of the value of `whole`."""
    value = analysis.values.get(whole)
    if not isinstance(value, Value) or value.labels is None or value.is_parameter:
        return False
    return value.shape.numel() == sum(analysis.values[part].shape.numel() for part in parts)


_COMMUTES = frozenset(
    {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "contiguous", "unsqueeze", "squeeze"}
    | {"getitem", "movedim", "clone"}
)
