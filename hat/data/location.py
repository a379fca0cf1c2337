"""Where data lies: the folder that the user names, or the user's cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hat.arguments import check_type, got


def cache_folder() -> Path:
    """The folder of this library in the user's cache. The folder may not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hat-kernels"


def download_folder() -> Path:
    """The data root for downloads."""
    return cache_folder() / "data"


def checked_path(argument: str, value: object) -> Path:
    """Bring an argument to a path, with the home folder of the user for `~`.

    Raises:
        TypeError: the argument is neither a str nor a Path.
        ValueError: no file of this system can have this path.
    """
    check_type(argument, value, (str, Path), "a str or a pathlib.Path")
    try:
        path = Path(str(value)).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except PermissionError as error:
        raise ValueError(f"{argument}: expected a path that can be read, got {got(str(value))}") from error
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL byte, a home folder of nobody
        raise ValueError(f"{argument}: expected a path that this system can have, got {got(str(value))}") from error
    return path


def chosen_root(explicit: str | Path | None = None) -> Path | None:
    """The data root that the user named: `explicit` (`--data`), else `HAT_DATA`, else None.

    Raises:
        TypeError: `explicit` is neither a str nor a Path.
        ValueError: no folder of this system can have this path.
        FileNotFoundError: the user named a folder that does not exist.
    """
    named = [("root (--data)", explicit), ("HAT_DATA", os.environ.get("HAT_DATA"))]
    for origin, value in named:
        if value is not None and not (isinstance(value, str) and value == ""):
            folder = checked_path(origin, value)
            if not folder.is_dir():
                raise FileNotFoundError(f"{origin}: expected an existing folder, got {str(folder)!r}")
            return folder
    return None


def root(explicit: str | Path | None = None) -> Path:
    """The data root: `explicit` (`--data`), else the environment variable `HAT_DATA`, else the user's cache.

    The cache may not exist yet. If the user named a root, only this root is searched: a missing dataset is an error
    then, not a download.

    Raises:
        TypeError, ValueError: `explicit` is no path.
        FileNotFoundError: `explicit` or `HAT_DATA` names a folder that does not exist.
    """
    return chosen_root(explicit) or download_folder()
