"""Make one call with wrong arguments, and judge what comes back."""

from __future__ import annotations

import contextlib
import inspect
import io
import linecache
import numbers
import random
import re
import signal
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import hat
from tests.fuzz.callables import Target
from tests.fuzz.recipes import SPECIAL, instance, valid
from tests.fuzz.scene import Scene
from tests.fuzz.values import VALUES

SECONDS = 10
_CHANGES_NOTHING = ("hat.models.", "hat.metrics.", "hat.plots.", "hat.data.")
"""Functions that make something new. That their refusals change nothing needs no proof, and costs seconds."""
MISSING, UNKNOWN, INSTANCE = "(missing)", "(unknown)", "(self)"
_VARIES = {"hat.Gate.identity", "hat.Trainer.run"}  # addresses, seconds
_OURS = tuple(str(Path(__file__).resolve().parents[2] / package) + "/" for package in ("hat", "hat_kernels"))
_PYTHON = re.compile(r"argument|positional|keyword")


class Change(NamedTuple):
    """One argument of a valid call gets another value: the name of a value of `VALUES`, or `MISSING`."""

    argument: str
    value: str


class Finding(NamedTuple):
    """A call that did something wrong."""

    target: str
    changes: tuple[Change, ...]
    text: str

    def __str__(self) -> str:
        changes = " ".join(f"'{argument}={value}'" for argument, value in self.changes)
        return f"{self.target}({changes}): {self.text}\n    python -m tests.fuzz --replay {self.target} {changes}"


class _Hang(BaseException):
    pass


TRUSTED = {
    "hat.HATModel.answer": {"x", "task"},
    "hat.HATModel.features_of": {"x", "answer"},
    "hat.HATModel.require_learning": {"what"},
    "hat.HATModel.check_task": {"argument", "expected", "finished"},
    "hat.TaskNetwork.forward": {"x"},
    "hat.TasksNetwork.forward": {"x"},
}
"""Arguments that nobody checks: what the house says to itself in every step, and inputs of a plain network."""


def changes_of(target: Target) -> Iterator[Change]:
    """Everything that one wrong argument may be."""
    for name, parameter in target.parameters.items():
        known = parameter.kind is not inspect.Parameter.VAR_POSITIONAL or f"{target.name}.{name}" in SPECIAL
        if known and name not in TRUSTED.get(target.name, ()) and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield from (Change(name, value) for value in VALUES)
            if parameter.default is inspect.Parameter.empty:
                yield Change(name, MISSING)
    yield Change(UNKNOWN, "None")
    if target.owner is hat.HATModel and target.name not in TRUSTED:
        yield from (Change(INSTANCE, state) for state in ("untrained", "learning", "finished", "forgotten"))


