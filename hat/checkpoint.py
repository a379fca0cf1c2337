"""Checkpoints that are never half written, and that are read without executing anything in the file."""

from __future__ import annotations

import os
import re
import secrets
import sys
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch.utils.serialization import config

from hat.arguments import check_path, check_type, got
from hat.ownership import HOST, may_live
from hat.text import printable
from hat.untrusted.files import check_regular
from hat.untrusted.torch_file import check_torch_file

FORMAT = "hat-checkpoint"
VERSION = 1

_HOST = f"{zlib.crc32(HOST.encode()):08x}"
_writing: set[Path] = set()  # temporary files that this process is writing, to tell them from those of a dead process


class CheckpointError(ValueError):
    """A checkpoint could not be written, or is not a whole checkpoint. The message names the file."""


def save(path: str | os.PathLike[str], payload: dict[Any, Any]) -> None:
    """Write a checkpoint. At every instant `path` holds a whole checkpoint, the old or the new one.

    A full disk or Ctrl-C leaves the previous file and nothing else. A killed process also leaves a temporary file,
    which the next `save` to the same path removes.

    Args:
        path: the file.
        payload: tensors, numbers, strings, bool, None, and lists, tuples and dicts of these. `load` returns detached
            tensors, and plain tensors for parameters.

    Raises:
        TypeError, ValueError: `path` is not a path.
        TypeError: the payload holds a value that `load` could not read; the message names its place.
        CheckpointError: the file could not be written.
    """
    check_path("path", path)
    if not isinstance(payload, dict):
        raise TypeError(f"payload: expected a dict, got {type(payload).__name__}")
    try:
        document = {"format": FORMAT, "version": VERSION, "payload": _plain(payload, "payload")}
    except RecursionError:
        raise TypeError("payload: expected less nesting, got a value that is too deep or holds itself") from None
    handled = sys.exc_info()[1]
    try:
        # `load` needs the checksums, and other code may have switched them off.
        with replacing(path) as file, config.patch("save.compute_crc32", True):  # type: ignore[attr-defined]
            torch.save(document, file)
    except (OSError, RuntimeError) as error:
        reason = _reason(error, handled)
        if isinstance(reason, KeyboardInterrupt):  # torch wraps every error of a write in its own error
            raise reason from None
        kept = "the previous checkpoint is intact" if os.path.exists(path) else "there is no previous checkpoint"
        raise CheckpointError(f"{_shown(path)}: expected to write a checkpoint, got {_line(reason)}; {kept}") from error


