from dataclasses import replace

import pytest
import torch

import hat.data as data


def test_fields_and_shape(make_dataset):
    ds = make_dataset(shape=(3, 4, 5))
    assert ds.input_shape == (3, 4, 5)
    assert "made" in repr(ds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "classes: expected distinct names"),
        ({"classes": ("a", "a", "b", "c")}, "classes: expected distinct names"),
        ({"classes": ("a", "b")}, r"y_train: expected labels in 0\.\.1 \(2 classes\), got 0\.\.3"),
        ({"x_train": torch.zeros(60, 4, 4)}, r"x_train: expected uint8 or float32 \(N, C, H, W\)"),
        ({"x_train": torch.zeros(60, 1, 4, 4).double()}, "x_train: expected uint8 or float32"),
        ({"x_test": torch.zeros(0, 1, 4, 4, dtype=torch.uint8)}, "x_test: .*at least one image"),
        ({"x_test": torch.zeros(20, 1, 4, 5, dtype=torch.uint8)}, "x_test: expected"),
        ({"x_test": torch.zeros(20, 1, 4, 4)}, r"x_test: expected .*torch\.uint8 as x_train, got .*float32"),
        ({"y_train": torch.zeros(59, dtype=torch.int64)}, r"y_train: expected int64 \(60,\), got"),
        ({"y_test": torch.zeros(20)}, r"y_test: expected int64 \(20,\), got torch\.float32"),
        ({"y_test": torch.full((20,), -1)}, "y_test: expected labels in 0"),
    ],
)
def test_each_field_is_checked(make_dataset, change, message):
    with pytest.raises(ValueError, match=message):
        replace(make_dataset(), **change)


def test_non_finite_images_are_refused(make_dataset):
    ds = make_dataset()
    x = ds.x_train.float()
    x[3, 0, 1, 1] = torch.inf
    with pytest.raises(ValueError, match="x_train: expected finite values"):
        replace(ds, x_train=x, x_test=ds.x_test.float())


def test_other_types_are_refused(make_dataset):
    with pytest.raises(TypeError, match="x_train: expected a tensor, got ndarray"):
        replace(make_dataset(), x_train=make_dataset().x_train.numpy())


def test_digits_are_bundled():
    pytest.importorskip("sklearn")
    ds = data.load("digits")
    assert (ds.input_shape, len(ds.x_train) + len(ds.x_test)) == ((1, 8, 8), 1797)
    assert int(ds.x_train.max()) == 16
    share = ds.y_test.bincount() / (ds.y_test.bincount() + ds.y_train.bincount())
    assert share.min() > 0.18
    assert share.max() < 0.22
    assert torch.equal(ds.x_test, data.load("digits").x_test)
