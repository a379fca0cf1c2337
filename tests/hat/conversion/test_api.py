"""`hat.convert`: the model can be saved, copied, compiled and trained as any other model."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.tracing.errors import ConversionError
from hat.units.state import OPEN, Finished
from hat_kernels.lock import rate
from tests.hat.conversion.checks import (
    OPTIMIZERS,
    answers,
    draw_units,
    features,
    learn,
    loss_of,
    nothing_forgotten,
    others,
    same,
)
from tests.hat.conversion.zoo import NETWORKS, Net

pytestmark = [pytest.mark.filterwarnings("ignore::hat.CapacityWarning"), pytest.mark.usefixtures("one_thread")]
SEVERAL = ["resnet", "transformer_fused", "windows"]


def made(name, **options):
    """(model, example); the last linear layer is the head."""
    module, example = NETWORKS[name]()
    return hat.convert(module, example, **options), example


def finish(model, example, seed=0):
    """Learn one task, which uses about half of the units."""
    model.begin_task(2)
    learn(model, example, OPTIMIZERS["SGD"](model))
    draw_units(model, seed, 0.5)
    model.end_task()


def same_models(first, second, example):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    same(answers(second, example), answers(first, example))


def go_on(first, second, example):
    """Let both models learn one more task. They must be equal afterwards, with units at the same places."""
    for model in (first, second):
        torch.manual_seed(3)
        finish(model, example, 9)
    same_models(first, second, example)
    moved = [not torch.equal(g.origin, torch.arange(g.units)) for g in first.gates.values()]
    assert any(moved)


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("name", SEVERAL)
def test_a_copy_goes_on_alike(name):
    model, example = made(name)
    finish(model, example)
    copied = copy.deepcopy(model)
    same_models(model, copied, example)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in copied.parameters()}
    go_on(model, copied, example)


class Small(nn.Module):
    """Pickle needs this class at the top level."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 6)
        self.scale, self.last = nn.Parameter(torch.rand(6)), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.one(x)))
        a, b = self.two(x).chunk(2, -1)
        return self.last(torch.cat([F.gelu(a), b], -1) * self.scale)


@pytest.mark.parametrize("way", ["pickle", "torch.save"])
def test_a_pickled_model_goes_on_alike(way):
    torch.manual_seed(0)
    example = (torch.randn(4, 5),)
    model = hat.convert(Small(), example)
    finish(model, example)
    if way == "pickle":
        loaded = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
    same_models(model, loaded, example)
    go_on(model, loaded, example)


@pytest.mark.parametrize("stage", ["learning", "finished"])
@pytest.mark.parametrize("name", SEVERAL)
def test_a_state_dict_fits_a_fresh_conversion(name, stage):
    model, example = made(name)
    finish(model, example)
    finish(model, example, 1)
    if stage == "learning":
        model.begin_task(3)
    fresh, _ = made(name)
    assert fresh.state_dict().keys() <= model.state_dict().keys()
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    same_models(model, fresh, example)
    for gate, loaded_gate in zip(model.gates.values(), fresh.gates.values(), strict=True):
        assert (gate.locked, gate.in_order) == (loaded_gate.locked, loaded_gate.in_order)
    if stage == "finished":
        go_on(model, fresh, example)


def test_a_checkpoint(tmp_path):
    model, example = made("resnet")
    finish(model, example)
    hat.checkpoint.save(tmp_path / "model", model.state_dict())
    fresh, _ = made("resnet")
    fresh.load_state_dict(hat.checkpoint.load(tmp_path / "model"))
    same_models(model, fresh, example)


# ---------------------------------------------------------------- dtypes, compilers, loops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SEVERAL)
def test_another_dtype(name, dtype):
    model, example = made(name)
    model, example = model.to(dtype), tuple(x.to(dtype) for x in example)
    assert all(gate.embedding.dtype == torch.float32 for gate in model.gates.values())
    assert features(model.eval(), example, OPEN).dtype == dtype
    for seed in range(2):
        model.begin_task(2)
        draw_units(model, seed, 0.5)
        model.end_task()
    before = answers(model, others(example))
    assert all(values.dtype == dtype and values.isfinite().all() for values in before)
    model.begin_task(2)
    if dtype != torch.float16:  # sums overflow in float16
        learn(model, example, OPTIMIZERS["torch SGD"](model))
    draw_units(model, 5, 0.5)
    model.end_task()
    same(answers(model, others(example))[:2], before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SEVERAL)
