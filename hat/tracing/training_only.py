"""What a network does in training only, and what its graph does not do.

A graph computes what the network computes in evaluation. In training it also has dropouts, norms and stochastic depth.
All else that a network does in training is missing in the graph. To find it, the network and its graph run in training
from the same random seed, and what they do is compared, see `hat.tracing.watching`. Example:

    network, in training                     graph, in training           missing in the graph
    drop (Dropout) draws                     drop (Dropout) draws
    noise (Noise, nets.py:5) draws                                        randomness: the user is warned
    centre (Centre, nets.py:9) writes mean                                a state: refused

A layer that the graph calls as a whole, such as a layer of `torch.nn`, does in the graph what it does in the network.
"""

from __future__ import annotations

from collections import Counter, deque
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from hat.text import dotted
from hat.tracing.checks import other_inputs, same
from hat.tracing.errors import ConversionError
from hat.tracing.places import described
from hat.tracing.trace import Traced
from hat.tracing.untouched import CONTAINERS, holders, untouched
from hat.tracing.watching import Run, watched

_MOST = 5  # places of one kind in a message

Attribute = tuple[str, str]
"""The name of a module, and the name of an attribute, buffer or parameter of the module."""


def missing_in_training(module: nn.Module, traced: Traced, example: tuple[Any, ...]) -> str:
    """What the network does in training and its graph does not: a text for a warning, empty if there is nothing.

    Args:
        module: the network; it is left as it was.
        traced: its graph.
        example: the inputs that the graph was recorded on.

    Raises:
        ConversionError: the network changes a state in training, and the graph does not; or a module that the graph
            calls as a whole changes a state that is no buffer, so that finished tasks would change with it. The message
            names the place, the state, and what to do.
    """
    return _Comparison(module, traced, example).message()


