"""Parameters that a graph reads without a layer: along units, or per task."""

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
    """(model, the modules of its tables by name, the plain network)."""
    module, example = NETWORKS[name]()
    model = convert(module, example, head=None)
    kinds = SharedParameter | PerTaskParameter
    return model, {path: m for path, m in model.body.network.named_modules() if isinstance(m, kinds)}, module


def test_positions_tokens_and_scales_lie_along_the_stream():
    model, tables_by_name, module = tables("transformer_fused")
    assert set(tables_by_name) == {"positions_table", "token_table", "scale_table"}
    assert all(isinstance(table, SharedParameter) for table in tables_by_name.values())
    assert tables_by_name["positions_table"].weight.shape == (4, 8)
    assert tables_by_name["positions_table"].weight.data_ptr() == module.positions.data_ptr()
    model.begin_task(2)
    draw_units(model, 0, 0.5)
    model.end_task()
    stream = model.gates["gates.stem"]
    for table in tables_by_name.values():
        moves = rate(model.locks()[table.weight], table.weight).expand_as(table.weight)
        assert torch.equal(moves, stream.free.to(moves).expand_as(moves))


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("relative_positions", {"table_table", "scale_table"}),
        ("scales", {"single_table"}),
        ("scales_of_inputs_beside_units", {"scale_table", "shift_table"}),
        ("one_scale_for_units_and_inputs", {"scale_table"}),
        ("matrix_by_hand", {"matrix_table", "other_table"}),
    ],
)
def test_a_parameter_that_meets_no_units_is_per_task(network, names):
    _, tables_by_name, _ = tables(network)
    assert {path for path, table in tables_by_name.items() if isinstance(table, PerTaskParameter)} == names


def test_a_parameter_in_its_own_shape():
    parameter = nn.Parameter(torch.randn(1, 1, 3, 2))
    shared = SharedParameter(parameter, torch.Size((3, 2)))
    assert torch.equal(shared(), parameter)
    with torch.no_grad():
        shared.weight.zero_()
    assert not parameter.any()
    assert SharedParameter(parameter, parameter.shape).weight is parameter
    assert isinstance(hat.PerTaskParameter(parameter)(), torch.Tensor)
