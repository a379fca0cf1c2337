"""A gated embedding table: the look-up of torch times the gate, with locked columns."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat
from hat.units.locks import first_layers, locks, sides, unlocked
from hat.units.state import OPEN, Finished, PerSample
from hat_kernels.lock import rate
from tests.hat.nets import anneal, answer_for, same_gradients, soft, use
from tests.hat.stepping import take_step

TOKENS = torch.tensor([[0, 3, 3, 1], [4, 0, 2, 2]])


def embedding(**options):
    torch.manual_seed(0)
    return hat.HATEmbedding(5, 6, dtype=torch.float64, **options)


def test_with_open_gates_the_table_answers_as_torch_does():
    layer = answer_for(embedding(), OPEN)
    assert torch.equal(layer(TOKENS), F.embedding(TOKENS, layer.weight))
    assert layer(TOKENS[0, 0]).shape == (6,)


def test_gradients_of_a_computation_by_hand():
    layer = anneal(embedding(), 0.005)
    same_gradients(layer.parameters(), layer(TOKENS), layer.weight[TOKENS] * soft(layer.gate))


def test_an_off_unit_is_exactly_0():
    layer = embedding()
    use(layer.gate, [1, 0, 1, 1, 0, 0])
    answer_for(layer, Finished(0))
    with torch.no_grad():
        layer.weight[:, 1] = float("nan")
    assert not layer(TOKENS)[..., [1, 4, 5]].any()
    assert torch.equal(layer(TOKENS)[..., [0, 2, 3]], layer.weight[TOKENS][..., [0, 2, 3]])


def test_a_task_per_sample():
    layer = embedding()
    layer.gate.load_state_dict({**layer.gate.state_dict(), "masks": torch.eye(2, 6)})
    answer_for(layer, PerSample(torch.tensor([1, 0])))
    y = layer(TOKENS)
    assert y[0].nonzero()[:, 1].unique().tolist() == [1]
    assert y[1].nonzero()[:, 1].unique().tolist() == [0]


def test_padding():
    layer = anneal(embedding(padding_idx=3), 0.005)
    assert not layer.weight[3].any()
    layer(TOKENS).sum().backward()
    assert not layer.weight.grad[3].any()
    assert layer.weight.grad[0].all()
    assert not layer(TOKENS)[0, 1].any()


def test_a_gate_of_another_length():
    with pytest.raises(ValueError, match=r"weight: expected 4 units x 1 along dimension 1, got \(5, 6\)"):
        hat.HATEmbedding(5, 6, gate=hat.Gate(4))


# ---------------------------------------------------------------- what is locked


@pytest.mark.parametrize("used", [[1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [1] * 6, [0] * 6])
def test_columns_of_used_units_are_locked(used):
    layer = embedding()
    use(layer.gate, used)
    sides_of_table = sides(layer)[layer.weight]
    assert sides_of_table.rows is None
    free = 1 - torch.tensor(used, dtype=torch.float64)
    moves = torch.zeros_like(layer.weight)
    for block in sides_of_table.blocks(layer.weight):
        moves[block.where] += 1 if block.lock is None else rate(block.lock, moves[block.where])
    assert torch.equal(moves, free.expand(5, 6))
    leading = used.index(0) if 0 in used else 6
    assert sum(moves[block.where].numel() for block in sides_of_table.blocks(layer.weight)) == 5 * (6 - leading)


def test_a_table_reads_no_units_and_is_no_first_layer():
    layer = embedding()
    linear = hat.HATLinear(6, 3, inputs=layer.gate)
    body = nn.ModuleList([layer, linear])
    assert not layer.gate.reads(layer)
    assert layer.gate.reads(linear)
    assert linear.inputs == [layer.gate]
    assert not first_layers(body)
    assert unlocked(body) == {}
    assert torch.equal(locks(body)[linear.weight].columns, layer.gate.free)


def test_a_table_that_a_layer_shares_still_has_locked_columns():
    """Weight (v, c) of a used unit c is locked, even if unit v of the layer is free."""
    layer = embedding()
    linear = hat.HATLinear(6, 5, inputs=layer.gate, dtype=torch.float64)
    linear.weight = layer.weight
    body = nn.ModuleList([layer, linear])
    use(layer.gate, [1, 1, 0, 0, 0, 0])
    use(linear.gate, [1, 0, 0, 0, 0])
    lock = locks(body)[layer.weight]
    assert lock.rows is None
    assert torch.equal(lock.columns, layer.gate.free)


def test_a_table_that_a_first_layer_shares_is_along_no_gate():
    """One module knows the rows and the other the columns, and no rate would be safe for both."""
    layer, linear = embedding(), hat.HATLinear(6, 5, dtype=torch.float64)
    linear.weight = layer.weight
    assert set(unlocked(nn.ModuleList([layer, linear]))) == {"0.weight"}


def test_columns_of_groups_do_not_lock_alone():
    gate, plain = hat.Gate(4), nn.Conv1d(4, 6, 1, groups=2, bias=False)
    gate.attach(plain, "weight", 1, groups=2)
    assert set(unlocked(nn.ModuleList([gate, plain]))) == {"1.weight"}


# ---------------------------------------------------------------- what optimizers may do

OPTIMIZERS = {
    "SGD": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.5),
    "SGD inside": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.5, weight_decay=0.1, in_backward=True),
    "SGD momentum": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.5, momentum=0.9, weight_decay=0.1, max_norm=1.0),
    "AdamW": lambda m: hat.optim.AdamW(m.task_parameters(), lr=0.1, weight_decay=0.1),
    "torch SGD": lambda m: hat.guard(
        torch.optim.SGD(m.task_parameters(), lr=0.5, momentum=0.9, weight_decay=0.1), m, max_norm=1.0
    ),
    "torch AdamW": lambda m: hat.guard(torch.optim.AdamW(m.task_parameters(), lr=0.1, weight_decay=0.1), m),
    "torch fused AdamW": lambda m: hat.guard(
        torch.optim.AdamW(m.task_parameters(), lr=0.1, weight_decay=0.1, fused=True), m
    ),
    "torch LBFGS": lambda m: hat.guard(torch.optim.LBFGS(list(m.task_parameters()), lr=0.1, max_iter=2), m),
}


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = hat.HATEmbedding(5, 6)
        self.linear = hat.HATLinear(6, 4, inputs=self.table.gate)

    def forward(self, tokens):
        return self.linear(self.table(tokens).mean(1))


def train(model, optimizer, step):
    def closure():
        model.anneal(step * 0.005)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(TOKENS), torch.tensor([0, 1])) + 0.75 * model.penalty()
        loss.backward()
        return loss

    take_step(optimizer, closure)


@pytest.mark.parametrize("order", ["first", "anywhere"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_used_columns_keep_every_bit_and_the_others_move(name, order):
    torch.manual_seed(0)
    body = Words()
    table, gate = body.table.weight, body.table.gate
    gate.complete = body.linear.gate.complete = order == "first"
    model, probes = hat.HATModel(body, outputs=body.linear.gate), hat.Probes()
    for task in range(3):
        model.begin_task(2)
        optimizer, before = OPTIMIZERS[name](model), table.detach().clone()
        for step in range(3):
            train(model, optimizer, step)
        used = gate.used == 1
        assert used.sum() == 2 * task
        assert torch.equal(table[:, used], before[:, used])
        assert (table[:, ~used] != before[:, ~used]).any(0).all()
        states = [state for key, state in optimizer.state[table].items() if key in ("momentum_buffer", "exp_avg")]
        if order == "first" and "fused" not in name:
            assert all(state.shape == (5, 6 - 2 * task) for state in states)
        with torch.no_grad():
            for other_gate in model.gates.values():
                other_gate.embedding.copy_(torch.where(other_gate.origin % 3 == 2 - task, 1.0, -1.0))
        model.end_task()
        probes.add(model, task, TOKENS)
        assert hat.verify(model, probes).exact
    assert gate.locked == gate.units