def load(path: str | os.PathLike[str], *, map_location: str | torch.device = "cpu") -> dict[Any, Any]:
    """Read the payload of a checkpoint.

    Nothing in the file is executed (`weights_only`), every byte is checked against its checksum, and what the file
    claims is checked before torch reads it, see `hat.untrusted.torch_file`.

    Args:
        path: a file that `save` wrote.
        map_location: the device of the tensors.

    Raises:
        TypeError, ValueError: `path` is not a path, or `map_location` is not a device.
        CheckpointError: the file is missing, cut short or damaged, is no checkpoint, or has a newer version; or the
            tensors could not be moved to `map_location`.
    """
    check_path("path", path)
    check_type("map_location", map_location, (str, torch.device), "a device")
    try:
        torch.device(map_location)
    except RuntimeError:
        raise ValueError(f"map_location: expected a device such as 'cpu', got {got(map_location)}") from None
    try:
        check_regular(path, "a whole checkpoint")
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    try:
        claimed = check_torch_file(path)
    except ValueError as error:
        raise CheckpointError(f"{_shown(path)}: expected a whole checkpoint, got {error}") from None
    if not isinstance(claimed, dict) or claimed.get("format") != FORMAT:
        raise CheckpointError(f"{_shown(path)}: expected a file written by hat.checkpoint.save, got another torch file")
    version, payload = claimed.get("version"), claimed.get("payload")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise CheckpointError(
            f"{_shown(path)}: expected version 1 to {VERSION}, got {got(version)}; is hat up to date?"
        )
    if not isinstance(payload, dict):
        raise CheckpointError(f"{_shown(path)}: expected a dict as payload, got {type(payload).__name__}")
    try:
        loaded: dict[Any, Any] = torch.load(path, map_location=map_location, weights_only=True)["payload"]
    except Exception as error:  # the file is right: a device is missing, or memory is short
        raise CheckpointError(
            f"{_shown(path)}: expected a checkpoint that can be loaded to {map_location}, got {_line(error)}"
        ) from error
    return loaded


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new binary file that replaces `path` when the block ends. If the block raises, the new file is removed.

    The new file is written into the folder of the file that `path` names (through links), under the name
    `.NAME.HOST.PROCESS.RANDOM.tmp`. It is on the disk before it is renamed.

    Raises:
        TypeError, ValueError: `path` is not a path.
        OSError: as `open` and `os.replace`.
    """
    check_path("path", path)
    target = Path(os.path.realpath(path))
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    _writing.add(temporary)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()  # after a rename there is nothing to remove
        _writing.discard(temporary)
    with suppress(OSError):  # some systems cannot open or synchronise a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files for `target` that dead processes have left."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.([0-9a-f]{{8}})\.(\d+)\.[0-9a-f]{{8}}\.tmp")
    with suppress(OSError):
        for name in os.listdir(target.parent):
            match, file = pattern.fullmatch(name), target.with_name(name)
            if match and not _has_writer(file, match[1], int(match[2])):
                with suppress(OSError):
                    file.unlink()


def _has_writer(file: Path, host: str, process: int) -> bool:
    """Whether a process may still be writing a temporary file."""
    touched = file.stat().st_mtime
    return may_live(here=host == _HOST, process=process, started=None, touched=touched, mine=file in _writing)


def _plain(value: Any, where: str) -> Any:
    """`value` with every tensor detached.

    Raises:
        TypeError: `value` holds an object that `load` could not read.
    """
    kind = type(value)
    if kind in (torch.Tensor, torch.nn.Parameter):
        return _plain_tensor(value.detach(), where)  # without hooks and Python attributes, which would be pickled too
    if value is None or kind in (bool, float, complex, str):
        return value
    if kind is int and value.bit_length() < 2040:  # `weights_only` cannot read longer integers
        return value
    if kind in (list, tuple, torch.Size):
        parts = [_plain(part, f"{where}[{index}]") for index, part in enumerate(value)]
        return parts if kind is list else tuple(parts)
    if kind in (dict, OrderedDict):
        return _plain_dict(value, where)
    bits = f"an integer of {value.bit_length()} bits" if kind is int else kind.__name__
    raise TypeError(f"{where}: expected a tensor, number, string, bool, None, list, tuple or dict, got {bits}")


def _plain_tensor(value: torch.Tensor, where: str) -> torch.Tensor:
    """`value` itself, or a copy of a tensor that holds more numbers than its storage, as after `expand`."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        layout = "a quantized one" if value.is_quantized else "a nested one" if value.is_nested else value.layout
        raise TypeError(f"{where}: expected a dense tensor, got {layout}")
    if not value.is_meta and value.nbytes > value.untyped_storage().nbytes():
        return value.clone(memory_format=torch.contiguous_format)
    return value


def _plain_dict(value: dict[Any, Any], where: str) -> dict[Any, Any]:
    for key in value:
        if type(key) not in (str, int, float, bool, type(None)):
            raise TypeError(f"{where}: expected keys that are strings, numbers or None, got {type(key).__name__}")
    plain = type(value)((_plain(key, where), _plain(part, f"{where}[{key!r}]")) for key, part in value.items())
    if hasattr(value, "_metadata"):  # the `state_dict` of a module holds its version there
        plain._metadata = _plain(value._metadata, f"{where}._metadata")  # type: ignore[attr-defined]
    return plain


def _reason(error: BaseException, handled: BaseException | None) -> BaseException:
    """The system error or the interrupt that caused `error`, or `error` itself.

    Args:
        error: raised while the file was written.
        handled: an error that the caller was already handling, such as the Ctrl-C after which it saves. This error and
            its causes do not count.
    """
    cause: BaseException | None = error
    while cause is not None and cause is not handled:
        if isinstance(cause, (OSError, KeyboardInterrupt)):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _shown(path: str | os.PathLike[str]) -> str:
    """A path in one line."""
    return printable(os.fspath(path))


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