class _Comparison:
    """A network and its graph after a run of both in training.

    Args:
        module, traced, example: as of `missing_in_training`.
    """

    def __init__(self, module: nn.Module, traced: Traced, example: tuple[Any, ...]) -> None:
        self.module, self.traced = module, traced
        self.owners = dict(module.named_modules())
        called = {str(node.target) for node in traced.graph_module.graph.nodes if node.op == "call_module"}
        self.whole = called & self.owners.keys()
        for self.inputs in (example, other_inputs(example, 1)):  # a norm takes no single sample in training
            with untouched(module):
                before = _attributes(module)
                self.network = watched(module, module, self.inputs, training=True)
                self.changed = _changed(before, _attributes(module))
            if self.network.error is None:
                break
        with untouched(traced.graph_module):
            self.graph = watched(module, traced.graph_module, self.inputs, training=True)

    @cached_property
    def evaluation(self) -> Run:
        """A run of the network in evaluation."""
        with untouched(self.module):
            return watched(self.module, self.module, self.inputs, training=False)

    def message(self) -> str:
        """The warning; see `missing_in_training`."""
        error, attributes = self.network.error, self._set_in_training_only()
        self._refuse_states(attributes)
        lost = {"random numbers of": self._draws(), "activation checkpoints of": self._checkpoints()}
        if error is None:
            lost |= self._other_calls({path for places in lost.values() for path in places})
            lost["statistics that do not change of"] = self._statistics()
        lost["attributes set in training only by"] = {
            path: f"{self._described(path)}: {name}" for path, name in attributes if not self._is_whole(path)
        }
        if error is None and not any(lost.values()) and not same(self.network.answer or [], self.graph.answer or []):
            lost["another answer of"] = {"": self._described("")}
        texts = [f"{kind} {_shortened(list(places.values()))}" for kind, places in lost.items() if places]
        if error is not None:
            texts.append(f"unknown, because it fails in training on the example ({type(error).__name__}: {error})")
        return "; ".join(texts)

    # -- states -----------------------------------------------------------------------------------------------------

    def _refuse_states(self, attributes: dict[Attribute, bool]) -> None:
        """Refuse states that the network changes in training.

        Args:
            attributes: as `_set_in_training_only` returns.
        """
        written = {self._owner(name): place for name, place in self.network.written.items()}
        kept = {self._owner(name) for name in self.graph.written}
        states = {**written, **{attribute: "" for attribute, is_state in attributes.items() if is_state}}
        for (path, name), place in states.items():
            owner = self.owners[path]
            is_kept = name in owner._buffers and (self._is_whole(path) or (path, name) in kept)
            if is_kept or (isinstance(owner, _NormBase) and path not in self.evaluation.called):  # an auxiliary head
                continue
            raise ConversionError(self._refusal(path, name, place or self._described(path)))

    def _refusal(self, path: str, name: str, place: str) -> str:
        owner, _, rest = path.partition(".parametrizations.")
        if rest and type(self.owners[path]).__name__ == "_SpectralNorm":
            weight = rest.partition(".")[0]
            return (
                f"{self._described(owner)}: spectral_norm of {weight} takes a step of its power iteration in each call "
                "in training, which a converted network cannot do, so the bound would be lost; remove it by "
                f'torch.nn.utils.parametrize.remove_parametrizations(layer, "{weight}"), or keep the layer out with '
                "filter=, so that the first task trains it with its bound and no later task changes it"
            )
        if name in self.owners[path]._parameters:
            return (
                f"{place}: changes the parameter {dotted(path, name)} in training, which would change what finished "
                "tasks use; do so outside of the network"
            )
        if self._is_whole(path):
            return (
                f"{place}: changes {dotted(path, name)} in training, and finished tasks would change with it, because "
                "only buffers are kept for them; register it as a buffer"
            )
        buffer = "" if name in self.owners[path]._buffers else "register it as a buffer and "
        return (
            f"{place}: changes {dotted(path, name)} in training, which a converted network cannot do; remove it, or "
            f"{buffer}keep its module out with filter=, so that the first task trains it and no later task changes it"
        )

    def _set_in_training_only(self) -> dict[Attribute, bool]:
        """The attributes that the network sets in training only, each with whether it is a state.

        It is one if it is a buffer or a parameter, if it depends on how often the network ran, or if a later answer
        depends on it. A value that is only noted for others to read is none.
        """
        if not self.changed:
            return {}
        runs, values = [], []
        with untouched(self.module):
            for training in (False, True, True, False):
                values.append(_attributes(self.module))
                runs.append(watched(self.module, self.module, self.inputs, training=training))
        in_training_only = self.changed - _changed(values[0], values[1])
        counted = _changed(values[2], values[3], comparable=True)
        matters = not all(same(runs[one].answer or [], runs[other].answer or []) for one, other in ((0, 3), (1, 2)))
        return {
            (path, name): matters or (path, name) in counted or name in _tensors_of(self.owners[path])
            for path, name in sorted(in_training_only)
        }

    # -- what the user is warned of: for each kind, places by the name of a module ----------------------------------

    def _draws(self) -> dict[str, str]:
        """Where the network draws random numbers and its graph does not.

        A draw of the graph is one of the network if it is the same operation, for the same module. Functions that the
        graph calls by itself belong to no module, so they are taken for any.
        """
        of_graph = Counter((self._place_in_network(draw.path), draw.operation) for draw in self.graph.draws)
        places: dict[str, str] = {}
        for draw in self.network.draws:
            same_draws = [key for key in ((draw.path, draw.operation), ("", draw.operation)) if of_graph[key]]
            if same_draws:
                of_graph[same_draws[0]] -= 1
            elif not self._is_whole(draw.path):
                places.setdefault(draw.path, f"{draw.place} by {draw.function}")
        for (path, generator), place in self.network.moved.items():
            if not self._is_whole(path):
                places.setdefault(path, f"{place} by {generator}")
        return places

    def _checkpoints(self) -> dict[str, str]:
        return {path: place for path, place in self.network.checkpoints.items() if not self._is_whole(path)}

    def _other_calls(self, told: set[str]) -> dict[str, dict[str, str]]:
        """Modules that call other functions in training than in evaluation, by kind.

        A graph that was recorded in training has all functions of training. It may lack a module that runs in
        evaluation only, if the module answered there as another one does in training.

        Args:
            told: the modules of which the user is warned already. What is inside of them is left out.
        """
        kinds = "calls in training only of", "calls in evaluation only of", "other functions of"
        lost: dict[str, dict[str, str]] = {kind: {} for kind in kinds}
        for path in self.owners:
            in_training, in_evaluation = (run.calls.get(path, []) for run in (self.network, self.evaluation))
            place = _first_other(in_training, in_evaluation)
            if self.traced.learning and path in self.network.called:
                continue
            if place is None or self._is_whole(path) or any(_is_inside(path, outer) for outer in told if outer):
                continue
            told.add(path)
            runs = [path in run.called for run in (self.network, self.evaluation)]
            kind = kinds[2 if all(runs) else runs.index(True)]
            lost[kind][path] = place if all(runs) else self._described(path)
        return lost

    def _statistics(self) -> dict[str, str]:
        """Norms that change their statistics in the graph, but not in the network."""
        paths = [self._owner(name)[0] for name in sorted(self.graph.written.keys() - self.network.written.keys())]
        return {path: self._described(path) for path in paths}

    # -- names ------------------------------------------------------------------------------------------------------

    def _is_whole(self, path: str) -> bool:
        """Whether a module is, or lies inside, a module that the graph calls as a whole."""
        return any(_is_inside(path, outer) for outer in self.whole)

    def _described(self, path: str) -> str:
        return described(path, self.owners[path])

    def _place_in_network(self, name: str) -> str:
        """The innermost module of the network that something of this name lies in."""
        while name not in self.owners:
            name = name.rpartition(".")[0]
        return name

    def _owner(self, name: str) -> Attribute:
        """The module that a tensor belongs to, and the name of the tensor in the module."""
        path = self._place_in_network(name)
        return path, name[len(path) :].lstrip(".")


