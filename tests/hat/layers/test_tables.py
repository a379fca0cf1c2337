"""Tables of positions and class tokens: parameters along the gate of the stream they join."""

import pytest
import torch
from torch import nn

import hat
from hat.units.locks import sides, unlocked
from hat.units.state import OPEN, Finished, PerSample
from tests.hat.nets import anneal, answer_for, same_gradients, soft, use


def tables(**options):
    torch.manual_seed(0)
    gate = hat.Gate(4)
    return hat.PositionalTable(5, 4, gate=gate, **options), hat.ClassToken(4, gate=gate, tokens=2, **options)


def stream(count=3, dtype=torch.float64):
    return torch.randn(2, count, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def test_with_open_gates():
    positions, tokens = (answer_for(table, OPEN) for table in tables(dtype=torch.float64))
    x = stream()
    assert torch.equal(positions(x), x + positions.weight[:3])
    assert torch.equal(positions(stream(5)), stream(5) + positions.weight)
    assert torch.equal(tokens(x), torch.cat([tokens.weight.expand(2, 2, 4), x], 1))


@pytest.mark.parametrize("index", [0, 1])
def test_gradients_of_a_computation_by_hand(index):
    table, x = anneal(tables(dtype=torch.float64)[index], 0.005), stream().requires_grad_()
    gated = table.weight * soft(table.gate)
    expected = torch.cat([gated.expand(2, 2, 4), x], 1) if index else x + gated[:3]
    same_gradients([x, *table.parameters()], table(x), expected)


@pytest.mark.parametrize("unit_dim", [-1, 1])
def test_an_off_unit_is_exactly_0(unit_dim):
    """Also where the gate was made by a convolution."""
    for table in tables():
        table.gate.unit_dim = unit_dim
        use(table.gate, [1, 0, 0, 1])
        answer_for(table, Finished(0))
        y = table(torch.zeros(2, 3, 4))
        assert not y[..., 1:3].any()
        assert y[:, 0, [0, 3]].all()


@pytest.mark.parametrize("index", [0, 1])
def test_a_task_per_sample(index):
    table = tables()[index]
    table.gate.load_state_dict({**table.gate.state_dict(), "masks": torch.eye(4)[[3, 1]]})
    answer_for(table, PerSample(torch.tensor([1, 0])))
    y = table(torch.zeros(2, 3, 4))
    assert [y[sample].nonzero()[:, 1].unique().tolist() for sample in (0, 1)] == [[1], [3]]


def test_locked_by_their_columns():
    body = nn.ModuleList(tables())
    use(body[0].gate, [1, 1, 0, 0])
    assert unlocked(body) == {}
    for table in body:
        found = sides(body)[table.weight]
        assert found.rows is None
        (block,) = found.blocks(table.weight)
        assert block.free
        assert table.weight[block.where].shape == (len(table.weight), 2)
        assert not table.gate.reads(table)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tables()[0](torch.zeros(2, 6, 4)), "x: expected at most 5 positions, got 6"),
        (lambda: tables()[0](torch.zeros(2, 3, 5)), r"x: expected shape \(B, N, 4\), got \(2, 3, 5\)"),
        (lambda: tables()[1](torch.zeros(3, 4)), r"x: expected shape \(B, N, 4\), got \(3, 4\)"),
        (lambda: hat.PositionalTable(0, 4, gate=hat.Gate(4)), "positions: expected at least 1, got 0"),
        (lambda: hat.ClassToken(4, gate=hat.Gate(4), tokens=0), "tokens: expected at least 1, got 0"),
        (lambda: hat.ClassToken(5, gate=hat.Gate(4)), "weight: expected 4 units x 1 along dimension 1"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
