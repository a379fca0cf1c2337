"""The training loop: what it learns, what it keeps and reports, and the arguments that it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import hat
from hat.steps.step import NonFiniteLossError
from hat.training import PlainModel, evaluate, reference_accuracy
from hat.training.schedule import Plateau

CONFIG = hat.TrainConfig(epochs=8, batch_size=32)


def make_model(**gates: object) -> hat.HATModel:
    torch.manual_seed(1)
    return hat.HATModel(hat.models.mlp(64, (100, 80), dropout=0.1), config=hat.GateConfig(**gates))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def stream() -> hat.data.Stream:
    return hat.data.split("digits", classes_per_task=2, tasks=3)


@pytest.mark.parametrize("optimizer", [("sgd", 0.05), ("adamw", 0.003), ("rmsprop", 0.001), ("adam", 0.003)])
def test_learns_and_forgets_nothing(stream: hat.data.Stream, optimizer: tuple[str, float]) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer[0], lr=optimizer[1], weight_decay=1e-4)
    trainer = hat.Trainer(make_model(), stream, config, progress=False)
    history = trainer.run().history
    assert min(history.accuracy[-1]) > 0.9
    assert history.drift == [[0.0] * (task + 1) for task in range(3)]
    assert [row[task] for task, row in enumerate(history.accuracy)] == history.accuracy[-1]
    assert trainer.model.tasks == 3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_learns_and_forgets_nothing(stream: hat.data.Stream, dtype: str) -> None:
    history = (
        hat.Trainer(make_model(), stream[:2], dataclasses.replace(CONFIG, dtype=dtype), progress=False).run().history
    )
    assert min(history.accuracy[-1]) > 0.9
    assert history.largest_drift == 0


def test_published_masks_drift_and_say_so(stream: hat.data.Stream) -> None:
    history = (
        hat.Trainer(make_model(mask_mode="published", s_max=10.0), stream[:2], CONFIG, progress=False).run().history
    )
    assert 0 < history.largest_drift < 1


def test_same_seed_same_run(stream: hat.data.Stream) -> None:
    runs = [
        hat.Trainer(make_model(), stream[:2], dataclasses.replace(CONFIG, epochs=2), progress=False) for _ in range(2)
    ]
    for trainer in runs:
        trainer.run()
    one, two = (trainer.model.state_dict() for trainer in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_run_directory(stream: hat.data.Stream, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=2)
    trainer = hat.Trainer(make_model(), stream[:2], config, run_dir=tmp_path, progress=False)
    trainer.run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["task"], row["epoch"]) for row in rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert {"loss", "penalty", "lr", "val_loss", "val_accuracy", "used_capacity", "seconds"} <= rows[0].keys()
    header, first, second = (tmp_path / "accuracy.csv").read_text().splitlines()
    assert header.startswith("after task,")
    assert first.count(",") == 1
    assert second.count(",") == 2
    assert torch.equal(
        hat.training.rundir.RunDir(tmp_path).load_logits(1, images=len(stream[1].test), classes=2), trainer.learned[1]
    )


def test_best_validation_weights_come_back(stream: hat.data.Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test sets the validation losses. After the run the weights are those of the best epoch."""
    losses = iter([3.0, 1.0, 2.0, 2.5])
    snapshots = []

    def validate(self: object, model: hat.HATModel) -> tuple[float, float]:
        snapshots.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return next(losses), 0.5

    monkeypatch.setattr(hat.training.lesson.TaskLesson, "validate", validate)
    model = make_model(locked_first=False)
    trainer = hat.Trainer(model, stream[:1], dataclasses.replace(CONFIG, epochs=4), progress=False)
    trainer.run()
    assert all(torch.equal(p, snapshots[1][name]) for name, p in trainer.model.named_parameters())
    assert not torch.equal(snapshots[1]["body.network.linear1.weight"], snapshots[3]["body.network.linear1.weight"])


def test_schedule_follows_the_paper() -> None:
    config = hat.TrainConfig(lr=0.05, lr_patience=5, lr_factor=3, lr_min=1e-4)
    plateau = Plateau.start(config)
    assert plateau.update(1.0, config)
    for _ in range(4):
        assert not plateau.update(2.0, config)
    assert plateau.lr == 0.05
    plateau.update(2.0, config)
    assert plateau.lr == pytest.approx(0.05 / 3)
    assert plateau.update(0.5, config)
    epochs = plateau.epoch
    while not plateau.done(config):
        plateau.update(1.0, config)
    assert plateau.lr < 1e-4 <= plateau.lr * 3
    assert plateau.epoch - epochs == 5 * 5  # 0.05/3 -> /9 -> /27 -> /81 -> /243 -> /729, five epochs each


