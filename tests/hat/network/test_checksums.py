"""Checksums tell tensors apart that differ in several bits, whatever the size of an element."""

import pytest
import torch

from hat.network.checksums import checksum

CHANGES = {
    "two signs": lambda values: torch.cat([-values[:, :2], values[:, 2:]], 1)[:1],
    "all signs": lambda values: -values,
    "doubled": lambda values: 2 * values,
    "other places": lambda values: values.flip(0, 1),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.complex128], ids=str)
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("shape", [(1, 20), (20, 20)])
def test_several_changes_do_not_cancel(shape, name, dtype):
    values = torch.randn(shape, dtype=dtype)
    changed = torch.cat([CHANGES[name](values), values])[: len(values)]
    assert not torch.equal(changed, values)
    assert checksum(changed) != checksum(values)


def test_a_single_bit_of_a_wide_element():
    values = torch.randn(5, dtype=torch.float64)
    for bit in range(64):
        changed = values.clone().view(torch.int64)
        changed[3] ^= torch.tensor(1, dtype=torch.int64) << bit
        assert checksum(changed.view(torch.float64)) != checksum(values)
