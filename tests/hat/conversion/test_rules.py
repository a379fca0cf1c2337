"""The rules of operations: the units of converted networks, the gated values, and the units that may change places."""

import pytest
import torch

import hat
from hat.layers.gated_norm import GatedNorm
from hat.network.movable import movable, segments
from hat.units.composed import Gated, GatedAnywhere
from hat.units.state import OPEN
from tests.hat.conversion.checks import convert, nothing_forgotten
from tests.hat.conversion.zoo import NETWORKS

pytestmark = pytest.mark.usefixtures("one_thread")

UNITS = {
    "mlp": {"0": 7, "3": 6, "5": 4},
    "residual": {"stem": 6, "up": 7, "last": 4},
    "concatenation": {"one": 4, "two": 3, "middle": 5, "last": 4},
    "switches": {"one": 4, "two": 3, "last": 4},  # the two halves are united
    "swiglu": {"one": 6, "last": 4},
    "split_and_swapped": {"one": 2, "one__2": 5, "last": 4},  # the units that another layer reads, and the other units
    "called_twice": {"one": 6, "last": 4},
    "one_weight_in_two_layers": {"0": 6, "6": 4},
    "scales": {"one": 6, "last": 4},
    "convnet": {"0": 4, "4": 3, "7": 4},
    "depthwise": {"0": 4, "7": 5},  # the channels made of one channel are one unit
    "depthwise_of_inputs": {"0": 4, "2": 3},
    "grouped": {"0": 4, "2": 6, "6": 4, "8": 5},
    "transposed": {"0": 4, "2": 6, "4": 4, "6": 5},
    "squeeze_and_excite": {"one": 5, "down": 3, "last": 4},
    "resnet": {"stem": 4, "one": 5, "two": 6, "last": 4},
    "dense": {"stem": 3, "one": 2, "two": 2, "last": 4},
    "channels_padded": {"one": 3, "two": 2, "last": 4},
    "padded_units": {"0": 6, "3": 4},
    "norm_of_inputs_beside_units": {"one": 6, "last": 4},
    "convnext": {"stem": 4, "up": 7, "last": 4},
    # Keys and queries have one gate, values another.
    "transformer_fused": {"stem": 8, "qkv": 8, "qkv__2": 8, "up": 7, "last": 4},
    "transformer_by_hand": {"stem": 8, "qkv": 8, "qkv__2": 8, "up": 7, "last": 4},
    "torch_encoder": {"0": 8, "1_self_attn_in_proj": 8, "1_self_attn_in_proj__2": 8, "1_linear1": 9, "3": 4},
    "rotated": {"qkv": 2, "qkv__2": 4, "last": 4},  # dimensions that are rotated together are one unit
    "grouped_queries": {"q": 4, "v": 4, "last": 4},
    "language_model": {"table": 6, "up": 7, "decoder": 11},
}


@pytest.mark.parametrize("name", UNITS)
def test_units_are_as_fine_as_they_can_be(name):
    model = convert(*NETWORKS[name](), head=None)
    assert {path.removeprefix("gates."): gate.units for path, gate in model.gates.items()} == UNITS[name]


MOVES = {
    "mlp": {"0": [7], "3": [6], "5": [4]},
    "grouped": {"0": [2, 2], "2": [], "6": [2, 2], "8": [5]},
    "depthwise_of_inputs": {"0": [2, 2], "2": [3]},
    "grouped_inputs": {"0": [3, 3], "2": [3]},
    "transformer_fused": {"stem": [8], "qkv": [4, 4], "qkv__2": [4, 4], "up": [7], "last": [4]},
    "sum_with_inputs_beside_units": {"one": [6], "other": [4], "two": [], "last": [4]},
    "called_twice_on_others": {"again": [], "last": [4]},
    "rolled_across_units": {"one": [], "last": [4]},
    "constants": {"one": [], "last": [4]},
    "flattened_positions_first": {"one": [3], "last": [4]},
    "language_model": {"table": [6], "up": [7], "decoder": []},  # the rows are words, which keep their places
}


