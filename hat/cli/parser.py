"""What can be asked on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.cli.evaluate import run_evaluate
from hat.cli.report import run_report
from hat.cli.spec import NETWORKS, STREAMS, NetworkSpec, RunSpec, StreamSpec
from hat.cli.train import run_train
from hat.state import COMPENSATIONS, MASK_MODES, GateConfig
from hat.training import REFERENCES, TrainConfig
from hat.training.config import DTYPES, OPTIMIZERS


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hat",
        description="Learn task after task with one network that forgets none (hard attention to the task).",
        epilog="Try: hat train --hidden 800 800 --epochs 20 --momentum 0.9 --lr 0.02 "
        "(five tasks of permuted digits, no download, under a minute).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="learn a stream of tasks", formatter_class=_Help))
    evaluate = commands.add_parser("evaluate", help="test every task of a finished or interrupted run")
    evaluate.add_argument("run_dir", type=Path, help="the folder of the run")
    evaluate.add_argument("--task", type=int, metavar="T", help="only this task, counted from 0")
    evaluate.add_argument("--data", metavar="FOLDER", help="where the data is now; default: as in the run")
    evaluate.add_argument("--device", help="default: as in the run")
    evaluate.set_defaults(run=run_evaluate)
    report = commands.add_parser("report", help="draw the accuracy, capacity and overlap of a run")
    report.add_argument("run_dir", type=Path, help="the folder of the run; pictures go to its folder plots")
    report.set_defaults(run=run_report)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="on an error, show where in the code it arose")
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = "Learn a stream of tasks. The defaults are the recipe of the HAT paper."
    parser.set_defaults(run=run_train, make_spec=_make_spec)
    stream, network, train = StreamSpec(), NetworkSpec(), TrainConfig()

    tasks = parser.add_argument_group("tasks")
    tasks.add_argument("--stream", choices=STREAMS, default=stream.stream, help="how the tasks are made")
    tasks.add_argument(
        "--dataset",
        nargs="+",
        default=list(stream.datasets),
        metavar="NAME",
        help="digits, mnist, fashion-mnist, notmnist, cifar10, cifar100, svhn, traffic-signs, or a path to your own "
        "data (idx folder, CIFAR batches, npz, image folder or archive); several for a mixture",
    )
    tasks.add_argument("--tasks", type=int, metavar="N", help="how many tasks; default: 5 permuted, else all there are")
    tasks.add_argument("--classes-per-task", type=int, default=stream.classes_per_task, metavar="N", help="of a split")
    tasks.add_argument("--validation", type=float, default=stream.validation, help="share of the training images")
    tasks.add_argument("--limit", type=int, metavar="N", help="use at most this many training images a class")
    tasks.add_argument("--data", metavar="FOLDER", help="the data folder; default: $HAT_DATA, then the usual places")

    model = parser.add_argument_group("network")
    model.add_argument("--network", choices=NETWORKS, default=network.network)
    model.add_argument(
        "--hidden", type=int, nargs="+", metavar="N", help="widths of the linear layers; default: the paper's"
    )
    model.add_argument(
        "--dropout", type=float, metavar="P", help="one probability for all layers; default: the paper's"
    )

    attention = parser.add_argument_group("attention")
    gates = GateConfig()
    attention.add_argument("--lamb", type=float, default=train.lamb, help="weight of the capacity penalty")
    attention.add_argument("--s-max", type=float, default=gates.s_max, help="scale at the end of every epoch")
    attention.add_argument(
        "--mask-mode", choices=MASK_MODES, default=gates.mask_mode, help="binary forgets exactly nothing"
    )
    attention.add_argument("--compensation", choices=COMPENSATIONS, default=gates.compensation)

    recipe = parser.add_argument_group("training")
    recipe.add_argument("--epochs", type=int, default=train.epochs, metavar="N", help="at most, per task")
    recipe.add_argument("--batch-size", type=int, default=train.batch_size, metavar="N")
    recipe.add_argument("--lr", type=float, default=train.lr, help="learning rate")
    recipe.add_argument("--lr-factor", type=float, default=train.lr_factor, help="the rate is divided by this ...")
    recipe.add_argument(
        "--lr-patience", type=int, default=train.lr_patience, help="... after so many epochs without gain"
    )
    recipe.add_argument("--lr-min", type=float, default=train.lr_min, help="a task ends below this rate")
    recipe.add_argument("--clip", type=float, default=train.clip, help="largest global norm of the gradient")
    recipe.add_argument("--optimizer", choices=OPTIMIZERS, default=train.optimizer)
    recipe.add_argument("--momentum", type=float, default=train.momentum)
    recipe.add_argument("--weight-decay", type=float, default=train.weight_decay)
    recipe.add_argument("--seed", type=int, default=train.seed)
    recipe.add_argument("--device", default=train.device, help="auto, cpu, cuda or cuda:N")
    recipe.add_argument("--dtype", choices=tuple(DTYPES), default=train.dtype, help="other than float32: autocast")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--reference",
        nargs="+",
        choices=REFERENCES,
        default=[],
        help="also train without HAT: each task alone, all jointly, or one after another (which forgets)",
    )
    output.add_argument("--run-dir", type=Path, metavar="FOLDER", help="default: runs/STREAM-DATASET")
    output.add_argument("--resume", type=Path, metavar="FOLDER", help="continue an interrupted run exactly")
    output.add_argument("--overwrite", action="store_true", help="replace an earlier run in the same folder")
    output.add_argument("--quiet", action="store_true", help="print the final table only")


def _make_spec(arguments: argparse.Namespace) -> RunSpec:
    """The run that the arguments of `train` describe.

    Raises:
        ValueError: an option is out of range.
    """
    return RunSpec(
        stream=StreamSpec(
            stream=arguments.stream,
            datasets=tuple(arguments.dataset),
            tasks=arguments.tasks,
            classes_per_task=arguments.classes_per_task,
            validation=arguments.validation,
            seed=arguments.seed,
            root=arguments.data,
            limit=arguments.limit,
        ),
        network=NetworkSpec(
            network=arguments.network,
            hidden=None if arguments.hidden is None else tuple(arguments.hidden),
            dropout=arguments.dropout,
        ),
        gates=GateConfig(s_max=arguments.s_max, mask_mode=arguments.mask_mode, compensation=arguments.compensation),
        training=TrainConfig(
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            lr=arguments.lr,
            lr_factor=arguments.lr_factor,
            lr_patience=arguments.lr_patience,
            lr_min=arguments.lr_min,
            clip=arguments.clip,
            lamb=arguments.lamb,
            optimizer=arguments.optimizer,
            momentum=arguments.momentum,
            weight_decay=arguments.weight_decay,
            seed=arguments.seed,
            device=arguments.device,
            dtype=arguments.dtype,
        ),
    )
