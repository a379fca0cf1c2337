from dataclasses import replace

import pytest
import torch

import hat.data as data
from hat.data.normalise import Normalisation

PARTS = ("train", "validation", "test")


def rows(part):
    """The images as a list of byte strings."""
    return [bytes(image.numpy()) for image in part.x]


def test_permuted_is_one_bijection_a_task_for_all_parts(make_dataset):
    ds = make_dataset(shape=(1, 6, 6))
    base = Normalisation.of(ds.x_train).apply(ds.x_test).flatten(2)
    orders = []
    for task in data.permuted(ds, tasks=4):
        order = task.train._permutation
        assert sorted(order.tolist()) == list(range(36))
        assert all(getattr(task, p)._permutation is order for p in PARTS)
        assert torch.equal(task.test.x.flatten(2), base[:, :, order])
        orders.append(tuple(order.tolist()))
    assert len(set(orders)) == 4
    assert tuple(range(36)) not in orders  # the first task is permuted too


def test_permuted_moves_all_channels_together(make_dataset):
    ds = make_dataset(shape=(3, 5, 5))
    ds = replace(ds, x_train=ds.x_train[:, :1].repeat(1, 3, 1, 1), x_test=ds.x_test[:, :1].repeat(1, 3, 1, 1))
    x = data.permuted(ds, tasks=1)[0].test.x
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.equal(x[:, 0], x[:, 2])


def test_permuted_tasks_share_their_images(make_dataset):
    stream = data.permuted(make_dataset(), tasks=100)
    for part in PARTS:
        assert len({getattr(task, part)._images.data_ptr() for task in stream}) == 1


def test_permuted_names_classes_and_prefix(make_dataset):
    ds = make_dataset()
    short, long = data.permuted(ds, tasks=2, seed=3), data.permuted(ds, tasks=5, seed=3)
    assert [task.name for task in short] == ["permuted made 0", "permuted made 1"]
    assert (long.name, long.input_shape, long[4].index) == ("permuted made", (1, 4, 4), 4)
    assert all(task.classes == ds.classes for task in long)
    assert torch.equal(short[1].train.x, long[1].train.x)


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_are_disjoint_and_whole(make_dataset, seed):
    ds = make_dataset(train=200)
    for stream in (data.permuted(ds, 2, seed=seed), data.split(ds, 2, seed=seed), data.mixture([ds], seed=seed)):
        for task in stream:
            train, validation, test = (rows(getattr(task, p)) for p in PARTS)
            assert len(set(train) | set(validation) | set(test)) == len(train) + len(validation) + len(test)
            assert len(validation) == int(0.15 * (len(train) + len(validation)))
    assert sum(len(t.train) + len(t.validation) for t in data.split(ds, 2)) == 200


def test_validation_shares_no_image_with_train(make_dataset):
    ds = make_dataset(train=200)
    ds = replace(ds, x_train=ds.x_train[torch.arange(200) % 40], y_train=ds.y_train[torch.arange(200) % 40])
    for seed in range(5):
        for task in (*data.permuted(ds, 1, seed=seed, validation=0.02), *data.split(ds, 2, seed=seed)):
            assert not set(rows(task.train)) & set(rows(task.validation))


def test_validation_zero_is_an_empty_part(make_dataset):
    task = data.permuted(make_dataset(), 1, validation=0)[0]
    assert (len(task.train), len(task.validation)) == (60, 0)
    assert list(task.validation.batches()) == []


def test_same_seed_same_stream(make_dataset):
    ds = make_dataset()
    for make in (data.permuted, data.split, lambda d, **k: data.mixture([d], **k)):
        first, again, other = make(ds, seed=7), make(ds, seed=7), make(ds, seed=8)
        assert torch.equal(first[0].train.x, again[0].train.x)
        assert not torch.equal(first[0].train.x, other[0].train.x)


@pytest.mark.parametrize(("classes_per_task", "sizes"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (7, [7])])
@pytest.mark.parametrize("shuffle", [False, True])
def test_split_partitions_the_classes(make_dataset, classes_per_task, sizes, shuffle):
    ds = make_dataset(train=140, test=70, classes=7)
    stream = data.split(ds, classes_per_task, shuffle_classes=shuffle)
    assert [len(task.classes) for task in stream] == sizes
    dealt = [name for task in stream for name in task.classes]
    assert sorted(dealt) == sorted(ds.classes)
    assert shuffle or dealt == list(ds.classes)
    images = Normalisation.of(ds.x_train).apply(ds.x_test)
    label = {bytes(x.numpy()): ds.classes[y] for x, y in zip(images, ds.y_test, strict=True)}
    for task in stream:
        for part in (task.train, task.validation, task.test):
            assert len(part) == 0 or int(part.y.max()) < len(task.classes)
        for x, y in zip(task.test.x, task.test.y, strict=True):
            assert label[bytes(x.numpy())] == task.classes[y]


def test_split_shuffle_depends_on_the_seed(make_dataset):
    ds = make_dataset(train=140, test=70, classes=7)
    dealt = [[t.classes for t in data.split(ds, 2, shuffle_classes=True, seed=s)] for s in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2]