@pytest.mark.parametrize("name", MOVES)
def test_units_change_places_within_their_segment(name):
    """Units move within a head or a group. They do not move if they meet elements that keep their places."""
    model = convert(*NETWORKS[name](), head=None)
    can = movable(model)
    lengths = {
        path.removeprefix("gates."): sorted(map(len, segments(gate))) if gate in can else []
        for path, gate in model.gates.items()
    }
    assert lengths == MOVES[name]


@pytest.mark.parametrize("name", ["mlp", "normalised"])
def test_layers_apply_gates_where_they_can(name):
    body = convert(*NETWORKS[name](), head=None).body
    assert not [m for m in body.modules() if isinstance(m, Gated | GatedAnywhere)]
    gated = [m for m in body.modules() if isinstance(m, hat.HATLinear | GatedNorm) or type(m).__name__ == "HATConv2d"]
    assert any(m.gate is not None for m in gated)


@pytest.mark.parametrize("name", ["residual", "resnet", "mixer", "language_model", "dense", "convnext"])
def test_units_of_one_dimension_need_no_gate_of_single_elements(name):
    """Values that meet in a sum have the same units, so their gate lies along one dimension."""
    body = convert(*NETWORKS[name](), head=None).body
    assert not [m for m in body.modules() if isinstance(m, GatedAnywhere)]


def test_padding_with_a_number_belongs_to_no_unit():
    """Padding with zeros changes nothing. Behind another padding, the columns of the next layer lie along no gate."""
    model = convert(*NETWORKS["padded"](), head=None)
    names = {module: name for name, module in model.body.network.named_modules()}
    reads = {names[m.module] for gate in model.gates.values() for m in gate.members if m.dim == 1}
    assert reads == {"3", "8", "9"}  # "5" is padded with 0.7
    assert {names[m.module] for gate in model.gates.values() for m in gate.members if m.name == "weight"} >= {"5"}


def test_off_units_are_exact_zeros_wherever_weights_meet_them():
    """In the inputs of every layer, the elements of units that are off are exactly 0."""
    for name in ("resnet", "dense", "transformer_fused", "squeeze_and_excite", "split_and_swapped", "language_model"):
        module, example = NETWORKS[name]()
        model = convert(module, example, head=None)
        columns = {}
        for gate in model.gates.values():
            with torch.no_grad():
                gate.embedding.copy_(torch.where(torch.arange(gate.units) % 2 == 0, 1.0, -1.0))
            off = gate.embedding < 0
            for m in gate.members:
                if m.dim == 1 and isinstance(m.module, torch.nn.Linear | torch.nn.Conv2d) and m.groups == 1:
                    places = m.places if m.places is not None else torch.arange(gate.units * m.repeat)
                    columns.setdefault(m.module, []).append(places[off.repeat_interleave(m.repeat)])
        seen = []

        def look(layer, inputs, output, columns=columns, seen=seen):
            dim = 1 if isinstance(layer, torch.nn.Conv2d) else -1
            for places in columns[layer]:
                seen.append(inputs[0].index_select(dim, places).abs().max())

        for layer in columns:
            layer.register_forward_hook(look)
        with torch.no_grad():
            model.eval().body(*example)
        assert len(seen) >= 2
        assert max(seen) == 0, name


@pytest.mark.parametrize("values", [torch.zeros_like, torch.ones_like])
def test_an_example_of_equal_values_hides_no_places(values):
    """With equal values, all positions of a flatten are equal, and a wrong move would not show."""
    module, example = NETWORKS["rolled_across_units"]()
    model = convert(module, tuple(map(values, example)), head=None)
    nothing_forgotten(model, example, tasks=2, seed=7)


def test_the_only_unit_of_tokens_lies_along_no_positions():
    module, (example,) = NETWORKS["one_unit_by_itself"]()
    model = convert(module, example, head=None)
    longer = torch.cat([example, example.flip(1)], 1)
    with model.state.answering(OPEN):
        torch.testing.assert_close(model.eval().body(longer), module(longer))
