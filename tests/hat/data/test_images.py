import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch

import hat.data as data

pillow = pytest.importorskip("PIL.Image")


def png(seed, size=(5, 4), mode="RGB", form="PNG"):
    draw = np.random.default_rng(seed)
    shape = size if mode == "L" else (*size, 3)
    buffer = io.BytesIO()
    pillow.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue()


def tree(prefix="", mode="RGB", train=6, test=3, seed=0):
    """Images by path, in train/<class>/ and test/<class>/ of two classes."""
    files = {}
    for part, n in (("train", train), ("test", test)):
        for number, name in enumerate(("cat", "dog")):
            for i in range(n):
                seed += 1
                files[f"{prefix}{part}/{name}/{i:03}.png"] = png(seed, mode=mode)
                assert number < 2
    return files


def as_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def as_tar(path, files, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


MAKE = {
    "pets": as_folder,
    "pets.zip": as_zip,
    "pets.tar": lambda p, f: as_tar(p, f, "w"),
    "pets.tar.gz": lambda p, f: as_tar(p, f, "w:gz"),
    "pets.tar.xz": lambda p, f: as_tar(p, f, "w:xz"),
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("prefix", ["", "wrapped/twice/"])
def test_every_container_gives_the_same_dataset(tmp_path, name, prefix):
    files = tree(prefix) | {"README.md": b"read me", f"{prefix}train/cat/.hidden.png": b"", "__MACOSX/x/a.png": b""}
    ds = data.load(MAKE[name](tmp_path / name, files))
    assert (ds.name, ds.classes, ds.input_shape) == ("pets", ("cat", "dog"), (3, 5, 4))
    assert (len(ds.x_train), len(ds.x_test)) == (12, 6)
    assert ds.y_train.tolist() == [0] * 6 + [1] * 6
    expected = np.asarray(pillow.open(io.BytesIO(files[f"{prefix}train/dog/001.png"])))
    np.testing.assert_array_equal(ds.x_train[7].permute(1, 2, 0).numpy(), expected)


def test_grey_stays_grey_and_one_rgb_makes_all_rgb(tmp_path):
    files = tree(mode="L")
    assert data.load(as_zip(tmp_path / "grey.zip", files)).input_shape == (1, 5, 4)
    files["test/dog/000.png"] = png(99)
    ds = data.load(as_zip(tmp_path / "mixed.zip", files))
    assert ds.input_shape == (3, 5, 4)
    assert torch.equal(ds.x_train[:, 0], ds.x_train[:, 2])


def test_classes_directly_are_cut_by_class_and_seed(tmp_path):
    files = {f"{c}/{i}.png": png(100 * n + i) for n, c in enumerate("ab") for i in range(20)}
    first, second = data.load(as_folder(tmp_path / "x", files)), data.load(as_zip(tmp_path / "y.zip", files))
    assert first.y_test.bincount().tolist() == [4, 4]
    assert first.y_train.bincount().tolist() == [16, 16]
    assert sorted(map(bytes, first.x_test.numpy())) == sorted(map(bytes, second.x_test.numpy()))


def test_class_of_a_single_image_cannot_be_cut(tmp_path):
    files = {"a/0.png": png(0), "b/0.png": png(1), "b/1.png": png(2)}
    with pytest.raises(ValueError, match="label 0: expected at least 2 distinct images"):
        data.load(as_folder(tmp_path / "x", files))


def test_different_sizes_are_refused_unless_resized(tmp_path):
    files = tree() | {"train/cat/zz.png": png(7, size=(9, 8))}
    path = as_zip(tmp_path / "x.zip", files)
    with pytest.raises(
        ValueError, match=r"train/cat/zz\.png: expected \(H, W\) = \(5, 4\).*got \(9, 8\); give size=\(H, W\)"
    ):
        data.load(path)
    ds = data.load(path, size=(6, 7))
    assert ds.input_shape == (3, 6, 7)
    assert len(ds.x_train) == 13


@pytest.mark.parametrize("empty", ["train/eel/notes.txt", "train/eel"])
@pytest.mark.parametrize("part", ["both", "one"])
def test_class_without_images_is_named(tmp_path, empty, part):
    path = as_folder(tmp_path / "x", tree())
    for p in ("train", "test") if part == "both" else ("train",):
        target = path / empty.replace("train", p)
        (target.parent if target.suffix else target).mkdir(parents=True, exist_ok=True)
        if target.suffix:
            target.write_text("nothing")
    with pytest.raises(ValueError, match="eel"):
        data.load(path)


def test_class_folder_that_is_empty_in_a_zip_is_named(tmp_path):
    path = as_zip(tmp_path / "x.zip", tree() | {"train/eel/": b"", "test/eel/": b""})
    with pytest.raises(ValueError, match="train/eel: expected images in this class folder"):
        data.load(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "expected images"),
        ({"train/cat/1.png": png(1)}, "expected train/ and test/ and no other folder, got train"),
        (tree() | {"extra/cat/1.png": png(1)}, "got extra, test, train"),
        (tree() | {"train/cat/deep/1.png": png(1)}, "train/cat/deep/1.png: expected train/<class>/<image>"),
        (tree() | {"lost.png": png(1)}, r"lost\.png: expected images in class folders"),
        (tree() | {"train/cat/bad.png": png(1)[:60]}, r"train/cat/bad\.png: expected an 8-bit image"),
        (tree() | {"train/cat/bad.png": b"text"}, r"train/cat/bad\.png: expected an 8-bit image"),
    ],
)
def test_wrong_trees_are_named(tmp_path, files, message):
    (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=message):
        data.load(as_folder(tmp_path / "x", files))


def test_sixteen_bits_are_refused(tmp_path):
    buffer = io.BytesIO()
    pillow.fromarray(np.full((5, 4), 40000, np.uint16)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="more than 8 bits"):
        data.load(as_zip(tmp_path / "x.zip", tree() | {"train/cat/deep.png": buffer.getvalue()}))


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tar.gz", "pets.tar.xz"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.6, 0.85])
def test_truncated_archive_is_named(tmp_path, name, keep):
    path = MAKE[name](tmp_path / name, tree())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw))])
    with pytest.raises(ValueError, match=f"{name}: expected a whole zip or tar archive"):
        data.load(path)


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar.gz"])
def test_names_that_climb_out_write_nothing(tmp_path, name):
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    path = MAKE[name](inside / name, tree() | {"../../evil/1.png": png(3), "/abs/evil.txt": b"x"})
    before = sorted(tmp_path.rglob("*"))
    assert len(data.load(path).x_train) == 12
    assert sorted(tmp_path.rglob("*")) == before


def test_links_in_a_tar_are_not_followed(tmp_path):
    path = as_tar(tmp_path / "x.tar", tree(), "w")
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("train/cat/link.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(info)
    assert len(data.load(path).x_train) == 12
