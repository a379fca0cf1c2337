"""A checkpoint is never half written, and a file that was damaged later is refused."""

import io
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hat import checkpoint
from hat.checkpoint import CheckpointError, load, save

ROOT = Path(checkpoint.__file__).parents[1]
POSIX = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and limits")


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


def temporary(target: Path, process: int, host: str = checkpoint._HOST) -> Path:
    file = target.with_name(f".{target.name}.{host}.{process}.00c0ffee.tmp")
    file.write_bytes(b"half a checkpoint")
    return file


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run.pt"
    save(path, {"serial": 1, "data": torch.arange(5000.0)})
    return path


# ---------------------------------------------------------------- round trip


def test_round_trip_keeps_types_values_and_shared_storage(tmp_path):
    shared = torch.randn(3, 4)
    payload = {
        "tensors": [torch.tensor(2.5), torch.zeros(0, 3), torch.tensor([True]), torch.ones(2, dtype=torch.bfloat16)],
        "scalars": (1, -(2**2039) + 1, 1.5, float("inf"), 2j, True, None, "ünïcode\n", ""),
        3: {None: 1, 1.5: 2},
        "tied": [shared, shared.T],
        "ordered": OrderedDict(b=1, a=2),
        "size": torch.Size([2, 3]),
    }
    save(tmp_path / "run.pt", payload)
    back = load(tmp_path / "run.pt")
    assert list(back) == list(payload)
    for expected, got in zip(payload["tensors"], back["tensors"], strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
    assert back["scalars"] == payload["scalars"]
    assert [type(value) for value in back["scalars"]] == [type(value) for value in payload["scalars"]]
    assert back[3] == payload[3]
    assert back["ordered"] == payload["ordered"]
    assert back["size"] == (2, 3)
    back["tied"][0].zero_()
    assert back["tied"][1].abs().sum() == 0


def test_state_dict_keeps_its_versions_and_optimizer_state_resumes(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    save(tmp_path / "run.pt", {"model": state, "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()})
    back = load(str(tmp_path / "run.pt"))
    assert back["model"]._metadata == state._metadata
    model.load_state_dict(back["model"])
    optimizer.load_state_dict(back["optimizer"])
    assert torch.equal(back["rng"], torch.get_rng_state())


def test_parameters_come_back_as_plain_tensors_without_their_attributes(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.owner = object()  # would be pickled along, and refused on loading
    weight.register_hook(print)
    save(tmp_path / "run.pt", {"weight": weight, "activation": weight * 2})
    back = load(tmp_path / "run.pt")
    assert type(back["weight"]) is torch.Tensor
    assert not back["activation"].requires_grad
    assert torch.equal(back["activation"], torch.full((2,), 2.0))
    assert weight.requires_grad


def test_map_location(tmp_path):
    save(tmp_path / "run.pt", {"x": torch.ones(2)})
    assert load(tmp_path / "run.pt", map_location="meta")["x"].device.type == "meta"


def test_a_link_is_written_through(saved):
    link = saved.with_name("latest.pt")
    link.symlink_to(saved.name)
    save(link, {"serial": 2})
    assert link.is_symlink()
    assert load(saved) == {"serial": 2}


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
nested = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(scalars, inner)
)


@settings(max_examples=60, deadline=None)
@given(value=nested)
def test_whatever_save_accepts_loads_again(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("any") / "run.pt"
    save(path, {"value": value})
    assert load(path) == {"value": value}


def test_a_program_that_switched_checksums_off_can_still_load(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save(tmp_path / "run.pt", {"x": torch.arange(1000)})
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(load(tmp_path / "run.pt")["x"], torch.arange(1000))


# ---------------------------------------------------------------- refused payloads


class Foo:
    pass


class Own(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"optimizer": {"state": [Foo()]}}, r"^payload\['optimizer'\]\['state'\]\[0\]: expected a tensor, .* got Foo$"),
        ({"t": torch.ones(2).as_subclass(Own)}, r"^payload\['t'\]: expected .* got Own$"),
        ({"a": (1, {2})}, r"^payload\['a'\]\[1\]: expected .* got set$"),
        ({"a": b"raw"}, r"^payload\['a'\]: expected .* got bytes$"),
        ({"a": 2**2040}, r"^payload\['a'\]: expected .* got an integer of 2041 bits$"),
        ({"a": {(1, 2): 3}}, r"^payload\['a'\]: expected keys that are .* got tuple$"),
        ({"f": print}, r"^payload\['f'\]: expected .* got builtin_function_or_method$"),
        ([1], r"^payload: expected a dict, got list$"),
    ],
)
def test_refused_payload_names_the_place_and_touches_nothing(saved, payload, message):
    before = saved.read_bytes()
    with pytest.raises(TypeError, match=message):
        save(saved, payload)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_payload_that_holds_itself_is_refused(tmp_path):
    loop: dict[str, object] = {}
    loop["again"] = loop
    with pytest.raises(TypeError, match="holds itself"):
        save(tmp_path / "run.pt", loop)


# ---------------------------------------------------------------- interrupted and failing writes


class FailingFile(io.FileIO):
    """A file on which writing fails after `room` bytes, as on a full disk."""

    room, error = 3000, OSError(28, "No space left on device")

    def write(self, data):
        if self.tell() + len(data) > self.room:
            raise self.error
        return super().write(data)


@pytest.fixture
def full_disk(monkeypatch):
    """Call it to let every new temporary file fail after `room` bytes."""

    def fill(room, error=FailingFile.error):
        monkeypatch.setattr(FailingFile, "room", room)
        monkeypatch.setattr(FailingFile, "error", error)
        monkeypatch.setattr(checkpoint, "open", lambda path, mode: FailingFile(path, mode), raising=False)

    return fill


@pytest.mark.parametrize("room", [0, 10, 3000, 20000])
def test_full_disk_keeps_the_previous_file(saved, full_disk, room):
    full_disk(room)
    with pytest.raises(CheckpointError, match=r"run\.pt.*No space left.*the previous checkpoint is intact"):
        save(saved, {"serial": 2, "data": torch.zeros(10000)})
    assert load(saved)["serial"] == 1
    assert os.listdir(saved.parent) == [saved.name]


def test_full_disk_without_a_previous_file_says_so(tmp_path, full_disk):
    full_disk(3000)
    with pytest.raises(CheckpointError, match="there is no previous checkpoint"):
        save(tmp_path / "run.pt", {"data": torch.zeros(10000)})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("room", [0, 3000])
def test_interrupt_while_writing_is_raised_and_keeps_the_previous_file(saved, full_disk, room):
    full_disk(room, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        save(saved, {"serial": 2, "data": torch.zeros(10000)})
    assert load(saved)["serial"] == 1
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("no such luck")])
def test_failure_of_a_save_made_because_of_ctrl_c_is_not_taken_for_ctrl_c(saved, full_disk, error):
    full_disk(3000, error)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(CheckpointError, match="the previous checkpoint is intact"):
            save(saved, {"serial": 2, "data": torch.zeros(10000)})


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_failure_at_the_last_steps_keeps_the_previous_file(saved, monkeypatch, step, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(checkpoint.os, step, fail)
    with pytest.raises((CheckpointError, KeyboardInterrupt)) as caught:
        save(saved, {"serial": 2})
    monkeypatch.undo()
    assert isinstance(caught.value, KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError)
    assert load(saved)["serial"] == 1
    assert os.listdir(saved.parent) == [saved.name]


def test_data_reaches_the_disk_before_the_rename(tmp_path, monkeypatch):
    steps: list[str] = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(checkpoint.os, step, lambda *a, real=real, step=step: (steps.append(step), real(*a))[1])
    save(tmp_path / "run.pt", {})
    assert steps == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("where", ["missing/run.pt", "folder"])
def test_unwritable_place_is_named(tmp_path, where):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=where):
        save(tmp_path / where, {})
    assert leftovers(tmp_path) == []


LIMITED = """
import resource, sys, torch
from hat.checkpoint import CheckpointError, save
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    save(sys.argv[1], {"serial": 2, "data": torch.zeros(1_000_000)})
except CheckpointError as error:
    print(error)
"""


@POSIX
def test_file_size_limit_of_the_system(saved):
    done = run(LIMITED, saved)
    assert done.returncode == 0, done.stderr
    assert "File too large; the previous checkpoint is intact" in done.stdout
    assert load(saved)["serial"] == 1
    assert os.listdir(saved.parent) == [saved.name]


KILLED = """
import os, random, signal, sys, time, torch
from hat.checkpoint import load, save
path, trials = sys.argv[1], int(sys.argv[2])
random.seed(0)
torch.set_num_threads(1)
last = 0
for trial in range(trials):
    child = os.fork()
    if not child:
        serial = last
        while True:
            serial += 1
            save(path, {"serial": serial, "data": torch.full((2_000_000,), serial), "sum": serial * 2_000_000})
    while not os.path.exists(path):
        assert not os.waitpid(child, os.WNOHANG)[0], "the writer stopped by itself"
        time.sleep(0.001)
    writing = False
    while not writing:  # a child that has not had its turn yet writes nothing
        os.kill(child, signal.SIGCONT)
        time.sleep(random.uniform(0.02, 0.15))
        os.kill(child, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1]), "the writer stopped by itself"
        writing = any(f".{child}." in name for name in os.listdir(os.path.dirname(path)))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    got = load(path)
    assert got["data"].eq(got["serial"]).all() and int(got["data"].sum()) == got["sum"], "mixed checkpoint"
    assert got["serial"] >= last, "went back in time"
    last = got["serial"]
save(path, {"serial": last, "left": [n for n in os.listdir(os.path.dirname(path)) if n.endswith(".tmp")]})
print(last)
"""


@POSIX
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_in_the_middle_of_saving_leaves_a_whole_checkpoint(tmp_path):
    done = run(KILLED, tmp_path / "run.pt", 12)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1
    assert leftovers(tmp_path) == []


# ---------------------------------------------------------------- leftovers


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(saved):
    gone = temporary(saved, dead_process())
    own = temporary(saved, os.getpid())  # a process id used again, as in a restarted container
    kept = [
        temporary(saved, os.getppid()),  # alive
        temporary(saved.with_name("other.pt"), dead_process()),
        temporary(saved, dead_process(), host="00000000"),
        saved.with_name(f".{saved.name}.tmp"),
    ]
    kept[-1].touch()
    save(saved, {})
    assert not gone.exists()
    assert not own.exists()
    assert all(file.exists() for file in kept)


def test_leftovers_of_another_machine_are_removed_after_a_day(saved):
    old = temporary(saved, 1, host="00000000")
    os.utime(old, (time.time() - 90000,) * 2)
    save(saved, {})
    assert not old.exists()


def test_a_save_within_a_save_leaves_the_outer_file_alone(saved):
    with checkpoint.replacing(saved) as file:
        save(saved, {"serial": 2})
        file.write(b"outer")
    assert saved.read_bytes() == b"outer"
    assert leftovers(saved.parent) == []


# ---------------------------------------------------------------- files that are no checkpoints


def refused(path, pattern):
    with pytest.raises(CheckpointError, match=pattern) as caught:
        load(path)
    message = str(caught.value)
    assert path.name in message
    assert "expected" in message
    assert "\n" not in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_truncated(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    refused(saved, "whole checkpoint")


@pytest.mark.parametrize("missing", [1, 2, 22, 100])
def test_truncated_by_a_few_bytes(saved, missing):
    saved.write_bytes(saved.read_bytes()[:-missing])
    refused(saved, "whole checkpoint")


def test_flipped_bit_in_a_tensor_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 1
    saved.write_bytes(content)
    refused(saved, "wrong checksum")


@settings(max_examples=50, deadline=None)
@given(noise=st.binary(max_size=200), at=st.integers(0, 3000))
def test_noise_never_raises_anything_else(tmp_path_factory, noise, at):
    path = tmp_path_factory.mktemp("noise") / "run.pt"
    save(path, {"data": torch.arange(100)})
    content = path.read_bytes()
    for damaged in (noise, content[:at] + noise + content[at + len(noise) :], content[:at] + noise):
        path.write_bytes(damaged)
        try:
            back = load(path)
        except CheckpointError:
            continue
        assert torch.equal(back["data"], torch.arange(100))  # only padding was hit


def test_missing_and_folder(tmp_path):
    refused(tmp_path / "absent.pt", "no such file")
    (tmp_path / "folder.pt").mkdir()
    refused(tmp_path / "folder.pt", "whole checkpoint")


@pytest.mark.parametrize(
    "document",
    [
        {"weight": torch.ones(2)},
        [1, 2],
        torch.ones(2),
        {"format": "another", "version": 1, "payload": {}},
        {"format": torch.ones(2), "version": 1, "payload": {}},
    ],
)
def test_foreign_torch_file(tmp_path, document):
    torch.save(document, tmp_path / "foreign.pt")
    refused(tmp_path / "foreign.pt", "written by hat.checkpoint.save, got another torch file")


@pytest.mark.parametrize("version", [2, 0, "1", None, True, torch.ones(2)])
def test_version_that_is_not_known(tmp_path, version):
    torch.save({"format": "hat-checkpoint", "version": version, "payload": {}}, tmp_path / "new.pt")
    refused(tmp_path / "new.pt", "expected version 1 to 1, got ")


def test_payload_that_is_no_dict(tmp_path):
    torch.save({"format": "hat-checkpoint", "version": 1, "payload": [1]}, tmp_path / "run.pt")
    refused(tmp_path / "run.pt", "expected a dict as payload, got list")


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("wrapping", ["raw", "legacy", "zip", "inside"])
def test_malicious_pickle_executes_nothing(tmp_path, wrapping):
    victim, path = tmp_path / "executed", tmp_path / "evil.pt"
    evil = Malicious(victim)
    if wrapping == "raw":
        path.write_bytes(pickle.dumps(evil))
    elif wrapping == "legacy":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    elif wrapping == "zip":
        torch.save(evil, path)
    else:
        torch.save({"format": "hat-checkpoint", "version": 1, "payload": {"x": evil}}, path)
    refused(path, "whole checkpoint")
    assert not victim.exists()
    if wrapping in ("zip", "inside"):  # the trap does work on who trusts it
        torch.load(path, weights_only=False)
        assert victim.exists()


def claims(payload, tmp_path):
    """A checkpoint whose payload is a pickle of other claims than those that torch writes."""
    path, word = tmp_path / "x.pt", lambda text: b"X" + struct.pack("<I", len(text)) + text
    head = b"\x80\x02}(" + word(b"format") + word(b"hat-checkpoint") + word(b"version") + b"K\x01" + word(b"payload")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", head + payload + b"u.")
        archive.writestr("archive/version", "3\n")
    return path


NESTED = b"".join(b"h" + bytes([level]) + b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(60))
COLLIDING = b"".join(
    b"\x8a\x0a" + (number * (2**61 - 1)).to_bytes(10, "little") + b"K\x01" for number in range(1000, 4000)
)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"}(X\x01\0\0\0z](K\x01q\0" + NESTED + b"eh\x3cK\x01u", "other keys than texts and numbers"),
        (b"}(" + COLLIDING + b"u", "more than 1000 numbers of more than 64 bits as keys"),
        (
            b"ctorch\nSize\nq\0(" + b"N" * 1000 + b"tq\x01(" + b"h\0h\x01\x85R" * 10 + b"l",
            "a torch.Size of more than 64",
        ),
    ],
    ids=["a key of tuples within tuples", "keys with one hash", "one tuple many times"],
)
def test_claims_that_would_take_time_or_memory_without_end_are_refused(payload, message, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.load(claims(payload, tmp_path))
