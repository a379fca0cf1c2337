"""`hat export`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
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
from hat.resizing.trial import rounding
from hat.training import TrainConfig, evaluate
from hat.verification.verify import largest_change

_NEEDS = {"pt2": (), "safetensors": ("safetensors",), "onnx": ("onnx", "onnxscript")}
FORMATS = tuple(_NEEDS)
DEFAULT = ("pt2", "safetensors")


def run_export(arguments: argparse.Namespace) -> None:
    """Write what tasks of a run have learned as a plain network, which answers as the run's does.

    Raises:
        ValueError: no run there, its files are broken, no such finished task, or the network answers something else.
        ImportError: a package that a format needs is missing.
        OSError: the folder cannot be written to.
    """
    formats = tuple(dict.fromkeys(arguments.format))
    _check_installed(formats)
    run = open_run(arguments.run_dir, data=arguments.data, device=arguments.device)
    tasks = _tasks(run, arguments.task)
    folder = arguments.to or run.folder.path / "export" / "-".join(map(str, ("task", *tasks)))
    folder.mkdir(parents=True, exist_ok=True)
    network = export(run.model, tasks[0]) if len(tasks) == 1 else export(run.model, tasks=tasks)
    facts = _facts(run, network, tasks)
    images = {task: run.stream[task].test[:2][0].cpu().clone() for task in tasks}  # alone, as they are written too
    written = _write(network.cpu(), images, folder, formats)
    with checkpoint.replacing(folder / "export.json") as file:
        file.write((json.dumps(facts, indent=2) + "\n").encode())
    print(_render(facts))
    print(f"\nwritten to          {folder}: {', '.join([*written, 'export.json'])}")


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
    """What `export.json` says."""
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
    """The accuracy on the test part of a task, of the run's network and of the exported one.

    Raises:
        ExportError: a logit differs by more than rounding.
    """
    test, config = run.stream[task].test, run.spec.training
    dense = evaluate(run.model, test, task, config)
    options = {"task": task} if isinstance(network, TasksNetwork) else {}
    logits = _logits(lambda x: network(x, **options), test, config)
    difference = largest_change(logits, dense.logits)
    dtype = config.autocast_dtype() or torch.float32
    if not difference <= rounding(dtype) * max(1.0, float(dense.logits.abs().max())):
        raise ExportError(f"task {task}: expected the logits of the run, got some that differ by {difference:g}")
    return {
        "task": task,
        "name": run.stream[task].name,
        "classes": list(run.stream[task].classes),
        "images": len(test),
        "accuracy": dense.accuracy,
        "accuracy_exported": (logits.argmax(1) == test.y.cpu()).float().mean().item(),
        "largest_difference": difference,
    }


@torch.inference_mode()
def _logits(answer: Callable[[Tensor], Tensor], part: Part, config: TrainConfig) -> Tensor:
    device = config.torch_device()
    with config.autocast():
        return torch.cat(
            [answer(x.to(device)).float().cpu() for x, _ in part.batches(batch_size=config.eval_batch_size)]
        )


def _write(network: nn.Module, images: dict[int, Tensor], folder: Path, formats: Sequence[str]) -> list[str]:
    """The files of a network on the CPU, by name; of one for several tasks there is a graph a task."""
    written = []
    for task, x in images.items():
        options = {"task": task} if isinstance(network, TasksNetwork) else {}
        name = f"network-{task}" if options else "network"
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            for kind, write in (("pt2", _write_program), ("onnx", _write_onnx)):
                if kind in formats:
                    write(network, x, options, folder / f"{name}.{kind}")
                    written.append(f"{name}.{kind}")
    if "safetensors" in formats:
        _write_weights(network, folder / "weights.safetensors")
        written.append("weights.safetensors")
    return written


def _write_weights(network: nn.Module, path: Path) -> None:
    """Every tensor once, so that `safetensors.torch.load_model` takes the file."""
    from safetensors.torch import save

    with checkpoint.replacing(path) as file:
        file.write(save({**dict(network.named_parameters()), **dict(network.named_buffers())}))


def _write_program(network: nn.Module, x: Tensor, options: dict[str, int], path: Path) -> None:
    program = torch.export.export(network, (x,), options, dynamic_shapes=_dynamic(options), strict=False)
    with checkpoint.replacing(path) as file:
        torch.export.save(program, file)
    again = torch.export.load(path).module()
    difference = largest_change(again(x, **options), network(x, **options))
    if difference > rounding(x.dtype) * max(1.0, float(network(x, **options).abs().max())):
        raise ExportError(f"{path}: expected the logits of the network, got some that differ by {difference:g}")


def _write_onnx(network: nn.Module, x: Tensor, options: dict[str, int], path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shapes = _dynamic(options)
    torch.onnx.export(
        network, (x,), path, kwargs=options, dynamic_shapes=shapes, dynamo=True, verbose=False, external_data=False
    )


def _dynamic(options: dict[str, int]) -> dict[str, Any]:
    """Any number of images."""
    return {"x": {0: torch.export.Dim("batch")}, **dict.fromkeys(options)}


def _render(facts: dict[str, Any]) -> str:
    width = max(len(name) for name in ("task", *facts["units"], *(task["name"] for task in facts["tasks"])))
    lines = [f"{'axis':<{width}}      units kept"]
    for name, units in (*facts["units"].items(), ("parameters", facts["parameters"])):
        lines.append(f"{name:<{width}}  {units['kept']:>10,} of {units['of']:>10,}  {units['kept'] / units['of']:6.1%}")
    lines += ["", f"{'task':<{width}}  accuracy  exported"]
    for task in facts["tasks"]:
        lines.append(f"{task['name']:<{width}}  {task['accuracy']:8.2%}  {task['accuracy_exported']:8.2%}")
    return "\n".join(lines)
