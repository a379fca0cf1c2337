"""Only the gates know the parameters that lie along them: a module of the user holds no reference to a gate."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

import hat
from hat.units.locks import locks, sides
from hat.units.sides import uses_of

pytestmark = pytest.mark.filterwarnings("ignore::hat.CapacityWarning", "ignore::hat.UnlockedWarning")


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, tokens):
        return self.head(self.hidden(self.table(tokens)).relu().mean(1))


TOKENS = torch.tensor([[0, 1, 2], [3, 4, 5]])


def converted(words):
    """A model after a task that uses the first two units of every gate."""
    torch.manual_seed(0)
    model = hat.convert(words, TOKENS, config=hat.GateConfig(locked_first=False))
    model.begin_task(3)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.copy_(torch.where(torch.arange(gate.units) < 2, 1.0, -1.0))
    model.end_task()
    return model


def test_modules_of_the_user_are_not_changed():
    words = Words()
    before = {name: (set(vars(module)), len(pickle.dumps(module))) for name, module in words.named_modules()}
    model = converted(words)
    assert words.table in model.body.modules()  # it is shared, not copied
    assert any(member.module is words.table for gate in model.gates.values() for member in gate.members)
    assert {name: (set(vars(module)), len(pickle.dumps(module))) for name, module in words.named_modules()} == before


def test_a_user_who_keeps_modules_keeps_no_gates():
    words = Words()
    model = converted(words)
    gates = [weakref.ref(gate) for gate in model.gates.values()]
    hidden = nn.Linear(6, 6)
    gate = hat.Gate(6)
    gate.attach(hidden, "weight", 0)
    gates.append(weakref.ref(gate))
    del model, gate
    gc.collect()
    assert [reference() for reference in gates] == [None] * len(gates)
    assert words(TOKENS).shape == (2, 3)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_know_what_lies_along_their_own_gates(copied):
    models = [converted(Words()), hat.HATModel(hat.models.mlp(4, (5, 6)))]
    for model in models:
        twin = copied(model)
        modules, gates = set(twin.modules()), set(twin.gates.values())
        ours, theirs = uses_of(twin.gates.values()), uses_of(model.gates.values())
        assert [(name, len(uses)) for (_, name), uses in ours.items()] == [(n, len(u)) for (_, n), u in theirs.items()]
        assert {module for module, _ in ours} <= modules
        for layer, original in zip(twin.modules(), model.modules(), strict=True):
            if isinstance(layer, hat.HATLinear):
                assert set(layer.inputs) <= gates
                assert len(layer.inputs) == len(original.inputs)
        names = {id(parameter): name for name, parameter in twin.named_parameters()}
        names_by_id = {id(parameter): name for name, parameter in model.named_parameters()}
        assert [names[id(p)] for p in sides(twin.body)] == [names_by_id[id(p)] for p in sides(model.body)]


def test_each_of_two_conversions_locks_by_its_own_gates():
    words = Words()
    first, second = converted(words), hat.convert(words, TOKENS)
    assert all((words.table, "weight") in uses_of(model.gates.values()) for model in (first, second))
    columns = [locks(model.body)[words.table.weight].columns.tolist() for model in (first, second)]
    assert columns == [[0, 0, 1, 1, 1, 1], [1] * 6]


def test_a_layer_knows_the_gates_of_its_weight_each_once():
    first, second = hat.HATLinear(4, 6), hat.HATLinear(6, 6)
    residual = hat.HATLinear(6, 6, gate=first.gate, inputs=first.gate)
    residual.connect(second.gate)
    assert residual.inputs == [first.gate, second.gate]
    assert [along.dim for _, along in uses_of([first.gate, second.gate])[residual, "weight"]] == [0, 1, 1]
