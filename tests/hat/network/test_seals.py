"""Seals: whatever moves in what finished tasks use is found and named, and nothing else is."""

from __future__ import annotations

import copy
import json
import sys
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

import hat
from hat.network import checksums, seals
from hat_kernels.lock import rate

SHARED = "body.network.0.weight"


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


class Counting(nn.Module):
    """A body of the user's with a buffer and a parameter along no gate."""

    def __init__(self):
        super().__init__()
        self.layer = hat.HATLinear(6, 8)
        self.register_buffer("scale", torch.ones(3, dtype=torch.int16))
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.layer(x + self.shift.sum()) * self.scale[0]


def made(tasks=2, body=None, **config):
    """A model after some tasks, each of which uses every other unit of those that are left, and one more."""
    torch.manual_seed(0)
    config = hat.GateConfig(**config)
    if body is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hat.UnlockedWarning)
            model = hat.HATModel(body, config=config)
    else:
        model = hat.convert(network(), torch.randn(4, 6), config=config)
    for task in range(tasks):
        learn(model, 3 + task % 2)
    return model


def learn(model, classes=3):
    model.begin_task(classes)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(-1)
            gate.embedding[model.task % gate.units :: 3] = 1
    return model.end_task()


# -- what is told ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def write_by_data(model):
    model.get_parameter(SHARED).data[0] *= 0.9
    return SHARED


def vector_to_parameters(model):
    values = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(values * 0.99, model.parameters())
    return SHARED


@torch.no_grad()
def clip_weights(model):
    for parameter in model.body.parameters():
        parameter.clamp_(-0.01, 0.01)
    return SHARED


@torch.no_grad()
def copy_an_average_back(model):
    average = AveragedModel(model)
    for parameter in model.parameters():
        parameter.add_(0.1)
    average.update_parameters(model)
    for parameter, averaged in zip(model.parameters(), average.module.parameters(), strict=True):
        parameter.copy_(averaged)
    return SHARED


def draw_anew(model):
    nn.init.xavier_uniform_(model.get_parameter("body.network.3.weight"))
    return "body.network.3.weight"


@torch.no_grad()
def swap_two_elements(model):
    weight = model.get_parameter("body.network.3.weight")
    weight[:2] = weight[[1, 0]]
    return "body.network.3.weight"


def replace_a_parameter(model):
    layer = model.get_submodule("body.network.3")
    layer.bias = nn.Parameter(layer.bias.detach() + 1)
    return "body.network.3.bias"


def tie_weights(model):
    model.get_submodule("body.network.3").weight = nn.Parameter(torch.zeros(8, 8))
    return "body.network.3.weight"


@torch.no_grad()
def scale_a_head(model):
    model.heads[0].weight.mul_(2)
    return "heads.0.weight"


@torch.no_grad()
def move_a_bias_of_a_head(model):
    model.heads[1].bias.add_(1e-7)
    return "heads.1.bias"


def replace_a_head(model):
    model.heads[1] = nn.Sequential(nn.Linear(8, 4))
    return "heads.1.weight"


def write_a_mask(model):
    name, gate = next(iter(model.gates.items()))
    gate.masks[0, 0] = 1 - gate.masks[0, 0]
    return f"body.{name}.masks"


def write_own_values(model):
    name, norm = next((name, m) for name, m in model.body.named_modules() if isinstance(m, hat.HATLayerNorm))
    norm.bias_tasks += 0.5
    return f"body.{name}.bias_tasks"


@torch.no_grad()
def flip_the_sign_of_zero(model):
    bias = model.get_parameter("body.network.0.bias")
    bias.zero_()
    seals.seal(model)
    bias.neg_()
    return "body.network.0.bias"


WRITES = [
    *(write_by_data, vector_to_parameters, clip_weights, copy_an_average_back, draw_anew, swap_two_elements),
    *(replace_a_parameter, tie_weights, scale_a_head, move_a_bias_of_a_head, replace_a_head, write_a_mask),
    *(write_own_values, flip_the_sign_of_zero),
]


@pytest.mark.parametrize("locked_first", [True, False])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_named(write, locked_first):
    model = made(locked_first=locked_first)
    assert model.moved() is None
    name = write(model)
    assert model.moved() == name


@pytest.mark.parametrize("write", [lambda m: m.body.scale.add_(1), lambda m: m.body.shift.data.add_(1)])
def test_buffers_and_parameters_along_no_gate(write):
    model = made(body=Counting())
    write(model)
    assert model.moved() in ("body.scale", "body.shift")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_dtype_is_told_as_such(dtype):
    model = made()
    model.to(dtype)
    model.begin_task(2)
    with pytest.warns(hat.DriftWarning, match=f"weight is {dtype} and was torch.float32"):
        model.end_task()


