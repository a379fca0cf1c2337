"""Plain, textbook and ours compute the same numbers, so it is fair to compare their times."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hat
from benchmarks.bench import Case, build
from benchmarks.ours import Ours, body, placed
from benchmarks.plain import Plain
from benchmarks.textbook import Textbook
from benchmarks.variants import COMPILED, IN_MATMUL, OURS, TEXTBOOK, VARIANTS
from benchmarks.workload import LR, S_MAX, Network, batches, used_units

MLP = Network(kind="mlp", input_shape=(20,), hidden=(30, 25), classes=3, drop=False)
ALEXNET = Network(kind="alexnet", input_shape=(3, 16, 16), channels=(6, 7, 8), hidden=(20, 12), classes=4, drop=False)
PUBLISHED = hat.GateConfig(mask_mode="published", compensation="published", s_max=S_MAX)
KINDS_OF_OURS = (OURS, IN_MATMUL, COMPILED)
MOMENTS = [(name, progress) for name in (OURS, IN_MATMUL) for progress in (0.0, 0.01, 0.3, 1.0)]
MOMENTS += [pytest.param(COMPILED, 0.3, marks=pytest.mark.slow)]  # one is enough: all use the same compiled code
NETWORKS = pytest.mark.parametrize("network", [MLP, ALEXNET], ids=str)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The linear layers and convolutions of a model, in order."""
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def both(network: Network, locked: float, name: str) -> tuple[Ours, Textbook]:
    """Ours and the textbook with the same weights and the same finished tasks.

    Ours may have moved the units of the finished tasks, so the masks are reordered for the textbook.
    """
    finished = used_units(network.units, locked) if locked else None
    ours = Ours(network, finished=finished, in_backward=VARIANTS[name].in_backward, config=PUBLISHED)
    gates = ours.model.gates.values()
    moved = [placed(mask, gate) for mask, gate in zip(finished, gates, strict=True)] if finished else None
    textbook = Textbook(network, finished=moved)
    copy_weights(ours, textbook)
    return ours, textbook


@torch.no_grad()
def copy_weights(ours: Ours, textbook: Textbook) -> None:
    """Copy the weights and embeddings of ours to the textbook."""
    for source, target in pairs(ours, textbook):
        target.copy_(source)


def pairs(ours: Ours, textbook: Textbook) -> list[tuple[Tensor, Tensor]]:
    """Every parameter of ours with its counterpart in the textbook."""
    network = textbook.model
    layers_of_ours = [*layers_of(ours.model.body), ours.model.head]
    layers_of_textbook = [*network.layers, network.heads[textbook.task]]
    parameters = []
    for a, b in zip(layers_of_ours, layers_of_textbook, strict=True):
        parameters += [(a.weight, b.weight), (a.bias, b.bias)]
    tables = [table.weight[textbook.task] for table in network.embeddings]
    return parameters + list(zip(ours.model.embeddings, tables, strict=True))


@NETWORKS
@pytest.mark.parametrize("locked", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("name", "progress"), MOMENTS)
def test_one_step_of_textbook_and_ours_is_the_same(network: Network, locked: float, name: str, progress: float) -> None:
    ours, textbook = both(network, locked, name)
    before = [parameter.detach().clone() for parameter, _ in pairs(ours, textbook)]
    ((x, y),) = batches(network, 16, 1)
    with VARIANTS[name].backend():
        loss = ours(x, y, progress)
    torch.testing.assert_close(loss, textbook(x, y, progress), rtol=1e-5, atol=1e-6)
    moved = 0
    for old, (parameter, expected) in zip(before, pairs(ours, textbook), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)
        moved += int(not torch.equal(parameter, old))
    assert moved >= 2  # weight and bias of the head move at least, even if almost all units are locked or off


