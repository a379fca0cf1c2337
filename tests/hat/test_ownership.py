"""Who owns a folder: one process at a time, and nobody when that process is dead."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from hat import ownership
from hat.ownership import HOST, LOCK, check_not_owned, keep, owned

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the start of a process is read from /proc")


def lock_of(folder: Path, *, age: float = 0.0, **facts: Any) -> Path:
    """Write a lock as a process without `hat.ownership` in it would have left it."""
    lock = folder / LOCK
    lock.write_text(json.dumps({"host": HOST, "process": os.getppid(), "started": None, "key": "0", **facts}))
    os.utime(lock, (time.time() - age,) * 2)
    return lock


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def refused(folder: Path) -> str:
    with pytest.raises(ValueError, match="expected a folder that no other run writes to") as refusal, owned(folder):
        pass
    with pytest.raises(ValueError, match="expected a folder") as same:
        check_not_owned(folder)
    assert str(same.value) == str(refusal.value)
    return str(refusal.value)


def taken(folder: Path) -> bool:
    check_not_owned(folder)
    with owned(folder) as lock:
        assert json.loads(lock.read_text())["process"] == os.getpid()
    return not any(folder.iterdir())


def test_a_folder_has_one_owner_in_a_process(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    with owned(tmp_path):
        message = refused(tmp_path / "link")
        assert f"{tmp_path / 'link'}: " in message
        assert message.endswith(f"got one in use by process {os.getpid()} (this process) on {HOST}")
    (tmp_path / "link").unlink()
    assert taken(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_lock_is_gone_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), owned(tmp_path):
        raise error
    assert not any(tmp_path.iterdir())


def test_a_living_process_keeps_its_folder(tmp_path: Path) -> None:
    lock_of(tmp_path, age=1e6)
    assert refused(tmp_path) == (
        f"{tmp_path}: expected a folder that no other run writes to, got one in use by process {os.getppid()} on {HOST}"
    )


@pytest.mark.parametrize("process", [dead_process, lambda: 2**70, os.getpid], ids=["dead", "none", "own"])
def test_the_folder_of_a_dead_process_is_taken_over(tmp_path: Path, process: Callable[[], int]) -> None:
    """The number of this process is in the lock of a process that died, as in a container that was started again."""
    lock_of(tmp_path, process=process())
    assert taken(tmp_path)


@linux
def test_a_process_that_has_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    lock_of(tmp_path, started="another time")
    assert taken(tmp_path)
    lock_of(tmp_path, started=ownership._facts(os.getppid())[1])
    assert f"process {os.getppid()}" in refused(tmp_path)


@linux
def test_a_dead_process_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    while ownership._facts(process.pid)[0] != "Z":
        time.sleep(0.01)
    lock_of(tmp_path, process=process.pid)
    assert taken(tmp_path)
    process.wait()


def test_a_process_of_another_machine_keeps_its_folder_for_a_day(tmp_path: Path) -> None:
    lock = lock_of(tmp_path, host="elsewhere", process=12)
    assert refused(tmp_path).endswith(
        f"got one in use by process 12 on elsewhere; if you know that it has ended, remove {LOCK} in this folder"
    )
    os.utime(lock, (time.time() - 90000,) * 2)
    assert taken(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "1", '{"host": 1}', "[" * 4000, "x" * 10000, "\0"])
def test_a_lock_that_cannot_be_read_holds_for_a_day(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    assert "got one in use by a process that is not known; if" in refused(tmp_path)
    os.utime(tmp_path / LOCK, (time.time() - 90000,) * 2)
    assert taken(tmp_path)


@pytest.mark.parametrize("process", [0, -1, True, 1.5, "1", None])
def test_a_process_number_that_no_process_has(tmp_path: Path, process: object) -> None:
    lock_of(tmp_path, process=process)
    assert "a process that is not known" in refused(tmp_path)


def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to(tmp_path / "nowhere")
    refused(tmp_path)
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    refused(tmp_path)


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", link)
    with owned(tmp_path):
        assert [file.name for file in tmp_path.iterdir()] == [LOCK]
        refused(tmp_path)
    lock_of(tmp_path, process=dead_process())
    assert taken(tmp_path)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), owned(tmp_path / "none"):
        pass
    assert not ownership._held


def compete(folders: list[Path], barrier: Any, wins: Any) -> None:
    """Ask for one folder after the other at the same moment as others, and hold what is won."""
    with ExitStack() as stack:
        for number, folder in enumerate(folders):
            barrier.wait()
            try:
                stack.enter_context(owned(folder))
            except ValueError:
                continue
            with wins.get_lock():
                wins[number] += 1
        barrier.wait()


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
@pytest.mark.parametrize("left", ["nothing", "a lock", "a lock and a takeover"])
def test_of_several_that_ask_at_the_same_moment_one_wins(tmp_path: Path, left: str) -> None:
    fork = multiprocessing.get_context("fork")
    folders = [tmp_path / str(number) for number in range(30)]
    dead = dead_process()
    for folder in folders:
        folder.mkdir()
        if left != "nothing":
            content = lock_of(folder, process=dead).read_bytes()
        if left == "a lock and a takeover":
            claim = folder / f"{LOCK}.{ownership.zlib.crc32(content):08x}"
            claim.write_bytes(content.replace(b'"0"', b'"1"'))
    wins, barrier = fork.Array("i", len(folders)), fork.Barrier(4)
    processes = [fork.Process(target=compete, args=(folders, barrier, wins)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert list(wins) == [1] * len(folders)
    assert not any(path for folder in folders for path in folder.iterdir())


_HOLDER = """
import sys, time
from pathlib import Path
from hat.ownership import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_kill_9_leaves_a_lock_that_the_next_process_takes_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"process {holder.pid} on {HOST}" in refused(tmp_path)
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    assert taken(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_what_a_process_left_that_was_killed_while_it_made_a_lock_is_removed(tmp_path: Path) -> None:
    left, living = tmp_path / f"{LOCK}.0123", tmp_path / f"{LOCK}.4567"
    lock_of(tmp_path, process=dead_process()).rename(left)
    lock_of(tmp_path).rename(living)
    with owned(tmp_path):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == [living]


def test_a_fork_of_the_owner_leaves_the_lock(tmp_path: Path) -> None:
    owner = owned(tmp_path)
    lock = owner.__enter__()
    content = lock.read_bytes()
    child = os.fork()
    if not child:
        owner.__exit__(None, None, None)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert lock.read_bytes() == content
    owner.__exit__(None, None, None)
    assert not lock.exists()


def test_threads_own_a_folder_one_after_another(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> int:
        owned_times = 0
        for _ in range(150):
            with suppress(ValueError), owned(tmp_path):
                inside.append(number)
                assert inside == [number]
                inside.remove(number)
                owned_times += 1
        return owned_times

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(work, range(4))) > 0
    finally:
        sys.setswitchinterval(interval)
    assert not any(tmp_path.iterdir())


def test_an_owner_keeps_its_folder_and_notices_that_it_was_taken(tmp_path: Path) -> None:
    with owned(tmp_path) as lock:
        os.utime(lock, (0, 0))
        before = time.time()
        keep(lock)
        assert lock.stat().st_mtime > before - 1  # a file system may round
        lock_of(tmp_path, host="elsewhere", process=12)
        with pytest.raises(ValueError, match="got one taken over by process 12 on elsewhere"):
            keep(lock)
        lock.unlink()
        with pytest.raises(ValueError, match="got one that was moved, or has no lock"):
            keep(lock)
    assert not any(tmp_path.iterdir())
