"""Check paths and huge numbers among the arguments of a command, before anything else is done."""

from __future__ import annotations

import argparse
import errno
import os
import unicodedata
from pathlib import Path

from hat.arguments import got
from hat.cli.compression import FIGURES
from hat.cli.options import option_names
from hat.training.rundir import RunDir
from hat.untrusted.files import SYSTEM_ERRORS


def check_values(arguments: argparse.Namespace) -> None:
    """Check the arguments, and make a `Path` of each folder of a run or an export.

    Raises:
        ValueError: a path is empty, too long or has control characters, a folder is no folder, or a whole number has
            more than 64 bits; the message names the option.
    """
    for name, option in option_names(arguments).items():
        value = getattr(arguments, name, None)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number.bit_length() > 63 and option != "--seed":  # has a range of its own
                raise ValueError(f"{option}: expected a whole number between -2^63 and 2^63, got {got(number)}")
        if option in ("RUN_DIR", "--resume", "--run-dir", "--to") and value is not None:
            setattr(arguments, name, Path(value))
            _check_path(option, value)
        if option in ("--run-dir", "--to") and value is not None:
            _check_target(option, Path(value))
        if option == "--data" and value is not None:
            _check_folder(option, value)
        if option == "--dataset":
            for dataset in value or ():
                _check_path(option, dataset)


def existing_run(path: Path, option: str = "RUN_DIR", *, of_compress: bool = False) -> RunDir:
    """The folder of an earlier run.

    Args:
        path: of the folder.
        option: that gave the path.
        of_compress: take a folder of hat compress, too.

    Raises:
        ValueError: there is no such folder, or it belongs to hat compress.
    """
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist"
        raise ValueError(f"{option}: expected the folder of a run, got {path}, which {problem}")
    if not of_compress and (path / FIGURES).exists():
        advice = f"{path} has a folder of a run for every dataset"
        raise ValueError(f"{option}: expected the folder of a run, got one of hat compress; {advice}")
    return RunDir(path)


def _check_path(option: str, text: str) -> None:
    if not text:
        raise ValueError(f"{option}: expected a path, got ''")
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        raise ValueError(f"{option}: expected a path without control characters, got {got(text)}")
    if option in ("--dataset", "--data") and text.startswith("~") and os.path.expanduser(text) == text:
        raise ValueError(f"{option}: expected ~ and the name of a user of this machine, got {got(text)}")
    try:
        os.lstat(os.path.expanduser(text))
    except (FileNotFoundError, NotADirectoryError):
        pass  # the command says whether something must be there
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(
                f"{option}: expected a path that the system allows, mostly up to 255 bytes a name and 4095 in all, "
                f"got {len(os.fsencode(text))} bytes: {got(text)}"
            ) from None
        expected, problem = SYSTEM_ERRORS.get(error.errno or 0, ("a path that can be used", "one that cannot be used"))
        raise ValueError(f"{option}: expected {expected}, got {problem}: {got(text)}") from None


def _check_folder(option: str, text: str) -> None:
    _check_path(option, text)
    path = Path(text).expanduser()
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist"
        raise ValueError(f"{option}: expected a folder that exists, got {got(text)}, which {problem}")


def _check_target(option: str, path: Path) -> None:
    """Check that files can be written to a folder, which need not exist."""
    nearest = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not nearest.is_dir():
        problem = "which is a file" if nearest == path else f"but {nearest} is a file"
        raise ValueError(f"{option}: expected a folder to write to, got {got(str(path))}, {problem}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"{option}: expected a folder to write to, got {got(str(path))}, but {nearest} may only be read"
        )