def test_under_autocast(name, dtype):
    model, example = made(name)
    model, example = model.float(), tuple(x.float() for x in example)
    remembered = []
    for task in range(3):
        model.begin_task(2)
        optimizer = OPTIMIZERS["SGD"](model)
        for step in range(3):
            model.train().anneal(step / 2)
            with torch.autocast("cpu", dtype):
                loss = loss_of(model, example)
            optimizer.zero_grad()
            (loss.float() + 0.75 * model.penalty()).backward()
            optimizer.step()
        draw_units(model, task, 0.5)
        model.end_task()
        with torch.autocast("cpu", dtype):
            now = answers(model, example)
            remembered.append(now[-1])
            same(now, remembered)


@pytest.mark.parametrize("name", ["concatenation", "squeeze_and_excite"])
def test_one_graph_under_compile(name):
    module, example = NETWORKS[name]()
    model = hat.convert(module, example, head=None)
    finish(model, example)
    model.begin_task(2)
    model.train().anneal(0.01)
    torch._dynamo.reset()
    results = []
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for call in (model, compiled):
        logits = call(*example)
        parameters = [p for p in model.task_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)
        # Only rates above 0 count, because a locked block may have no gradient.
        rates = [rate(lock, p) if (lock := model.locks().get(p)) else 1 for p in parameters]
        results.append([logits, *(g * r for g, r in zip(gradients, rates, strict=True) if g is not None)])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(expected, got)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*example, task=0), model(*example, task=0))


@pytest.mark.parametrize("name", SEVERAL)
def test_the_step_as_one_callable(name):
    model, example = made(name)
    remembered = []
    for task in range(2):
        model.begin_task(2)
        step = hat.TrainStep(model, OPTIMIZERS["SGD"](model), lambda logits, y: F.cross_entropy(logits, y))
        for number in range(3):
            losses = step(*example, torch.arange(len(example[0])) % 2, progress=number / 2)
            assert all(loss.isfinite() for loss in losses)
        draw_units(model, task, 0.5)
        model.end_task()
        remembered.append(features(model, example, Finished(task)))
        same(answers(model, example), remembered)


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.one, self.two = nn.Conv2d(16, 24, 3, stride=2), nn.Conv2d(24, 16, 1)
        self.skip, self.last = nn.Conv2d(16, 16, 3, stride=2), nn.Linear(144, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.skip(x) + self.two(F.relu(self.one(x))))
        return self.last(F.dropout(x.flatten(1), 0.1, self.training))


def test_the_trainer_of_a_converted_network():
    torch.manual_seed(0)
    stream = hat.data.split("digits", classes_per_task=2, tasks=2)
    model = hat.convert(Digits(), torch.randn(4, *stream[0].input_shape))
    config = hat.TrainConfig(epochs=4, batch_size=32, optimizer="adamw", lr=0.003)
    history = hat.Trainer(model, stream, config, progress=False).run().history
    assert min(history.accuracy[-1]) > 0.9
    assert history.largest_drift == 0


@pytest.mark.parametrize("name", ["resnet", "normalised", "transformer_by_hand"])
def test_an_old_task_answers_alike_in_training_mode(name):
    """A finished task uses its own statistics, and training of the current task does not change them."""
    model, example = made(name)
    finish(model, example)
    before = features(model.eval(), example, Finished(0))
    model.begin_task(2)
    learn(model, example, OPTIMIZERS["SGD"](model))
    now = {n: b.clone() for n, b in model.named_buffers()}
    assert torch.equal(features(model.train(), example, Finished(0)), before)
    assert torch.equal(features(model.eval(), example, Finished(0)), before)
    for buffer, values in model.named_buffers():
        assert torch.equal(values, now[buffer]), buffer


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning")  # weights that the network computes are each task's own
def test_a_network_with_several_inputs():
    module, example = NETWORKS["cross_attention"]()
    model = hat.convert(module, example, head=None)
    model.begin_task(2)
    torch.testing.assert_close(model(example), model.head(model.body(*example)))
    assert model(tuple(x[:2] for x in example)).shape == (2, 2)


# ---------------------------------------------------------------- what is shared


