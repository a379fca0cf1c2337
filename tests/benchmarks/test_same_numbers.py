"""Plain, textbook and ours compute the same where they should: what is compared in time is comparable."""

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
MINE = (OURS, IN_MATMUL, COMPILED)
MOMENTS = [(name, progress) for name in (OURS, IN_MATMUL) for progress in (0.0, 0.01, 0.3, 1.0)]
MOMENTS += [pytest.param(COMPILED, 0.3, marks=pytest.mark.slow)]  # one is enough: the same code is compiled for all
NETWORKS = pytest.mark.parametrize("network", [MLP, ALEXNET], ids=str)


def gated(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def both(network: Network, locked: float, name: str) -> tuple[Ours, Textbook]:
    """Ours and the textbook, alike; finished tasks use the same units, which ours may have moved."""
    finished = used_units(network.units, locked) if locked else None
    ours = Ours(network, finished=finished, in_backward=VARIANTS[name].in_backward, config=PUBLISHED)
    gates = ours.model.gates.values()
    moved = [placed(mask, gate) for mask, gate in zip(finished, gates, strict=True)] if finished else None
    textbook = Textbook(network, finished=moved)
    copy_weights(ours, textbook)
    return ours, textbook


@torch.no_grad()
def copy_weights(ours: Ours, textbook: Textbook) -> None:
    theirs = textbook.model
    mine = [*gated(ours.model.body), ours.model.head]
    for source, target in zip(mine, [*theirs.layers, theirs.heads[textbook.task]], strict=True):
        target.weight.copy_(source.weight)
        target.bias.copy_(source.bias)
    for embedding, table in zip(ours.model.embeddings, theirs.embeddings, strict=True):
        table.weight[textbook.task] = embedding


def pairs(ours: Ours, textbook: Textbook) -> list[tuple[Tensor, Tensor]]:
    theirs = textbook.model
    found = []
    for a, b in zip(
        [*gated(ours.model.body), ours.model.head], [*theirs.layers, theirs.heads[textbook.task]], strict=True
    ):
        found += [(a.weight, b.weight), (a.bias, b.bias)]
    tables = [table.weight[textbook.task] for table in theirs.embeddings]
    return found + list(zip(ours.model.embeddings, tables, strict=True))


@NETWORKS
@pytest.mark.parametrize("locked", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("name", "progress"), MOMENTS)
def test_one_step_of_textbook_and_ours_is_the_same(network: Network, locked: float, name: str, progress: float) -> None:
    ours, textbook = both(network, locked, name)
    before = [mine.detach().clone() for mine, _ in pairs(ours, textbook)]
    ((x, y),) = batches(network, 16, 1)
    with VARIANTS[name].backend():
        loss = ours(x, y, progress)
    torch.testing.assert_close(loss, textbook(x, y, progress), rtol=1e-5, atol=1e-6)
    moved = 0
    for old, (mine, theirs) in zip(before, pairs(ours, textbook), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        moved += int(not torch.equal(mine, old))
    assert moved >= 2  # it was a step: the head moves at least, even where almost every unit is used or off


@NETWORKS
def test_a_gate_of_one_is_plain(network: Network) -> None:
    ours, plain = Ours(network), Plain(network)
    with torch.no_grad():
        for embedding in ours.model.embeddings:
            embedding.fill_(6.0)
        for source, target in zip([*gated(ours.model.body), ours.model.head], gated(plain.model), strict=True):
            target.load_state_dict({"weight": source.weight, "bias": source.bias})
    ((x, y),) = batches(network, 16, 1)
    torch.testing.assert_close(ours(x, y, 1.0), plain(x, y, 1.0) + 0.75, rtol=1e-5, atol=1e-6)
    for source, target in zip([*gated(ours.model.body), ours.model.head], gated(plain.model), strict=True):
        torch.testing.assert_close(source.weight, target.weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(source.bias, target.bias, rtol=1e-5, atol=1e-7)


@NETWORKS
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_finished_task_uses_the_share_asked_for(network: Network, share: float) -> None:
    ours = Ours(network, finished=used_units(network.units, share))
    for gate in ours.model.gates.values():
        assert gate.used.sum().item() == round(share * gate.units)
        assert set(gate.used.tolist()) <= {0.0, 1.0}
    assert ours.model.tasks == 1
    assert ours.model.task == 1


@pytest.mark.parametrize("name", [*MINE, TEXTBOOK])
def test_locked_weights_keep_their_bits(name: str) -> None:
    step: Any = build(name, Case(network=MLP, batch=16, locked=0.5))
    used = used_units(MLP.units, 0.5)
    if isinstance(step, Ours):
        used = [placed(mask, gate) for mask, gate in zip(used, step.model.gates.values(), strict=True)]
    layers = gated(step.model.body if isinstance(step, Ours) else step.model.layers)
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
    plain, mine = Plain(network).model, body(network)
    shapes = [layer.weight.shape for layer in gated(plain)[:-1]]
    assert shapes == [layer.weight.shape for layer in gated(mine)]
    assert shapes == [layer.weight.shape for layer in Textbook(network).model.layers]
    drops = [module.p for module in plain if isinstance(module, nn.Dropout)]
    ours = [module.p for module in mine.modules() if isinstance(module, nn.Dropout)]
    ours += [module.dropout for module in gated(mine)]
    assert drops == ours == list(network.dropout)


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
    widths = [(layer.in_features, layer.out_features) for layer in gated(plain.model)]
    assert widths == list(pairwise((20, 30, 25, 3)))
    before = [p.detach().clone() for p in plain.model.parameters()]
    nn.functional.cross_entropy(plain.model(x), y).backward()
    expected = [p - LR * p.grad for p in plain.model.parameters()]
    plain(x, y, 0.0)
    for old, new, want in zip(before, plain.model.parameters(), expected, strict=True):
        torch.testing.assert_close(new, want)
        assert not torch.equal(new, old)
