"""A spec refuses wrong options, and the help of an option is the documentation of its field."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import hat
from hat.cli.options import documentation, make_spec
from hat.cli.parser import make_parser
from hat.cli.spec import NetworkSpec, RunSpec, StreamSpec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "foo"}, "stream: expected one of"),
        ({"datasets": ()}, "dataset: expected at least one name or path"),
        ({"datasets": "digits"}, "dataset: expected at least one name or path"),
        ({"datasets": ("digits", "mnist")}, "dataset: expected one for a permuted stream"),
        ({"tasks": 0}, "tasks: expected at least 1, got 0"),
        ({"tasks": "five"}, "tasks: expected an int, got 'five'"),
        ({"stream": "mixture", "tasks": -1}, "tasks: expected at least 1, got -1"),
        (
            {"stream": "mixture", "datasets": ("digits", "mnist"), "tasks": 3},
            "tasks: expected at most 2, one a dataset",
        ),
        ({"classes_per_task": 3}, "classes_per_task: expected for a split stream only, got 3 for a permuted stream"),
        ({"stream": "split", "classes_per_task": 0}, "classes_per_task: expected at least 1"),
        ({"validation": 0.0}, "validation: expected a finite number > 0 and < 1, got 0"),
        ({"validation": None}, "validation: expected"),
        ({"seed": 1.5}, "seed: expected an int"),
        ({"root": 3}, "root: expected at least one name or path"),
        ({"limit": 0}, "limit: expected at least 1"),
        ({"size": (8,)}, "size: expected height and width"),
        ({"size": (8, 0)}, "size: expected at least 1, got 0"),
        ({"max_gib": 0}, "max_gib: expected a finite number > 0, got 0"),
    ],
)
def test_stream_spec_names_what_is_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamSpec(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "resnet"}, "network: expected one of"),
        ({"hidden": ()}, "hidden: expected at least one number"),
        ({"hidden": (8, 0)}, "hidden: expected at least 1, got 0"),
        ({"hidden": 8}, "hidden: expected at least one number, got 8"),
        ({"dropout": 1.0}, "dropout: expected a finite number >= 0 and < 1, got 1.0"),
        ({"dropout": "high"}, "dropout: expected"),
        ({"network": "resnet18", "hidden": (8,)}, "hidden: expected for mlp, alexnet, vit only, got .* for resnet18"),
        ({"width": 8}, "width: expected for resnet18, resnet34, resnet50, vit only, got 8 for mlp"),
        (
            {"network": "vit", "stem": "small"},
            "stem: expected for resnet18, .* only, got small for vit",
        ),
        ({"network": "alexnet", "patch": 4}, "patch: expected for vit only, got 4 for alexnet"),
        ({"network": "resnet18", "stem": "large"}, "stem: expected one of"),
        ({"network": "vit", "depth": 0}, "depth: expected at least 1, got 0"),
        ({"network": "vit", "heads": 1.5}, "heads: expected an int"),
        ({"network": "vit", "hidden": (8, 9)}, "hidden: expected one width for all blocks of a vit"),
    ],
)
def test_network_spec_names_what_is_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "shape", "features", "dropout"),
    [
        ("mlp --hidden 9 8 --dropout 0.25", (1, 4, 4), 8, {0.25}),
        ("alexnet --hidden 9 --dropout 0.25", (1, 16, 16), 9, {0.25}),
        ("resnet18 --width 2 --stem image --dropout 0.25", (3, 16, 16), 16, {0.25}),
        ("resnet34 --width 2", (3, 8, 8), 16, set()),
        ("resnet50 --width 1", (3, 8, 8), 32, set()),
        ("vit --width 6 --heads 2 --depth 1 --patch 8 --hidden 5 --dropout 0.25", (3, 16, 16), 6, {0.25}),
    ],
)
def test_every_network_is_built(words: str, shape: tuple[int, ...], features: int, dropout: set[float]) -> None:
    spec = make_spec(make_parser().parse_args(["train", "--network", *words.split()]))
    model = spec.model(shape)
    assert model(torch.randn(2, *shape), model.begin_task(2)).shape == (2, 2)
    assert model.features == features
    found = {getattr(module, "dropout", getattr(module, "p", 0)) for module in model.body.modules()}
    assert {each for each in found if isinstance(each, float) and each} == dropout


@pytest.mark.parametrize("kind", [StreamSpec, NetworkSpec, RunSpec, hat.GateConfig, hat.TrainConfig])
def test_every_field_is_documented(kind: type) -> None:
    texts = documentation(kind)
    assert set(texts) == {field.name for field in dataclasses.fields(kind)}
    assert all(texts.values())


def test_options_arrive_in_their_fields() -> None:
    words = "train --stream split --classes-per-task 5 --size 16 12 --hidden 8 9 --s-max 50 --lr 0.5 --seed 3"
    spec = make_spec(make_parser().parse_args([*words.split(), "--reference", "joint"]))
    assert spec == RunSpec(
        stream=StreamSpec(stream="split", classes_per_task=5, size=(16, 12), seed=3),
        network=NetworkSpec(hidden=(8, 9)),
        gates=hat.GateConfig(s_max=50.0),
        training=hat.TrainConfig(lr=0.5, seed=3),
        references=("joint",),
    )


def test_nothing_given_is_the_recipe() -> None:
    spec = make_spec(make_parser().parse_args(["train"]))
    parts = (StreamSpec(), NetworkSpec(), hat.GateConfig(), hat.TrainConfig())
    assert (spec.stream, spec.network, spec.gates, spec.training) == parts


def test_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.npz").touch()
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = make_spec(make_parser().parse_args(["train", "--dataset", "mine.npz", "--data", "."])).stream
    assert spec.datasets == (str(tmp_path / "mine.npz"),)
    assert spec.root == str(tmp_path)
    words = ["train", "--stream", "mixture", "--dataset", "digits", "./digits", "nowhere"]
    kept = make_spec(make_parser().parse_args(words)).stream.datasets
    assert kept == ("digits", str(tmp_path / "digits"), "nowhere")


def test_mixture_takes_the_first_datasets() -> None:
    spec = StreamSpec(stream="mixture", datasets=("digits", "digits"), tasks=1, limit=5)
    assert [task.name for task in spec.build()] == ["mixture digits 0"]


@pytest.mark.parametrize("stream", ["permuted", "split", "mixture"])
def test_size_resizes_every_stream(stream: str) -> None:
    spec = StreamSpec(stream=stream, tasks=1, limit=5, size=(12, 9))
    assert spec.build().input_shape == (1, 12, 9)