@NETWORKS
def test_with_gates_of_one_ours_takes_the_step_of_plain(network: Network) -> None:
    ours, plain = Ours(network), Plain(network)
    with torch.no_grad():
        for embedding in ours.model.embeddings:
            embedding.fill_(6.0)
        for source, target in zip([*layers_of(ours.model.body), ours.model.head], layers_of(plain.model), strict=True):
            target.load_state_dict({"weight": source.weight, "bias": source.bias})
    ((x, y),) = batches(network, 16, 1)
    torch.testing.assert_close(ours(x, y, 1.0), plain(x, y, 1.0) + 0.75, rtol=1e-5, atol=1e-6)
    for source, target in zip([*layers_of(ours.model.body), ours.model.head], layers_of(plain.model), strict=True):
        torch.testing.assert_close(source.weight, target.weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(source.bias, target.bias, rtol=1e-5, atol=1e-7)


@NETWORKS
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_finished_task_uses_the_given_share(network: Network, share: float) -> None:
    ours = Ours(network, finished=used_units(network.units, share))
    for gate in ours.model.gates.values():
        assert gate.used.sum().item() == round(share * gate.units)
        assert set(gate.used.tolist()) <= {0.0, 1.0}
    assert ours.model.tasks == 1
    assert ours.model.task == 1


@pytest.mark.parametrize("name", [*KINDS_OF_OURS, TEXTBOOK])
def test_locked_weights_keep_their_bits(name: str) -> None:
    step: Any = build(name, Case(network=MLP, batch=16, locked=0.5))
    used = used_units(MLP.units, 0.5)
    if isinstance(step, Ours):
        used = [placed(mask, gate) for mask, gate in zip(used, step.model.gates.values(), strict=True)]
    layers = layers_of(step.model.body if isinstance(step, Ours) else step.model.layers)
    before = [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in layers]
    ((x, y),) = batches(MLP, 16, 1)
    with VARIANTS[name].backend():
        for progress in (0.0, 0.5, 1.0):
            step(x, y, progress)
    locks = [used[0][:, None].expand_as(before[0][0]), torch.minimum(used[1][:, None], used[0])]
    for layer, (weight, bias), lock, units in zip(layers, before, locks, used, strict=False):
        assert torch.equal(layer.weight[lock > 0], weight[lock > 0])
        assert torch.equal(layer.bias[units > 0], bias[units > 0])
        assert not torch.equal(layer.weight[lock == 0], weight[lock == 0])


@NETWORKS
def test_tasks_that_use_the_same_units_lock_no_more(network: Network) -> None:
    masks = used_units(network.units, 0.5)
    ours = Ours(network, finished=masks, tasks=3)
    assert ours.model.tasks == 3
    for gate, mask in zip(ours.model.gates.values(), masks, strict=True):
        assert torch.equal(gate.used, placed(mask, gate))
        assert torch.equal(gate.masks, gate.used.expand_as(gate.masks))


@NETWORKS
def test_every_variant_has_the_same_shapes_and_dropout(network: Network) -> None:
    network = Network(**{**vars(network), "drop": True})
    plain, ours = Plain(network).model, body(network)
    shapes = [layer.weight.shape for layer in layers_of(plain)[:-1]]
    assert shapes == [layer.weight.shape for layer in layers_of(ours)]
    assert shapes == [layer.weight.shape for layer in Textbook(network).model.layers]
    dropout_of_plain = [module.p for module in plain if isinstance(module, nn.Dropout)]
    dropout_of_ours = [module.p for module in ours.modules() if isinstance(module, nn.Dropout)]
    dropout_of_ours += [module.dropout for module in layers_of(ours)]
    assert dropout_of_plain == dropout_of_ours == list(network.dropout)


def test_textbook_locks_by_the_smaller_of_both_sides() -> None:
    used = used_units(MLP.units, 0.5)
    rates = Textbook(MLP, finished=used).rates
    assert torch.equal(rates["layers.0.weight"], (1 - used[0])[:, None].expand(30, 20))
    assert torch.equal(rates["layers.1.weight"], torch.maximum((1 - used[1])[:, None], 1 - used[0]))
    assert torch.equal(rates["layers.1.bias"], 1 - used[1])
    assert LR == 0.05


def test_plain_takes_the_step_of_stock_sgd() -> None:
    plain = Plain(MLP)
    ((x, y),) = batches(MLP, 16, 1)
    widths = [(layer.in_features, layer.out_features) for layer in layers_of(plain.model)]
    assert widths == list(pairwise((20, 30, 25, 3)))
    before = [p.detach().clone() for p in plain.model.parameters()]
    nn.functional.cross_entropy(plain.model(x), y).backward()
    expected = [p - LR * p.grad for p in plain.model.parameters()]
    plain(x, y, 0.0)
    for old, parameter, stepped in zip(before, plain.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter, stepped)
        assert not torch.equal(parameter, old)
