"""Wrong arguments of what `hat.training` exports: one line that names the argument, and nothing has begun."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hat
from hat.training import evaluate, reference_accuracy
from hat.training.evaluation import Answers

CONFIG = hat.TrainConfig(epochs=1)


@pytest.fixture(scope="module")
def stream() -> hat.data.Stream:
    return hat.data.permuted("digits", tasks=2, limit=4)


def make_model() -> hat.HATModel:
    return hat.HATModel(hat.models.mlp(64, (8,)))


def refused(call: Callable[[], object], name: str) -> str:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected ") as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


class Other:
    def __len__(self) -> int:
        return 1


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", None),
        ("model", torch.nn.Linear(2, 2)),
        ("stream", None),
        ("stream", 3),
        ("stream", "digits"),
        ("stream", {"a": 1}),
        ("stream", (task for task in ())),
        ("stream", {1, 2}),
        ("stream", [1, 2]),
        ("stream", [None]),
        ("stream", torch.ones(3)),
        ("stream", Other()),
        ("config", {}),
        ("config", {"epochs": 1}),
        ("config", hat.GateConfig()),
        ("config", 0),
        ("config", hat.TrainConfig),
        ("run_dir", ""),
        ("run_dir", 3),
        ("run_dir", b"run"),
        ("run_dir", False),
        ("description", "text"),
        ("description", [1]),
        ("description", {"a": object()}),
        ("description", {"a": torch.ones(2)}),
        ("description", {"a": CIRCLE}),
        ("description", {(1, 2): 3}),
        ("progress", "no"),
        ("progress", None),
        ("progress", 1),
        ("verify", "yes"),
        ("verify", 1),
        ("grow", "yes"),
        ("grow", True),
        ("after_epoch", None),
        ("after_epoch", {"mine": 1}),
    ],
)
def test_trainer(stream: hat.data.Stream, name: str, value: object) -> None:
    arguments: dict[str, Any] = {"model": make_model(), "stream": stream, "config": CONFIG, name: value}
    refused(lambda: hat.Trainer(**arguments), name)


@pytest.mark.parametrize("options", [{"resume": "yes"}, {"overwrite": 1}, {"overwrite": None}, {"resume": 0}])
def test_run(stream: hat.data.Stream, tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = hat.Trainer(make_model(), stream, CONFIG, run_dir=tmp_path / "run", progress=False)
    refused(lambda: trainer.run(**options), next(iter(options)))
    assert not (tmp_path / "run").exists()


def test_tasks_of_other_input_shapes(stream: hat.data.Stream) -> None:
    other = hat.data.permuted("digits", tasks=1, limit=4, size=(4, 4))[0]
    message = refused(lambda: hat.Trainer(make_model(), [stream[0], other], CONFIG), "stream")
    assert message.endswith("as in task 'permuted digits 0', got (1, 4, 4) in task 'permuted digits 0'")
    refused(lambda: reference_accuracy("joint", make_model, [stream[0], other], CONFIG), "stream")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 10**30),
        ("seed", -(2**63) - 1),
        ("seed", 2**64),
        ("seed", True),
        ("epochs", True),
        ("epochs", 10**30),
        ("batch_size", 2**63),
        ("eval_batch_size", 10**400),
        ("lr", float("nan")),
        ("lr", 10**400),
        ("lr", True),
        ("lr", torch.tensor(0.1)),
        ("lamb", None),
        ("clip", "inf"),
        ("device", 0),
        ("device", ["cpu"]),
        ("device", "cpu\0"),
        ("device", "x" * 1000),
        ("dtype", torch.float32),
        ("dtype", None),
        ("optimizer", torch.optim.SGD),
        ("optimizer", ["sgd"]),
        ("graph", 1),
        ("compile", "no"),
    ],
)
def test_config(name: str, value: Any) -> None:
    assert len(refused(lambda: hat.TrainConfig(**{name: value}), name)) < 200


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1])
def test_the_largest_seeds(stream: hat.data.Stream, seed: int) -> None:
    hat.Trainer(make_model(), stream[:1], dataclasses.replace(CONFIG, seed=seed), progress=False).run()


def test_a_device_is_kept_by_its_name(stream: hat.data.Stream, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, device=torch.device("cpu"))  # type: ignore[arg-type]
    assert config == dataclasses.replace(CONFIG, device="cpu")
    hat.Trainer(make_model(), stream[:1], config, run_dir=tmp_path, progress=False).run()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", torch.nn.Linear(2, 2)),
        ("part", None),
        ("part", torch.ones(3, 1, 8, 8)),
        ("task", "0"),
        ("task", True),
        ("task", 7),
        ("task", -1),
        ("config", None),
        ("config", {}),
        ("answers", "none"),
    ],
)
def test_evaluate(stream: hat.data.Stream, name: str, value: object) -> None:
    model = make_model()
    model.begin_task(10)
    arguments: dict[str, Any] = {"model": model, "part": stream[0].test, "task": 0, "config": CONFIG, name: value}
    refused(lambda: evaluate(**arguments), name)


def test_evaluate_what_does_not_fit(stream: hat.data.Stream) -> None:
    model, other = make_model(), make_model()
    for each in (model, other):
        each.begin_task(3)
    message = refused(lambda: evaluate(model, stream[0].test, 0, CONFIG), "part")
    assert message == "part: expected labels below 3, the classes of task 0, got 0 to 9"
    answers = Answers(other, 0, CONFIG)
    refused(lambda: evaluate(model, stream[0].test, 0, CONFIG, answers=answers), "answers")
    result = hat.training.Evaluation(0.0, 0.0, torch.zeros(2, 3))
    refused(lambda: result.drift_from([0.0]), "earlier")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", hat.training.REFERENCES)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("make_model", None),
        ("make_model", "mlp"),
        ("make_model", lambda: torch.nn.Linear(64, 10)),
        ("stream", "digits"),
        ("stream", []),
        ("stream", [3]),
        ("config", None),
        ("config", {}),
        ("progress", "no"),
    ],
)
def test_references(stream: hat.data.Stream, kind: str, name: str, value: object) -> None:
    arguments: dict[str, Any] = {"make_model": make_model, "stream": stream, "config": CONFIG, name: value}
    refused(lambda: reference_accuracy(kind, **arguments), name)


@pytest.mark.parametrize("kind", ["magic", None, 3, ["alone"]])
def test_kinds_of_references(stream: hat.data.Stream, kind: Any) -> None:
    refused(lambda: reference_accuracy(kind, make_model, stream, CONFIG), "kind")


def test_a_used_model_is_no_reference(stream: hat.data.Stream) -> None:
    model = make_model()
    model.begin_task(10)
    for kind in hat.training.REFERENCES:
        refused(functools.partial(reference_accuracy, kind, lambda: model, stream, CONFIG), "make_model")
