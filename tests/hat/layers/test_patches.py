"""Patches of an image as tokens."""

import pytest
import torch

import hat
from hat.units.locks import sides
from hat.units.state import OPEN, Finished
from tests.hat.nets import answer_for, use


def test_every_patch_is_a_token():
    torch.manual_seed(0)
    layer = answer_for(hat.PatchEmbedding((6, 4), (3, 2), 2, 5, dtype=torch.float64), OPEN)
    x = torch.randn(2, 2, 6, 4, dtype=torch.float64)
    weight, bias = layer.convolution.weight.flatten(1), layer.convolution.bias
    patches = [x[:, :, i : i + 3, j : j + 2].flatten(1) for i in (0, 3) for j in (0, 2)]
    expected = torch.stack([patch @ weight.t() + bias for patch in patches], 1)
    assert layer.positions == 4
    torch.testing.assert_close(layer(x), expected)


def test_off_units_and_locks():
    """Nobody knows the units of an image: whole rows are locked."""
    layer = hat.PatchEmbedding(4, 2, 3, 4, bias=False)
    use(layer.gate, [1, 0, 1, 0])
    y = answer_for(layer, Finished(0))(torch.randn(2, 3, 4, 4))
    assert not y[..., [1, 3]].any()
    assert y[..., [0, 2]].all()
    found = sides(layer)[layer.convolution.weight]
    assert found.columns is None
    assert torch.equal(found.rows.free, torch.tensor([0.0, 1, 0, 1]))


def test_its_gate_is_that_of_a_stream():
    """Which has its units last, though those of a convolution come second."""
    layer = hat.PatchEmbedding(4, 2, 1, 4)
    use(layer.gate, [1, 0, 0, 0])
    answer_for(layer, Finished(0))
    assert layer.gate(torch.ones(1, 4, 4)).sum(1).tolist() == [[4, 0, 0, 0]]
    gate = hat.Gate(4)
    assert hat.PatchEmbedding(4, 2, 1, 4, gate=gate).gate is gate


@pytest.mark.parametrize(("size", "patch"), [(5, 2), ((4, 6), (2, 4)), (4, 0), (0, 2)])
def test_patches_that_do_not_fit(size, patch):
    with pytest.raises(ValueError, match=r"patch: expected one that divides \(\d, \d\), got"):
        hat.PatchEmbedding(size, patch, 1, 4)


def test_an_image_of_another_size():
    with pytest.raises(ValueError, match=r"x: expected images of \(4, 4\), got \(1, 1, 4, 6\)"):
        hat.PatchEmbedding(4, 2, 1, 4)(torch.zeros(1, 1, 4, 6))
