import gzip
import hashlib
import socket
import struct
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import hat.data as data
from hat.data.catalogue import CATALOGUE
from hat.data.download import Remote, download
from hat.data.idx import read_idx_folder

pytest.importorskip("pooch")
FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """(folder, address): a server on this machine serves the folder at the address."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def refused():
    """An address where no server listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


@pytest.fixture
def tiny(served, monkeypatch):
    """The source "mnist" with a few images, which the server has."""
    folder, url = served
    remotes = []
    for seed, stem in enumerate(FILES):
        shape = (12, 3, 3) if "images" in stem else (12,)
        values = np.random.default_rng(seed).integers(0, 10, shape, dtype=np.uint8)
        raw = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values.tobytes()
        file = f"{stem}-ubyte.gz"
        (folder / file).write_bytes(gzip.compress(raw, mtime=seed))
        remotes.append(Remote(file, (url + file,), hashlib.md5(raw).hexdigest(), gzip=True))
    source = replace(CATALOGUE["mnist"], remotes=tuple(remotes), open=lambda p, _: read_idx_folder(p, "mnist"))
    monkeypatch.setitem(CATALOGUE, "mnist", source)
    return folder


def everything(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_first_load_downloads_and_the_second_does_not(tiny, clean_machine):
    first = data.load("mnist")
    assert len(first.x_train) == 12
    cache = clean_machine / "hat-kernels" / "data" / "mnist"
    assert everything(cache) == sorted(f"{stem}-ubyte.gz" for stem in FILES)
    for file in tiny.iterdir():
        file.unlink()
    assert data.load("mnist").x_train.equal(first.x_train)


def test_download_that_was_cut_short_is_finished(tiny, clean_machine):
    data.load("mnist")
    (clean_machine / "hat-kernels" / "data" / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert len(data.load("mnist").x_test) == 12


def test_named_root_is_never_downloaded_to(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileNotFoundError, match="mine"):
        data.load("mnist", root=tmp_path / "mine")
    assert everything(tmp_path / "mine") == []


def test_other_gzip_wrapper_is_the_same_file(tiny):
    path = tiny / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=1, mtime=99))
    assert len(data.load("mnist").x_train) == 12


def test_wrong_checksum_deletes_and_explains(served, tmp_path):
    (served[0] / "a.bin").write_bytes(b"something else")
    remote = Remote("a.bin", (served[1] + "a.bin",), hashlib.md5(b"expected").hexdigest())
    with pytest.raises(ValueError, match=r"a\.bin: http.*a\.bin gave another file") as caught:
        download([remote], tmp_path / "to")
    for word in (remote.md5, hashlib.md5(b"something else").hexdigest(), "by hand", str(tmp_path / "to")):
        assert word in str(caught.value)
    assert everything(tmp_path / "to") == []


def test_damaged_gzip_deletes_and_explains(served, tmp_path):
    (served[0] / "a.gz").write_bytes(gzip.compress(b"x" * 1000)[:-5])
    with pytest.raises(ValueError, match="truncated or damaged"):
        download([Remote("a.gz", (served[1] + "a.gz",), "00", gzip=True)], tmp_path / "to")
    assert everything(tmp_path / "to") == []


def test_refused_connection_names_file_url_and_folder(refused, tmp_path):
    with pytest.raises(ConnectionError) as caught:
        download([Remote("a.bin", (refused + "a.bin",), "00")], tmp_path / "to")
    for word in ("a.bin: ", refused + "a.bin", "by hand", str(tmp_path / "to")):
        assert word in str(caught.value)
    assert everything(tmp_path / "to") == []


def test_file_that_the_server_lacks_is_a_connection_error(served, tmp_path):
    with pytest.raises(ConnectionError, match="404"):
        download([Remote("gone.bin", (served[1] + "gone.bin",), "00")], tmp_path / "to")


def test_second_url_is_tried(served, refused, tmp_path):
    (served[0] / "a.bin").write_bytes(b"right")
    urls = (refused + "a.bin", served[1] + "a.bin")
    download([Remote("a.bin", urls, hashlib.md5(b"right").hexdigest())], tmp_path / "to")
    assert (tmp_path / "to" / "a.bin").read_bytes() == b"right"


def test_file_unpacked_by_hand_is_not_fetched_again(refused, tmp_path):
    (tmp_path / "a").write_bytes(b"unpacked")
    download([Remote("a.gz", (refused + "a.gz",), "00", gzip=True)], tmp_path)
    assert everything(tmp_path) == ["a"]