def play(target: Target, changes: tuple[Change, ...]) -> Finding | None:
    """Make one call; None if it is refused or accepted as it should be."""
    scene = _scene()
    receiver = instance(target, scene)
    torch.manual_seed(1)
    arguments = valid(target, scene)
    for name, value in changes:
        if value == MISSING:
            arguments.pop(name, None)
        elif name == INSTANCE:
            receiver = getattr(scene, value)
        else:
            arguments["no_such_argument" if name == UNKNOWN else name] = VALUES[value](scene)
    printed = io.StringIO()
    error: BaseException | None = None
    try:
        with _limited(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            _call(target, receiver, arguments)
    except (Exception, _Hang) as raised:
        error = raised
    if error is not None and any(_is_called(target, name, arguments) for name, _ in changes):
        return None  # what a function of the user raises is the user's
    text = _wrong_printed(printed.getvalue()) or (
        wrong_error(error, changes) if error is not None else _wrong_silence(target, changes, arguments)
    )
    changes_nothing = target.name.startswith(_CHANGES_NOTHING) or any(name == INSTANCE for name, _ in changes)
    if text is None and error is not None and not changes_nothing:
        text = _changed(target, receiver, scene)
    return None if text is None else Finding(target.name, changes, text)


def outcome(target: Target) -> Any:
    """What the valid call gives, as plain values.

    Raises:
        Exception: whatever the call raises.
    """
    scene = _scene()
    receiver = instance(target, scene)
    return _outcome(target, receiver, scene)


def _outcome(target: Target, receiver: Any, scene: Scene) -> Any:
    torch.manual_seed(1)
    arguments = valid(target, scene)
    torch.manual_seed(2)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = _call(target, receiver, arguments)
    return _plain(result), _plain(receiver)


def _call(target: Target, receiver: Any, arguments: dict[str, Any]) -> Any:
    arguments = dict(arguments)
    given: list[Any] = []
    for parameter in target.parameters.values():  # what Python takes by position only
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL and parameter.name in arguments:
            value = arguments.pop(parameter.name)
            given += value if isinstance(value, tuple) else [value]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = target.of(receiver)(*given, **arguments)
        if isinstance(result, contextlib.AbstractContextManager) and not isinstance(result, nn.Module):
            with result:
                return None
        if isinstance(result, Iterator):
            return [value for value, _ in zip(result, range(5), strict=False)]
        return result


def _scene() -> Scene:
    torch.manual_seed(0)
    random.seed(0)
    return Scene()


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise `_Hang` after `SECONDS` of work, however busy the machine is, or after a wait of half a minute a second."""

    def stop(_: int, frame: FrameType | None) -> None:
        raise _Hang(f"more than {SECONDS} s, in {frame.f_code.co_qualname if frame else ''}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(30 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_called(target: Target, name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether an argument is a function that the callable calls."""
    annotation = target.parameters[name].annotation if name in target.parameters else ""
    return "Callable" in str(annotation) and callable(arguments.get(name))


def _wrong_printed(text: str) -> str | None:
    return f"prints {text[:80]!r}" if text else None


def wrong_error(error: BaseException, changes: tuple[Change, ...]) -> str | None:
    """What is wrong with an error: not an error of ours, or more than a line."""
    message = f"{type(error).__name__}: {error}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}:{frame.lineno}"
    if isinstance(error, _Hang):
        return f"hangs: {error}"
    incomplete = any(name == UNKNOWN or value == MISSING for name, value in changes)
    if incomplete and isinstance(error, TypeError) and _PYTHON.search(str(error)) and "\n" not in str(error):
        return None
    if type(error).__module__.startswith("hat") or isinstance(error, ValueError | TypeError | RuntimeError | OSError):
        ours = frame.filename.startswith(_OURS)
        raises = linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise ")
        if not (isinstance(error, OSError) and error.errno) and not (ours and raises):
            return f"not raised by us, at {where}: {message[:200]}"
        return f"a message of several lines: {message[:200]!r}" if "\n" in str(error) or not str(error) else None
    return f"at {where}: {message[:200]}"


_KINDS: dict[str, tuple[type, ...]] = {
    "int": (numbers.Integral, Tensor),
    "float": (numbers.Real, Tensor),
    "str": (str,),
    "bool": (bool,),
    "None": (type(None),),
    "Tensor": (Tensor,),
    "nn.Module": (nn.Module,),
    "HATModel": (hat.HATModel,),
    "Gate": (hat.Gate,),
    "GateConfig": (hat.GateConfig,),
    "TrainConfig": (hat.TrainConfig,),
    "Probes": (hat.Probes,),
}


def _wrong_silence(target: Target, changes: tuple[Change, ...], arguments: Mapping[str, Any]) -> str | None:
    """A value that plainly means nothing was accepted: not of the annotated type, a bool for a number, or NaN."""
    for name, value_name in changes:
        if name not in target.parameters or value_name == MISSING:
            continue
        annotation = target.parameters[name].annotation
        annotation = getattr(annotation, "__forward_arg__", annotation)
        parts = [part.strip() for part in str(annotation).strip("'").split("|")]
        if not all(part in _KINDS for part in parts):
            continue
        value = arguments[name]
        kinds = tuple(kind for part in parts for kind in _KINDS[part])
        is_number = not {"int", "float"}.isdisjoint(parts)
        if not isinstance(value, kinds) or (isinstance(value, bool) and "bool" not in parts):
            return f"accepts {value_name} for {annotation}"
        if is_number and isinstance(value, numbers.Real) and value != value:
            return f"accepts NaN for {annotation}"
    return None


def _changed(target: Target, receiver: Any, scene: Scene) -> str | None:
    """After a refused call, the valid call gives what it gives on fresh objects."""
    expected = outcome(target)
    torch.manual_seed(0)
    try:
        got = _outcome(target, receiver, scene)
    except Exception as error:
        return f"after a refusal, the valid call raises {type(error).__name__}: {str(error)[:200]}"
    return (
        None
        if _same(got, expected) or target.name in _VARIES
        else "after a refusal, the valid call gives something else"
    )


def _plain(value: Any) -> Any:
    """Numbers, text and tensors of a value, to be compared."""
    if isinstance(value, nn.Module):
        return {name: _plain(part) for name, part in value.state_dict().items()}
    if isinstance(value, torch.optim.Optimizer):
        return _plain(value.state_dict()), [_plain(p) for group in value.param_groups for p in group["params"]]
    if isinstance(value, Tensor):
        return value.detach().clone()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items() if not isinstance(key, Tensor)}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, bool | int | float | str | None) else type(value).__name__


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same_kind = (left.shape, left.dtype) == (right.shape, right.dtype)
        return same_kind and (left.is_meta or torch.equal(left.nan_to_num(), right.nan_to_num()))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right) or (left != left and right != right)
