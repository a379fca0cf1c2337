import io
import os
import zipfile

import numpy as np
import pytest
import torch

import hat.data as data
from hat.data import read as reader

pillow = pytest.importorskip("PIL.Image")


def write_archive(path, seed):
    draw = np.random.default_rng(seed)
    with zipfile.ZipFile(path, "w") as archive:
        for part in ("train", "test"):
            for name in "ab":
                for i in range(3):
                    buffer = io.BytesIO()
                    pillow.fromarray(draw.integers(0, 256, (4, 4), dtype=np.uint8)).save(buffer, "PNG")
                    archive.writestr(f"{part}/{name}/{i}.png", buffer.getvalue())
    return path


@pytest.fixture
def decodings(monkeypatch):
    """The list of archives that were decoded."""
    seen = []
    decode = reader.read_images
    monkeypatch.setattr(reader, "read_images", lambda path, *a, **k: (seen.append(path), decode(path, *a, **k))[1])
    return seen


def same(one, other):
    return one.classes == other.classes and all(
        torch.equal(getattr(one, key), getattr(other, key)) for key in ("x_train", "y_train", "x_test", "y_test")
    )


def cached_files(cache):
    return sorted((cache / "hat-kernels" / "decoded").iterdir())


def test_second_load_decodes_nothing(tmp_path, decodings, clean_machine):
    path = write_archive(tmp_path / "x.zip", 0)
    first, second = data.load(path), data.load(path)
    assert same(first, second)
    assert second.name == "x"
    assert len(decodings) == 1
    assert len(cached_files(clean_machine)) == 1


def test_changed_archive_is_decoded_again_in_place(tmp_path, decodings, clean_machine):
    path = write_archive(tmp_path / "x.zip", 0)
    first = data.load(path)
    write_archive(path, 1)
    os.utime(path, ns=(1, 1))
    assert not same(first, data.load(path))
    assert len(decodings) == 2
    assert len(cached_files(clean_machine)) == 1


def test_other_size_is_another_entry(tmp_path, decodings):
    path = write_archive(tmp_path / "x.zip", 0)
    assert data.load(path).input_shape == (1, 4, 4)
    assert data.load(path, size=(2, 2)).input_shape == (1, 2, 2)
    assert data.load(path).input_shape == (1, 4, 4)
    assert len(decodings) == 2


@pytest.mark.parametrize("damage", [lambda raw: raw[:-300], lambda raw: b"", lambda raw: raw[:200] + b"x" + raw[201:]])
def test_damaged_cache_is_rebuilt(tmp_path, decodings, clean_machine, damage):
    path = write_archive(tmp_path / "x.zip", 0)
    first = data.load(path)
    (file,) = cached_files(clean_machine)
    file.write_bytes(damage(file.read_bytes()))
    assert same(first, data.load(path))
    assert len(decodings) == 2
    assert same(first, data.load(path))
    assert len(decodings) == 2


def test_cache_that_cannot_be_written_is_a_warning(tmp_path, clean_machine):
    (clean_machine / "hat-kernels").write_text("a file where the folder should be")
    path = write_archive(tmp_path / "x.zip", 0)
    with pytest.warns(UserWarning, match=r"x\.zip could not be kept"):
        assert len(data.load(path).x_train) == 6
