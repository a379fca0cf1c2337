"""Small datasets, and a machine whose user cache and environment are empty."""

import numpy as np
import pytest
import torch

import hat.data as data


@pytest.fixture(autouse=True)
def clean_machine(tmp_path_factory, monkeypatch):
    """No HAT_DATA, and an empty user cache for the test alone."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.delenv("HAT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("LOCALAPPDATA", str(cache))
    monkeypatch.setattr("hat.data.download.TIMEOUT_S", 3600)  # a server on a busy machine takes its time
    return cache


@pytest.fixture
def make_dataset():
    """make_dataset(train=60, test=20, shape=(1, 4, 4), classes=4, seed=0) -> Dataset of distinct random images."""

    def make(train=60, test=20, shape=(1, 4, 4), classes=4, seed=0, name="made"):
        draw = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (train + test, *shape), generator=draw, dtype=torch.uint8)
        labels = torch.arange(train + test) % classes
        names = tuple("abcdefghijklmnop"[:classes])
        return data.Dataset(name, names, images[:train], labels[:train], images[train:], labels[train:])

    return make


@pytest.fixture
def arrays():
    """arrays(n, shape, classes) -> (images uint8, labels int64) from numpy, distinct images."""

    def make(n, shape=(5, 4), classes=3, seed=0):
        draw = np.random.default_rng(seed)
        return draw.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % classes

    return make
