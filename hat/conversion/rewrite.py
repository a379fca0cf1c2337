"""Putting gates and gated layers into a graph, where an analysis says that they belong."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis, real_users
from hat.conversion.axes import Axes, attach, find_axes
from hat.conversion.names import operation
from hat.conversion.tables import Table, represent
from hat.conversion.units import varying
from hat.conversion.values import Value
from hat.convolutions import HATConv1d, HATConv2d, HATConv3d
from hat.gate import Gate
from hat.gating import Gated, GatedAnywhere, SideBySide
from hat.layers import HATLinear
from hat.norms import NORMS

_GATED: dict[type[nn.Module], Any] = {
    nn.Linear: HATLinear,
    nn.Conv1d: HATConv1d,
    nn.Conv2d: HATConv2d,
    nn.Conv3d: HATConv3d,
}


class Rewriter:
    """Turns the graph of an analysis into one with gates, in place.

    Attributes:
        axes: the gates.
        gated: the nodes whose values are gated, and their labels.
        calls: the nodes that call a module, by its name.
        tables: what becomes of the parameters that the graph reads by itself.
    """

    axes: Axes

    def __init__(self, analysis: Analysis) -> None:
        self.analysis, self.network = analysis, analysis.network
        self.gated: dict[fx.Node, Tensor] = {}
        self.calls: dict[str, list[fx.Node]] = {}
        self.tables: dict[str, Table] = {}

    def run(self) -> Axes:
        """Change the graph; the gates are not attached before, as units get their gates all at once."""
        a = self.analysis
        self._find_tables()
        self.gated = {node: a.units.resolved(a.values[node].ids).clamp(min=0) for node in hoisted(a)}
        claims = [*a.claims.values(), *(table.claim for table in self.tables.values() if table.claim is not None)]
        joining = {node: a.units.resolved(labels).clamp(min=0) for node, labels in a.joining.items()}
        self.axes = find_axes(a.units, claims, [*self.gated.values(), *joining.values()])
        for node in self.network.graph.nodes:
            if node.op == "call_module":
                self.calls.setdefault(str(node.target), []).append(node)
        for node, labels in joining.items():  # before a layer takes in what is between
            self._gate_behind(node, labels)
        for node, labels in self.gated.items():
            self._gate(node, labels)
        self._replace_rest()
        self._replace_parameters()
        self.network.graph.eliminate_dead_code()
        self.network.delete_all_unused_submodules()
        _forget_unread(self.network)
        self.network.recompile()
        for claim in claims:
            attach(self.axes, claim, self.network.get_submodule(claim.module))
        return self.axes

    # -- gates ----------------------------------------------------------------------------------------------------

    def _gate(self, node: fx.Node, labels: Tensor) -> None:
        """Let the layer behind which it stands apply the gate, or put one there."""
        gate, unit_dim = self._gate_of(labels)
        if gate is None:
            self._gate_behind(node, labels)
            return
        chain = Fusion.ending_at(node, self)
        if chain.layer is not None and self._fuse(chain, gate, unit_dim):
            return
        self._insert(
            chain.activated or node,
            Gated(gate, activation=chain.activation if chain.activated else "identity", unit_dim=unit_dim),
            replace=chain.activated is not None,
        )

    def _gate_of(self, labels: Tensor) -> tuple[Any, int]:
        """A gate along one dimension, and that; None where labels vary along several, or some belong to no unit."""
        dims = varying(labels)
        gates, index = self.axes.within(_narrow(labels, dims))
        if len(dims) > 1 or bool((index == sum(gate.units for gate in gates)).any()):
            return None, 0
        unit_dim = dims[0] if dims else _of_one(labels.shape)
        if unit_dim is None:
            return None, 0
        return self._one(gates, index.flatten().expand(labels.shape[unit_dim])), unit_dim

    def _gate_behind(self, node: fx.Node, labels: Tensor) -> None:
        gate, unit_dim = self._gate_of(labels)
        if gate is None:
            self._insert(node, GatedAnywhere(*self.axes.within(_narrow(labels, varying(labels)))))
        else:
            self._insert(node, Gated(gate, unit_dim=unit_dim))

    def _one(self, gates: list[Gate], index: Tensor) -> Any:
        if len(gates) == 1 and torch.equal(index, torch.arange(gates[0].units)):
            return gates[0]
        return SideBySide(gates, index.clone())

    def _fuse(self, chain: Fusion, gate: Any, unit_dim: int) -> bool:
        """Make the layer at the beginning of a chain of activation and dropout do all of it."""
        node = chain.layer
        assert node is not None
        name = str(node.target)
        plain = self.network.get_submodule(name)
        if len(self.calls[name]) > 1:
            return False
        rank = len(self.analysis.concrete[node].shape)
        if type(plain) in _GATED:
            if unit_dim != (rank - 1 if isinstance(plain, nn.Linear) else 1):
                return False
            layer = _GATED[type(plain)].around(plain, gate=gate, activation=chain.activation, dropout=chain.dropout)
        elif type(plain) in NORMS and not chain.dropout:
            if unit_dim != (rank - 1 if isinstance(plain, nn.LayerNorm | nn.RMSNorm) else 1):
                return False
            layer = NORMS[type(plain)].from_plain(plain, activation=chain.activation)
            if layer.units != gate.units:
                return False
            layer.__dict__["gate"] = gate
        else:
            return False
        self.network.set_submodule(name, layer)
        for behind in reversed(chain.behind):
            behind.replace_all_uses_with(behind.args[0])  # type: ignore[arg-type]
            self.network.graph.erase_node(behind)
        return True

    def _insert(self, node: fx.Node, module: nn.Module, *, replace: bool = False) -> None:
        """A module behind a node, or in its place."""
        name = f"gate_{node.name}"
        self.network.add_submodule(name, module)
        if replace:
            with self.network.graph.inserting_before(node):
                new = self.network.graph.call_module(name, (node.args[0],))
            node.replace_all_uses_with(new)
            self.network.graph.erase_node(node)
            return
        with self.network.graph.inserting_after(node):
            new = self.network.graph.call_module(name, (node,))
        for user in real_users(node):
            if user is not new:
                user.replace_input_with(node, new)

    # -- everything else ------------------------------------------------------------------------------------------

    def _replace_rest(self) -> None:
        """Layers that apply no gate still know what is locked of them; norms are every task's own."""
        for name in self.calls:
            plain = self.network.get_submodule(name)
            if self.analysis.is_excluded(name) or name in self.analysis.frozen:
                continue
            if type(plain) in _GATED:
                self.network.set_submodule(name, _GATED[type(plain)].around(plain))
            elif type(plain) in NORMS:
                self.network.set_submodule(name, NORMS[type(plain)].from_plain(plain))

    def _find_tables(self) -> None:
        a = self.analysis
        for node in self.network.graph.nodes:
            value = a.values.get(node)
            if node.op == "get_attr" and isinstance(value, Value) and value.is_parameter:
                name = str(node.target)
                table = represent(a, name, f"{name.replace('.', '_')}_table")
                if table is not None:
                    self.tables[name] = table

    def _replace_parameters(self) -> None:
        """Parameters that the graph reads by itself become modules, which gates can know, or every task's own."""
        made: dict[str, nn.Module] = {}
        for node in list(self.network.graph.nodes):
            if node.op != "get_attr" or str(node.target) not in self.tables:
                continue
            table = self.tables[str(node.target)]
            if table.module not in made:
                made[table.module] = table.make()
                self.network.add_submodule(table.module, made[table.module])
            with self.network.graph.inserting_before(node):
                new = self.network.graph.call_module(table.module)
            node.replace_all_uses_with(new)
            self.network.graph.erase_node(node)


