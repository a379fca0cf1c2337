"""A wrong command line ends with status 2 and one line: the option, what was expected and what was got."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from hat.cli import main

QUICK = "--tasks 2 --limit 20 --hidden 32 --epochs 2 --quiet --run-dir new"
LONG = "a" * 5000

LINES: tuple[tuple[str, str], ...] = (
    # The command.
    ("", "COMMAND: expected train, compress, evaluate, export, report or data, got none"),
    ("''", "COMMAND: expected train, compress, evaluate, export, report or data, got ''"),
    ("fly", "got 'fly'; hat --help explains them"),
    ("trian", "got 'trian'; did you mean train?"),
    ("tr", "got 'tr'; hat --help explains them"),
    ("Train", "got 'Train'; did you mean train?"),
    ("--version", "got '--version'"),
    ("--lr 3 train", "got '--lr'; the command comes before its options, as in hat train --lr"),
    ("\x1b[31mtrain", r"got '\x1b[31mtrain'; did you mean train?"),
    # Options that the command does not have.
    ("train {quick} --hiden 3", "--hiden: expected an option of hat train, got an unknown one; did you mean --hidden?"),
    ("train {quick} --hiden=3", "--hiden: expected an option of hat train, got an unknown one; did you mean --hidden?"),
    ("train {quick} --learning_rate 3", "--learning_rate: expected an option of hat train, got an unknown one"),
    ("train {quick} --batchsize 3", "did you mean --batch-size?"),
    ("train {quick} --no-lr", "--no-lr: expected an option of hat train"),
    ("train {quick} --init uniform", "--init: expected an option of hat train, got an option of hat compress"),
    ("train {quick} --l 3", "--l: expected the whole name of an option, got the beginning of --limit, --lamb, --lr"),
    ("train {quick} --h 3", "--h: expected the whole name of an option, got the beginning of --help, --hidden"),
    ("train {quick} --=3", "--: expected the whole name of an option, got the beginning of --help, --dataset"),
    ("train {quick} -x", "-x: expected an option of hat train, got an unknown one; hat train --help lists all"),
    ("train {quick} -lr 3", "-lr: expected an option of hat train, got an unknown one"),
    ("train {quick} '--l\x1b[2J'", r"--l\x1b[2J: expected an option of hat train"),
    ("train {quick} --{long}", "--aaaaaaa"),
    ("compress --tasks 3", "--tasks: expected an option of hat compress, got an option of hat train"),
    (
        "evaluate run --hidden 3",
        "--hidden: expected an option of hat evaluate, got an option of hat train and hat comp",
    ),
    ("export run --tsk 0", "--tsk: expected an option of hat export, got an unknown one; did you mean --task?"),
    ("report run --task 0", "--task: expected an option of hat report, got an option of hat evaluate and hat export"),
    ("data --datas x", "--datas: expected an option of hat data, got an unknown one; did you mean --data?"),
    # Words too few or too many.
    ("train {quick} --lr", "--lr: expected a number, got none"),
    ("train {quick} --lr --epochs 3", "--lr: expected a number, got none"),
    ("train {quick} --lr -x", "--lr: expected a number, got '-x'; write = between"),
    ("train {quick} --run-dir --mine", "--mine: expected an option of hat train, got an unknown one"),
    ("train {quick} --lr --hiden 3", "--hiden: expected an option of hat train, got an unknown one; did you mean"),
    ("train {quick} --run-dir -- -x", "--run-dir: expected a folder to write to, got none"),
    ("train {quick} --hidden", "--hidden: expected a whole number, got none"),
    ("train {quick} --size 3", "--size: expected 2 values, got '3'"),
    ("train {quick} --size 3 3 3", "--size: expected 2 values, got '3' '3' '3'"),
    ("train {quick} --size=3", "--size: expected 2 values, got '3'"),
    ("train {quick} --lr 1 2", "--lr: expected one value, got '1' '2'"),
    ("train {quick} --lr=1 2", "--lr: expected one value, got '1' '2'"),
    ("train {quick} --dataset", "--dataset: expected a name or a path, got none"),
    ("train {quick} --reference", "--reference: expected alone, joint or sequential, got none"),
    ("train {quick} --resume", "--resume: expected the folder of a run, got none"),
    ("train {quick} --quiet=1", "--quiet: expected no value, got '1'"),
    ("train {quick} --graph=3", "--graph: expected no value, got '3'"),
    ("train {quick} --overwrite=yes", "--overwrite: expected no value, got 'yes'"),
    ("train {quick} --quiet foo", "'foo': expected an option of hat train, got a word that belongs to none"),
    (
        "train fashion-mnist",
        "'fashion-mnist': expected an option of hat train, got a word that belongs to none; did you",
    ),
    ("train '--lr 3'", "'--lr 3': expected an option of hat train, got a word that belongs to none"),
    ("train {quick} -- foo", "'--': expected an option of hat train, got a word that belongs to none"),
    ("evaluate", "RUN_DIR: expected the folder of a run, got none"),
    ("evaluate run other", "RUN_DIR: expected one folder, got 'run' 'other'"),
    ("evaluate run --task 0 1", "--task: expected one value, got '0' '1'"),
    ("evaluate --traceback run other", "RUN_DIR: expected one folder, got 'run' 'other'"),
    ("export run", "--task: expected the number of a task, got none"),
    ("export --task 0", "RUN_DIR: expected the folder of a run, got none"),
    ("export run --task", "--task: expected the number of a task, got none"),
    ("export run --task 0 --format", "--format: expected pt2, safetensors or onnx, got none"),
    ("report", "RUN_DIR: expected the folder of a run, got none"),
    ("data mnist", "'mnist': expected an option of hat data, got a word that belongs to none"),
    # Values of another kind.
    ("train {quick} --lr fast", "--lr: expected a number, got 'fast'"),
    ("train {quick} --lr ''", "--lr: expected a number, got ''"),
    ("train {quick} --lr 0,1", "--lr: expected a number, got '0,1'"),
    ("train {quick} --lr 1e39", "--lr: expected a number that float32 holds, got 1e+39"),
    ("train {quick} --lr nan", "--lr: expected a finite number > 0, got nan"),
    ("train {quick} --lr inf", "--lr: expected a finite number > 0, got inf"),
    ("train {quick} --lr -inf", "--lr: expected a finite number > 0, got -inf"),
    ("train {quick} --lr -1e-3", "--lr: expected a finite number > 0, got -0.001"),
    ("train {quick} --lr -0", "--lr: expected a finite number > 0, got -0.0"),
    ("train {quick} --lr 1e999", "--lr: expected a finite number > 0, got inf"),
    ("train {quick} --epoch 1.5", "--epochs: expected a whole number, got '1.5'"),
    ("train {quick} --epochs ''", "--epochs: expected a whole number, got ''"),
    ("train {quick} --epochs -0", "--epochs: expected at least 1, got 0"),
    (
        "train {quick} --epochs {digits}",
        "--epochs: expected a whole number between -2^63 and 2^63, got an int of",
    ),
    ("train {quick} --tasks 10**30", "--tasks: expected a whole number, got '10**30'"),
    ("train {quick} --tasks 1000000000000000000", "--tasks: expected at most 100,000, got 1000000000000000000"),
    (
        "train {quick} --seed 99999999999999999999999",
        "--seed: expected from -2^63 to below 2^64, got 9999",
    ),
    ("train {quick} --seed zero", "--seed: expected a whole number, got 'zero'"),
    ("train {quick} --hidden 32x", "--hidden: expected a whole number, got '32x'"),
    ("train {quick} --hidden 32,32", "--hidden: expected a whole number, got '32,32'"),
    ("train {quick} --hidden 0", "--hidden: expected at least 1, got 0"),
    ("train {quick} --hidden 9999999999", "--hidden: expected below 2^31, got 9999999999"),
    ("train {quick} --hidden 8 99999999999999999999", "--hidden: expected a whole number between -2^63 and 2^63, got"),
    ("train {quick} --dropout 1", "--dropout: expected a finite number >= 0 and < 1, got 1.0"),
    ("train {quick} --batch-size -1", "--batch-size: expected at least 1, got -1"),
    (
        "train {quick} --batch-size 1000000000000000000000",
        "--batch-size: expected a whole number between -2^63 and 2^63",
    ),
    ("train {quick} --size 0 0", "--size: expected at least 1, got 0"),
    ("train {quick} --size 8 1000000000000", "--size: expected below 2^31, got 1000000000000"),
    ("train {quick} --validation 0", "--validation: expected a finite number > 0 and < 1, got 0.0"),
    ("train {quick} --limit 0", "--limit: expected at least 1, got 0"),
    ("train {quick} --s-max 0.5", "--s-max: expected a finite number > 1, got 0.5"),
    ("train {quick} --clip nan", "--clip: expected a number > 0, got nan"),
    ("train {quick} --lamb -1", "--lamb: expected a finite number >= 0, got -1.0"),
    ("train {quick} --lr-factor 1", "--lr-factor: expected a finite number > 1, got 1.0"),
    ("train {quick} --weight-decay -1", "--weight-decay: expected a finite number >= 0, got -1.0"),
    ("train {quick} --device quantum", "--device: expected auto, cpu, cuda or cuda:N, got 'quantum'"),
    ("train {quick} --device ''", "--device: expected auto, cpu, cuda or cuda:N, got ''"),
    ("train {quick} --device cuda:99", "--device: expected one that this machine has, got 'cuda:99'"),
    ("train {quick} --device meta", "--device: expected a device that computes, got 'meta'"),
    ("train {quick} --stream splt", "--stream: expected permuted, split or mixture, got 'splt'; did you mean split?"),
    (
        "train {quick} --optimizer adm",
        "--optimizer: expected sgd, adam, adamw or rmsprop, got 'adm'; did you mean adam",
    ),
    (
        "train {quick} --network resnet",
        "--network: expected mlp, alexnet, resnet18, resnet34, resnet50 or vit, got 're",
    ),
    ("train {quick} --mask-mode soft", "--mask-mode: expected binary or published, got 'soft'"),
    ("train {quick} --dtype float64", "--dtype: expected float32, bfloat16 or float16, got 'float64'; did you mean"),
    ("train {quick} --reference joint magic", "--reference: expected alone, joint or sequential, got 'magic'"),
    ("train {quick} --grow yes", "--grow: expected auto, got 'yes'"),
    ("compress --init gauss", "--init: expected normal or uniform, got 'gauss'"),
    ("compress --lamb -1", "--lamb: expected a finite number >= 0, got -1.0"),
    ("evaluate run --task one", "--task: expected the number of a task, got 'one'"),
    ("export run --task 0 --format pdf", "--format: expected pt2, safetensors or onnx, got 'pdf'"),
    ("export --format pt2 run --task 0", "RUN_DIR: expected the folder of a run, got none; all words after --format b"),
    ("export run --format pt2 run --task 0", "--format: expected pt2, safetensors or onnx, got 'run'"),
    # Options that do not go together.
    ("train {quick} --lr-min 1", "--lr: expected at least --lr-min = 1, below which a task ends, got 0.05"),
    ("train {quick} --momentum 1 --optimizer adam", "--momentum: expected 0 with adam, which has none, got 1"),
    (
        "train {quick} --verify --mask-mode published",
        "--verify: expected with --mask-mode binary only, got --mask-mode",
    ),
    ("train {quick} --dataset digits digits", "--dataset: expected one for a permuted stream, got digits, digits"),
    ("train {quick} --stream split --classes-per-task 11", "--classes-per-task: expected an int in 1..10, got 11"),
    (
        "train {quick} --classes-per-task 2",
        "--classes-per-task: expected for a split stream only, got 2 for a permuted",
    ),
    ("train {quick} --stream split --tasks 9", "--tasks: expected an int in 1..5 (10 classes, 2 a task), got 9"),
    ("train {quick} --stream mixture", "--tasks: expected at most 1, one a dataset, got 2"),
    ("train {quick} --network resnet18", "--hidden: expected for mlp, alexnet, vit only, got (32,) for resnet18"),
    ("train {quick} --network vit --hidden 3 3", "--hidden: expected one width for all blocks of a vit, got (3, 3)"),
    ("train {quick} --patch 2", "--patch: expected for vit only, got 2 for mlp"),
    ("train {quick} --network vit --patch 3", "--patch: expected one that divides 8 x 8, got 3"),
    ("train {quick} --network vit --width 7", "--width: expected a multiple of 3 heads, got 7"),
    ("train {quick} --network vit --depth 99999999", "--depth: expected at most 10,000, got 99999999"),
    (
        "train {quick} --network alexnet",
        "--network: alexnet: input_shape: expected images of 12 x 12 or more, got (1, 8,",
    ),
    ("train --resume run --lr 3", "--resume: expected only --quiet, --data, --device, --reference, --verify beside it"),
    ("train --resume run --overwrite", "as a run keeps its options, got --overwrite"),
    ("train --resume run --run-dir x", "as a run keeps its options, got --run-dir"),
    ("train --resume run --device quantum", "--device: expected auto, cpu, cuda or cuda:N, got 'quantum'"),
    ("compress --dataset digits ./digits", "--dataset: expected each once, by different names, got digits, digits"),
    ("compress --resume comp --lr 1", "--resume: expected only --quiet, --data, --device beside it"),
    ("evaluate run --device quantum", "--device: expected auto, cpu, cuda or cuda:N, got 'quantum'"),
    ("evaluate run --task 7", "--task: expected finished tasks, 0 to 1, got 7"),
    ("evaluate run --task -1", "--task: expected finished tasks, 0 to 1, got -1"),
    ("evaluate run --task 0 --task 0", "--task: expected every task once, got 0 0"),
    ("evaluate run --task 1000000000000000000000", "--task: expected a whole number between -2^63 and 2^63, got 1000"),
    ("export run --task 0 --task 0", "--task: expected every task once, got 0 0"),
    ("export run --task 5", "--task: expected finished tasks, 0 to 1, got 5"),
    # Paths.
    ("train {quick} --dataset ''", "--dataset: expected a path, got ''"),
    ("train {quick} --dataset fashon-mnist", "got 'fashon-mnist'; did you mean fashion-mnist?"),
    ("train {quick} --dataset a\0b", r"--dataset: expected a path without control characters, got 'a\x00b'"),
    (
        "train {quick} --dataset \x1b[31mred",
        r"--dataset: expected a path without control characters, got '\x1b[31mred'",
    ),
    ("train {quick} --dataset {long}", "--dataset: expected a path that the system allows"),
    ("train {quick} --dataset ~nobody-of-this-name/x", "--dataset: expected ~ and the name of a user"),
    ("train {quick} --dataset file", "file: expected a folder, an .npz file or an archive"),
    ("train {quick} --dataset empty", "empty: expected images (.png"),
    ("train {quick} --dataset /dev/null", "--dataset: /dev/null: expected a folder, an .npz file or an archive"),
    (
        "train {quick} --dataset mnist --data /nowhere",
        "--data: expected a folder that exists, got '/nowhere', which does",
    ),
    ("train {quick} --dataset mnist --data file", "--data: expected a folder that exists, got 'file', which is a file"),
    ("train {quick} --dataset mnist --data ''", "--data: expected a path, got ''"),
    (
        "train {quick} --dataset mnist --data empty",
        "empty/mnist: expected the files of mnist, got no such file or folder",
    ),
    ("train {quick} --run-dir ''", "--run-dir: expected a path, got ''"),
    ("train {quick} --run-dir file", "--run-dir: expected a folder to write to, got 'file', which is a file"),
    (
        "train {quick} --run-dir file/sub",
        "--run-dir: expected a folder to write to, got 'file/sub', but file is a f",
    ),
    ("train {quick} --run-dir {long}", "--run-dir: expected a path that the system allows"),
    ("train {quick} --run-dir a\0b", r"--run-dir: expected a path without control characters, got 'a\x00b'"),
    ("train {quick} --run-dir run", "--run-dir: run: expected a folder without a run, got a run"),
    ("train {quick} --run-dir comp", "--run-dir: expected a folder of hat train, got one of hat compress: comp"),
    ("train --resume ''", "--resume: expected a path, got ''"),
    ("train --resume file", "--resume: expected the folder of a run, got file, which is a file"),
    ("train --resume empty", "--resume: empty/config.json: expected the config of a run, got no such file"),
    ("train --resume {long}", "--resume: expected a path that the system allows"),
    ("train --resume comp", "--resume: expected the folder of a run, got one of hat compress"),
    ("train --resume nope", "--resume: expected the folder of a run, got nope, which does not exist"),
    ("train --resume run --data /nowhere", "--data: expected a folder that exists, got '/nowhere'"),
    ("compress --run-dir run", "--run-dir: expected a folder of hat compress, got a run of hat train in run"),
    ("compress --run-dir comp", "--run-dir: comp: expected a folder without a run, got a run"),
    ("compress --run-dir ''", "--run-dir: expected a path, got ''"),
    ("compress --resume run", "--resume: expected a folder of hat compress, got a run of hat train in run"),
    ("compress --resume empty", "--resume: empty/config.json: expected the config of a run, got no such file"),
    ("evaluate ''", "RUN_DIR: expected a path, got ''"),
    ("evaluate nope", "RUN_DIR: expected the folder of a run, got nope, which does not exist"),
    ("evaluate file", "RUN_DIR: expected the folder of a run, got file, which is a file"),
    ("evaluate empty", "RUN_DIR: empty/config.json: expected the config of a run, got no such file"),
    ("evaluate comp", "RUN_DIR: expected the folder of a run, got one of hat compress; comp has"),
    ("evaluate {long}", "RUN_DIR: expected a path that the system allows"),
    ("evaluate a\0b", r"RUN_DIR: expected a path without control characters, got 'a\x00b'"),
    ("evaluate run --data nope", "--data: expected a folder that exists, got 'nope', which does not exist"),
    ("export run --task 0 --to ''", "--to: expected a path, got ''"),
    ("export run --task 0 --to file", "--to: expected a folder to write to, got 'file', which is a file"),
    ("export run --task 0 --to file/x", "--to: expected a folder to write to, got 'file/x', but file is a file"),
    ("export run --task 0 --to {long}", "--to: expected a path that the system allows"),
    ("report nope", "RUN_DIR: expected the folder of a run, got nope, which does not exist"),
    ("report comp", "RUN_DIR: expected the folder of a run, got one of hat compress; comp has"),
    ("data --data nope", "--data: expected a folder that exists, got 'nope', which does not exist"),
    ("data --data file", "--data: expected a folder that exists, got 'file', which is a file"),
    ("data --data ''", "--data: expected a path, got ''"),
    ("data --data {long}", "--data: expected a path that the system allows"),
    ("data --data 'a\nb'", r"--data: expected a path without control characters, got 'a\nb'"),
)
"""Wrong lines, and a part of the message of each."""

FORBIDDEN = (
    "Traceback",
    "Errno",
    "weights_only",
    "allow_pickle",
    "nsafe",
    "argument -",
    "invalid",
    "rror:  ",
    "lambda",
)
"""What no message may contain: words of Python and of other libraries, and their advice."""


def words(line: str) -> list[str]:
    """The words of a line of the table."""
    line = line.replace("{quick}", QUICK).replace("{long}", LONG).replace("{digits}", "9" * 5000)
    return shlex.split(line)


def outcome(arguments: list[str]) -> object:
    """The exit status."""
    try:
        return main(arguments)
    except SystemExit as stop:  # the words were not understood
        return stop.code


@pytest.fixture(scope="module")
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, an empty folder, a file, and what hat compress leaves."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(finished, folder / "run")
    (folder / "file").write_text("text")
    (folder / "empty").mkdir()
    (folder / "comp").mkdir()
    (folder / "comp" / "compression.json").write_text("{}")
    return folder


@pytest.mark.parametrize(("line", "message"), LINES, ids=range(len(LINES)))
def test_one_line_that_names_expected_and_got(
    line: str, message: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("HAT_DATA", raising=False)
    assert outcome(words(line)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    command = line.split(" ")[0]
    program = f"hat {command}" if command in ("train", "compress", "evaluate", "export", "report", "data") else "hat"
    assert printed.err.startswith(f"{program}: error: ")
    check_text(printed.err)
    assert not (place / "new").exists()


def check_text(error: str) -> None:
    """What holds for every message."""
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert error[:-1].isprintable()
    assert "expected" in error
    assert "got" in error
    assert len(error) < 1200
    assert not [phrase for phrase in FORBIDDEN if phrase in error]
