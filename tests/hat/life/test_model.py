"""The life of a model: the loop of the README, the state of the model, and what the model refuses."""

import copy
import io
import math
import signal
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.units.gate import Gate
from hat.units.state import LEARNING
from hat_kernels import GATE_FLOOR, Lock
from tests.hat.nets import wired

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(7))


def make(hidden=(9, 8), **config):
    torch.manual_seed(0)
    return hat.HATModel(hat.models.mlp(6, hidden), config=hat.GateConfig(**config))


def quarter_on(model, offset=0):
    """Switch every fourth unit on, so that the task leaves room for other tasks."""
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.copy_(torch.where((torch.arange(embedding.numel()) + offset) % 4 == 0, 1.0, -1.0))


def train(model, optimizer, steps=3, classes=2):
    for step in range(steps):
        model.anneal(step / max(1, steps - 1))
        loss = F.cross_entropy(model(X), torch.arange(5) % classes) + 0.75 * model.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss


def learn(model, tasks=1, classes=2, steps=2):
    for _ in range(tasks):
        model.begin_task(classes)
        train(model, hat.optim.SGD(model.task_parameters(), lr=0.01), steps, classes)
        quarter_on(model, model.task)
        model.end_task()
    return model


def test_the_loop_of_the_readme():
    model = hat.HATModel(hat.models.mlp(6, hidden=(20, 20)))
    remembered = []
    for task in range(3):
        generator = torch.Generator().manual_seed(task)
        x = torch.randn(32, 6, generator=generator)
        y = (x.sum(1) > 0).long() if task % 2 else (x[:, 0] > 0).long()
        assert model.begin_task(classes=2) == task
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.05)
        for step in range(10):
            model.anneal(step / 9)
            loss = F.cross_entropy(model(x), y) + 0.75 * model.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hat.CapacityWarning)
            assert model.end_task() == task
        remembered.append((x, model(x, task=task).detach()))
        for old, (inputs, logits) in enumerate(remembered):
            assert torch.equal(model(inputs, task=old), logits)
    assert model.tasks == 3


# ---------------------------------------------------------------- evaluation


@pytest.mark.parametrize("mask_mode", ["binary", "published"])
def test_what_is_validated_is_what_is_committed(mask_mode):
    model = make(mask_mode=mask_mode)
    model.begin_task(3)
    train(model, hat.optim.SGD(model.task_parameters(), lr=0.01), classes=3)
    quarter_on(model)
    before = model.eval()(X)
    model.end_task()
    assert torch.equal(model(X, task=0), before)


def test_evaluation_of_the_current_task_is_a_hard_gate():
    model = make()
    model.begin_task(3)
    model.anneal(0.0)
    quarter_on(model)
    model.eval()
    model(X)  # whatever the scale
    h = X
    for layer in model.body.network.children():
        if isinstance(layer, hat.HATLinear):
            h = torch.relu(layer(h))
            mask = (layer.gate.embedding > 0).float()
            assert torch.equal(h, h * mask)
    assert torch.equal(model.head(h), model(X))


def test_training_is_a_soft_gate_without_dropout_in_evaluation():
    model = make()
    model.begin_task(2)
    assert model.training
    model.anneal(0.5)
    assert not torch.equal(model(X), model(X))  # dropout
    assert torch.equal(model.eval()(X), model(X))
    model.end_task()
    assert not model.training


def test_the_task_that_is_asked_for_answers():
    model = learn(make(), 2, classes=2)
    model.begin_task(4)
    model.eval()
    assert model(X, task=0).shape == (5, 2)
    assert model(X).shape == (5, 4)
    assert torch.equal(model(X), model(X, task=2))
    assert not torch.equal(model(X, task=0), model(X, task=1))
    assert model.state.answer is LEARNING


def test_an_error_in_the_body_leaves_no_task_behind():
    model = learn(make())
    with pytest.raises(ValueError, match="x: expected"):
        model(torch.randn(5, 7), task=0)
    assert model.state.answer is LEARNING


