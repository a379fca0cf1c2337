"""Which process owns a file or a folder, and whether that process still lives.

A process that dies leaves its files behind. Others may take them over, but only when the process is dead.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

HOST = socket.gethostname()
LOCK = ".hat-lock"
"""The name of the file that tells who owns a folder."""

_DAY = 24 * 60 * 60.0
_LONGEST = 4096  # bytes of a lock; a longer file is no lock
_held: set[str] = set()  # the keys of the locks that this process holds
_threads = threading.RLock()  # one thread at a time takes a lock or gives it back


@dataclass(frozen=True)
class Owner:
    """The process that owns a folder, as its lock describes it.

    Attributes:
        host: the name of its machine.
        process: its number there.
        started: when the process started, as the system tells it. A later process with the same number started at
            another time. None if the system does not tell.
        key: a random text; no other lock has it.
    """

    host: str
    process: int
    started: str | None
    key: str


def may_live(*, here: bool, process: int, started: str | None, touched: float, mine: bool) -> bool:
    """Whether the process that owns a file may still live.

    Args:
        here: the process ran on this machine.
        process: its number.
        started: when it started, or None if this is not known.
        touched: when the file was last written, in seconds. The owner of a file that another machine wrote less than a
            day ago may live.
        mine: the answer if the number is that of this process.
    """
    if here and process == os.getpid():
        return mine
    if not here or os.name == "nt":  # on Windows `os.kill` would harm the process
        return time.time() - touched < _DAY
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # a process of another user
    state, since = _facts(process)
    return state not in ("Z", "X") and (started is None or since is None or started == since)


@contextmanager
def owned(folder: Path) -> Iterator[Path]:
    """Own an existing folder inside the block; the value is the lock. If the owner of a lock is dead, take it over.

    The lock holds the number of the process and its machine. At every instant it is a whole file or no file. If several
    processes ask at the same moment, one gets the folder. A killed process leaves its lock behind.

    Raises:
        ValueError: a process that may live owns the folder; the message names the folder, the process and its machine.
        OSError: the folder cannot be written to.
    """
    with _held_lock(folder, folder / LOCK) as lock:
        yield lock


def check_not_owned(folder: Path) -> None:
    """Refuse a folder that a process may be writing to.

    Raises:
        ValueError: as `owned`.
    """
    _check_dead(folder, folder / LOCK)


def keep(lock: Path) -> None:
    """Tell processes of other machines that the owner of a lock, this process, lives.

    Raises:
        ValueError: another process has taken the folder over, or the folder was moved; nothing more may be written.
    """
    content = _read(lock)
    if content is None:
        raise ValueError(
            f"{lock.parent}: expected a folder of this process alone, got one that was moved, or has no lock"
        )
    owner = _owner(content)
    if owner is None or owner.key not in _held:
        raise ValueError(f"{lock.parent}: expected a folder of this process alone, got one taken over by {_who(owner)}")
    with suppress(OSError):  # some systems keep no times
        os.utime(lock)


@contextmanager
def _held_lock(folder: Path, lock: Path) -> Iterator[Path]:
    """Hold a lock. To remove the lock of a dead process, hold the lock of its removal, so that no two remove it."""
    owner = Owner(HOST, os.getpid(), _facts(os.getpid())[1], secrets.token_hex(8))
    _held.add(owner.key)
    try:
        with _threads:
            while not _written(lock, owner):
                dead = _check_dead(folder, lock)
                if dead is not None:
                    with _held_lock(folder, lock.with_name(f"{LOCK}.{zlib.crc32(dead):08x}")):
                        if _read(lock) == dead:
                            lock.unlink(missing_ok=True)
            if lock.name == LOCK:
                _remove_leftovers(folder)
        yield lock
    finally:
        with _threads:  # between the two steps, the lock looks like that of a dead process
            _held.discard(owner.key)  # first: if Ctrl-C comes now, the lock is that of nobody
            content = _read(lock)
            if os.getpid() == owner.process and content is not None and _owner(content) == owner:
                with suppress(OSError):
                    lock.unlink()


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while they made or removed a lock have left."""
    for leftover in folder.glob(f"{LOCK}.*"):
        with suppress(ValueError, OSError):  # its process lives
            if _check_dead(folder, leftover) is not None:
                leftover.unlink()


def _written(lock: Path, owner: Owner) -> bool:
    """Write a lock, unless there is one."""
    content = json.dumps(asdict(owner)).encode()
    temporary = lock.with_name(f"{LOCK}.{owner.key}")
    try:
        try:
            temporary.write_bytes(content)
        except OSError as error:  # the user knows the folder, not the file
            raise OSError(error.errno, error.strerror, str(lock.parent)) from None
        try:
            os.link(temporary, lock)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            with suppress(FileExistsError), open(lock, "xb") as file:
                file.write(content)
                return True
            return False
        return True
    finally:
        with suppress(OSError):
            temporary.unlink()


def _check_dead(folder: Path, lock: Path) -> bytes | None:
    """The content of the lock of a dead process; None if there is no lock.

    Raises:
        ValueError: the process may live.
    """
    try:
        touched = lock.lstat().st_mtime
    except OSError:
        return None
    content = _read(lock)
    if content is None:
        return None
    owner = _owner(content)
    if owner is None:  # its process may be writing it now
        lives = time.time() - touched < _DAY
    else:
        here, mine = owner.host == HOST, owner.key in _held
        lives = may_live(here=here, process=owner.process, started=owner.started, touched=touched, mine=mine)
    if not lives:
        return content
    sure = owner is not None and owner.host == HOST
    advice = "" if sure else f"; if you know that it has ended, remove {lock.name} in this folder"
    raise ValueError(
        f"{folder}: expected a folder that no other run writes to, got one in use by {_who(owner)}{advice}"
    )


def _read(lock: Path) -> bytes | None:
    """The content of a lock; None if there is no lock. What cannot be read is empty."""
    if not os.path.lexists(lock):
        return None
    try:
        with open(lock, "rb") as file:
            return file.read(_LONGEST)
    except FileNotFoundError:
        return b"" if lock.is_symlink() else None  # a link to nowhere, or removed just now
    except OSError:
        return b""


def _owner(content: bytes) -> Owner | None:
    """The owner that a lock names; None if the content is no lock, or not yet all of it."""
    try:
        owner = Owner(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (owner.host, owner.key, *([] if owner.started is None else [owner.started]))
    whole = type(owner.process) is int and owner.process > 0
    return owner if whole and all(isinstance(text, str) for text in texts) else None


def _who(owner: Owner | None) -> str:
    if owner is None:
        return "a process that is not known"
    this = " (this process)" if owner.host == HOST and owner.process == os.getpid() else ""
    return f"process {owner.process}{this} on {ascii(owner.host)[1:-1]}"


def _facts(process: int) -> tuple[str | None, str | None]:
    """The state of a process of this machine, one letter, and when it started; None where the system does not tell."""
    try:
        after_name = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return after_name[0], f"{boot} {after_name[19]}"
    except (OSError, IndexError):
        return None, None
