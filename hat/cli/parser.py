"""The commands and options of the command line."""

from __future__ import annotations

import argparse
from argparse import SUPPRESS
from pathlib import Path

from hat.cli.compress import DEFAULTS as COMPRESSION
from hat.cli.compress import run_compress
from hat.cli.evaluate import run_evaluate
from hat.cli.export import DEFAULT, FORMATS, run_export
from hat.cli.options import add_field
from hat.cli.report import run_report
from hat.cli.sources import run_data
from hat.cli.spec import NETWORKS, STREAMS, NetworkSpec, RunSpec, StreamSpec
from hat.cli.train import run_train
from hat.data.catalogue import CATALOGUE
from hat.models.resnet import STEMS
from hat.training import REFERENCES, TrainConfig
from hat.training.config import DTYPES, OPTIMIZERS
from hat.training.growth import GROWTHS
from hat.units.state import COMPENSATIONS, INITS, MASK_MODES, GateConfig


def make_parser() -> argparse.ArgumentParser:
    """The parser of `hat`. The arguments that it returns have the function of the command as `run`."""
    parser = argparse.ArgumentParser(
        prog="hat",
        description="Learn task after task with one network that forgets no task (hard attention to the task).",
        epilog="Try: hat train --hidden 800 800 --epochs 20 --momentum 0.9 --lr 0.02 "
        "(five tasks of permuted digits, no download, under a minute).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="learn a stream of tasks"))
    _add_compress(commands.add_parser("compress", help="see how few weights are enough for a dataset"))
    evaluate = commands.add_parser("evaluate", help="test every task of a finished or interrupted run")
    evaluate.add_argument("run_dir", type=Path, help="the folder of the run")
    evaluate.add_argument("--task", type=int, metavar="T", help="only this task, counted from 0")
    evaluate.add_argument("--data", metavar="FOLDER", help="the data folder; default: that of the run")
    evaluate.add_argument("--device", help="default: the device of the run")
    evaluate.set_defaults(run=run_evaluate)
    _add_export(commands.add_parser("export", help="write the network of a task as a small plain network"))
    report = commands.add_parser("report", help="show a run: accuracy, units that each task uses, free units")
    report.add_argument("run_dir", type=Path, help="the folder of the run; pictures are saved in its folder plots")
    report.set_defaults(run=run_report)
    data = commands.add_parser("data", help="list the datasets that have a name, and where they are")
    data.add_argument("--data", metavar="FOLDER", help="the data folder; default: $HAT_DATA, else the user's cache")
    data.set_defaults(run=run_data)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="on an error, show where it was raised")
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the network of some tasks as a plain network without the units that these tasks do not use: network.pt2 "
        "for torch.export.load, weights.safetensors, network.onnx, and export.json with its size and accuracy."
    )
    parser.add_argument("run_dir", type=Path, help="the folder of the run")
    task = "a task, counted from 0; give it several times for one network of several tasks, with a graph a task"
    parser.add_argument("--task", type=int, metavar="T", action="append", required=True, help=task)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to write; default: RUN_DIR/export/task-T")
    formats = f"default: {' '.join(DEFAULT)}"
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=DEFAULT, help=formats)
    parser.add_argument("--data", metavar="FOLDER", help="the data folder; default: that of the run")
    parser.add_argument("--device", help="the device of the test; default: that of the run")
    parser.set_defaults(run=run_export)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Learn a stream of tasks. The defaults are the recipe of the HAT paper. Every finished epoch is saved. After "
        "Ctrl-C or a crash, --resume continues from the last saved epoch, and the result is the same."
    )
    parser.set_defaults(run=run_train)

    tasks = _add_data(parser)
    add_field(tasks, StreamSpec, "stream", choices=STREAMS)
    add_field(tasks, StreamSpec, "tasks", type=int)
    add_field(tasks, StreamSpec, "classes_per_task", type=int)
    _add_network(parser)
    attention = parser.add_argument_group("attention")
    add_field(attention, TrainConfig, "lamb")
    _add_attention(attention)
    _add_recipe(parser)
    output = _add_output(parser, "runs/STREAM-DATASET")
    add_field(output, RunSpec, "references", nargs="+", choices=REFERENCES)
    add_field(output, RunSpec, "verify")
    add_field(attention, RunSpec, "grow", choices=GROWTHS)


def _add_compress(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Learn each dataset alone, by a fresh network, and see how few of its weights are enough. Every epoch prints a "
        "line. The table at the end shows the accuracy, the accuracy of the same network without attention, and the "
        "share of weights between units that are on. The defaults are those of the HAT paper for compression. Every "
        "finished epoch is saved, as by hat train."
    )
    parser.set_defaults(run=run_compress)
    _add_data(parser)
    _add_network(parser)
    attention = parser.add_argument_group("attention")
    add_field(attention, TrainConfig, "lamb", default=COMPRESSION["lamb"])
    add_field(attention, GateConfig, "init", default=COMPRESSION["init"], choices=INITS)
    _add_attention(attention)
    _add_recipe(parser)
    _add_output(parser, "runs/compress-DATASET")


def _add_data(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    tasks = parser.add_argument_group("tasks", f"datasets that have a name: {', '.join(CATALOGUE)} (see hat data)")
    add_field(tasks, StreamSpec, "datasets", nargs="+")
    add_field(tasks, StreamSpec, "validation")
    add_field(tasks, StreamSpec, "limit", type=int)
    add_field(tasks, StreamSpec, "size", type=int, nargs=2, metavar=("H", "W"))
    add_field(tasks, StreamSpec, "root", metavar="FOLDER")
    add_field(tasks, StreamSpec, "max_gib")
    return tasks


def _add_network(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("network")
    add_field(network, NetworkSpec, "network", choices=NETWORKS)
    add_field(network, NetworkSpec, "hidden", type=int, nargs="+")
    for name in ("width", "depth", "heads", "patch"):
        add_field(network, NetworkSpec, name, type=int)
    add_field(network, NetworkSpec, "stem", choices=STEMS)
    add_field(network, NetworkSpec, "dropout", type=float)


def _add_attention(attention: argparse._ArgumentGroup) -> None:
    add_field(attention, GateConfig, "s_max")
    add_field(attention, GateConfig, "mask_mode", choices=MASK_MODES)
    add_field(attention, GateConfig, "compensation", choices=COMPENSATIONS)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    recipe = parser.add_argument_group("training")
    for name in ("epochs", "batch_size", "lr", "lr_factor", "lr_patience", "lr_min", "clip"):
        add_field(recipe, TrainConfig, name)
    add_field(recipe, TrainConfig, "optimizer", choices=OPTIMIZERS)
    for name in ("momentum", "weight_decay", "seed", "device"):
        add_field(recipe, TrainConfig, name)
    add_field(recipe, TrainConfig, "dtype", choices=tuple(DTYPES))
    for name in ("graph", "compile"):
        add_field(recipe, TrainConfig, name)


def _add_output(parser: argparse.ArgumentParser, folder: str) -> argparse._ArgumentGroup:
    output = parser.add_argument_group("output")
    for option, text in (
        ("--run-dir", f"the folder of the run (default: {folder})"),
        ("--resume", "continue an interrupted run exactly"),
    ):
        output.add_argument(option, type=Path, metavar="FOLDER", default=SUPPRESS, help=text)
    replace = "replace an earlier run in the same folder, when the first epoch of this run is finished"
    output.add_argument("--overwrite", action="store_true", default=SUPPRESS, help=replace)
    output.add_argument("--quiet", action="store_true", help="print the final table only")
    return output