def test_published_masks_are_soft_and_drift_but_only_a_little():
    model = make(mask_mode="published")
    model.begin_task(3)
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.copy_(torch.linspace(-0.01, 0.01, embedding.numel()))  # sigmoid(400 e) from 0.02 to 0.98
    model.end_task()
    for gate in model.gates.values():
        assert torch.equal(gate.masks[0], torch.sigmoid(400 * gate.embedding.detach()))
        assert ((gate.masks[0] > 0.01) & (gate.masks[0] < 0.99)).any()
    h = X
    for layer in model.body.network.children():
        if isinstance(layer, hat.HATLinear):
            h = torch.relu(F.linear(h, layer.weight, layer.bias)) * layer.gate.masks[0]
    before = model(X, task=0).detach()
    assert torch.equal(before, model.heads[0](h))
    model.begin_task(2)
    train(model, hat.optim.SGD(model.task_parameters(), lr=0.01))
    drift = (model(X, task=0) - before).abs().max() if not model.eval().training else None
    assert drift > 0
    assert drift < before.abs().max()


# ---------------------------------------------------------------- order of calls


def test_begin_twice():
    model = make()
    model.begin_task(2)
    embeddings = [e.clone() for e in model.embeddings]
    with pytest.raises(RuntimeError, match=r"begin_task: task 0 is still being learned; call end_task\(\) first"):
        model.begin_task(2)
    assert len(model.heads) == 1
    assert all(torch.equal(a, b) for a, b in zip(embeddings, model.embeddings, strict=True))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m: m.end_task(), "task"),
        (lambda m: m.penalty(), "penalty"),
        (lambda m: m.task_parameters(), "task_parameters"),
        (lambda m: m.task, "task"),
        (lambda m: m.head, "task"),
    ],
)
def test_nothing_is_being_learned(call, name):
    for model in (make(), learn(make())):
        with pytest.raises(RuntimeError, match=rf"{name}: no task is being learned; call begin_task\(\) first"):
            call(model)


@pytest.mark.parametrize("classes", [0, -1, [], ()])
def test_no_classes(classes):
    with pytest.raises(ValueError, match="classes: expected at least one class and no name twice, got"):
        make().begin_task(classes)


def test_names_of_classes():
    model = make()
    model.begin_task(["cat", "dog", "cow"])
    assert model.classes == [("cat", "dog", "cow")]
    assert model.head.out_features == 3


@pytest.mark.parametrize("task", [2, 17, -1])
def test_unknown_task(task):
    model = learn(make(), 2)
    with pytest.raises(ValueError, match=f"task: expected 0 to 1, got {task}"):
        model(X, task=task)


@pytest.mark.parametrize("task", [True, 1.0, "0", [0, 1]])
def test_task_of_another_type(task):
    model = learn(make(), 2)
    with pytest.raises(TypeError, match=f"task: expected an int or a tensor of ids, got {type(task).__name__}"):
        model(X, task=task)


def test_no_task_named_and_none_learned():
    with pytest.raises(RuntimeError, match="task: expected the id of a task, as no task is being learned, got None"):
        learn(make())(X)