def test_non_finite_loss_is_refused_before_the_update(stream: hat.data.Stream) -> None:
    trainer = hat.Trainer(make_model(), stream, dataclasses.replace(CONFIG, lr=1e30), progress=False)
    with pytest.raises(NonFiniteLossError, match="loss: expected finite"):
        trainer.run()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_weights_that_cannot_be_validated_are_not_saved(tmp_path: Path) -> None:
    """An epoch has one batch. The loss before the update is finite; the loss after the update is not."""
    few = hat.data.permuted("digits", tasks=1, limit=4)
    config = hat.TrainConfig(epochs=3, lr=1e30)
    with pytest.raises(NonFiniteLossError, match="on the validation part of permuted digits 0, epoch 1"):
        hat.Trainer(make_model(), few, config, run_dir=tmp_path, progress=False).run()
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_used_model_and_an_empty_stream(stream: hat.data.Stream) -> None:
    model = make_model()
    model.begin_task(2)
    with pytest.raises(ValueError, match="model: expected a fresh one"):
        hat.Trainer(model, stream)
    with pytest.raises(ValueError, match="stream: expected at least one task"):
        hat.Trainer(make_model(), [])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("epochs", 2.0),
        ("epochs", True),
        ("seed", "one"),
        ("lr", 0.0),
        ("lr", float("inf")),
        ("lr", "fast"),
        ("lr", 1e-5),
        ("lr_factor", float("inf")),
        ("clip", float("nan")),
        ("lr_factor", 1.0),
        ("lr_patience", 0),
        ("lr_min", -1.0),
        ("clip", 0.0),
        ("lamb", float("nan")),
        ("momentum", -0.1),
        ("weight_decay", float("inf")),
        ("optimizer", "lion"),
        ("dtype", "int8"),
        ("device", "abacus"),
        ("device", "meta"),
        ("device", "cuda:99"),
        ("device", "mps" if not torch.backends.mps.is_available() else "cuda"),
        ("device", None),
    ],
)
def test_config_names_what_is_out_of_range(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{option}: expected"):
        hat.TrainConfig(**{option: value})  # type: ignore[arg-type]


def test_plain_model_forgets_and_joint_does_not(stream: hat.data.Stream) -> None:
    def make() -> PlainModel:
        torch.manual_seed(1)
        return PlainModel(hat.models.mlp(64, (100, 80), dropout=0.1))

    scores = {kind: reference_accuracy(kind, make, stream, CONFIG, progress=False) for kind in hat.training.REFERENCES}
    assert min(scores["alone"]) > 0.95
    assert min(scores["joint"]) > 0.95
    assert scores["sequential"][-1] > 0.95
    history = hat.Trainer(make(), stream, CONFIG, progress=False).run().history
    assert history.largest_drift > 0.1
    assert history.capacity[-1] == dict.fromkeys(history.capacity[-1], 0.0)
    with pytest.raises(ValueError, match="kind: expected one of"):
        reference_accuracy("magic", make, stream, CONFIG)


def test_plain_model_is_the_network_without_gates(stream: hat.data.Stream) -> None:
    model = PlainModel(hat.models.mlp(64, (20, 10)))
    model.begin_task(2)
    model.eval()
    x, _ = stream[0].test[:7]
    h = x.flatten(1)
    for layer in list(model.body.network.children())[2:]:
        h = torch.relu(h @ layer.weight.T + layer.bias)
    torch.testing.assert_close(model(x), h @ model.head.weight.T + model.head.bias)


def test_evaluate_restores_the_mode(stream: hat.data.Stream) -> None:
    model = make_model()
    model.begin_task(2)
    result = evaluate(model, stream[0].test, 0, CONFIG)
    assert model.training
    assert result.logits.shape == (len(stream[0].test), 2)
    assert result.accuracy == (result.logits.argmax(1) == stream[0].test.y).float().mean().item()
    with pytest.raises(ValueError, match="part: expected at least one image"):
        evaluate(model, stream[0].test.__class__(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)), 0, CONFIG)


def test_momentum_needs_an_optimizer_that_has_one() -> None:
    for optimizer in ("adam", "adamw"):
        with pytest.raises(ValueError, match=f"momentum: expected 0 with {optimizer}"):
            hat.TrainConfig(optimizer=optimizer, momentum=0.9)
    hat.TrainConfig(optimizer="rmsprop", momentum=0.9)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_empty_part_is_found_before_training(stream: hat.data.Stream, part: str) -> None:
    task = stream[1]
    empty = hat.data.Part(torch.zeros(0, *task.input_shape), torch.zeros(0, dtype=torch.int64))
    holed = [stream[0], dataclasses.replace(task, **{part: empty})]
    with pytest.raises(ValueError, match=f"stream: expected at least one {part} image in task '{task.name}', got none"):
        hat.Trainer(make_model(), holed, CONFIG, progress=False)


def test_drift_from_another_shape_is_refused(stream: hat.data.Stream) -> None:
    model = make_model()
    model.begin_task(2)
    result = evaluate(model, stream[0].test, 0, CONFIG)
    with pytest.raises(ValueError, match=r"earlier: expected \(\d+, 2\), got \(3, 2\)"):
        result.drift_from(torch.zeros(3, 2))


def test_joint_batches_come_in_another_order_for_every_seed_and_epoch(stream: hat.data.Stream) -> None:
    def owners(seed: int, epoch: int) -> list[int]:
        config = dataclasses.replace(CONFIG, seed=seed, batch_size=8)
        return [task for *_, task in hat.training.lesson.JointLesson(stream, config).epoch(epoch)]

    orders = [owners(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 9
    assert owners(1, 2) == orders[5]
