"""Putting gates and gated layers into a graph, at the places that an analysis has found."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis, real_users
from hat.conversion.axes import Axes, attach, find_axes
from hat.conversion.fusion import Fusion
from hat.conversion.hoisting import hoisted
from hat.conversion.tables import Table, represent
from hat.conversion.units import narrowed, of_one, varying
from hat.conversion.values import Value
from hat.layers.convolutions import HATConv1d, HATConv2d, HATConv3d
from hat.layers.dropout import Dropout
from hat.layers.gated import HATLinear
from hat.layers.norms import NORMS
from hat.text import dotted
from hat.tracing.known import known_type
from hat.tracing.names import placed
from hat.units.composed import Gated, GatedAnywhere, SideBySide
from hat.units.gate import Gate
from hat.units.layout import Layout, layouts_in

_GATED: dict[type[nn.Module], Any] = {
    nn.Linear: HATLinear,
    nn.Conv1d: HATConv1d,
    nn.Conv2d: HATConv2d,
    nn.Conv3d: HATConv3d,
}


class Rewriter:
    """Puts gates into the graph of an analysis, in place.

    Args:
        analysis: the analysis, which has been run.

    Attributes:
        axes: the gates.
        gated: the nodes whose values are gated, and the labels of these values.
        calls: the nodes that call a module, by the name of the module.
        tables: the modules that replace parameters which the graph reads, by the name of the parameter.
        sources: for a new node, the node of the analysis that it replaces or stands behind.
        modes_of: for the name of a layer that also does the work of a dropout, the name of the dropout, because nothing
            else in the layer depends on its mode.
    """

    axes: Axes

    def __init__(self, analysis: Analysis) -> None:
        self.analysis, self.network = analysis, analysis.network
        self.gated: dict[fx.Node, Tensor] = {}
        self.calls: dict[str, list[fx.Node]] = {}
        self.tables: dict[str, Table] = {}
        self.sources: dict[fx.Node, fx.Node] = {}
        self.modes_of: dict[str, str] = {}

    def run(self) -> Axes:
        """Change the graph, attach the parameters to their gates, and return the gates."""
        analysis, units = self.analysis, self.analysis.units
        self._find_tables()
        self.gated = {node: units.resolved(analysis.values[node].ids).clamp(min=0) for node in hoisted(analysis)}
        claims = [
            *analysis.claims.values(),
            *(table.claim for table in self.tables.values() if table.claim is not None),
        ]
        joining = {node: units.resolved(labels).clamp(min=0) for node, labels in analysis.joining.items()}
        self.axes = find_axes(units, claims, [*self.gated.values(), *joining.values()])
        for node in self.network.graph.nodes:
            if node.op == "call_module":
                self.calls.setdefault(str(node.target), []).append(node)
        for node, labels in joining.items():  # first, because a layer may take in the nodes between
            with placed(node):
                self._gate_behind(node, labels)
        for node, labels in self.gated.items():
            with placed(node):
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

    def layouts(self) -> dict[str, Any]:
        """Where units lie in the values of the new graph, see `Converted.layouts`."""
        values = ((node, self.analysis.values.get(self.sources.get(node, node))) for node in self.network.graph.nodes)
        layouts = {node.name: self._layout(value) for node, value in values}
        return {name: layout for name, layout in layouts.items() if any(True for _ in layouts_in(layout))}

    def reasons(self) -> dict[str, tuple[str, str]]:
        """See `Converted.reasons`."""
        places = {name: f"because of {place}" for name, place in self.analysis.per_task.items()}
        reasons = {f"network.{name}": (name, place) for name, place in places.items()}
        for name, table in self.tables.items():
            reasons[f"network.{table.module}"] = name, places.get(name, "its units lie along several dimensions")
        for path in self.analysis.frozen:
            for name, _ in self.network.get_submodule(path).named_parameters(prefix=path):
                reasons[f"network.{name}"] = name, "excluded by `filter`"
        return reasons

    def _layout(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(map(self._layout, value))
        if not isinstance(value, Value) or value.labels is None:
            return None
        (labels,) = narrowed(value.labels)
        (units,) = narrowed(self.axes.index(labels))  # narrowed again: units may have been united since
        return None if bool((units < 0).all()) else Layout(value.shape, units)

    # -- gates ----------------------------------------------------------------------------------------------------

    def _gate(self, node: fx.Node, labels: Tensor) -> None:
        """Gate the value of a node: by the layer in front if it can apply the gate, else by a new module."""
        gate, unit_dim = self._gate_of(labels)
        if gate is None:
            self._gate_behind(node, labels)
            return
        fusion = Fusion.ending_at(self.network, node, self.gated)
        if fusion.layer is not None and self._fuse(fusion, gate, unit_dim):
            return
        self._insert(
            fusion.activated or node,
            Gated(gate, activation=fusion.activation if fusion.activated else "identity", unit_dim=unit_dim),
            replace=fusion.activated is not None,
        )

    def _gate_of(self, labels: Tensor) -> tuple[Any, int]:
        """(gate, dimension) if all elements belong to units along one dimension; else (None, 0)."""
        dims = varying(labels)
        gates, index = self.axes.within(_narrow(labels, dims))
        if len(dims) > 1 or bool((index == sum(gate.units for gate in gates)).any()):
            return None, 0
        unit_dim = dims[0] if dims else of_one(labels.shape)
        if unit_dim is None:
            return None, 0
        return self._combined(gates, index.flatten().expand(labels.shape[unit_dim])), unit_dim

    def _gate_behind(self, node: fx.Node, labels: Tensor) -> None:
        gate, unit_dim = self._gate_of(labels)
        if gate is None:
            self._insert(node, GatedAnywhere(*self.axes.within(_narrow(labels, varying(labels)))))
        else:
            self._insert(node, Gated(gate, unit_dim=unit_dim))

    def _combined(self, gates: list[Gate], index: Tensor) -> Any:
        if len(gates) == 1 and torch.equal(index, torch.arange(gates[0].units)):
            return gates[0]
        return SideBySide(gates, index.clone())

    def _fuse(self, fusion: Fusion, gate: Any, unit_dim: int) -> bool:
        """Replace the layer by a gated layer that also does the work of the nodes behind it; False if it cannot."""
        node = fusion.layer
        assert node is not None
        name = str(node.target)
        plain = self.network.get_submodule(name)
        kind = known_type(plain)
        if len(self.calls[name]) > 1:
            return False
        rank = len(self.analysis.concrete[node].shape)
        if kind in _GATED:
            if unit_dim != (rank - 1 if isinstance(plain, nn.Linear) else 1):
                return False
            options: dict[str, Any] = {"activation": fusion.activation, "dropout": fusion.dropout}
            if fusion.pool is not None:
                if isinstance(plain, nn.Linear):
                    return False
                options["pool"] = copy.copy(fusion.pool)  # the graph may call the same pool elsewhere
            layer = _GATED[kind].around(plain, gate=gate, **options)
        elif kind in NORMS and not fusion.dropout and fusion.pool is None:
            if unit_dim != (rank - 1 if isinstance(plain, nn.LayerNorm | nn.RMSNorm) else 1):
                return False
            layer = NORMS[kind].from_plain(plain, activation=fusion.activation)
            if layer.units != gate.units:
                return False
            layer.__dict__["gate"] = gate
        else:
            return False
        if fusion.dropped is not None:
            self.modes_of[name] = str(fusion.dropped.target)
        self.network.set_submodule(name, layer)
        self.sources[node] = [node, *fusion.behind][-1]
        for behind in reversed(fusion.behind):
            behind.replace_all_uses_with(behind.args[0])  # type: ignore[arg-type]
            self.network.graph.erase_node(behind)
        return True

    def _insert(self, node: fx.Node, module: nn.Module, *, replace: bool = False) -> None:
        """Put a module behind a node, or in its place."""
        name = f"gate_{node.name}"
        self.network.add_submodule(name, module)
        if replace:
            with self.network.graph.inserting_before(node):
                new = self.network.graph.call_module(name, (node.args[0],))
            self.sources[new] = node
            node.replace_all_uses_with(new)
            self.network.graph.erase_node(node)
            return
        with self.network.graph.inserting_after(node):
            new = self.network.graph.call_module(name, (node,))
        self.sources[new] = node
        for user in real_users(node):
            if user is not new:
                user.replace_input_with(node, new)

    # -- everything else ------------------------------------------------------------------------------------------

    def _replace_rest(self) -> None:
        """Replace the layers, norms and dropouts that apply no gate.

        The gated classes know the locks of their weights even without a gate. Norms become per-task norms. Our dropout
        takes a third of the time on a CPU, see `hat_kernels.dropout`.
        """
        for name in self.calls:
            plain = self.network.get_submodule(name)
            kind = known_type(plain)
            if self.analysis.is_excluded(name) or name in self.analysis.frozen:
                continue
            if kind in _GATED:
                self.network.set_submodule(name, _GATED[kind].around(plain))
            elif kind in NORMS:
                self.network.set_submodule(name, NORMS[kind].from_plain(plain))
            elif isinstance(plain, nn.Dropout) and kind is nn.Dropout and 0 <= plain.p < 1:
                self.network.set_submodule(name, Dropout(plain.p).train(plain.training))

    def _find_tables(self) -> None:
        for node in self.network.graph.nodes:
            value = self.analysis.values.get(node)
            if node.op == "get_attr" and isinstance(value, Value) and value.is_parameter:
                name = str(node.target)
                table = represent(self.analysis, name, f"{name.replace('.', '_')}_table")
                if table is not None:
                    self.tables[name] = table

    def _replace_parameters(self) -> None:
        """Replace the parameters that the graph reads by modules: along a gate, or with per-task values."""
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
            self.sources[new] = node
            node.replace_all_uses_with(new)
            self.network.graph.erase_node(node)


def _forget_unread(network: fx.GraphModule) -> None:
    """Delete the parameters and buffers that the graph has read before and reads no more."""
    read = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    for path, module in network.named_modules():
        if type(module) is nn.Module or module is network:
            for tensors in (module._parameters, module._buffers):
                for name in [name for name in tensors if dotted(path, name) not in read]:
                    del tensors[name]


def _narrow(index: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The index with length 1 along all dimensions that are not in `dims`."""
    for dim in range(index.dim()):
        if dim not in dims:
            index = index.narrow(dim, 0, 1)
    return index