def test_unknown_task_before_the_first():
    with pytest.raises(ValueError, match=r"task: expected .*got 0"):
        make()(X, task=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_embedding_that_is_not_finite_is_not_committed(value):
    model = make()
    model.begin_task(2)
    with torch.no_grad():
        model.embeddings[1][3] = value
    with pytest.raises(ValueError, match="embedding: expected finite values, got inf or NaN; task not committed"):
        model.end_task()
    assert model.learning
    assert [gate.tasks for gate in model.gates.values()] == [0, 0]
    assert all(not gate.used.any() for gate in model.gates.values())


# ---------------------------------------------------------------- annealing and penalty


@pytest.mark.parametrize("s_max", [400.0, 50.0])
@pytest.mark.parametrize("batches", [1, 2, 7, 100])
def test_anneal(batches, s_max):
    model = make(s_max=s_max)
    for b in range(1, batches + 1):
        progress = (b - 1) / (batches - 1) if batches > 1 else 1
        model.anneal(progress)
        expected = torch.tensor(1 / s_max + (s_max - 1 / s_max) * progress)
        assert model.state.scale.dtype == torch.float32
        assert model.state.scale.dim() == 0
        assert torch.equal(model.state.scale, expected)


def test_anneal_ends_at_s_max_exactly():
    model = make()
    model.anneal(1.0)
    assert model.state.scale.item() == 400.0
    model.anneal(0.0)
    assert model.state.scale.item() == torch.tensor(1 / 400).item()


@pytest.mark.parametrize("progress", [-1e-9, 1.0000001, 2, float("nan"), float("inf")])
def test_anneal_outside_0_to_1(progress):
    model = make()
    model.anneal(0.5)
    before = model.state.scale.clone()
    with pytest.raises(ValueError, match=r"progress: expected in \[0, 1\], got"):
        model.anneal(progress)
    assert torch.equal(model.state.scale, before)


def penalty_by_hand(model):
    above = below = 0.0
    for gate in model.gates.values():
        for unit in range(gate.units):
            used = max((gate.masks[task, unit].item() for task in range(gate.tasks)), default=0.0)
            a = 1 / (1 + torch.exp(-model.state.scale.double() * gate.embedding[unit].detach().double()).item())
            above += a * (1 - used)
            below += 1 - used
    return above / below


@pytest.mark.parametrize("mask_mode", ["binary", "published"])
@pytest.mark.parametrize("finished", [0, 1, 2])
@pytest.mark.parametrize("progress", [0.0, 0.01, 1.0])
def test_penalty_is_one_fraction_over_the_whole_network(progress, finished, mask_mode):
    model = make(hidden=(9, 2, 17), mask_mode=mask_mode)
    for task in range(finished):
        model.begin_task(2)
        with torch.no_grad():
            for gate in model.gates.values():
                gate.embedding.copy_(torch.randn(gate.units) - 0.6)
                gate.embedding[0] = 1.0
                gate.embedding[-1] = 0.001 * (task + 1)
                gate.embedding[1] = -1.0
        model.end_task()
    model.begin_task(2)
    model.anneal(progress)
    penalty = model.penalty()
    assert penalty.dim() == 0
    assert penalty.dtype == torch.float32
    # Sums of 28 float32 terms in [0, 1], over each other.
    assert abs(penalty.item() - penalty_by_hand(model)) <= 28 * torch.finfo(torch.float32).eps


def test_penalty_gradient_reaches_free_units_only():
    model = learn(make(hidden=(8, 6)))
    model.begin_task(2)
    model.zero_grad(set_to_none=True)
    model.anneal(0.001)
    model.penalty().backward()
    for gate in model.gates.values():
        assert gate.embedding.grad[gate.free == 0].eq(0).all()
        assert gate.embedding.grad[gate.free == 1].gt(0).all()
    assert all(p.grad is None for name, p in model.named_parameters() if "embedding" not in name)


def test_penalty_where_nothing_is_free():
    model = make()
    model.begin_task(2)
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.fill_(1.0)
    model.end_task()
    assert set(model.capacity().values()) == {1.0}
    with pytest.warns(hat.CapacityWarning, match="capacity is exhausted"):
        model.begin_task(2)
    penalty = model.penalty()
    assert penalty.item() == 0
    (F.cross_entropy(model(X), torch.arange(5) % 2) + 0.75 * penalty).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    hat.optim.SGD(model.task_parameters()).step()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_one_gate_is_full():
    model = make()
    model.begin_task(2)
    quarter_on(model)
    with torch.no_grad():
        model.embeddings[0].fill_(1.0)
    model.end_task()
    with pytest.warns(hat.CapacityWarning, match=f"no free unit left in {next(iter(model.gates))}"):
        model.begin_task(2)
    assert 0 < model.penalty().item() < 1


def test_a_task_that_uses_no_unit():
    model = make()
    model.begin_task(2)
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.fill_(-1.0)
    with pytest.warns(hat.CapacityWarning, match="task 0 uses no unit of"):
        model.end_task()
    assert torch.equal(model(X, task=0), model.heads[0].bias.expand(5, -1))
    assert set(model.capacity().values()) == {0.0}


# ---------------------------------------------------------------- locks


def test_nothing_is_locked_in_the_first_task():
    model = make()
    model.begin_task(2)
    assert set(model.locks().values()) == {None}
    assert model.frozen_parameters() == []


def test_locks_are_the_free_units_of_both_sides():
    model = learn(make())
    first, second = model.body.network.linear1, model.body.network.linear2
    locks = model.locks()
    assert locks[first.weight].columns is None
    assert torch.equal(locks[first.weight].rows, first.gate.free)
    assert torch.equal(locks[second.weight].rows, second.gate.free)
    assert torch.equal(locks[second.weight].columns, first.gate.free)
    assert locks[second.bias].columns is None
    assert set(model.frozen_parameters()) == set(model.heads[0].parameters())


def test_used_is_the_maximum_over_tasks_and_free_the_rest():
    model = learn(make(), 3)
    for gate in model.gates.values():
        assert torch.equal(gate.used, gate.masks.amax(0))
        assert torch.equal(gate.free, 1 - gate.used)
        assert gate.masks.shape == (3, gate.units)
        assert set(gate.masks.unique().tolist()) <= {0.0, 1.0}
    assert model.capacity() == {name: gate.used.mean().item() for name, gate in model.gates.items()}


def test_two_tasks_may_use_the_same_units():
    model = make()
    for _ in range(2):
        model.begin_task(2)
        quarter_on(model)
        if model.tasks:
            for gate in model.gates.values():
                gate.embedding.data.copy_(gate.masks[0] - 0.5)
        model.end_task()
    for gate in model.gates.values():
        assert torch.equal(gate.masks[0], gate.masks[1])
        assert torch.equal(gate.used, gate.masks[0])


def test_task_parameters():
    model = learn(make(), 2)
    model.begin_task(3)
    parameters = model.task_parameters()
    assert parameters.model is model
    wanted = {id(p) for p in [*model.body.parameters(), *model.head.parameters()]}
    assert {id(p) for p in parameters} == wanted
    assert len(parameters) == len(wanted)
    assert not any(p.requires_grad for head in model.heads[:2] for p in head.parameters())


def test_finished_heads_have_no_gradient_left():
    model = make()
    model.begin_task(2)
    train(model, hat.optim.SGD(model.task_parameters()))
    head = model.head
    assert head.weight.grad is not None
    quarter_on(model)
    model.end_task()
    assert head.weight.grad is None


# ---------------------------------------------------------------- bodies


def test_a_body_without_a_gate():
    with pytest.raises(ValueError, match=r"body: expected at least one gated layer or hat\.Gate, got none"):
        hat.HATModel(nn.Linear(3, 2))


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(8), nn.SyncBatchNorm(8), nn.InstanceNorm1d(8, track_running_stats=True)]
)
def test_running_statistics_are_refused(norm):
    with pytest.raises(ValueError, match=rf"body\.1: expected no {type(norm).__name__}"):
        hat.HATModel(wired(hat.HATLinear(6, 8), norm))


