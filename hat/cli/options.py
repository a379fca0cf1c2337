"""The options of `hat train` are made from the fields of the spec: the names, the defaults and the help texts."""

from __future__ import annotations

import argparse
import inspect
import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hat.cli.spec import NetworkSpec, RunSpec, StreamSpec
from hat.cli.values import NAME, NUMBER, WHOLE
from hat.training import TrainConfig
from hat.units.state import GateConfig

_FLAGS = {"datasets": "--dataset", "root": "--data", "references": "--reference"}
_ALIASES = {"dataset": "--dataset", "data": "--data", "reference": "--reference"}
_KINDS = {int: WHOLE, float: NUMBER}
_NO_OPTIONS = ("command", "run", "hint", "resume", "traceback")
_SPECS = (StreamSpec, NetworkSpec, GateConfig, TrainConfig, RunSpec)


def flag(name: str) -> str:
    """The option of a field on the command line."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def add_field(group: argparse._ArgumentGroup, kind: type, name: str, *, default: Any = None, **how: Any) -> None:
    """Add an option for a field of a dataclass, with the documentation and the default of the field.

    An option that the user does not give sets no attribute. So `make_spec` and `refuse_beside_resume` can tell which
    options were given.

    Args:
        group: gets the option.
        kind: the dataclass.
        name: of the field.
        default: of the option, if it is not the default of the field.
        how: arguments of `add_argument` that do not follow from the default.
    """
    if default is None:
        default = next(field.default for field in fields(kind) if field.name == name)
    text = documentation(kind)[name]
    if default not in (None, ()) and default is not False:
        text += f" (default: {' '.join(default) if isinstance(default, tuple) else default})"
    if isinstance(default, bool):
        how["action"] = argparse.BooleanOptionalAction
    else:
        how.setdefault("type", _KINDS.get(type(default), NAME))
        how.setdefault("metavar", how["type"].metavar)
    group.add_argument(flag(name), dest=name, default=argparse.SUPPRESS, help=text.replace("%", "%%"), **how)


def option_names(arguments: argparse.Namespace) -> dict[str, str]:
    """What the user calls the fields that the command sets, by the name of the field."""
    if hasattr(arguments, "run_dir") and not hasattr(arguments, "quiet"):
        return {name: flag(name) for name in vars(arguments)} | {"run_dir": "RUN_DIR"}
    given = [name for name in vars(arguments) if name not in _NO_OPTIONS]
    if hasattr(arguments, "quiet") and not hasattr(arguments, "resume"):  # a fresh run: all its fields are options
        given += [field.name for kind in _SPECS for field in fields(kind)] + ["run_dir"]
    return {name: flag(name) for name in (*given, "resume")} | _ALIASES


def documentation(kind: type) -> dict[str, str]:
    """The text of every field, from the section `Attributes` of the docstring of a class."""
    section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    texts: dict[str, str] = {field.name: "" for field in fields(kind)}
    name = ""
    for line in section.splitlines():
        if not line.startswith(" " * 8):
            name, _, line = line.strip().partition(": ")
        texts[name] = f"{texts.get(name, '')} {line.strip()}".strip()
    return {name: text.replace("`", "").removesuffix(".").replace(" ..", " ...") for name, text in texts.items()}


def make_spec(arguments: argparse.Namespace) -> RunSpec:
    """The spec of the run that the arguments of `train` describe. Its paths are absolute.

    Raises:
        ValueError: an option is out of range.
    """
    return RunSpec(
        stream=_from_arguments(StreamSpec, arguments).absolute(),
        network=_from_arguments(NetworkSpec, arguments),
        gates=_from_arguments(GateConfig, arguments),
        training=_from_arguments(TrainConfig, arguments),
        references=tuple(getattr(arguments, "references", ())),
        verify=getattr(arguments, "verify", False),
        grow=getattr(arguments, "grow", None),
    )


def refuse_beside_resume(arguments: argparse.Namespace, allowed: Sequence[str]) -> None:
    """Refuse options that `--resume` would ignore, because a run keeps its options.

    Raises:
        ValueError: an option was given that is not among those allowed.
    """
    refused = [flag(name) for name in vars(arguments) if name not in (*allowed, *_NO_OPTIONS)]
    if refused:
        expected = f"only {', '.join(map(flag, allowed))} beside it, as a run keeps its options"
        raise ValueError(f"--resume: expected {expected}, got {', '.join(refused)}")


def resume_hint(arguments: argparse.Namespace, path: Path) -> str:
    """A sentence with the command that continues the run in this folder."""
    command = ["hat", arguments.command, "--resume", str(path)]
    if hasattr(arguments, "resume"):  # a fresh run has these options in its config
        command += [part for name in ("root", "device") for part in _given(arguments, name)]
    return f"all finished epochs are saved; continue with: {shlex.join(command)}"


def _given(arguments: argparse.Namespace, name: str) -> list[str]:
    return [flag(name), getattr(arguments, name)] if hasattr(arguments, name) else []


def _from_arguments(kind: type, arguments: argparse.Namespace) -> Any:
    """An object of a dataclass. Fields that the user did not give keep their defaults."""
    given = {f.name: getattr(arguments, f.name) for f in fields(kind) if hasattr(arguments, f.name)}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})
