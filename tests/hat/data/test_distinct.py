import pytest
import torch

from hat.data.distinct import at_most, image_ids, split_test, split_validation


def test_image_ids_number_distinct_images():
    x = torch.tensor([[5, 1], [2, 2], [5, 1], [9, 9], [2, 2]], dtype=torch.uint8)
    assert image_ids(x).tolist() == [0, 1, 0, 2, 1]
    assert image_ids(x.float()[:, :, None, None]).tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.15, 0.5, 0.99])
def test_validation_rows_partition_the_images(count, fraction):
    x = torch.arange(count, dtype=torch.float32)[:, None]
    train, validation = split_validation(x, fraction, seed=0)
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(count))
    expected = max(int(fraction * count), 1) if fraction > 0 and count > 1 else 0
    assert len(validation) == expected
    assert len(train) > 0


def test_validation_shares_no_image_with_training():
    x = torch.randint(0, 12, (200, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x[:5, 0] = torch.tensor([100, 101, 102, 103, 104])
    for seed in range(20):
        train, validation = split_validation(x, 0.3, seed)
        assert not set(x[train].flatten().tolist()) & set(x[validation].flatten().tolist())
        assert len(train) + len(validation) == 200


def test_validation_depends_on_the_seed_alone():
    x = torch.arange(50, dtype=torch.float32)[:, None]
    first, again, other = (split_validation(x, 0.2, seed)[1].tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_split_test_keeps_copies_together_and_classes_in_both():
    x = torch.arange(60, dtype=torch.uint8)[:, None].repeat(3, 1)
    y = x.flatten().long() % 4
    train, test = split_test(x, y)
    assert not set(x[train].flatten().tolist()) & set(x[test].flatten().tolist())
    assert y[test].bincount().tolist() == [9, 9, 9, 9]  # 3 of 15 distinct images of each class, 3 copies each
    assert len(train) + len(test) == 180


def test_split_test_follows_the_image_where_copies_disagree_on_the_label():
    x = torch.tensor([0, 1, 2, 3, 0, 1], dtype=torch.uint8)[:, None]
    train, test = split_test(x, torch.tensor([0, 0, 1, 1, 1, 1]))
    assert not set(x[train].flatten().tolist()) & set(x[test].flatten().tolist())


def test_at_most_limits_each_label():
    y = torch.tensor([0] * 10 + [1] * 2 + [2] * 5)
    rows = at_most(y, 3, seed=1)
    assert y[rows].bincount().tolist() == [3, 2, 3]
    assert rows.tolist() == at_most(y, 3, seed=1).tolist() == sorted(rows.tolist())
    assert at_most(y, None, seed=1).tolist() == list(range(17))
