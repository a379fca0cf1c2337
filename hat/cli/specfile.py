"""Read the spec of a run from its config.json."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from hat.cli.spec import NetworkSpec, RunSpec, StreamSpec
from hat.training import TrainConfig
from hat.training.rundir import RunDir
from hat.units.state import GateConfig

_KINDS = {"stream": StreamSpec, "network": NetworkSpec, "gates": GateConfig, "training": TrainConfig}
_LATER = {"max_gib"}  # fields that configs of older runs lack; they get their defaults
_Part = TypeVar("_Part")


def read_spec(folder: RunDir, *, data: str | None = None, device: str | None = None) -> RunSpec:
    """Read the spec of a run.

    Args:
        folder: of the run.
        data: the data folder; None takes that of the run.
        device: the device; None takes that of the run, which this machine may lack.

    Raises:
        ValueError: the config is missing or damaged, or a field is missing, unknown or out of range.
    """
    if device is not None:
        TrainConfig(device=device)  # so that an error does not blame the config
    config, where = folder.read_config(), str(folder.config)
    for part, name, value in (("stream", "root", data), ("training", "device", device)):
        if value is not None and isinstance(config.get(part), dict):
            config[part][name] = value
    _check_keys(config, RunSpec, where)
    parts: dict[str, Any] = {name: _read(kind, config[name], f"{where}: {name}") for name, kind in _KINDS.items()}
    return _make(RunSpec, where, references=config["references"], verify=config["verify"], grow=config["grow"], **parts)


def _read(kind: type[_Part], values: Any, where: str) -> _Part:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(values).__name__}")
    _check_keys(values, kind, where)
    return _make(kind, where, **values)


def _make(kind: type[_Part], where: str, **values: Any) -> _Part:
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_keys(values: dict[str, Any], kind: type, where: str) -> None:
    expected = {field.name for field in fields(kind)}
    if not expected & set(values):
        raise ValueError(f"{where}: expected the options of a run, got another JSON object")
    for problem, names in (("missing", expected - set(values) - _LATER), ("unknown", set(values) - expected)):
        if names:
            raise ValueError(f"{where}: expected {', '.join(sorted(expected))}; {problem}: {', '.join(sorted(names))}")
