"""The networks of the paper: shapes, kernels, sizes."""

import itertools

import pytest
import torch
from torch import nn

import hat
from hat.locks import locks


def count(body):
    return sum(p.numel() for name, p in body.named_parameters() if not name.endswith("embedding"))


@pytest.mark.parametrize("hidden", [(5,), (7, 5), (3, 4, 5, 6), (1, 1)])
def test_mlp(hidden):
    body = hat.models.mlp(12, hidden)
    widths = [12, *hidden]
    assert count(body) == sum(a * b + b for a, b in itertools.pairwise(widths))
    assert body(torch.randn(3, 2, 6)).shape == (3, hidden[-1])
    layers = [m for m in body if isinstance(m, hat.HATLinear)]
    found = locks(body)
    assert found[layers[0].weight].columns is None
    for before, layer in itertools.pairwise(layers):
        assert torch.equal(found[layer.weight].columns, before.gate.free)
        assert found[layer.weight].column_repeat == 1


def test_the_papers_mlp():
    assert count(hat.models.mlp(784)) == 784 * 2000 + 2000 + 2000 * 2000 + 2000


def test_mlp_dropout_and_activation():
    body = hat.models.mlp(4, (3, 3), input_dropout=0.25, dropout=0.125, activation="gelu")
    assert [m.p for m in body if isinstance(m, nn.Dropout)] == [0.25]
    assert [(m.dropout, m.activation) for m in body if isinstance(m, hat.HATLinear)] == [(0.125, "gelu")] * 2


@pytest.mark.parametrize("arguments", [(4, ()), (4, (3, 0)), (0, (3,)), (4, (-1,))])
def test_mlp_widths(arguments):
    with pytest.raises(ValueError, match="hidden: expected at least one width, all positive, got"):
        hat.models.mlp(*arguments)


def test_mlp_options():
    with pytest.raises(ValueError, match="dropout"):
        hat.models.mlp(4, (3,), dropout=1.0)
    with pytest.raises(ValueError, match="input_dropout: expected in"):
        hat.models.mlp(4, (3,), input_dropout=1.0)
    with pytest.raises(ValueError, match="activation"):
        hat.models.mlp(4, (3,), activation="swish")


@pytest.mark.parametrize(
    ("size", "kernels", "last"),
    [(28, (3, 2, 2), 2), (32, (4, 3, 2), 2), (64, (8, 6, 2), 5), (16, (2, 1, 2), 1)],
)
def test_alexnet(size, kernels, last):
    body = hat.models.alexnet((3, size, size), channels=(4, 5, 6), hidden=(8, 7))
    convs = [m for m in body if isinstance(m, hat.HATConv2d)]
    assert [m.kernel_size for m in convs] == [(k, k) for k in kernels]
    linear = [m for m in body if isinstance(m, hat.HATLinear)]
    assert linear[0].in_features == 6 * last * last
    assert body(torch.randn(2, 3, size, size)).shape == (2, 7)
    found = locks(body)
    assert found[convs[0].weight].columns is None
    assert torch.equal(found[convs[1].weight].columns, convs[0].gate.free)
    assert found[linear[0].weight].column_repeat == last * last
    assert [m.dropout for m in [*convs, *linear]] == [0.2, 0.2, 0.5, 0.5, 0.5]


def test_the_papers_alexnet():
    """32 x 32 colour images: 64, 128, 256 channels, two layers of 2048; about 6.5 million weights."""
    with torch.device("meta"):
        body = hat.models.alexnet((3, 32, 32))
    convolutions = 64 * 3 * 16 + 64 + 128 * 64 * 9 + 128 + 256 * 128 * 4 + 256
    assert count(body) == convolutions + 1024 * 2048 + 2048 + 2048 * 2048 + 2048


@pytest.mark.parametrize("size", [12, 13, 15])
def test_alexnet_of_the_smallest_images_named_in_its_error(size):
    body = hat.models.alexnet((1, size, size), channels=(2, 2, 2), hidden=(3,), dropout=(0.0,) * 4)
    assert body(torch.randn(2, 1, size, size)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(3, 32, 28), (32, 32), (3, 32, 32, 32)])
def test_alexnet_shape(shape):
    with pytest.raises(ValueError, match=r"input_shape: expected \(C, H, W\) with H = W, got"):
        hat.models.alexnet(shape)


@pytest.mark.parametrize("size", [1, 4, 7, 8, 9, 10, 11])
def test_alexnet_too_small(size):
    with pytest.raises(
        ValueError, match=rf"input_shape: expected images of 12 x 12 or more, got \(3, {size}, {size}\)"
    ):
        hat.models.alexnet((3, size, size))


@pytest.mark.parametrize(
    "options",
    [
        {"channels": (4, 5)},
        {"hidden": ()},
        {"dropout": (0.1,) * 4},
        {"hidden": (8,)},
        {"hidden": (8, 8, 8)},
        {"channels": (1, 2, 3, 4)},
    ],
)
def test_alexnet_lengths(options):
    with pytest.raises(ValueError, match="dropout: expected one a layer"):
        hat.models.alexnet((3, 32, 32), **options)
