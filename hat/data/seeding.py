"""One random generator for each named purpose, so that no draw depends on earlier draws."""

from __future__ import annotations

import hashlib

import torch

from hat.arguments import check_whole, got

MOST_BITS = 1024


def check_seed(seed: object) -> None:
    """Check a seed.

    Raises:
        ValueError: it is no int, or an int of more than 1024 bits.
    """
    check_whole("seed", seed)
    if isinstance(seed, int) and seed.bit_length() > MOST_BITS:
        raise ValueError(f"seed: expected an int of at most {MOST_BITS} bits, got {got(seed)}")


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by `key`. Equal keys give equal draws, on any machine and in any order of calls."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def shuffled(count: int, *key: int | str) -> torch.Tensor:
    """A seeded permutation of 0..count-1, int64 [count]."""
    return torch.randperm(count, generator=generator(*key))
