"""What can be asked on the command line."""

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
    """The parser of `hat`; what it returns has the command's function as `run`."""
    parser = argparse.ArgumentParser(
        prog="hat",
        description="Learn task after task with one network that forgets none (hard attention to the task).",
        epilog="Try: hat train --hidden 800 800 --epochs 20 --momentum 0.9 --lr 0.02 "
        "(five tasks of permuted digits, no download, under a minute).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="learn a stream of tasks"))
    _add_compress(commands.add_parser("compress", help="see how few weights are enough for one dataset at a time"))
    evaluate = commands.add_parser("evaluate", help="test every task of a finished or interrupted run")
    evaluate.add_argument("run_dir", type=Path, help="the folder of the run")
    evaluate.add_argument("--task", type=int, metavar="T", help="only this task, counted from 0")
    evaluate.add_argument("--data", metavar="FOLDER", help="where the data is now; default: as in the run")
    evaluate.add_argument("--device", help="default: as in the run")
    evaluate.set_defaults(run=run_evaluate)
    _add_export(commands.add_parser("export", help="write what a task has learned as a small plain network"))
    report = commands.add_parser("report", help="show a run: accuracy, which task uses which units, what is free")
    report.add_argument("run_dir", type=Path, help="the folder of the run; pictures go to its folder plots")
    report.set_defaults(run=run_report)
    data = commands.add_parser("data", help="list the datasets that have a name, and where they were found")
    data.add_argument("--data", metavar="FOLDER", help="the data folder; default: $HAT_DATA, else the user's cache")
    data.set_defaults(run=run_data)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="on an error, show where in the code it arose")
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write what tasks have learned as a plain network without the units that they do not use: network.pt2 for "
        "torch.export.load, weights.safetensors, network.onnx, and export.json: what is left, and how accurate it is."
    )
    parser.add_argument("run_dir", type=Path, help="the folder of the run")
    several = "a task, counted from 0; several times for one network of several tasks, with a graph for each"
    parser.add_argument("--task", type=int, metavar="T", action="append", required=True, help=several)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to write; default: RUN_DIR/export/task-T")
    formats = f"default: {' '.join(DEFAULT)}"
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=DEFAULT, help=formats)
    parser.add_argument("--data", metavar="FOLDER", help="where the data is now; default: as in the run")
    parser.add_argument("--device", help="to test the network on; default: as in the run")
    parser.set_defaults(run=run_export)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Learn a stream of tasks. The defaults are the recipe of the HAT paper. Every finished epoch is saved: after "
        "Ctrl-C or a crash, --resume goes on from the last one, and ends as if nothing had happened."
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
        "Learn one dataset alone, or several, each by a fresh network, and see how few of its weights are enough: a "
        "line an epoch, and in the end the accuracy beside that of the same network without attention, and the share "
        "of weights between units that are on. The defaults are those of the HAT paper for compression. Every finished "
        "epoch is saved, as by hat train."
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
        ("--run-dir", f"where to keep the run (default: {folder})"),
        ("--resume", "continue an interrupted run exactly"),
    ):
        output.add_argument(option, type=Path, metavar="FOLDER", default=SUPPRESS, help=text)
    replace = "replace an earlier run in the same folder, once the first epoch of this one is finished"
    output.add_argument("--overwrite", action="store_true", default=SUPPRESS, help=replace)
    output.add_argument("--quiet", action="store_true", help="print the final table only")
    return output