class Fusion:
    """A layer, an activation and a dropout, one behind the other, each used by the next alone.

    Attributes:
        layer: None where there is none.
        behind: the nodes of activation and dropout.
        activation: its name.
        dropout: its probability.
        activated: the node of the activation, where it is the last one.
    """

    def __init__(self) -> None:
        self.layer: fx.Node | None = None
        self.behind: list[fx.Node] = []
        self.activation, self.dropout = "identity", 0.0
        self.activated: fx.Node | None = None

    @classmethod
    def ending_at(cls, node: fx.Node, rewriter: Rewriter) -> Fusion:
        """The longest one whose last node this is."""
        chain = cls()
        here: fx.Node | None = node
        network = rewriter.network
        dropout = _dropout(network, node)
        if dropout is not None:
            chain.dropout = dropout
            chain.behind.insert(0, node)
            here = _only_input(node)
        activation = None if here is None else activation_of(network, here)
        if here is not None and activation is not None:
            chain.activation = activation
            chain.activated = here if here is node else None
            chain.behind.insert(0, here)
            here = _only_input(here)
        is_layer = here is not None and here.op == "call_module"
        if is_layer and (here is node or here not in rewriter.gated):
            chain.layer = here
        return chain


def _only_input(node: fx.Node) -> fx.Node | None:
    """The first input, if nothing else uses it."""
    found = node.args[0] if node.args else None
    return found if isinstance(found, fx.Node) and len(found.users) == 1 else None


