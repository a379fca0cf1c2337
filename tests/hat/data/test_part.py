import pytest
import torch

from hat.data import Part


def make(n=10, shape=(1, 3, 4), **kwargs):
    draw = torch.Generator().manual_seed(0)
    return Part(torch.randn(n, *shape, generator=draw), torch.arange(n) % 3, **kwargs)


PERMUTATION = torch.randperm(12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 3, 4)])
@pytest.mark.parametrize("rows", [torch.tensor([3, 0, 3]), [1, 2], slice(2, 7), slice(None), [], torch.tensor([9])])
def test_rows_and_whole_agree_under_a_permutation(shape, rows):
    part = make(shape=shape).permuted(PERMUTATION)
    x, y = part[rows]
    at = rows if not isinstance(rows, list) else torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(x, part.x[at])
    assert torch.equal(y, part.y[at])
    assert x.dtype == torch.float32
    plain = make(shape=shape).x
    assert torch.equal(part.x.flatten(2), plain.flatten(2)[:, :, PERMUTATION])


def test_batches_are_in_order_and_keep_the_rest():
    part = make(10)
    batches = list(part.batches(batch_size=4))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([x for x, _ in batches]), part.x)


def test_empty_part():
    part = make(0)
    assert len(part) == 0
    assert list(part.batches()) == []
    assert part.permuted(PERMUTATION).x.shape == (0, 1, 3, 4)


def test_served_rows_are_copies():
    part = make()
    before = part.x.clone()
    part[torch.tensor([0, 1])][0].zero_()
    assert torch.equal(part.x, before)


def test_permuted_parts_share_storage():
    part = make()
    others = [part.permuted(PERMUTATION), part.permuted(PERMUTATION.flip(0))]
    assert {p._images.data_ptr() for p in others} == {part._images.data_ptr()}


def test_grey_shown_as_rgb_is_held_once():
    part, grey = make(channels=3), make()
    assert part.input_shape == (3, 3, 4)
    assert part.nbytes == grey.nbytes
    assert torch.equal(part.x, grey.x.expand(-1, 3, -1, -1))
    x, _ = part[[1, 2]]
    assert x.is_contiguous()
    assert torch.equal(part.permuted(PERMUTATION).x, grey.permuted(PERMUTATION).x.expand(-1, 3, -1, -1))


def test_to_shares_one_copy_between_parts():
    part = make(channels=3)
    one, other = (part.permuted(p).to("meta") for p in (PERMUTATION, PERMUTATION.flip(0)))
    assert one.device.type == one.y.device.type == one[[0, 1]][0].device.type == "meta"
    assert one._images is other._images
    assert one.x.shape == (10, 3, 3, 4)
    assert part.to("cpu") is part


def test_row_that_is_not_there():
    with pytest.raises(IndexError):
        make()[[10]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 4), torch.zeros(3).long()), r"images: expected float32 \(N, C, H, W\)"),
        ((torch.zeros(3, 1, 2, 2).byte(), torch.zeros(3).long()), "images: expected float32"),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(2).long()), r"labels: expected int64 \(3,\)"),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(3)), "labels: expected int64"),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), torch.arange(5)), r"permutation: expected int64 \(4,\)"),
        ((torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), torch.tensor([0, 1, 1, 3])), "every number in 0..3 once"),
    ],
)
def test_constructor_checks(arguments, message):
    with pytest.raises(ValueError, match=message):
        Part(*arguments)


def test_batch_size_is_checked_at_once():
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        make().batches(batch_size=0)
    with pytest.raises(ValueError, match="channels: expected None or 3, got 2"):
        make(shape=(3, 3, 4), channels=2)


def test_fingerprint_tells_parts_apart():
    part = make()
    assert make().fingerprint() == part.fingerprint() == part.permuted(PERMUTATION).permuted(None).fingerprint()
    swapped = PERMUTATION.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        part.permuted(PERMUTATION),
        part.permuted(swapped),
        Part(part.x, part.y.flip(0)),
        Part(part.x + 0.01, part.y),
        Part(-part.x, part.y),
        Part(torch.cat([part.x[:9], part.x[:1]]), part.y),
        make(0),
    ]
    prints = [part.fingerprint(), *(other.fingerprint() for other in others)]
    assert len({tuple(facts) for facts in prints}) == len(prints)


def test_permuted_parts_compute_the_means_of_their_images_once(monkeypatch):
    part = make()
    first = part.permuted(PERMUTATION).fingerprint()
    monkeypatch.setattr(torch.linalg, "vector_norm", None)
    assert part.permuted(PERMUTATION).fingerprint() == first
