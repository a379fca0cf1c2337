"""Load a state into a model, at any depth of another module: check all, fit the model, let torch load, or undo all.

`torch.nn.Module.load_state_dict` visits a module before its children. It collects errors in a list, and raises them
after it has visited all modules. Example: `wrapper.load_state_dict(state)`, where `wrapper.model` is a `HATModel`:

    torch visits the wrapper
    torch visits the model     `begin` checks the part of the state that is the model's. If the part fits, the model
                               grows and gets the heads of the state. If it does not fit, the part is hidden from torch.
    torch visits the body, the gates, the layers, the heads: all shapes fit
    torch visits the wrapper's other modules: one of them may miss a key
    torch calls the wrapper's hooks, at last `Settlement`: if torch is about to raise, the model becomes what it was;
                               otherwise the load is completed

If Ctrl-C or an error of other code breaks this off, no hook is called. The model becomes what it was when it is used
next: while `Network.unfinished` is set, what uses a model calls it first.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from torch import nn

from hat.life.checking import FACTS, kept_head, names, plan
from hat.life.snapshot import Snapshot, give
from hat.network import data_parallel, moving, seals
from hat.network.frozen import keep_frozen_in_place
from hat.network.heads import ForgottenHead, make_head
from hat.network.interrupt import interrupt_waits
from hat.network.network import Network
from hat.resizing.resize import Resized, resize

_ASSIGN = "assign_to_params_buffers"
"""Where torch notes in the metadata of a state that tensors are assigned."""


class Load:
    """The load of one model.

    Args:
        model: the model.
        prefix: of its names in the state.
    """

    def __init__(self, model: Network, prefix: str) -> None:
        self.model, self.prefix = model, prefix
        self.absent: list[str] | None = None
        self._snapshot: Snapshot | None = None
        self._resized = Resized({}, {})
        self._blocks = model.blocks()

    def begin(self, state: dict[str, Any], *, assign: bool) -> list[str]:
        """Check the state, and fit the model to it.

        Args:
            state: torch's own copy of the dictionary, for the model and maybe others. The part of a model that refuses
                it is removed; with `assign`, parameters take the place of their values.
            assign: parameters take the memory of the tensors.

        Returns:
            Why the state is refused, one sentence each; none if it fits. The model is unchanged then.
        """
        not_text = [name for name in state if not isinstance(name, str)]
        for name in not_text:  # torch itself would fail on them
            del state[name]
        own = {name.removeprefix(self.prefix): value for name, value in state.items() if name.startswith(self.prefix)}
        facts, counts, misfits = plan(self.model, own, assign=assign)
        misfits = [*(f"expected names that are strings, got {name!r}"[:200] for name in not_text), *misfits]
        if misfits:
            self.absent = [self.prefix + name for name in _missing(self.model, own)]
            for name in own:
                del state[self.prefix + name]
            return [self.prefix + misfit for misfit in misfits]
        self._snapshot = Snapshot(self.model, graphs=counts is not None, assign=assign)
        if not self.model.remembered:
            keep_frozen_in_place(self.model.gates.values())
        if counts is not None:
            self._resized = resize(self.model, counts)
        heads = [kept_head(self.model, facts, task) for task in range(len(facts.classes))]
        if heads != list(self.model.heads):
            pairs = zip(heads, facts.classes, strict=True)
            made = [_new_head(self.model, len(classes)) if head is None else head for head, classes in pairs]
            self.model.heads = nn.ModuleList(made).train(self.model.training)
        for name, _, _, tensor in list(names(self.model)) if assign else ():
            if isinstance(tensor, nn.Parameter) and name in own:
                give(tensor, own[name].detach())  # optimizers and tied layers go on with the same parameter
                state[self.prefix + name] = tensor
        return []

    def undo(self) -> None:
        """Make the model what it was before `begin`."""
        if self._snapshot is not None:
            self._snapshot.put_back()
        self.model.unfinished = None

    def complete(self) -> None:
        """Finish a load that torch has carried out. All that depends on what was loaded is made anew here."""
        model = self.model
        model.freeze()
        moving.tell(model, self._resized.changes, self._blocks, self._resized.before)
        if self._resized.changes:
            data_parallel.follow_shapes(model)


class Settlement:
    """The last hook of a call of `load_state_dict`: completes or undoes the loads of all models in the call.

    Args:
        root: the module whose `load_state_dict` was called.
        strict: the call refuses missing and unexpected keys.
        errors: torch's list of other errors.
    """

    def __init__(self, root: nn.Module, strict: bool, errors: list[str]) -> None:
        self.strict, self.errors = strict, errors
        self.loads: list[Load] = []
        self.handle = root.register_load_state_dict_post_hook(self)

    def __call__(self, _: nn.Module, keys: Any) -> None:
        """The hook.

        Args:
            keys: torch's lists of missing and unexpected keys. Torch counts all keys of a refused model as missing.
        """
        with interrupt_waits():  # a load that is not completed is undone, all of it
            self._settle(keys)

    def _settle(self, keys: Any) -> None:
        """Complete or undo all loads; for `keys` see `__call__`."""
        self.handle.remove()
        for load in self.loads:
            load.model.unfinished = None
        for load in self.loads:
            if load.absent is not None:
                others = [key for key in keys.missing_keys if not key.startswith(load.prefix)]
                keys.missing_keys[:] = [*others, *load.absent]
        if self.errors or (self.strict and (keys.missing_keys or keys.unexpected_keys)):
            self.undo()
            return
        try:
            for load in self.loads:
                seals.compare_loaded(load.model)
        except Warning:  # the user has made an error of the warning
            self.undo()
            raise
        for load in self.loads:
            load.complete()

    def undo(self) -> None:
        """Make all models what they were."""
        self.handle.remove()
        with interrupt_waits():
            for load in reversed(self.loads):  # a model may be there under two names
                load.undo()

    def undo_if_broken_off(self) -> None:
        """Make all models what they were if the call of `load_state_dict` has ended without its last hook."""
        calls = [_call(frame, self.errors) for frame in _frames_of_all_threads()]
        if not any(calls):
            self.undo()


def begin(
    model: Network, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any], errors: list[str]
) -> Load | None:
    """Check a state and fit a model to it, before torch loads the state into the model.

    Args:
        model: the model.
        state: torch's own copy of the dictionary.
        prefix: of the model's names in the state.
        metadata: torch's, says whether tensors are assigned.
        errors: torch's list of errors.

    Returns:
        The load if other code than `torch.nn.Module.load_state_dict` visits the modules: the caller must complete it.
    """
    if model.unfinished is not None:
        model.unfinished()
    load, settlement = Load(model, prefix), _settlement(errors)
    if settlement is not None:
        settlement.loads.append(load)
        model.unfinished = settlement.undo_if_broken_off
    try:
        errors += load.begin(state, assign=bool(metadata.get(_ASSIGN, False)))
    except BaseException:  # Ctrl-C, or too little memory
        load.undo()
        raise
    return load if settlement is None else None


def undo(root: nn.Module) -> None:
    """Undo a call of `load_state_dict` that an error has ended before its last hook."""
    for hook in list(root._load_state_dict_post_hooks.values()):
        if isinstance(hook, Settlement):
            hook.undo()


def _settlement(errors: list[str]) -> Settlement | None:
    """The settlement of the present call of `load_state_dict`; None if no such call is found.

    Torch does not tell a module which module's `load_state_dict` was called, nor with which options. So these are read
    from the frame of the call, which is the nearest one with this list of errors.
    """
    frame = _call(sys._getframe(), errors)
    if frame is None:
        return None
    root, strict, metadata = (frame.f_locals[name] for name in ("self", "strict", "metadata"))
    if not frame.f_locals["assign"]:
        for entry in (metadata or {}).values():  # torch leaves this there if the same state has been assigned before
            entry.pop(_ASSIGN, None)
    for hook in list(root._load_state_dict_post_hooks.values()):
        if isinstance(hook, Settlement):
            if hook.errors is errors:
                return hook
            hook.handle.remove()  # of an earlier call, which an error of other code has ended
    return Settlement(root, strict, errors)


def _frames_of_all_threads() -> list[FrameType]:
    """The frame that every thread is in.

    Python holds a lock while it makes the list. A garbage collection in that moment that frees a `threading.local`, as
    every model has one, needs the same lock and would wait for ever (gh-106883), so there is none.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return list(sys._current_frames().values())
    finally:
        if collecting:
            gc.enable()


def _call(frame: FrameType | None, errors: list[str]) -> FrameType | None:
    """The nearest frame of `load_state_dict` with this list of errors, from `frame` on; None if there is none."""
    while frame is not None and not (
        frame.f_code.co_name == "load_state_dict" and frame.f_locals.get("error_msgs") is errors
    ):
        frame = frame.f_back
    return frame


def _new_head(model: Network, classes: int) -> nn.Module:
    return make_head(model, classes) if classes else ForgottenHead()


def _missing(model: Network, state: Mapping[str, Any]) -> list[str]:
    """The names that a state lacks, as torch tells them."""
    return [name for name in (FACTS, *(name for name, *_ in names(model))) if name not in state]
