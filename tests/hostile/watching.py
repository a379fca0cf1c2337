"""Read hostile files in processes of their own, and watch what they do: memory, time, files, calls, messages.

One process reads many kinds. It prints the name of a kind before it reads the kind, so that a crash has a name; another
process goes on behind it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hostile.kind import CAP, COMMANDS, READ, REFUSED, Kind

SECONDS = 60
"""Longer than any file may take, even on a busy machine; a pipe waits for ever."""
ROOT = Path(__file__).resolve().parents[2]
_CALLS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
    "subprocess.Popen",
)
_CALLS += ("socket.connect", "socket.getaddrinfo", "urllib.Request", "ctypes.dlopen", "webbrowser.open")
_BORROWED = re.compile(
    r"weights_only|allow_pickle|safe_globals|allowlist|if you trust|Errno|Unable to allocate|MemoryError|Traceback"
    r"|0x[0-9a-fA-F]{6,}|RLIMIT|can't allocate|not enough memory|object has no attribute|object is not|Error:"
    r"|enforce fail|positional argument|DecompressionBombError|MAX_TEXT_CHUNK|max_header_size|set_int_max_str_digits"
)


@dataclass
class Result:
    """What came of a kind.

    Attributes:
        outcome: `"refused"`, `"read"`, `"escaped"` (by an error that is none of ours), `"crash"` or `"hang"`.
        message: of the error.
        peak: bytes of memory that the read took, above what the process had before.
        seconds: how long the read took.
        harm: files that were written outside, and calls that no reader makes.
    """

    outcome: str = "crash"
    message: str = ""
    peak: int = 0
    seconds: float = 0.0
    harm: list[str] = field(default_factory=list)

    def wrong(self, kind: Kind) -> str | None:
        """What is wrong, or None."""
        if self.outcome in ("crash", "hang", "escaped") or self.harm:
            return f"{self.outcome} {self.harm or ''} {self.message}"
        if self.outcome != kind.outcome and kind.outcome in (READ, REFUSED):
            return f"expected {kind.outcome}, got {self.outcome}: {self.message}"
        if self.peak > 2 * CAP:
            return f"expected at most {2 * CAP >> 20} MiB, got {self.peak >> 20} MiB"
        return None if self.outcome == READ else wrong_message(self.message, kind)


def wrong_message(message: str, kind: Kind) -> str | None:
    """Why a message is not one line of ours that names the file."""
    if kind.reader == "model":  # torch makes the message, of a line for each tensor that does not fit
        return None
    if not message.isprintable():
        return f"a message of one line without control characters: {message!r}"
    if len(message) > 800:
        return f"a message of {len(message)} letters: {message}"
    if match := _BORROWED.search(message):
        return f"{match[0]!r} is not ours: {message}"
    if not any(text in message for text in ("expected", "no such file", "has moved since it was locked")):
        return f"it does not say what was expected: {message}"
    name = "inside" if kind.reader in COMMANDS else Path(kind.path).name
    if name not in message and kind.path != ".":
        return f"it does not name {name}: {message}"
    return None


def watch(kinds: Sequence[Kind], folder: Path) -> Iterator[tuple[Kind, Result]]:
    """Read every kind, and tell what came of it."""
    left = list(kinds)
    while left:
        results, last_words = _read_in_a_process([kind.name for kind in left], folder)
        if not results:
            raise RuntimeError(f"the process that reads has not begun: {last_words}")
        for kind, result in zip(left, results, strict=False):
            if result.outcome == "crash":
                result.outcome = "hang" if "Timeout" in last_words else "crash"
                result.message = last_words[-2000:]
            yield kind, result
        left = left[len(results) :]


def _read_in_a_process(names: list[str], folder: Path) -> tuple[list[Result], str]:
    place = Path(tempfile.mkdtemp(dir=folder))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    environment |= {
        "HOME": str(place / "machine"),
        "XDG_CACHE_HOME": str(place / "machine"),
        "TMPDIR": str(place / "machine"),
    }
    environment.pop("HAT_DATA", None)
    (place / "machine").mkdir()
    command = [sys.executable, "-m", "tests.hostile.watching", str(place)]
    done = subprocess.run(
        command, input=json.dumps(names), env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    results: list[Result] = []
    for line in done.stdout.splitlines():
        if line.startswith("begin "):
            results.append(Result())
        elif line.startswith("end "):
            results[-1] = Result(**json.loads(line[4:]))
    shutil.rmtree(place)
    return results, f"status {done.returncode}: {done.stderr.strip()}"


def _main(place: Path) -> None:
    """Read the kinds whose names come from standard input."""
    from tests.hostile import all_kinds, readers

    kinds = {kind.name: kind for kind in all_kinds()}
    chosen = [kinds[name] for name in json.load(sys.stdin)]
    report, sys.stdout = sys.stdout, io.StringIO()
    _warm_up()
    runs = place / "runs"
    if any(kind.reader not in ("data", "checkpoint") for kind in chosen):
        readers.make_runs(runs)
    watched = _Watched(place)
    for index, kind in enumerate(chosen):
        work = place / f"work{index}"
        work.mkdir()
        os.chdir(work)
        inside = work / "inside"
        readers.prepare(kind.reader, runs, inside)
        kind.build(inside)
        print("begin", kind.name, file=report, flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        result = watched.read(kind, work, inside)
        faulthandler.cancel_dump_traceback_later()
        print("end", json.dumps(vars(result)), file=report, flush=True)
        os.chdir(place)
        shutil.rmtree(work)


def _warm_up() -> None:
    """Import what readers import late, so that it does not count as memory of a file."""
    import matplotlib.pyplot
    import PIL.Image
    import scipy.io
    import sklearn.datasets

    from hat import plots

    PIL.Image.init()
    sklearn.datasets.load_digits(), scipy.io, matplotlib.pyplot
    plots.save = lambda figure, path: Path(path).write_bytes(b"")
    warnings.simplefilter("ignore")


class _Watched:
    """Reads kinds while the calls of the process are watched.

    Args:
        place: the folder of the process; files may be written to its folder `machine`, and to the folder of a run.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.allowed, self.harm = place, [place / "machine"], list[str]()
        self.on = False
        sys.addaudithook(self._audit)

    def read(self, kind: Kind, work: Path, inside: Path) -> Result:
        from tests.hostile.readers import READERS

        self.allowed = [
            self.place / "machine",
            *([inside] if kind.reader not in ("data", "checkpoint", "model") else []),
        ]
        self.harm, result = [], Result()
        before, started, memory = _listing(work), time.perf_counter(), _reset_peak()
        self.on = True
        try:
            with _limited():
                READERS[kind.reader](inside, inside / kind.path)
            result.outcome = "read"
        except (ValueError, FileNotFoundError) as error:
            result.outcome, result.message = "refused", str(error)
        except BaseException as error:
            result.outcome, result.message = "escaped", f"{type(error).__name__}: {error}"[:2000]
            if kind.reader == "model" and isinstance(error, (RuntimeError, TypeError)) and "state_dict" in str(error):
                result.outcome = "refused"
        self.on = False
        result.peak, result.seconds = _peak() - memory, time.perf_counter() - started
        allowed = inside if len(self.allowed) > 1 else None
        changed = {path for path in before ^ _listing(work) if allowed is None or allowed not in (path, *path.parents)}
        result.harm = [*self.harm, *(f"changed {path}" for path in sorted({str(path) for path in changed}))]
        return result

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _CALLS:
            self.harm.append(f"{event} {arguments!r}"[:300])
        elif event == "open":
            path, mode, flags = arguments
            if not isinstance(path, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                where = Path(os.fsdecode(path)).absolute()
                if not any(place in (where, *where.parents) for place in self.allowed) and where != Path("/dev/null"):
                    self.harm.append(f"open {where} {mode} {flags:o}")


def _listing(folder: Path) -> set[Any]:
    found = set()
    for path in (folder, *folder.rglob("*")):
        found.add(path)
    return found


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Let the process have no more than eight times the cap above what it has, so that the machine stays whole."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if not pages:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 8 * CAP, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _reset_peak() -> int:
    """Forget the peak of memory (where Linux can), and return the memory of now in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _of_status("VmRSS")


def _peak() -> int:
    return _of_status("VmHWM")


def _of_status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
