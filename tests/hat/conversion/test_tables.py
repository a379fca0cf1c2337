"""Parameters that a graph reads by itself: along units, or every task's own."""

import pytest
import torch
from torch import nn

import hat
from hat.conversion.tables import SharedParameter
from hat.units.per_task import PerTaskParameter
from hat_kernels.lock import rate
from tests.hat.conversion.checks import convert, draw_units
from tests.hat.conversion.zoo import NETWORKS


def tables(name):
    """(model, its tables by the name of the parameter)."""
    module, example = NETWORKS[name]()
    model = convert(module, example, head=None)
    kinds = SharedParameter | PerTaskParameter
    return model, {path: m for path, m in model.body.network.named_modules() if isinstance(m, kinds)}, module


def test_positions_tokens_and_scales_lie_along_the_stream():
    model, found, module = tables("transformer_fused")
    assert set(found) == {"positions_table", "token_table", "scale_table"}
    assert all(isinstance(table, SharedParameter) for table in found.values())
    assert found["positions_table"].weight.shape == (4, 8)
    assert found["positions_table"].weight.data_ptr() == module.positions.data_ptr()
    model.begin_task(2)
    draw_units(model, 0, 0.5)
    model.end_task()
    stream = model.gates["gates.stem"]
    for table in found.values():
        moves = rate(model.locks()[table.weight], table.weight).expand_as(table.weight)
        assert torch.equal(moves, stream.free.to(moves).expand_as(moves))


@pytest.mark.parametrize(
    ("network", "own"),
    [
        ("relative_positions", {"table_table", "scale_table"}),
        ("scales", {"single_table"}),
        ("scales_of_inputs_beside_units", {"scale_table", "shift_table"}),
        ("one_scale_for_units_and_inputs", {"scale_table"}),
        ("matrix_by_hand", {"matrix_table", "other_table"}),
    ],
)
def test_what_meets_no_units_is_every_tasks_own(network, own):
    _, found, _ = tables(network)
    assert {path for path, table in found.items() if isinstance(table, PerTaskParameter)} == own


def test_a_parameter_in_its_own_shape():
    parameter = nn.Parameter(torch.randn(1, 1, 3, 2))
    shared = SharedParameter(parameter, torch.Size((3, 2)))
    assert torch.equal(shared(), parameter)
    with torch.no_grad():
        shared.weight.zero_()
    assert not parameter.any()
    assert SharedParameter(parameter, parameter.shape).weight is parameter
    assert isinstance(hat.PerTaskParameter(parameter)(), torch.Tensor)