def test_parameters_are_the_networks_own():
    module, example = NETWORKS["resnet"]()
    model = hat.convert(module, example)
    converted_ids = {id(p) for p in model.body.parameters()}
    for name, parameter in module.named_parameters():
        norm = "norm" in name or name.startswith("project.1")
        assert (id(parameter) in converted_ids) == (not norm and not name.startswith("last")), name


def test_the_network_of_the_user_computes_the_same_as_before():
    """Tables along a stream share the memory of the network. Per-task tensors start from its values."""
    module, example = NETWORKS["transformer_fused"]()
    with torch.no_grad():
        before = module(*example)
    model = hat.convert(module, example)
    with torch.no_grad():
        assert torch.equal(module(*example), before)
        module.positions.mul_(3)
        changed = features(model.eval(), example, OPEN)
        assert not torch.allclose(changed, features(hat.convert(*NETWORKS["transformer_fused"]()), example, OPEN))


def test_names_are_those_of_the_network():
    model, _ = made("resnet")
    assert list(model.gates) == ["gates.stem", "gates.one", "gates.two"]
    names = set(dict(model.body.named_parameters()))
    assert {"network.stem.weight", "network.project.0.bias", "network.norm1.weight", "gates.stem.embedding"} <= names


# ---------------------------------------------------------------- pretrained


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning")  # weights that the network computes are each task's own
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "name", ["resnet", "transformer_fused", "language_model", "grouped", "weights_of_another_form"]
)
def test_locked_weights_never_move(name, optimizer):
    """Neither weight decay nor momentum moves a locked weight, and every task still learns."""
    module, example = NETWORKS[name]()
    model = hat.convert(module, example, head=None, pretrained="locked")
    not_shared = {
        id(p) for part in hat.units.per_task.per_task(model.body).values() for p in part.parameters(recurse=False)
    }
    not_shared |= {id(e) for e in model.embeddings}
    shared = {n: (p, p.detach().clone()) for n, p in model.body.named_parameters() if id(p) not in not_shared}
    assert shared
    remembered = []
    for task in range(2):
        model.begin_task(2)
        head = model.head.weight.detach().clone()
        learn(model, example, OPTIMIZERS[optimizer](model))
        assert not torch.equal(model.head.weight, head)
        for parameter_name, (parameter, before) in shared.items():
            assert torch.equal(parameter, before), parameter_name
        draw_units(model, task)
        model.end_task()
        remembered.append(features(model, example, Finished(task)))
        same(answers(model, example), remembered)


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_locked_weights_beside_excluded_parts(optimizer):
    module, example = NETWORKS["residual"]()
    model = hat.convert(module, example, filter=lambda m, name: name != "up", pretrained="locked")
    before = module.up.weight.detach().clone()
    model.begin_task(2)
    learn(model, example, OPTIMIZERS[optimizer](model))
    assert torch.equal(module.up.weight, before)


def test_free_weights_do_move():
    module, example = NETWORKS["residual"]()
    model, before = hat.convert(module, example), module.up.weight.detach().clone()
    model.begin_task(2)
    learn(model, example, OPTIMIZERS["SGD"](model))
    assert not (module.up.weight == before).any()


# ---------------------------------------------------------------- filter


def test_an_excluded_part_is_frozen_when_the_first_task_ends():
    module, example = NETWORKS["residual"]()
    with pytest.warns(hat.UnlockedWarning, match=r"up\.weight"):
        model = hat.convert(module, example, filter=lambda m, name: name != "up")
    before = module.up.weight.detach().clone()
    finish(model, example)
    first = module.up.weight.detach().clone()
    assert not torch.equal(first, before)
    assert not module.up.weight.requires_grad
    finish(model, example, 1)
    assert torch.equal(module.up.weight, first)


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning")
def test_nothing_is_forgotten_around_an_excluded_part():
    for excluded in ("up", "down", "stem", "other"):
        module, example = NETWORKS["residual"]()
        model = hat.convert(module, example, filter=lambda m, name, no=excluded: name != no)
        assert nothing_forgotten(model, example) > 0.1