def _dropout(network: fx.GraphModule, node: fx.Node) -> float | None:
    if node.op != "call_module":
        return None
    module = network.get_submodule(str(node.target))
    return float(module.p) if type(module) is nn.Dropout and 0 <= module.p < 1 else None


def activation_of(network: fx.GraphModule, node: fx.Node) -> str | None:
    """The key of `hat_kernels.ACTIVATIONS` that a node computes."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        if type(module) is nn.GELU:
            return "gelu" if module.approximate == "none" else "gelu_tanh"
        if type(module) is nn.LeakyReLU:
            return "leaky_relu" if module.negative_slope == 0.01 else None
        return _PLAIN.get(type(module))
    name = operation(node)
    if name == "gelu":
        approximate = node.kwargs.get("approximate", node.args[1] if len(node.args) > 1 else "none")
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(str(approximate))
    if name == "leaky_relu":
        slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
        return "leaky_relu" if slope == 0.01 else None
    return name if name in ("relu", "silu", "tanh", "sigmoid") else None


_PLAIN: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.SiLU: "silu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}


def hoisted(analysis: Analysis) -> list[fx.Node]:
    """Where gates are put: as far up as the same elements are in one tensor, so that few kernels gate much at once."""
    found = dict(analysis.gates)
    changed = True
    while changed:
        changed = False
        for node in list(found):
            above = _above(analysis, node, found)
            if above is not None:
                for each in _siblings(node):
                    found.pop(each, None)
                found[above] = None
                changed = True
                break
    return list(found)


def _above(analysis: Analysis, node: fx.Node, gated: dict[fx.Node, None]) -> fx.Node | None:
    """The node whose value may be gated instead: data that this one only moves, all of it."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or operation(node) not in _COMMUTES:
        return None
    pieces = _pieces(source)
    if pieces:  # a tuple, of which every piece is gated
        whole = source.args[0]
        if not all(piece in gated for piece in pieces) or not isinstance(whole, fx.Node):
            return None
        return whole if len(real_users(whole)) == 1 and _is_whole(analysis, whole, pieces) else None
    if len(real_users(source)) > 1 or not isinstance(analysis.values.get(source), Value):
        return None
    return source if _is_whole(analysis, source, [node]) else None


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


def _forget_unread(network: fx.GraphModule) -> None:
    """Drop the parameters and buffers that the graph has read by itself and reads no more."""
    read = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    for path, module in network.named_modules():
        if type(module) is nn.Module or module is network:
            for own in (module._parameters, module._buffers):
                for name in [name for name in own if (f"{path}.{name}" if path else name) not in read]:
                    del own[name]


def _of_one(shape: torch.Size) -> int | None:
    """The dimension of the only unit of a value, channels or what comes last; None where it may be either or neither.

    Never one of positions: a gate would then want as many of them as the example has.
    """
    found = {dim for dim in (1, len(shape) - 1) if 0 < dim < len(shape) and shape[dim] == 1}
    return found.pop() if len(found) == 1 else None


def _narrow(index: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Of length 1 along the other dimensions."""
    for dim in range(index.dim()):
        if dim not in dims:
            index = index.narrow(dim, 0, 1)
    return index
