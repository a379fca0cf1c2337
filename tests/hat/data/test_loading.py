import builtins
import importlib

import numpy as np
import pytest

import hat.data as data


def signs(folder):
    folder.mkdir(parents=True)
    x = np.random.default_rng(0).integers(0, 256, (86, 4, 4, 3), dtype=np.uint8)
    y = np.arange(86) % 43
    np.savez(folder / "gtsrb32_third.npz", x_train=x, y_train=y, x_test=x, y_test=y)


def test_root_order(tmp_path, monkeypatch, clean_machine):
    cache = clean_machine / "hat-kernels" / "data"
    assert data.root() == cache
    monkeypatch.setenv("HAT_DATA", str(tmp_path))
    assert data.root() == tmp_path
    named = tmp_path / "named"
    named.mkdir()
    assert data.root(named) == named
    monkeypatch.setenv("HAT_DATA", "")
    assert data.root() == cache


def test_root_that_does_not_exist_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"root \(--data\): expected an existing folder, got .*nowhere"):
        data.root(tmp_path / "nowhere")
    monkeypatch.setenv("HAT_DATA", str(tmp_path / "void"))
    with pytest.raises(FileNotFoundError, match=r"HAT_DATA: expected an existing folder, got .*void"):
        data.load("mnist")


def test_named_root_lacking_the_data_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.load("mnist", root=tmp_path)
    for word in (str(tmp_path / "mnist"), "https://", "train-images-idx3-ubyte.gz", "HAT_DATA"):
        assert word in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"traffic-signs.*gtsrb32_third\.npz"):
        data.load("traffic-signs", root=tmp_path)


def test_missing_file_of_a_named_dataset_says_how_to_get_it(tmp_path):
    (tmp_path / "mnist").mkdir()
    with pytest.raises(FileNotFoundError, match=r"mnist/train-images-idx3-ubyte: no such file.*to get mnist, put http"):
        data.load("mnist", root=tmp_path)


def test_data_beside_a_checkout_is_not_searched(tmp_path, monkeypatch, clean_machine):
    signs(tmp_path / "shared" / "data" / "traffic-signs")
    (tmp_path / "checkout").mkdir()
    monkeypatch.chdir(tmp_path / "checkout")
    assert {s.name: s for s in data.sources()}["traffic-signs"].status == "missing"
    signs(clean_machine / "hat-kernels" / "data" / "traffic-signs")
    status = {s.name: s for s in data.sources()}["traffic-signs"]
    assert status.path.is_relative_to(clean_machine)


@pytest.mark.parametrize("name", ["traffic-signs", "Traffic_Signs", "TRAFFICSIGNS"])
def test_names_are_forgiving(tmp_path, name):
    signs(tmp_path / "traffic-signs")
    ds = data.load(name, root=tmp_path)
    assert (ds.name, len(ds.classes), ds.classes[14]) == ("traffic-signs", 43, "stop")


def test_sources_lists_every_name(tmp_path):
    (tmp_path / "mnist").mkdir()
    status = {s.name: s.status for s in data.sources(tmp_path)}
    assert status == {
        "digits": "bundled",
        "mnist": "here",
        "fashion-mnist": "missing",
        "notmnist": "missing",
        "cifar10": "missing",
        "cifar100": "missing",
        "svhn": "missing",
        "traffic-signs": "missing",
    }
    assert {s.name: s.status for s in data.sources()}["mnist"] == "download"
    assert "mnist" in str(data.sources(tmp_path)[1])


def test_unknown_name_lists_the_names():
    with pytest.raises(FileNotFoundError, match=r"dataset: expected one of digits, mnist.*got 'mnits'"):
        data.load("mnits")


def test_unknown_kind_of_file_is_named(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"a\.csv: expected a folder, an \.npz file or an archive"):
        data.load(tmp_path / "a.csv")


def test_size_is_for_own_data_only():
    with pytest.raises(ValueError, match="size: expected None for the named dataset 'digits'"):
        data.load("digits", size=(4, 4))


@pytest.mark.parametrize(("module", "name"), [("sklearn", "digits"), ("PIL", "folder")])
def test_missing_package_says_what_to_install(tmp_path, monkeypatch, module, name):
    real = builtins.__import__
    load = importlib.import_module

    def refuse(wanted, *rest):
        if wanted.split(".")[0] == module:
            raise ImportError(wanted)
        return load(wanted, *rest)

    monkeypatch.setattr("hat.data.optional.importlib.import_module", refuse)
    target = "digits"
    if name == "folder":
        (tmp_path / "a").mkdir()
        target = tmp_path
    with pytest.raises(ImportError, match=rf"needs {module}: pip install 'hat-kernels\[data\]'"):
        data.load(target)
    assert builtins.__import__ is real
