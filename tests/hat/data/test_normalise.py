import pytest
import torch

from hat.data.normalise import Normalisation


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 1, 4, 4), (5000, 3, 3, 5)])
def test_mean_and_std_are_those_of_float64(dtype, shape):
    x = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = Normalisation.of(x)
    std, mean = torch.std_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(got.mean, mean.float())
    torch.testing.assert_close(got.std, torch.where(std > 0, std, 1.0).float())


def test_apply_gives_mean_0_and_std_1_and_float32():
    x = torch.randint(0, 256, (5000, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = Normalisation.of(x).apply(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_constant_channel_becomes_zero_not_nan():
    x = torch.full((4, 1, 2, 2), 7, dtype=torch.uint8)
    assert Normalisation.of(x).apply(x).eq(0).all()


def test_rows_and_size():
    x = torch.randint(0, 256, (9000, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    how, rows = Normalisation.of(x), torch.arange(8999, -1, -2)
    assert torch.equal(how.apply(x, rows), how.apply(x)[rows])
    assert how.apply(x, rows, (8, 6)).shape == (4500, 1, 8, 6)
    flat = torch.full((2, 1, 4, 4), 200, dtype=torch.uint8)
    torch.testing.assert_close(how.apply(flat, size=(7, 7)), how.apply(flat)[:, :, :1, :1].expand(2, 1, 7, 7))
