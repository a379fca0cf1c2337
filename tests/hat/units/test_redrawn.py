"""New values for parameters, drawn by the modules that own them."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import hat
from hat.conversion.tables import SharedParameter
from hat.units.redrawn import drawn


class Rebinding(nn.Module):
    """A reset replaces the parameter, sets the buffer to 0, and writes to a child."""

    def __init__(self):
        super().__init__()
        self.weight, self.rest = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2000))
        self.register_buffer("count", torch.tensor(5))
        self.register_buffer("table", torch.tensor([1.0, torch.nan]))
        self.inner = nn.Linear(2, 2)

    def reset_parameters(self):
        self.weight = nn.Parameter(torch.full((3,), 7.0))
        self.count.zero_()
        self.inner.weight.data.fill_(3)


def test_the_modules_keep_their_values():
    module = Rebinding()
    tensors = {name: (t, t.clone()) for name, t in [*module.named_parameters(), *module.named_buffers()]}
    new_values = drawn([module])
    after = dict([*module.named_parameters(), *module.named_buffers()])
    for name, (tensor, values) in tensors.items():
        assert after[name] is tensor
        assert torch.equal(tensor.nan_to_num(9), values.nan_to_num(9)), name
    assert new_values[module.weight].tolist() == [7.0] * 3
    assert new_values[module.count] == 0
    assert new_values[module.table].isnan().tolist() == [False, True]
    assert module.inner.weight not in new_values
    assert 0.018 < new_values[module.rest].std() < 0.022  # no module draws this parameter
    assert new_values[module.rest].mean().abs() < 0.002


def test_values_are_those_that_the_module_draws():
    layers = [
        hat.HATLinear(4, 6),
        hat.HATConv2d(2, 6, 3),
        hat.HATEmbedding(5, 6, padding_idx=2),
        nn.LayerNorm(4),
        SharedParameter(nn.Parameter(torch.full((1, 4), 0.5)), torch.Size([4])),
    ]
    for layer in layers:
        torch.manual_seed(3)
        new_values = drawn([layer])
        torch.manual_seed(3)
        layer.reset_parameters()
        for name, parameter in layer.named_parameters(recurse=False):
            assert torch.equal(new_values[parameter], parameter), (layer, name)
    assert torch.equal(layers[-1].weight, torch.full((4,), 0.5))


def test_a_parameter_of_two_modules_and_one_that_is_computed():
    table, reader = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    reader.weight = table.weight
    normed = weight_norm(nn.Linear(3, 3))
    new_values = drawn([table, reader, *normed.modules()])
    assert new_values[table.weight].std() > 0.5  # drawn by the first of the two modules
    parts = [normed.parametrizations.weight.original0, normed.parametrizations.weight.original1, normed.bias]
    assert all(new_values[p].isfinite().all() for p in parts)
    assert not any(torch.equal(new_values[p], p) for p in parts)
    assert all(p.isfinite().all() for p in normed.parameters())