def test_every_bit_of_every_locked_element_counts():
    """Any one bit that changes is found: in each position of each element, whatever the dtype."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64):
        values = torch.tensor([1, 0, 1]).to(dtype)
        before = checksums.sums(*seals._whole("", values)[3:])
        integers = values.view(torch.uint8)
        for byte in range(len(integers)):
            for bit in range(1 if dtype == torch.bool else 8):
                integers[byte] ^= 1 << bit
                assert not torch.equal(checksums.sums(*seals._whole("", values)[3:]), before), (dtype, byte, bit)
                integers[byte] ^= 1 << bit


def test_any_layout_and_any_chunks_give_the_same(monkeypatch):
    values = torch.randn(6, 4, 5, 5)
    sums = checksums.sums(*seals._whole("", values)[3:])
    assert torch.equal(sums, checksums.sums(*seals._whole("", values.to(memory_format=torch.channels_last))[3:]))
    stack = seals._stack("", values, range(6), values > 0)
    rows = checksums.sums(*stack[3:])
    for chunk in (1, 7, 50):
        monkeypatch.setitem(checksums._CHUNKS, "cpu", chunk)
        assert torch.equal(sums, checksums.sums(*seals._whole("", values)[3:]))
        assert torch.equal(rows, checksums.sums(*stack[3:]))


def test_the_formula():
    values = torch.tensor([[0.5, 1.0, 2.0], [3.0, -0.0, 4.0]])
    rows, columns = (checksums.factors(values.device, n, number) for n, number in ((2, 0), (3, 1)))
    assert bool((rows % 2 == 1).all())
    assert bool((columns % 2 == 1).all())
    bits = values.view(torch.int32).tolist()
    total = sum(bits[i][j] * int(rows[i]) * int(columns[j]) for i in range(2) for j in range(3)) % 2**64
    assert int(checksums.sums(*seals._whole("", values)[3:])) % 2**64 == total


# -- what is not told --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_tasks_may_write_is_not_sealed():
    for config in ({}, {"locked_first": False}):
        model = made(**config)
        for parameter, lock in model.locks().items():
            free = rate(lock, parameter).expand_as(parameter) != 0
            assert free.any()
            parameter[free] += 1
        for gate in model.gates.values():
            gate.embedding += 1
        model.heads[0].weight[:, model.outputs.masks[0] == 0] += 1
        assert model.moved() is None


@torch.no_grad()
def test_published_masks_let_shared_weights_move():
    model = made(mask_mode="published")
    for parameter in model.locks():
        parameter += 1
    assert model.moved() is None
    model.heads[0].bias += 1
    assert model.moved() == "heads.0.bias"


def test_a_life_raises_no_alarm():
    with warnings.catch_warnings():
        warnings.simplefilter("error", hat.DriftWarning)
        model = made(3)
        hat.grow(model, 3)
        learn(model)
        hat.forget(model, 1)
        learn(model)
        model.begin_task(2)
        hat.grow(model, 2)
        model.end_task()
        other = made(0)
        other.load_state_dict(model.state_dict())
        learn(copy.deepcopy(other))
        learn(other)
        for task in other.remembered:
            hat.forget(other, task)
    assert model.moved() is other.moved() is None
    assert not other.sealed


def test_tensors_without_values():
    with torch.device("meta"):
        model = hat.HATModel(hat.models.mlp(4, (6, 6)))
    assert model.moved() is None
    assert seals.seals(model) == {}
    assert not checksums.is_readable(torch.zeros(3, device="meta"))
    assert not checksums.is_readable(torch.eye(2).to_sparse())


# -- when it is told ---------------------------------------------------------------------------------------------------


def drifted():
    model = made()
    write_by_data(model)
    return model


def end(model):
    model.begin_task(2)
    model.end_task()


@pytest.mark.parametrize("change", [end, lambda m: hat.grow(m, 2), lambda m: hat.forget(m, 1)])
def test_told_once_and_remembered(change):
    model = drifted()
    with pytest.warns(hat.DriftWarning, match=f"{SHARED} has moved since it was locked") as told:
        change(model)
    assert len(told) == 1
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        end(model)
    assert model.moved() == SHARED
    other = made(0)
    other.load_state_dict(model.state_dict())
    assert other.moved() == SHARED


def test_as_an_error_it_changes_nothing():
    model = drifted()
    model.begin_task(2)
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "_extra_state"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", hat.DriftWarning)
        with pytest.raises(hat.DriftWarning, match=SHARED):
            model.end_task()
    assert model.learning
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    with pytest.warns(hat.DriftWarning):
        model.end_task()


def test_state_dict_on_demand():
    model = made()
    assert model.state_dict(verify=True).keys() == model.state_dict().keys()
    outer = nn.ModuleDict({"inner": model})
    write_by_data(model)
    assert "inner.heads.0.weight" in outer.state_dict()
    with pytest.raises(hat.ForgettingError, match=f"nothing to have moved, got .* parameter {SHARED} moved") as caught:
        model.state_dict(verify=True)
    assert caught.value.verification.moved == SHARED


@pytest.mark.parametrize("nested", [False, True])
def test_a_load_of_weights_that_were_not_sealed(nested):
    state = made().state_dict()
    average = {n: (v + v.roll(1)) / 2 if n == "body.network.3.weight" else v for n, v in state.items()}
    other = made(0)
    outer = nn.ModuleDict({"m": other}) if nested else other
    given = {f"m.{name}" if nested else name: value for name, value in average.items()}
    with pytest.warns(hat.DriftWarning, match=r"body.network.3.weight has moved in the loaded state"):
        outer.load_state_dict(given)
    assert other.moved() == "body.network.3.weight"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(state)
    assert other.moved() is None


def test_a_state_of_an_earlier_version_is_sealed_when_it_is_loaded():
    model = made()
    state = model.state_dict()
    facts = json.loads(bytes(state["_extra_state"].tolist()))
    del facts["sealed"], facts["drifted"]
    state["_extra_state"] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
    other = made(0)
    other.load_state_dict(state)
    assert other.sealed == model.sealed
    state["_extra_state"] = torch.tensor(list(json.dumps({**facts, "sealed": [3]}).encode()), dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="sealed: expected a dtype and integers by task"):
        other.load_state_dict(state)


def test_reserved_units_are_sealed_from_the_first_task_on():
    model = hat.convert(network(), torch.randn(4, 6), pretrained="locked")
    model.begin_task(3)
    write_by_data(model)
    with pytest.warns(hat.DriftWarning, match=SHARED):
        model.end_task()


def test_verify_without_probes_and_of_tasks_without_a_probe():
    model = made()
    assert hat.verify(model) == hat.Verification({}, None, 0.0)
    probes = hat.Probes()
    probes.add(model, 1, torch.randn(4, 6))
    model.heads[0].bias.data.add_(1)  # no probe tells of task 0, but `Probes` keeps its head
    del probes.parameters["heads.0.bias"]
    found = hat.verify(model, probes)
    assert (found.moved, found.kind, found.exact, found.largest) == ("heads.0.bias", "parameter", False, 0.0)
    assert str(found) == "largest drift 0 over 1 tasks; parameter heads.0.bias moved"


def test_two_threads_may_ask():
    model, found = made(), []
    threads = [threading.Thread(target=lambda: found.append(model.moved())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [None, None]


# -- what it costs -----------------------------------------------------------------------------------------------------


class Elements(TorchDispatchMode):
    """Counts calls of operations, and the elements that multiplications read."""

    def __init__(self):
        super().__init__()
        self.calls = self.read = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        if func is torch.ops.aten.mul.Tensor:
            self.read += args[0].numel()
        return func(*args, **(kwargs or {}))


def calls_of(model):
    count = 0

    def note(frame, event, _):
        nonlocal count
        count += event == "call"

    seals.seals(model)
    sys.setprofile(note)
    try:
        seals.seals(model)
    finally:
        sys.setprofile(None)
    return count


def test_as_many_calls_for_many_tasks_as_for_two():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few, many = made(4), made(40)
    assert calls_of(many) == calls_of(few)
    with Elements() as of_few:
        seals.seals(few)
    with Elements() as of_many:
        seals.seals(many)
    assert of_many.calls <= of_few.calls + 4  # no more units are free, so blocks are cut in another way


def test_only_what_is_locked_is_read():
    model = hat.HATModel(hat.models.mlp(64, (64, 64)))
    model.begin_task(2)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.fill_(-1)
            gate.embedding[::4] = 1
    model.end_task()
    with Elements() as elements:
        seals.seals(model)
    locked = 16 * 64 + 16 * 16 + 2 * 16  # weights and biases
    assert elements.read < locked + 1000


class Projected(hat.HATModel):
    """A model with a layer of its own between the body and the heads."""

    def __init__(self, body):
        super().__init__(body)
        self.projection = nn.Linear(8, 8)

    def forward(self, x, task=None):
        task = self._resolve(task)
        return self.heads[task](self.projection(self.features_of(x, self._answer_of(task))))


def test_what_a_forward_of_the_users_reads_outside_of_the_body_is_sealed():
    model = Projected(hat.models.mlp(6, (8, 8)))
    model.begin_task(3)
    model.end_task()
    assert model.moved() is None
    with torch.no_grad():
        model.projection.weight[0, 0] += 1
    assert model.moved() == "projection.weight"