def test_an_excluded_norm_with_running_statistics_is_refused():
    module, example = NETWORKS["resnet"]()
    with pytest.raises(ConversionError, match=r"norm1.*running statistics.*do not exclude this module"):
        hat.convert(module, example, filter=lambda m, name: name != "norm1")
    with pytest.raises(ConversionError, match=r"project.*running statistics"):
        hat.convert(module, example, filter=lambda m, name: name != "project")


# ---------------------------------------------------------------- refusals


class Rare(nn.Linear):
    def forward(self, x):
        return super().forward(x).flip(-1) @ self.weight


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: nn.LSTM(5, 5, batch_first=True), {}, "LSTM.*filter"),
        (lambda: nn.Bilinear(5, 5, 5), {}, "Bilinear.*filter"),
        (lambda: nn.ReLU(), {}, "end with a linear layer.*head=None"),
        (lambda: nn.ReLU(), {"head": None}, "at least one layer"),
        (lambda: nn.Linear(5, 5), {"head": "first"}, "head.*'first'"),
        (lambda: nn.Sequential(nn.Linear(5, 5), nn.Softmax(1)), {}, "softmax|1: expected the network to end"),
    ],
)
def test_an_error_names_the_module_and_a_remedy(make, options, message):
    module = make()

    def forward(self, x):
        inputs = (x, x) if isinstance(module, nn.Bilinear) else (x[:, None],) if isinstance(module, nn.LSTM) else (x,)
        result = self.part(*inputs)
        result = result[0][:, 0] if isinstance(result, tuple) else result
        return self.last(result) if hasattr(self, "last") else result

    last = {"last": nn.Linear(5, 2)} if isinstance(module, nn.LSTM | nn.Bilinear) else {}
    with pytest.raises(ConversionError, match=message):
        hat.convert(Net(forward, part=module, **last), torch.randn(4, 5), **options)


_WRONG = {
    "module": [lambda x: x, nn.Linear, None, "net", {"weight": torch.ones(2)}],
    "example_input": [None, {}, (), [], "image", 3, np.ones((2, 5), np.float32), (3, None), [[]], ({"x": 1},)],
    "head": [0, True, b"1", ["1"], nn.Linear(5, 2), object()],
    "filter": ["1", 3, lambda module: True, lambda a, b, c: True, ["1"], object()],
    "pretrained": ["frozen", None, 1, True, ["free"]],
    "per_head": ["yes", 1, None, 0.0],
    "copy": ["no", 0, None, torch.ones(1)],
    "config": [3, {}, "binary", hat.GateConfig],
    "process_group": [3, "world", ()],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in _WRONG.items() for value in values])
def test_arguments_of_wrong_types_and_values(name, value):
    network = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    arguments = {"module": network, "example_input": torch.randn(2, 5)} | {name: value}
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected ") as refusal:
        hat.convert(arguments.pop("module"), arguments.pop("example_input"), **arguments)
    assert "\n" not in str(refusal.value)


def test_a_network_that_cannot_be_copied():
    network = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    network.last = network(torch.randn(2, 5))  # deepcopy takes no tensor that was computed with gradients
    with pytest.raises(
        ValueError, match=r"^copy: expected a network that copy\.deepcopy takes, got RuntimeError: Only"
    ):
        hat.convert(network, torch.randn(2, 5), copy=True)


def test_containers_with_tensors_are_examples():
    def forward(self, inputs):
        return self.head(F.relu(self.one(inputs["x"])))

    module = Net(forward, one=nn.Linear(5, 6), head=nn.Linear(6, 3))
    assert hat.convert(module, {"x": torch.randn(2, 5)}).features == 6


def test_tensors_without_values_are_refused():
    with pytest.raises(ValueError, match=r"module: expected values, got weight on the meta device"):
        hat.convert(nn.Linear(5, 5, device="meta"), torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"example_input: expected values, got \(0, 5\)"):
        hat.convert(nn.Linear(5, 5), torch.randn(0, 5))


def test_an_answer_must_be_features():
    pair = Net(lambda self, x: (self.one(x), x), one=nn.Linear(5, 3))
    with pytest.raises(ConversionError, match=r"answer with one tensor.*wrap it"):
        hat.convert(pair, torch.randn(4, 5), head=None)
    chosen = Net(lambda self, x: self.one(x).argmax(1), one=nn.Linear(5, 3))
    with pytest.raises(ConversionError, match="expected features"):
        hat.convert(chosen, torch.randn(4, 5), head=None)