def _shortened(places: list[str]) -> str:
    more = [f"{len(places) - _MOST} more"] if len(places) > _MOST else []
    return ", ".join(places[:_MOST] + more)


def _is_inside(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


def _first_other(in_training: list[Any], in_evaluation: list[Any]) -> str | None:
    """The place of the first call that is another one in training than in evaluation; None if there is none."""
    for one, other in zip(in_training, in_evaluation, strict=False):
        if one[0] != other[0]:
            return str(one[1])
    longer = max(in_training, in_evaluation, key=len)[min(len(in_training), len(in_evaluation)) :]
    return str(longer[0][1]) if longer else None


def _tensors_of(module: nn.Module) -> set[str]:
    return {*module._parameters, *module._buffers}


def _attributes(network: nn.Module) -> dict[Attribute, Any]:
    """The attributes of all modules and of plain objects in them. Containers are copied."""
    values: dict[Attribute, Any] = {}
    for path, holder, fields in holders(network):
        for name, value in fields.items():
            if name in ("_parameters", "_buffers"):
                values.update({(path, key): tensor for key, tensor in value.items()})
            elif name not in ("training", "_modules"):
                values[path, dotted(holder, name)] = value.copy() if isinstance(value, CONTAINERS) else value
    return values


def _changed(before: dict[Attribute, Any], after: dict[Attribute, Any], *, comparable: bool = False) -> set[Attribute]:
    """The attributes that were set to another value.

    Args:
        before, after: as `_attributes` returns.
        comparable: a new object without values that can be compared is no other value.
    """
    missing = object()
    return {
        attribute
        for attribute, value in after.items()
        if not _equal(before.get(attribute, missing), value, otherwise=comparable)
    } | (before.keys() - after.keys())


def _equal(one: Any, other: Any, *, otherwise: bool) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return same([one], [other])
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key], otherwise=otherwise) for key in one)
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(
            _equal(*pair, otherwise=otherwise) for pair in zip(one, other, strict=True)
        )
    if isinstance(one, bool | int | float | complex | str | bytes | set | frozenset):
        return bool(one == other)
    return otherwise
