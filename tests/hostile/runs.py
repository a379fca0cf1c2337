"""Folders of runs in which one file is damaged: the options, the figures, the checkpoint, the logits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import hat
from tests.hostile import checkpoints
from tests.hostile.kind import EITHER, READ, Kind, of_bytes, write

_COMMANDS = ("evaluate", "report", "resume")
Edit = Callable[[dict[str, Any]], object]

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"7",
    "100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects 100,000 deep": b'{"stream":' * 100_000 + b"1" + b"}" * 100_000,
    "number of a million digits": b'{"stream": ' + b"9" * 1_000_000 + b"}",
    "not a number": b'{"stream": NaN}',
    "infinity": b'{"training": -Infinity}',
    "same key twice": b'{"stream": 1, "stream": 2}',
    "half a character": b'{"\\ud800": "\\udfff"}',
    "bytes that are no text": b'{"stream": "\xff\xfe"}',
    "UTF-16": '{"stream": 1}'.encode("utf-16"),
    "cut short": b'{"stream": {"str',
    "a pickle": b"\x80\x04cos\nsystem\n(X\x0e\0\0\0echo executed  tR.",
    "python": b"__import__('os').system('echo x > executed')",
    "codes of the terminal": b'{"\\u001b[2J\\u0007\\n\\r": 1}',
    "key of a megabyte": b'{"' + b"x" * (1 << 20) + b'": 1}',
    "a hundred thousand keys": json.dumps({str(n): n for n in range(100_000)}).encode(),
    "prototype": b'{"__proto__": {}, "__class__": "os.system"}',
}


def spaces(path: Path) -> None:
    """A gigabyte that takes no room on the disk."""
    with path.open("r+b") as file:
        file.truncate(2**30)


def irregular(at: Path, file: str, make: Callable[[Path], object]) -> None:
    (at / file).unlink()
    make(at / file)


PLACES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
}

VALUES: dict[str, Any] = {
    "an object": {"a": [{}]},
    "a list of lists": [[[]]],
    "text": "\ud800\0\x1b[2J\n../../executed",
    "a large number": 10**30,
    "a fraction below 0": -0.5,
    "not a number": float("nan"),
}


def edit_config(at: Path, edit: Edit) -> None:
    config = json.loads((at / "config.json").read_text())
    edit(config)
    (at / "config.json").write_text(json.dumps(config))


def set_field(at: Path, place: Sequence[str], value: Any) -> None:
    def edit(config: dict[str, Any]) -> None:
        for name in place[:-1]:
            config = config[name]
        config[place[-1]] = value

    edit_config(at, edit)


FIELDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("stream",): ("stream", "datasets", "tasks", "classes_per_task", "validation", "seed", "root", "limit", "size"),
    ("network",): ("network", "hidden", "width", "stem", "depth", "heads", "patch", "dropout"),
    ("gates",): ("mask_mode", "compensation", "s_max", "limit", "init", "locked_first", "fold"),
    ("training",): (
        "epochs",
        "batch_size",
        "lr",
        "optimizer",
        "seed",
        "device",
        "dtype",
        "eval_batch_size",
        "graph",
        "clip",
    ),
    (): ("stream", "network", "gates", "training", "references", "verify", "grow"),
}


def edit_checkpoint(at: Path, edit: Edit) -> None:
    payload = hat.checkpoint.load(at / "checkpoint.pt")
    edit(payload)
    document = {"format": hat.checkpoint.FORMAT, "version": hat.checkpoint.VERSION, "payload": payload}
    torch.save(document, at / "checkpoint.pt")  # `hat.checkpoint.save` would not write all of this


def in_model(ending: str, change: Callable[[torch.Tensor], Any]) -> Edit:
    def edit(payload: dict[str, Any]) -> None:
        name = next(name for name in payload["model"] if name.endswith(ending))
        payload["model"][name] = change(payload["model"][name])

    return edit


def facts(**values: Any) -> Edit:
    """Change the JSON in the state of the model."""

    def change(state: torch.Tensor) -> torch.Tensor:
        told = {**json.loads(state.numpy().tobytes()), **values}
        return torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)

    return in_model("_extra_state", change)


def deep(_: torch.Tensor) -> torch.Tensor:
    return torch.frombuffer(bytearray(b"[" * 100_000), dtype=torch.uint8)


MODELS: dict[str, Edit] = {
    "sparse weight": in_model("linear1.weight", lambda w: w.to_sparse()),
    "weight of integers": in_model("linear1.weight", lambda w: w.long()),
    "complex weight": in_model("linear1.weight", lambda w: w.to(torch.complex64)),
    "weight that is not a number": in_model("linear1.weight", lambda w: w * float("nan")),
    "weight on meta": in_model("linear1.weight", lambda w: w.to("meta")),
    "weight of one number seen many times": in_model("linear1.weight", lambda w: w[:1, :1].expand(w.shape)),
    "weight of another shape": in_model("linear1.weight", lambda w: w[:-1]),
    "weight of 10**12 numbers": in_model("linear1.weight", lambda w: w[:1, :1].expand(10**6, 10**6)),
    "bias that is a number": in_model("linear1.bias", lambda b: 1.0),
    "bias that is the weight": in_model("linear1.bias", lambda b: [b]),
    "embedding of 10**9 units": in_model(".embedding", lambda e: e[:1].expand(10**9)),
    "embedding of no unit": in_model(".embedding", lambda e: e[:0]),
    "embedding that is not a number": in_model(".embedding", lambda e: e * float("inf")),
    "masks between 0 and 1": in_model(".masks", lambda m: m * 0.5),
    "masks that are not numbers": in_model(".masks", lambda m: m * float("nan")),
    "masks of 10**9 tasks": in_model(".masks", lambda m: m[:1].expand(10**9, -1)),
    "order with a unit twice": in_model(".origin", lambda o: o * 0),
    "order of 2**62": in_model(".origin", lambda o: o + 2**62),
    "facts too deep": in_model("_extra_state", deep),
    "facts of other text": in_model("_extra_state", lambda s: s * 0),
    "facts of 20,000 tasks": facts(classes=[["0", "1"]] * 20_000),
    "facts of half a character": facts(classes=[["\ud800", "b"], ["c", "d"]]),
    "facts of forgotten tasks that never were": facts(forgotten=[10**30]),
    "facts without seals": facts(sealed={"a": 1}),
    "facts with seals of other types": facts(sealed=[[["x"]]]),
    "facts of a drifted list": facts(drifted=[1]),
    "names that are dotted": lambda p: p["model"].update({"__class__.__init__": torch.zeros(1)}),
    "names that are numbers": lambda p: p["model"].update({7: torch.zeros(1)}),
    "no tensors": lambda p: p["model"].clear(),
}
HARMLESS = (
    "facts of half a character",
    "weight that is not a number",
    "weight of one number seen many times",
    "embedding that is not a number",
)

PAYLOADS: dict[str, Edit] = {
    "no model": lambda p: p.pop("model"),
    "seconds of 10**400": lambda p: p.update(seconds=10**400),
    "random state of another length": lambda p: p["random"].update(cpu=torch.zeros(7, dtype=torch.uint8)),
    "random state of floats": lambda p: p["random"].update(cpu=torch.zeros(5056)),
    "random state of 10**12": lambda p: p["random"].update(cpu=torch.zeros(1, dtype=torch.uint8).expand(10**12)),
    "random state on meta": lambda p: p["random"].update(cpu=torch.zeros(5056, dtype=torch.uint8, device="meta")),
    "accuracy beyond 1": lambda p: p["history"].update(accuracy=[[7.0], [0.5, float("inf")]]),
    "capacity of text": lambda p: p["history"].update(capacity=[{"a": "x"}, {"a": "x"}]),
    "capacity without gates": lambda p: p["history"].update(capacity=[{}, {}]),
    "capacity of other gates": lambda p: p["history"]["capacity"][0].update(x=0.5),
    "epochs without columns": lambda p: p["history"].update(epochs=[{}]),
    "epochs with tensors": lambda p: p["history"]["epochs"][0].update(loss=torch.zeros(3)),
    "names with codes of the terminal": lambda p: p["history"].update(names=["\x1b[2J\n", "\ud800\0"]),
    "names of half a character": lambda p: p["history"].update(names=["\ud800", "\udfff"]),
    "names of a megabyte": lambda p: p["history"].update(names=["x" * (1 << 20), "y"]),
    "growth of other types": lambda p: p["history"].update(growth=[{"task": "x", "units": 7}]),
    "drift of 10**400": lambda p: p["history"].update(drift=[[10**400], [0.0, 0.0]]),
    "tasks of no shape": lambda p: [task.update(input_shape=[]) for task in p["identity"]["tasks"]],
    "tasks of shape 10**9": lambda p: [task.update(input_shape=[1, 10**9, 10**9]) for task in p["identity"]["tasks"]],
    "tasks of negative shape": lambda p: [task.update(input_shape=[-1, 8, 8]) for task in p["identity"]["tasks"]],
    "classes of 50,000": lambda p: p["identity"]["tasks"][0].update(classes=["x"] * 50_000),
    "fingerprint of text": lambda p: p["identity"]["tasks"][0].update(train=[float("nan")]),
    "options of other types": lambda p: p["identity"].update(config={"lr": [{}]}),
    "options with keys that are numbers": lambda p: p["identity"].update(config={1: 2}, gates={None: 3}),
    "network of a megabyte": lambda p: p["identity"].update(network="\x1b[2J" * (1 << 18)),
}
IGNORED_BY = {
    "evaluate": ("epochs", "growth", "names", "random", "accuracy", "capacity", "drift"),
    "report": ("random", "epochs", "growth", "names", "drift", "fingerprint", "options", "classes", "accuracy"),
    "resume": ("epochs", "growth", "names", "accuracy", "capacity", "drift"),
}
"""Commands may pass over what they do not read."""

FITS: dict[str, Edit] = {
    "optimizer without groups": lambda f: f["optimizer"].update(param_groups=[]),
    "optimizer groups of other types": lambda f: f["optimizer"].update(param_groups=[7]),
    "optimizer of other parameters": lambda f: f["optimizer"]["param_groups"][0].update(params=[0]),
    "optimizer with keys that are lists": lambda f: f["optimizer"].update(state={"x": 7}),
    "optimizer rate of text": lambda f: f["optimizer"]["param_groups"][0].update(lr="fast"),
    "momentum of another shape": lambda f: f["optimizer"].update(state={0: {"momentum_buffer": torch.zeros(3)}}),
    "momentum of 10**12 numbers": lambda f: f["optimizer"].update(
        state={0: {"momentum_buffer": torch.zeros(1, dtype=torch.float64).expand(10**12)}}
    ),
    "momentum that is sparse": lambda f: f["optimizer"].update(
        state={0: {"momentum_buffer": torch.eye(3).to_sparse()}}
    ),
    "momentum that is text": lambda f: f["optimizer"].update(state={0: {"momentum_buffer": "x"}}),
    "plateau with other keys": lambda f: f["plateau"].update(x=1),
    "plateau of 10**400": lambda f: f["plateau"].update(epoch=10**400),
    "plateau before the start": lambda f: f["plateau"].update(epoch=-5),
    "plateau rate that is not a number": lambda f: f["plateau"].update(lr=float("nan")),
    "best weights of another shape": lambda f: f["best"].update(x=torch.zeros(3)),
    "best weights of text": lambda f: f.update(best={"body": "x"}),
    "best weights of 10**12 numbers": lambda f: f["best"].update(
        {name: value[:1].expand(10**6, 10**6) for name, value in f["best"].items() if name.endswith("linear1.bias")}
    ),
    "scaler of other types": lambda f: f["scaler"].update(scale="x", growth_factor=None),
}

RESULTS: dict[str, Any] = {
    "references of other types": {"references": {"joint": [2]}, "random": [0.1, 0.1]},
    "references of text": {"references": {"joint": "xy"}, "random": "xy"},
    "references with codes of the terminal": {"references": {"\x1b[2J": [0.5, 0.5]}, "random": [0.1, 0.1]},
    "references of half a character": {"references": {"\ud800": [0.5, 0.5]}, "random": [0.1, 0.1]},
    "references of 10**400": {"references": {"joint": [10**400, 0]}, "random": [0.1, 0.1]},
    "references too deep": {"references": {"joint": [[[[]]]]}, "random": [{}]},
}


def kinds() -> Iterator[Kind]:
    """All kinds of this file."""
    for command in _COMMANDS:
        yield Kind(f"run/whole, {command}", command, lambda at: None, outcome=READ)
    for file, outcome in (("config.json", "refused"), ("result.json", EITHER)):
        for index, (name, content) in enumerate(TEXTS.items()):
            command = _COMMANDS[index % 3] if file == "config.json" else "report"
            yield from of_bytes("json", command, file, {f"{file} {name}": content}, outcome)
        yield Kind(f"json/{file} of a gigabyte", "report", lambda at, file=file: spaces(at / file), file, outcome)
        for name, make in PLACES.items():
            command = "evaluate" if file == "config.json" else "report"
            build = partial(irregular, file=file, make=make)
            yield Kind(f"json/{file} {name}", command, build, file, outcome)
    for name, result in RESULTS.items():
        yield Kind(
            f"json/result.json {name}",
            "report",
            lambda at, result=result: (at / "result.json").write_text(json.dumps(result)),
            "result.json",
            EITHER,
        )
    for index, sizes in enumerate(([30_000, 30_000], [10**9], [1] * 5000)):
        build = partial(set_field, place=("network", "hidden"), value=sizes)
        yield Kind(f"json/network.hidden of {len(sizes)} sizes", _COMMANDS[index], build, "config.json")
    for place, fields in FIELDS.items():
        for index, field in enumerate(fields):
            for number, (name, value) in enumerate(VALUES.items()):
                yield Kind(
                    f"json/{'.'.join((*place, field))} {name}",
                    _COMMANDS[(index + number) % 3],
                    partial(set_field, place=(*place, field), value=value),
                    "config.json",
                    EITHER,
                )
    for index, (name, edit) in enumerate(MODELS.items()):
        yield Kind(
            f"state/{name}",
            _COMMANDS[index % 3],
            partial(edit_checkpoint, edit=edit),
            "checkpoint.pt",
            EITHER if name in HARMLESS else "refused",
        )
        yield Kind(
            f"model/{name}",
            "model",
            partial(edit_checkpoint, edit=edit),
            "checkpoint.pt",
            EITHER if name in HARMLESS else "refused",
        )
    for name, edit in PAYLOADS.items():
        for command in _COMMANDS:
            yield Kind(
                f"run/{name}, {command}",
                command,
                partial(edit_checkpoint, edit=edit),
                "checkpoint.pt",
                EITHER if name.startswith(IGNORED_BY[command]) else "refused",
            )
    for name, edit in FITS.items():
        yield Kind(
            f"fit/{name}",
            "halfway",
            lambda at, e=edit: edit_checkpoint(at, lambda p: e(p["fit"])),
            "checkpoint.pt",
            EITHER if name in ("plateau of 10**400", "optimizer rate of text", "scaler of other types") else "refused",
        )
    for name in ("packed", "pipe"):
        yield Kind(f"run/logits {name}", "evaluate", partial(hostile_logits, name=name), "logits/task-0000.pt")
    yield Kind(
        "run/checkpoint that is a pipe",
        "report",
        partial(irregular, file="checkpoint.pt", make=os.mkfifo),
        "checkpoint.pt",
    )
    for name in ("100,000 deep", "number of a million digits", "bytes that are no text"):
        yield Kind(
            f"json/compression.json {name}", "compress", partial(figures, content=TEXTS[name]), "compression.json"
        )


def figures(at: Path, content: bytes) -> None:
    """Make a run of `hat compress` of the folder, with these figures."""
    edit_config(at, lambda config: config["stream"].update(stream="mixture", tasks=None))
    write(at / "compression.json", content)


def hostile_logits(at: Path, name: str) -> None:
    file = at / "logits" / "task-0000.pt"
    file.unlink()
    if name == "pipe":
        os.mkfifo(file)
    else:
        checkpoints.FILES["packed bomb"][0](file)