def test_a_norm_without_running_statistics_is_not_refused():
    """GroupNorm and LayerNorm keep none; their affine part lies along no gate, so it is frozen after the first task."""
    with pytest.warns(hat.UnlockedWarning, match=r"frozen when the first task ends: 1\.weight, 1\.bias"):
        hat.HATModel(wired(hat.HATConv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    hat.HATModel(wired(hat.HATLinear(6, 8), nn.LayerNorm(8, elementwise_affine=False)))


def test_loose_parameters_train_in_the_first_task_only():
    with pytest.warns(hat.UnlockedWarning):
        model = hat.HATModel(wired(hat.HATLinear(6, 8), nn.LayerNorm(8), hat.HATLinear(8, 7)))
    norm = model.body[1]
    model.begin_task(2)
    assert any(p is norm.weight for p in model.task_parameters())
    train(model, hat.optim.SGD(model.task_parameters()))
    quarter_on(model)
    model.end_task()
    assert not norm.weight.requires_grad
    model.begin_task(2)
    assert not any(p is norm.weight for p in model.task_parameters())


def test_features_of_another_width():
    model = hat.HATModel(wired(hat.HATConv2d(1, 3, 2), nn.Flatten()), features=3 * 4 * 4)
    model.begin_task(2)
    assert model(torch.randn(2, 1, 5, 5)).shape == (2, 2)
    model = hat.HATModel(wired(hat.HATLinear(6, 8), Gate(8)))
    model.begin_task(2)
    assert model(X).shape == (5, 2)


def test_two_models_do_not_share_a_state():
    one, other = make(), make()
    one.anneal(0.0)
    assert other.state.scale.item() == 400.0


# ---------------------------------------------------------------- saving


STAGES = ["new", "learning", "after one", "learning the third"]


def at(stage):
    model = make()
    if stage == "new":
        return model
    if stage == "after one":
        return learn(model)
    if stage == "learning the third":
        learn(model, 2)
    model.begin_task(["a", "b", "c"])
    train(model, hat.optim.SGD(model.task_parameters(), lr=0.01))
    model.anneal(0.25)
    return model


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.learning == other.learning
    assert one.classes == other.classes
    assert one.tasks == other.tasks
    for a, b in zip(one.gates.values(), other.gates.values(), strict=True):
        assert torch.equal(a.used, b.used)
        assert torch.equal(a.masks, b.masks)
    frozen = [[p.requires_grad for p in model.parameters()] for model in (one, other)]
    assert frozen[0] == frozen[1]
    one_mode, other_mode = one.training, other.training
    for task in range(len(one.heads)):
        assert torch.equal(one.eval()(X, task=task), other.eval()(X, task=task))
    one.train(one_mode)
    other.train(other_mode)


def goes_on_alike(one, other):
    """One more task each, from the same seed, ends at the same bits."""
    for model in (one, other):
        torch.manual_seed(5)
        if not model.learning:
            model.begin_task(2)
        model.train()
        train(model, hat.optim.SGD(model.task_parameters(), lr=0.01, momentum=0.9))
        quarter_on(model, 1)
        model.end_task()
    same(one, other)


@pytest.mark.parametrize("target", ["new", "learning", "after one", "more tasks"])
@pytest.mark.parametrize("stage", STAGES)
def test_state_dict_round_trip(stage, target):
    model = at(stage)
    other = learn(make(), 3) if target == "more tasks" else at(target)
    result = other.load_state_dict(model.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    same(model, other)
    goes_on_alike(model, other)


def test_a_load_leaves_no_stale_used_behind():
    empty, full = make().state_dict(), learn(make(), 3)
    assert any(gate.used.any() for gate in full.gates.values())
    full.load_state_dict(empty)
    assert not any(gate.used.any() for gate in full.gates.values())
    assert set(full.locks().values()) == {None}
    assert full.frozen_parameters() == []
    full.begin_task(2)
    train(full, hat.optim.SGD(full.task_parameters(), lr=0.1))


def test_heads_come_back_to_life_on_a_load():
    """A finished head of the target may be the current one of the source."""
    source = at("learning")
    target = learn(make(), 1, classes=3)
    assert not target.heads[0].weight.requires_grad
    target.load_state_dict(source.state_dict())
    assert target.head.weight.requires_grad


def test_loose_parameters_come_back_to_life_on_a_load():
    def loose():
        with pytest.warns(hat.UnlockedWarning):
            return hat.HATModel(wired(hat.HATLinear(6, 8), nn.LayerNorm(8)))

    source, target = loose(), learn(loose())
    assert not target.body[1].weight.requires_grad
    target.load_state_dict(source.state_dict())
    assert target.body[1].weight.requires_grad


def test_a_state_of_another_network_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(hidden=(9, 8)).load_state_dict(make(hidden=(9, 7)).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        make().load_state_dict({})


def test_a_refused_state_changes_no_lock():
    """A load that fails must not leave used units free."""
    model = learn(make(hidden=(9, 8)))
    used = [gate.used.clone() for gate in model.gates.values()]
    masks = [gate.masks.clone() for gate in model.gates.values()]
    broken = make(hidden=(9, 7)).state_dict()
    with pytest.raises(RuntimeError):
        model.load_state_dict(broken)
    assert torch.equal(list(model.gates.values())[1].used, used[1])
    assert torch.equal(list(model.gates.values())[1].masks, masks[1])


@pytest.mark.parametrize("stage", STAGES)
def test_state_dict_holds_tensors_only_and_shares_none(stage):
    state = at(stage).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    storages = [value.untyped_storage().data_ptr() for value in state.values() if value.numel()]
    assert len(storages) == len(set(storages))


@pytest.mark.parametrize("stage", STAGES)
def test_torch_save_with_weights_only(stage):
    model, buffer = at(stage), io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = make()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    same(model, other)


@pytest.mark.parametrize("stage", STAGES)
def test_safetensors(stage, tmp_path):
    library = pytest.importorskip("safetensors.torch")
    model = at(stage)
    library.save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = make()
    other.load_state_dict(library.load_file(tmp_path / "model.safetensors"))
    same(model, other)


@pytest.mark.parametrize("stage", STAGES)
def test_deepcopy_is_the_same_and_its_own(stage):
    model = at(stage)
    other = copy.deepcopy(model)
    same(model, other)
    mine = {id(p) for p in model.parameters()}
    assert not mine & {id(p) for p in other.parameters()}
    for gate in other.gates.values():
        assert gate.state is other.state
        assert not mine & {id(member.parameter) for member in gate.members}
    assert not mine & {id(p) for p in other.locks()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    goes_on_alike(copy.deepcopy(model), other)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    other.anneal(0.125)
    assert torch.equal(model.state.scale, before["state.scale"])


def test_deepcopy_keeps_shared_gates_shared():
    gate_of = hat.HATLinear(6, 8)
    body = wired(gate_of, hat.HATLinear(8, 8, gate=gate_of.gate))
    copied = copy.deepcopy(hat.HATModel(body))
    assert copied.body[0].gate is copied.body[1].gate
    assert len(copied.gates) == 1


def test_state_names_are_stable():
    """A checkpoint of today must load tomorrow."""
    state = learn(make(hidden=(9,))).state_dict()
    endings = {name.split(".")[-1] for name in state}
    assert endings == {"scale", "weight", "bias", "embedding", "masks", "origin", "reserved", "_extra_state"}
    assert "state.scale" in state
    assert "heads.0.weight" in state


# ---------------------------------------------------------------- dtypes and devices


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_gates_stay_float32_bit_for_bit(dtype):
    model = learn(make(), 2)
    model.anneal(0.3)
    before = {
        n: v.clone() for n, v in model.state_dict().items() if n.split(".")[-1] in ("embedding", "masks", "scale")
    }
    used = [gate.used.clone() for gate in model.gates.values()]
    embeddings = model.embeddings
    {torch.float64: model.double, torch.float16: model.half, torch.bfloat16: model.bfloat16}[dtype]()
    for name, value in before.items():
        assert model.state_dict()[name].dtype == torch.float32
        assert torch.equal(model.state_dict()[name], value)
    for gate, expected in zip(model.gates.values(), used, strict=True):
        assert gate.used.dtype == torch.float32
        assert torch.equal(gate.used, expected)
    assert all(a is b for a, b in zip(embeddings, model.embeddings, strict=True))
    assert all(p.dtype == dtype for n, p in model.named_parameters() if not n.endswith("embedding"))
    model.begin_task(2)
    assert model.head.weight.dtype == dtype
    assert model(X.to(dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_dtype_learns_and_forgets_nothing(dtype):
    model = make().to(dtype)
    x = X.to(dtype)
    for task in range(2):
        model.begin_task(2)
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.05, momentum=0.9)
        for _ in range(3):
            loss = F.cross_entropy(model(x), torch.arange(5) % 2) + 0.75 * model.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        quarter_on(model, task)
        model.end_task()
        if task == 0:
            before = model(x, task=0)
    assert torch.equal(model(x, task=0), before)


def test_meta_device():
    model = learn(make()).to("meta")
    tensors = [*model.parameters(), *model.buffers()]
    assert {t.device.type for t in tensors} == {"meta"}
    assert {member.parameter.device.type for gate in model.gates.values() for member in gate.members} == {"meta"}
    assert model(X.to("meta"), task=0).shape == (5, 2)


def test_made_on_the_meta_device():
    def by_hand():
        return hat.HATModel(wired(hat.HATLinear(6, 9), hat.HATLinear(9, 8)))

    with torch.device("meta"):
        model = by_hand()
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert hat.HATLinear(3, 4, device="meta").gate.embedding.device.type == "meta"
    real = learn(by_hand(), 2)
    model.to_empty(device="cpu").load_state_dict(real.state_dict())
    same(real, model)


# ---------------------------------------------------------------- subnormals


class Watch:
    """What enters every linear layer, forward and backward."""

    def __init__(self, monkeypatch):
        self.smallest = float("inf")
        linear = F.linear

        def watched(x, weight, bias=None):
            for tensor in (x, weight):
                self.see(tensor)
            y = linear(x, weight, bias)
            if y.requires_grad:
                y.register_hook(self.see)  # the other factor of both backward matmuls
            return y

        monkeypatch.setattr(F, "linear", watched)

    def see(self, tensor):
        values = tensor.detach().abs()
        values = values[values > 0]
        if values.numel():
            self.smallest = min(self.smallest, values.min().item())


@pytest.mark.parametrize("compensation", ["published", "exact"])
@pytest.mark.parametrize("task", [0, 2])
def test_no_subnormal_reaches_a_matmul(monkeypatch, task, compensation):
    """Three gates deep, s up to 400: every nonzero factor stays far above the subnormals, without a flush mode."""
    model = make(hidden=(31, 29, 23), compensation=compensation)
    if task:
        learn(model, task)
    model.begin_task(2)
    watch = Watch(monkeypatch)
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.01)
    with torch.no_grad():
        for embedding in model.embeddings:  # from far off, over the floor, to far on
            embedding.copy_(torch.linspace(-6, 6, embedding.numel()))
    for s in torch.logspace(-2.6, 2.602, 40).tolist():
        with torch.no_grad():
            for embedding in model.embeddings:
                embedding[1:12] = -torch.linspace(1, 104, 11) / s  # gates from e^-1 down to e^-104, subnormal
                embedding.clamp_(-6, 6)
        model.anneal(min(1.0, (s - 1 / 400) / (400 - 1 / 400)) if s > 1 / 400 else 0.0)
        train_at = F.cross_entropy(model(X), torch.arange(5) % 2) + 0.75 * model.penalty()
        optimizer.zero_grad()
        train_at.backward()
        optimizer.step()
    assert watch.smallest < 1e-3  # it saw the small ones
    assert watch.smallest > torch.finfo(torch.float32).tiny
    assert torch.finfo(torch.float32).tiny < GATE_FLOOR**3


def test_locks_of_a_lock_type():
    model = learn(make())
    assert all(isinstance(lock, Lock) for lock in model.locks().values())


def test_a_body_belongs_to_one_model():
    body = hat.models.mlp(4, (6,))
    first, second = hat.HATModel(body), hat.HATModel(body)
    with pytest.raises(RuntimeError, match="another HATModel has taken"):
        first.begin_task(2)
    second.begin_task(2)
    second.end_task()
    with pytest.raises(ValueError, match="without finished tasks"):
        hat.HATModel(body)
    with pytest.raises(ValueError, match="without a HATModel in it"):
        hat.HATModel(nn.Sequential(second))


def test_ctrl_c_while_a_task_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task has begun, or it has not: a head alone would count as that of a finished task."""
    model = hat.HATModel(hat.models.mlp(6, (9, 8)))
    freeze_more = model.freeze_more

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        freeze_more()

    monkeypatch.setattr(model, "freeze_more", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.begin_task(2)
    assert (model.tasks, model.learning, len(model.heads), model.training) == (0, True, 1, True)
    monkeypatch.undo()
    assert model.end_task() == 0


class Bottleneck(nn.Module):
    """The features are the units of the first gate, which is not the last one in the order of the modules."""

    def __init__(self):
        super().__init__()
        self.stem = hat.HATLinear(6, 4)
        self.up = hat.HATLinear(4, 5, inputs=self.stem.gate)
        self.down = hat.HATLinear(5, 4, inputs=self.up.gate, gate=self.stem.gate)

    def forward(self, x):
        h = self.stem(x)
        return h + self.down(self.up(h))


def test_the_number_of_features_follows_from_outputs():
    body = Bottleneck()
    model = hat.HATModel(body, outputs=body.stem.gate)
    model.begin_task(2)
    assert model.features == 4
    assert model(torch.ones(3, 6)).shape == (3, 2)
    without = hat.HATModel(Bottleneck())
    without.begin_task(2)
    advice = r"^features: expected 5 from the body, got 4; make the model with features=4, and with outputs=[^\n]+$"
    with pytest.raises(ValueError, match=advice):
        without(torch.ones(3, 6))
    body = Bottleneck()
    wrong = hat.HATModel(body, outputs=body.up.gate)
    wrong.begin_task(2)
    with pytest.raises(ValueError, match=advice):
        wrong(torch.ones(3, 6))


def test_outputs_of_another_body():
    body = Bottleneck()
    with pytest.raises(
        ValueError, match=r"^outputs: expected a gate of the body, one of stem.gate, up.gate, got another gate$"
    ):
        hat.HATModel(Bottleneck(), outputs=body.stem.gate)


@pytest.mark.parametrize("x", [None, "a", 1, [torch.ones(3, 6)], torch.ones(3, 5), torch.ones(3, 6, dtype=torch.int64)])
def test_an_input_of_another_kind_than_a_network_was_converted_on(x):
    plain = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    model = hat.convert(plain, torch.ones(2, 6))
    model.begin_task(2)
    with pytest.raises((TypeError, ValueError), match=r"^x: expected [^\n]+, got [^\n]+$"):
        model(x)


@pytest.mark.parametrize("progress", [None, True, "0.5", math.nan, -0.1, 10**400, [0.5], torch.ones(2), 1j])
def test_a_progress_that_is_no_share(progress):
    model = hat.HATModel(hat.HATLinear(2, 3))
    with pytest.raises(ValueError, match=r"^progress: expected (a number )?in \[0, 1\], got [^\n]+$"):
        model.anneal(progress)
    for share in (0, 1, 0.5, np.float32(0.5), torch.tensor(0.5)):
        model.anneal(share)


@pytest.mark.parametrize(
    "classes", [True, "ab", b"ab", 1.5, None, object(), [None], [0.5], torch.ones(2), {"a": 1}.items()]
)
def test_classes_that_are_no_names(classes):
    model = hat.HATModel(hat.HATLinear(2, 3))
    with pytest.raises(TypeError, match=r"^classes: expected a number or a sequence of names, got [^\n]+$"):
        model.begin_task(classes)
    with pytest.raises(ValueError, match=r"^classes: expected at most 1,048,576, got 10+$"):
        model.begin_task(10**30)
    assert model.begin_task(range(3)) == 0