def test_split_tasks_takes_the_first(make_dataset):
    assert [t.name for t in data.split(make_dataset(), 1, tasks=2)] == ["split made 0", "split made 1"]


def test_split_normalises_by_the_whole_training_part(make_dataset):
    ds = make_dataset()
    expected = Normalisation.of(ds.x_train).apply(ds.x_test[ds.y_test < 2])
    assert torch.equal(data.split(ds, 2)[0].test.x, expected)


def test_limit_is_of_each_class_and_seeded(make_dataset):
    ds = make_dataset(train=200)
    for stream in (data.permuted(ds, 1, limit=5), data.split(ds, 2, limit=5), data.mixture([ds], limit=5)):
        for task in stream:
            labels = torch.cat([task.train.y, task.validation.y])
            assert labels.bincount().tolist() == [5] * len(task.classes)
            assert len(task.test) == 20 * len(task.classes) // 4
    one, two, other = (rows(data.permuted(ds, 1, limit=5, seed=s)[0].train) for s in (0, 0, 1))
    assert one == two != other


def test_mixture_brings_all_to_the_largest_shape(make_dataset):
    grey, colour = make_dataset(shape=(1, 6, 4), name="grey"), make_dataset(shape=(3, 4, 8), name="colour", classes=2)
    stream = data.mixture([grey, colour])
    assert (stream.input_shape, stream.name) == ((3, 6, 8), "mixture grey colour")
    assert [task.name for task in stream] == ["mixture grey 0", "mixture colour 1"]
    assert [len(task.classes) for task in stream] == [4, 2]
    x = stream[0].train.x
    assert torch.equal(x[:, 0], x[:, 2])
    assert stream[0].train.nbytes == len(stream[0].train) * 6 * 8 * 4
    assert data.mixture([grey, colour], size=(5, 5)).input_shape == (3, 5, 5)
    assert data.mixture([grey, grey]).input_shape == (1, 6, 4)


def test_mixture_normalises_each_by_itself(make_dataset):
    ds = make_dataset()
    dark = replace(ds, x_train=ds.x_train // 8, x_test=ds.x_test // 8, name="dark")
    for task in data.mixture([ds, dark]):
        pixels = torch.cat([task.train.x, task.validation.x])
        torch.testing.assert_close(pixels.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ds: data.permuted(ds, tasks=0), "tasks: expected at least 1, got 0"),
        (lambda ds: data.permuted(ds, validation=1.0), "validation: expected a finite number >= 0 and < 1, got 1.0"),
        (lambda ds: data.permuted(ds, validation=-0.1), "validation"),
        (lambda ds: data.permuted(ds, limit=0), "limit: expected at least 1, got 0"),
        (lambda ds: data.permuted(ds, seed=None), "seed: expected an int"),
        (lambda ds: data.split(ds, 0), r"classes_per_task: expected an int in 1\.\.4, got 0 for made"),
        (lambda ds: data.split(ds, 5), "classes_per_task"),
        (lambda ds: data.split(ds, 2, tasks=3), r"tasks: expected None or an int in 1\.\.2"),
        (lambda ds: data.split(replace(ds, classes=(*ds.classes, "empty"))), r"got none of \['empty'\]"),
        (lambda ds: data.mixture([]), "datasets: expected a list of at least one"),
        (lambda ds: data.mixture("mnist"), "datasets: expected a list"),
        (lambda ds: data.mixture([ds], size=(0, 4)), r"size: expected \(H, W\)"),
    ],
)
def test_arguments_are_checked(make_dataset, call, message):
    with pytest.raises(ValueError, match=message):
        call(make_dataset())


def test_mixture_of_two_and_three_channels_is_refused(make_dataset):
    with pytest.raises(ValueError, match="datasets: expected 1 or 3 channels, got 2 in two"):
        data.mixture([make_dataset(shape=(2, 4, 4), name="two"), make_dataset(shape=(3, 4, 4))])


@pytest.mark.parametrize("make", [data.permuted, data.split])
def test_size_resizes_every_part(make_dataset, make):
    ds = make_dataset(shape=(1, 6, 6))
    task = make(ds, size=(4, 9))[0]
    assert {getattr(task, part).input_shape for part in PARTS} == {(1, 4, 9)}
    same, plain = make(ds, size=(6, 6))[0], make(ds)[0]
    assert torch.equal(same.train.x, plain.train.x)
    for wrong in ((4,), (4, 0), (4.0, 4)):
        with pytest.raises(ValueError, match="size: expected"):
            make(ds, size=wrong)


def test_permutation_of_resized_images_covers_them(make_dataset):
    task = data.permuted(make_dataset(shape=(1, 6, 6)), tasks=1, size=(4, 9))[0]
    assert sorted(task.train._permutation.tolist()) == list(range(36))


@pytest.mark.parametrize("make", [data.permuted, data.split, lambda name, **how: data.mixture([name], **how)])
def test_size_works_for_named_datasets_too(make):
    pytest.importorskip("sklearn")
    assert make("digits", size=(12, 10), limit=5).input_shape == (1, 12, 10)
