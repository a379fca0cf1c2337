"""`hat export`: write the network of some tasks as a plain, smaller network."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hat import checkpoint
from hat.cli.stored import StoredRun, open_run
from hat.data import Part
from hat.exporting.api import TasksNetwork, export
from hat.exporting.errors import ExportError
from hat.network.tolerance import LAYERS, difference, largest_change
from hat.ownership import owned
from hat.text import aligned
from hat.training import TrainConfig, evaluate

_NEEDS = {"pt2": (), "safetensors": ("safetensors",), "onnx": ("onnx", "onnxscript")}
FORMATS = tuple(_NEEDS)
FACTS, _WEIGHTS = "export.json", "weights.safetensors"
DEFAULT = ("pt2", "safetensors")


def run_export(arguments: argparse.Namespace) -> None:
    """Write a plain network that gives the same logits for some tasks as the network of a run.

    Raises:
        ValueError: the folder holds no run, a file is damaged, a task is not finished, or the logits differ.
        ImportError: a package that a format needs is missing.
        OSError: the folder cannot be written to.
    """
    formats = tuple(dict.fromkeys(arguments.format))
    _check_installed(formats)
    run = open_run(arguments.run_dir, data=arguments.data, device=arguments.device)
    tasks = _tasks(run, arguments.task)
    folder = arguments.to or run.folder.path / "export" / "-".join(map(str, ("task", *tasks)))
    folder.mkdir(parents=True, exist_ok=True)
    with owned(folder):
        names = _names(tasks, formats)
        earlier = _earlier(folder, names)
        network = export(run.model, tasks[0]) if len(tasks) == 1 else export(run.model, tasks=tasks)
        facts = {**_facts(run, network, tasks), "files": sorted({*earlier, *names})}
        # The example inputs are cloned, because a file would otherwise hold the whole tensor that they are a view of.
        images = {task: run.stream[task].test[:2][0].cpu().clone() for task in tasks}
        # The files are written beside their places, so that a failure leaves nothing that the next export must refuse.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as beside:
            _write(network.cpu(), images, Path(beside), formats)
            with checkpoint.replacing(Path(beside) / FACTS) as file:
                file.write((json.dumps(facts, indent=2) + "\n").encode())
            for name in names:
                os.replace(Path(beside) / name, folder / name)
    print(_render(facts))
    print(f"\nwritten to          {folder}: {', '.join(names)}")


def _names(tasks: Sequence[int], formats: Sequence[str]) -> list[str]:
    """The names of the files of an export, as `_write` writes them."""
    networks = ["network"] if len(tasks) == 1 else [f"network-{task}" for task in tasks]
    graphs = [f"{network}.{kind}" for network in networks for kind in ("pt2", "onnx") if kind in formats]
    return [*graphs, *([_WEIGHTS] if "safetensors" in formats else []), FACTS]


def _earlier(folder: Path, names: Sequence[str]) -> set[str]:
    """The names of the files that earlier exports have written to a folder.

    Raises:
        ValueError: one of the given names is that of somebody else's file; the message names it.
    """
    try:
        content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        content = None
    ours = isinstance(content, dict) and {"tasks", "input_shape", "units", "parameters", "torch"} <= content.keys()
    # An earlier version wrote no list: its files have the names of an export.
    listed = content.get("files", names) if ours else []
    earlier = {FACTS, *map(str, listed)} if ours and isinstance(listed, Sequence) else set()
    for name in names:
        if os.path.lexists(folder / name) and name not in earlier:
            expected = f"{folder / name}: expected no file or a file of an earlier export, got another"
            raise ValueError(f"{expected}; move it away, or name another folder with --to")
    return earlier


def _check_installed(formats: Sequence[str]) -> None:
    for name in formats:
        for package in _NEEDS[name]:
            if importlib.util.find_spec(package) is None:
                raise ImportError(f"--format {name} needs {package}: pip install 'hat-kernels[export]'")


def _tasks(run: StoredRun, tasks: list[int]) -> list[int]:
    if not run.model.tasks:
        raise ValueError(f"{run.folder.path}: expected a run with a finished task, got none yet")
    for task in tasks:
        run.model.check_task(task, finished=True, argument="--task")
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"--task: expected every task once, got {' '.join(map(str, tasks))}")
    return tasks


def _facts(run: StoredRun, network: nn.Module, tasks: list[int]) -> dict[str, Any]:
    """The content of `export.json`."""
    model = run.model
    embeddings = {id(embedding) for embedding in model.embeddings}
    heads = [p for task in tasks for p in model.heads[task].parameters()]
    dense = sum(p.numel() for p in (*model.body.parameters(), *heads) if id(p) not in embeddings)
    kept: Any = network.units
    return {
        "tasks": [compared(run, network, task) for task in tasks],
        "input_shape": list(run.stream.input_shape),
        "units": {name: {"kept": kept[name], "of": gate.units} for name, gate in model.gates.items()},
        "parameters": {"kept": sum(p.numel() for p in network.parameters()), "of": dense},
        "torch": torch.__version__,
    }


def compared(run: StoredRun, network: nn.Module, task: int) -> dict[str, Any]:
    """Compare the accuracies of the network of a run and of the exported network on the test part of a task.

    Raises:
        ExportError: a logit differs by more than rounding.
    """
    test, config = run.stream[task].test, run.spec.training
    dense = evaluate(run.model, test, task, config)
    options = {"task": task} if isinstance(network, TasksNetwork) else {}
    logits = _logits(lambda x: network(x, **options), test, config)
    computed = config.autocast_dtype() or torch.float32  # the dtype of the computation, whose rounding counts
    change = difference(logits.to(computed), dense.logits.to(computed), LAYERS)
    if change:
        raise ExportError(f"task {task}: expected the logits of the run, got logits that differ by {change:g}")
    return {
        "task": task,
        "name": run.stream[task].name,
        "classes": list(run.stream[task].classes),
        "images": len(test),
        "accuracy": dense.accuracy,
        "accuracy_exported": (logits.argmax(1) == test.y.cpu()).float().mean().item(),
        "largest_difference": largest_change(logits, dense.logits),
    }


@torch.inference_mode()
def _logits(answer: Callable[[Tensor], Tensor], part: Part, config: TrainConfig) -> Tensor:
    device = config.torch_device()
    with config.autocast():
        return torch.cat(
            [answer(x.to(device)).float().cpu() for x, _ in part.batches(batch_size=config.eval_batch_size)]
        )


def _write(network: nn.Module, images: dict[int, Tensor], folder: Path, formats: Sequence[str]) -> None:
    """Write the files of a network on the CPU, by the names of `_names`.

    A network of several tasks is written as one graph a task, because a graph has no choice of a task.
    """
    for task, x in images.items():
        options = {"task": task} if isinstance(network, TasksNetwork) else {}
        name = f"network-{task}" if options else "network"
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporters warn about their own code
            for kind, write in (("pt2", _write_program), ("onnx", _write_onnx)):
                if kind in formats:
                    write(network, x, options, folder / f"{name}.{kind}")
    if "safetensors" in formats:
        _write_weights(network, folder / _WEIGHTS)


def _write_weights(network: nn.Module, path: Path) -> None:
    """Write every tensor once, so that `safetensors.torch.load_model` can read the file."""
    from safetensors.torch import save

    with checkpoint.replacing(path) as file:
        file.write(save({**dict(network.named_parameters()), **dict(network.named_buffers())}))


def _write_program(network: nn.Module, x: Tensor, options: dict[str, int], path: Path) -> None:
    program = torch.export.export(network, (x,), options, dynamic_shapes=_dynamic(options), strict=False)
    with checkpoint.replacing(path) as file:
        torch.export.save(program, file)
    loaded = torch.export.load(path).module()
    change = difference(loaded(x, **options), network(x, **options), LAYERS)
    if change:
        raise ExportError(f"{path}: expected the logits of the network, got logits that differ by {change:g}")


def _write_onnx(network: nn.Module, x: Tensor, options: dict[str, int], path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shapes = _dynamic(options)
    torch.onnx.export(
        network, (x,), path, kwargs=options, dynamic_shapes=shapes, dynamo=True, verbose=False, external_data=False
    )


def _dynamic(options: dict[str, int]) -> dict[str, Any]:
    """The dynamic shapes of an exported graph: any number of images."""
    return {"x": {0: torch.export.Dim("batch")}, **dict.fromkeys(options)}


def _render(facts: dict[str, Any]) -> str:
    axes = [["axis", "kept", "of", "share"]]
    for name, units in (*facts["units"].items(), ("parameters", facts["parameters"])):
        axes.append([name, f"{units['kept']:,}", f"{units['of']:,}", f"{units['kept'] / units['of']:.1%}"])
    tasks = [["task", "accuracy", "exported"]]
    for task in facts["tasks"]:
        tasks.append([task["name"], f"{task['accuracy']:.2%}", f"{task['accuracy_exported']:.2%}"])
    return "\n".join([*aligned(axes, numbers=(1, 2, 3)), "", *aligned(tasks, numbers=(1, 2))])
