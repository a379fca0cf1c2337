"""Wrong types and values for every public callable of `hat.data` end in a ValueError or TypeError of one line."""

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import hat.data as data
from hat.data import Dataset, Part, Stream, Task

LONG = "x" * 100_000
WRONG = {
    "none": None,
    "true": True,
    "text": "yes",
    "empty text": "",
    "nul": "a\0b",
    "long text": LONG,
    "nobody's home": "~nobody-of-that-name/x",
    "surrogate": "\udcff",
    "two lines": "a\nb",
    "bytes": b"yes",
    "minus one": -1,
    "zero": 0,
    "huge": 10**30,
    "more digits than Python prints": 10**5000,
    "fraction": 0.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "complex": 1j,
    "empty list": [],
    "list of none": [None],
    "list of huge": [10**30, 10**30],
    "size of fractions": (8.0, 8.0),
    "huge size": (10**6, 10**6),
    "three sizes": (8, 8, 8),
    "long list": [0] * 1000,
    "tuple of texts": ("a", "b"),
    "dict": {"a": 1},
    "set": {1},
    "endless": itertools.count(),
    "object": object(),
    "class": int,
    "function": len,
    "path": Path(LONG),
    "folder": Path("/"),
    "slice": slice(None, None, -1),
    "array": np.zeros((2, 3)),
    "0-d array": np.array("a"),
    "array of objects": np.array([None, 1], dtype=object),
    "0-d": torch.tensor(1),
    "int32": torch.ones(6, dtype=torch.int32),
    "fractions": torch.rand(6),
    "labels out of range": torch.full((6,), 99),
    "negative labels": torch.full((6,), -1),
    "float images": torch.rand(6, 1, 2, 2),
    "double images": torch.rand(6, 1, 2, 2).double(),
    "nan images": torch.full((6, 1, 2, 2), float("nan")),
    "no images": torch.rand(0, 1, 2, 2),
    "no pixels": torch.rand(6, 1, 0, 2),
    "other pixels": torch.rand(6, 1, 3, 3),
    "meta": torch.rand(6, 1, 2, 2, device="meta"),
    "meta labels": torch.zeros(6, dtype=torch.int64, device="meta"),
    "sparse": torch.zeros(6, 1, 2, 2).to_sparse(),
    "with gradient": torch.rand(6, 1, 2, 2, requires_grad=True),
    "bool mask": torch.ones(6, dtype=torch.bool),
    "module": torch.nn.Linear(2, 2),
    "device": torch.device("meta"),
}

X, Y = torch.arange(24, dtype=torch.float32).reshape(6, 1, 2, 2), torch.arange(6) % 2


def part():
    return Part(X, Y)


def dataset():
    return Dataset("d", ("a", "b"), X, Y, X, Y)


def task():
    return Task("t", ("a", "b"), part(), part(), part())


def stream():
    return Stream("s", [task()])


CUT = {"validation": 0.1, "seed": 0, "root": None, "limit": 2, "size": (2, 2), "max_gib": 2.0}
CALLS = {
    "load": (data.load, {"dataset": "nothing-here", "root": None, "size": None, "max_gib": 2.0}),
    "root": (data.root, {"explicit": None}),
    "sources": (data.sources, {"root": None}),
    "split": (
        data.split,
        {"dataset": dataset(), "classes_per_task": 1, "tasks": 1, "shuffle_classes": True, **CUT},
    ),
    "permuted": (data.permuted, {"dataset": dataset(), "tasks": 1, **CUT}),
    "mixture": (data.mixture, {"datasets": [dataset()], **CUT}),
    "Dataset": (Dataset, {"name": "d", "classes": ("a", "b"), "x_train": X, "y_train": Y, "x_test": X, "y_test": Y}),
    "Part": (Part, {"images": X, "labels": Y, "permutation": torch.arange(4), "channels": 1}),
    "Part.permuted": (part().permuted, {"permutation": None}),
    "Part[]": (part().__getitem__, {"rows": [0]}),
    "Part.batches": (lambda **how: list(part().batches(**how)), {"batch_size": 2}),
    "Part.to": (part().to, {"device": "cpu"}),
    "Task": (
        Task,
        {"name": "t", "classes": ("a", "b"), "train": part(), "validation": part(), "test": part(), "index": 0},
    ),
    "Task.batches": (
        lambda **how: list(itertools.islice(task().batches(**how), 100)),
        {"epochs": 1, "batch_size": 2, "seed": 0, "device": None},
    ),
    "Task.epoch": (
        lambda epoch, **how: list(task().epoch(epoch, **how)),
        {"epoch": 0, "batch_size": 2, "seed": 0, "device": None},
    ),
    "Task.to": (task().to, {"device": "cpu"}),
    "Stream": (Stream, {"name": "s", "tasks": [task()], "input_shape": (1, 2, 2)}),
    "Stream[]": (stream().__getitem__, {"index": 0}),
}
MISSING = {"Part[]", "Stream[]"}  # an index that does not exist is an IndexError, by the protocol of sequences


