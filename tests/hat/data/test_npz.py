import numpy as np
import pytest
import torch

import hat.data as data
from tests.hat.data import bombs


def save(path, arrays, **changes):
    (x, y), (x_test, y_test) = arrays(12), arrays(6, seed=1)
    content = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test} | changes
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


def test_npz_becomes_a_dataset(tmp_path, arrays):
    ds = data.load(save(tmp_path / "mine.npz", arrays))
    assert (ds.name, ds.input_shape, ds.classes) == ("mine", (1, 5, 4), ("0", "1", "2"))
    np.testing.assert_array_equal(ds.x_train[:, 0].numpy(), arrays(12)[0])


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 4), (1, 5, 4)), ((5, 6, 3), (3, 5, 6)), ((3, 5, 6), (3, 5, 6)), ((5, 6, 1), (1, 5, 6)), ((7,), (1, 1, 7))],
)
def test_layouts(tmp_path, arrays, shape, expected):
    x, x_test = arrays(12, shape)[0], arrays(6, shape, seed=1)[0]
    ds = data.load(save(tmp_path / "a.npz", arrays, x_train=x, x_test=x_test))
    assert ds.input_shape == expected
    if shape == (5, 6, 3):
        np.testing.assert_array_equal(ds.x_test.permute(0, 2, 3, 1).numpy(), x_test)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint8", torch.uint8), ("int64", torch.uint8), ("bool", torch.uint8), ("float64", torch.float32)],
)
def test_number_types(tmp_path, arrays, dtype, expected):
    x, x_test = (a.astype(dtype) for a in (arrays(12)[0], arrays(6)[0]))
    assert data.load(save(tmp_path / "a.npz", arrays, x_train=x, x_test=x_test)).x_train.dtype == expected


def test_integers_past_a_byte_become_float(tmp_path, arrays):
    x = arrays(12)[0].astype(np.int32) * 4
    assert data.load(save(tmp_path / "a.npz", arrays, x_train=x)).x_test.dtype == torch.float32


def test_string_labels_and_column_labels(tmp_path, arrays):
    words = np.array(["dog", "cat", "eel"])
    changes = {"y_train": words[np.arange(12) % 3], "y_test": words[np.arange(6) % 3][:, None]}
    ds = data.load(save(tmp_path / "a.npz", arrays, **changes))
    assert ds.classes == ("cat", "dog", "eel")
    assert ds.y_test.tolist() == [1, 0, 2, 1, 0, 2]


def test_classes_in_the_file_name_the_labels(tmp_path, arrays):
    assert data.load(save(tmp_path / "a.npz", arrays, classes=np.array(["x", "y", "z"]))).classes == ("x", "y", "z")


@pytest.mark.parametrize("key", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_key_is_named(tmp_path, arrays, key):
    with pytest.raises(ValueError, match=rf"a\.npz: expected .* no {key} among"):
        data.load(save(tmp_path / "a.npz", arrays, **{key: None}))


def test_object_arrays_are_refused(tmp_path, arrays):
    with pytest.raises(ValueError, match=r"a\.npz.*x_train: expected numbers or strings, got objects$"):
        data.load(save(tmp_path / "a.npz", arrays, x_train=np.array([1, "two", None], dtype=object)))


@pytest.mark.parametrize("damage", [lambda raw: raw[:-200], lambda raw: b"", lambda raw: b"not an npz at all"])
def test_damaged_file_is_named(tmp_path, arrays, damage):
    path = save(tmp_path / "a.npz", arrays)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.npz: expected an npz file"):
        data.load(path)


def test_npy_under_that_name_is_refused(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="got a single array"):
        data.load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.zeros(11, int)}, r"y_train: expected one label an image, \(12,\), got \(11,\)"),
        ({"y_train": np.zeros(12)}, "y_train: expected whole numbers or strings, got float64"),
        ({"x_train": np.zeros((12, 2, 3, 4, 5))}, "x_train: expected numbers of shape"),
        ({"x_train": np.zeros((12, 9, 9, 9))}, "at most 4 channels"),
        ({"x_train": np.full((12, 5, 4), np.nan, np.float32)}, "x_train: expected finite"),
        ({"x_train": np.zeros((12, 6, 4), np.uint8)}, "x_test: expected"),
        ({"x_train": np.array(["a"] * 12)}, "x_train: expected numbers"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, changes, message):
    with pytest.raises(ValueError, match=rf"a\.npz: {message}|a\.npz: .*{message}"):
        data.load(save(tmp_path / "a.npz", arrays, **changes))


@pytest.mark.parametrize("descr", ["'|O'", "[('a', '|O')]", "'<M8[ns]'", "'|V8'", "'<c16'", "'|S4'", "('<f4', (2,))"])
def test_other_elements_than_numbers_and_strings_are_refused(tmp_path, arrays, descr):
    path = bombs.npz(
        tmp_path, "a", (2,), x_train=bombs.npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': (2,)}}")
    )
    with pytest.raises(
        ValueError, match=r"a\.npz: .*x_train: expected numbers or strings, got (objects|elements of an)"
    ):
        data.load(path)


@pytest.mark.parametrize(
    "header", ["(" * 9000, "{'descr': '|u1'}", "[]", "{1: 2}", "print('x')", "{'descr': '|u1', " * 200]
)
def test_damaged_headers_are_refused(tmp_path, header):
    with pytest.raises(ValueError, match=r"a\.npz: expected an npz file with .*; got") as caught:
        data.load(bombs.npz(tmp_path, "a", (2,), x_train=bombs.npy(header)))
    assert "\n" not in str(caught.value)


def test_header_of_python_2_and_columns_first(tmp_path, arrays):
    x = arrays(12)[0]
    save(tmp_path / "a.npz", arrays, x_train=np.asfortranarray(x))
    np.testing.assert_array_equal(data.load(tmp_path / "a.npz").x_train[:, 0].numpy(), x)
    old = bombs.npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2L, 2L), }") + bytes([1, 2, 3, 4])
    assert data.load(bombs.npz(tmp_path, "b", (2,), x_train=old, x_test=old)).x_train.flatten(1).tolist() == [
        [1, 2],
        [3, 4],
    ]


def test_strings_that_are_no_text_are_refused(tmp_path):
    labels = bombs.npy("{'descr': '<U1', 'fortran_order': False, 'shape': (2,), }") + b"\xff" * 8
    with pytest.raises(ValueError, match=r"a\.npz: .*strings that are no text in y_train"):
        data.load(
            bombs.npz(
                tmp_path,
                "a",
                (2, 2),
                size=0,
                x_train=bombs.npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }") + bytes(4),
                y_train=labels,
            )
        )
