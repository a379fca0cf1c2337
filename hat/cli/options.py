"""Options of `hat train` are fields of the spec: what they are called, mean and default to stands there alone."""

from __future__ import annotations

import argparse
import inspect
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hat.cli.spec import NetworkSpec, RunSpec, StreamSpec
from hat.training import TrainConfig
from hat.units.state import GateConfig

_FLAGS = {"datasets": "--dataset", "root": "--data", "references": "--reference"}
_METAVARS = {int: "N", float: "X", str: "NAME"}
_NO_OPTIONS = ("command", "run", "hint", "resume", "traceback")


def flag(name: str) -> str:
    """What a field is called on the command line."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def add_field(group: argparse._ArgumentGroup, kind: type, name: str, *, default: Any = None, **how: Any) -> None:
    """An option for a field of a dataclass, with the documentation and default of the field.

    An option that is not given leaves no attribute, so that `make_spec` and `refuse_beside_resume` know.

    Args:
        group: takes it.
        kind: the dataclass.
        name: of the field.
        default: of the command, where it is another than that of the field.
        how: what `add_argument` cannot know from the default.
    """
    if default is None:
        default = next(field.default for field in fields(kind) if field.name == name)
    text = documentation(kind)[name]
    if default not in (None, ()) and default is not False:
        text += f" (default: {' '.join(default) if isinstance(default, tuple) else default})"
    if isinstance(default, bool):
        how["action"] = argparse.BooleanOptionalAction
    elif "type" not in how and "choices" not in how and isinstance(default, (int, float)):
        how["type"] = type(default)
    if "choices" not in how and "action" not in how:
        how.setdefault("metavar", _METAVARS[how.get("type", str)])
    group.add_argument(flag(name), dest=name, default=argparse.SUPPRESS, help=text.replace("%", "%%"), **how)


def documentation(kind: type) -> dict[str, str]:
    """The text of every field in the section `Attributes` of a docstring."""
    section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    texts: dict[str, str] = {field.name: "" for field in fields(kind)}
    name = ""
    for line in section.splitlines():
        if not line.startswith(" " * 8):
            name, _, line = line.strip().partition(": ")
        texts[name] = f"{texts.get(name, '')} {line.strip()}".strip()
    return {name: text.replace("`", "").removesuffix(".").replace(" ..", " ...") for name, text in texts.items()}


def make_spec(arguments: argparse.Namespace) -> RunSpec:
    """The run that the arguments of `train` describe, its paths made absolute.

    Raises:
        ValueError: an option is out of range.
    """
    return RunSpec(
        stream=_part(StreamSpec, arguments).absolute(),
        network=_part(NetworkSpec, arguments),
        gates=_part(GateConfig, arguments),
        training=_part(TrainConfig, arguments),
        references=tuple(getattr(arguments, "references", ())),
        verify=getattr(arguments, "verify", False),
        grow=getattr(arguments, "grow", None),
    )


def refuse_beside_resume(arguments: argparse.Namespace, allowed: Sequence[str]) -> None:
    """A run keeps its options, so others beside `--resume` would be ignored.

    Raises:
        ValueError: there are some that are not among those allowed.
    """
    others = [flag(name) for name in vars(arguments) if name not in (*allowed, *_NO_OPTIONS)]
    if others:
        beside = ", ".join(map(flag, allowed))
        raise ValueError(
            f"--resume: expected only {beside} beside it, as the run has its options, got {', '.join(others)}"
        )


def resume_hint(arguments: argparse.Namespace, path: Path) -> str:
    """The command that continues a run in this folder."""
    command = ["hat", arguments.command, "--resume", str(path)]
    if hasattr(arguments, "resume"):  # what a fresh run was given it keeps
        command += [part for name in ("root", "device") for part in _given(arguments, name)]
    return f"all finished epochs are saved; continue with: {shlex.join(command)}"


def _given(arguments: argparse.Namespace, name: str) -> list[str]:
    return [flag(name), getattr(arguments, name)] if hasattr(arguments, name) else []


def _part(kind: type, arguments: argparse.Namespace) -> Any:
    given = {f.name: getattr(arguments, f.name) for f in fields(kind) if hasattr(arguments, f.name)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
