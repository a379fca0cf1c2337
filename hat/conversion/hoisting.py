"""Where gates are put: further up than they are needed, where one kernel gates more at once, or none has to."""

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
    """The nodes whose values are gated: as far up as the same elements are in one tensor, and in front of a pool."""
    found = dict(analysis.gates)
    waiting = list(found)
    while waiting:
        node = waiting.pop()
        above = _above(analysis, node, found) if node in found else None
        if above is not None:  # of several pieces of one tensor, the last that comes here takes the others along
            for each in _siblings(node):
                found.pop(each, None)
            found[above] = None
            waiting.append(above)
    return list(found)


def _above(analysis: Analysis, node: fx.Node, gated: dict[fx.Node, None]) -> fx.Node | None:
    """The node whose value may be gated instead: data that this one only moves, all of it; or pools, behind a norm."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if not _moves_only(analysis.network, node):
        return source if _pools_a_norm(analysis, node, source) else None
    pieces = _pieces(source)
    if pieces:  # a tuple, of which every piece is gated
        whole = source.args[0]
        if not all(piece in gated for piece in pieces) or not isinstance(whole, fx.Node):
            return None
        return whole if len(real_users(whole)) == 1 and _is_whole(analysis, whole, pieces) else None
    if len(real_users(source)) > 1 or not isinstance(analysis.values.get(source), Value):
        return None
    return source if _is_whole(analysis, source, [node]) else None


def _moves_only(network: fx.GraphModule, node: fx.Node) -> bool:
    """The node gives the elements of its input another order or shape."""
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), nn.Flatten | nn.Unflatten)
    return operation(node) in _COMMUTES


def _pools_a_norm(analysis: Analysis, node: fx.Node, source: fx.Node) -> bool:
    """A gate commutes with a pool, and in front of this one it costs nothing: it goes into the norm's affine part."""
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
    """It and the other pieces of the tensor that it is one of."""
    source = node.args[0]
    return (_pieces(source) if isinstance(source, fx.Node) else []) or [node]


def _pieces(node: fx.Node) -> list[fx.Node]:
    """The items of a node that splits a tensor."""
    if operation(node) not in ("chunk", "split", "unbind", "tensor_split", "split_with_sizes"):
        return []
    users = list(node.users)
    return users if all(operation(user) == "getitem" for user in users) else []


def _is_whole(analysis: Analysis, whole: fx.Node, parts: list[fx.Node]) -> bool:
    value = analysis.values.get(whole)
    if not isinstance(value, Value) or value.labels is None or value.is_parameter:
        return False
    return value.shape.numel() == sum(analysis.values[part].shape.numel() for part in parts)


_COMMUTES = frozenset(
    {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "contiguous", "unsqueeze", "squeeze"}
    | {"getitem", "movedim", "clone"}
)