@pytest.mark.parametrize(("name", "argument"), [(name, a) for name, (_, how) in CALLS.items() for a in how])
def test_wrong_arguments(name, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, how = CALLS[name]
    escaped = {}
    for kind, value in WRONG.items():
        try:
            call(**how | {argument: value}) if name not in MISSING else call(value)
        except (ValueError, TypeError, FileNotFoundError) as error:
            text = str(error)
            clear = (
                ": expected" in text and "\n" not in text and len(text) < 6000 and not isinstance(error, UnicodeError)
            )
            if not clear:
                escaped[kind] = error
        except IndexError as error:
            if name not in MISSING or ": expected" not in str(error):
                escaped[kind] = error
        except Exception as error:
            escaped[kind] = error
    assert not escaped


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            partial(data.load, b"mnist"),
            "dataset: expected a name, a path or a hat.data.Dataset, got a value of type bytes",
        ),
        (partial(data.load, "a\0b"), "dataset: expected a path that this system can have, got 'a"),
        (partial(data.load, LONG), "dataset: expected a path that this system can have, got 'xxx"),
        (partial(data.load, ""), "dataset: expected one of digits"),
        (partial(data.permuted, dataset(), tasks=True), "tasks: expected an int, got True"),
        (partial(data.permuted, dataset(), seed="0"), "seed: expected an int, got '0'"),
        (partial(data.permuted, dataset(), seed=10**5000), "seed: expected an int of at most 1024 bits, got an int of"),
        (partial(data.split, dataset(), shuffle_classes="no"), "shuffle_classes: expected True or False, got 'no'"),
        (partial(data.mixture, (d for d in [dataset()])), "datasets: expected a list of at least one dataset"),
        (
            partial(data.mixture, [torch.utils.data.TensorDataset(X, Y)]),
            "dataset: expected a name, a path or a hat.data",
        ),
        (partial(Stream, "s", itertools.count()), "tasks: expected a hat.data.Task each, got 0"),
        (partial(part().to, "gpu"), "device: expected a device of this machine, got 'gpu'"),
        (lambda: part()[torch.ones(6, dtype=torch.bool)], r"rows: expected int64 \(n,\), got torch.bool \(6,\)"),
        (lambda: part()[3], "rows: expected an int64 tensor, a list of ints or a slice, got 3"),
    ],
)
def test_messages(call, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        call()


def test_huge_but_right_values_work():
    assert len(list(part().batches(10**30))) == 1
    assert len(list(task().epoch(10**15, batch_size=10**30, seed=10**30))) == 1
    assert len(part()[0 : 10**30][1]) == 6
    assert len(part()[:: 10**30][1]) == 1
    assert len(data.permuted(dataset(), 1, limit=10**30, seed=-(10**30))) == 1


def test_images_with_a_gradient_are_taken_without():
    x = X.clone().requires_grad_()
    (one,) = data.permuted(Dataset("d", ("a", "b"), x, Y, x, Y), 1)
    assert not one.train.x.requires_grad
