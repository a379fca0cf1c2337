import pytest
import torch

from hat.data import Part, Stream, Task


def make_task(train=10, validation=3, test=4, classes=2, shape=(1, 2, 2), name="a task", index=0):
    def part(n, start):
        numbers = torch.arange(start, start + n, dtype=torch.float32)
        return Part(numbers[:, None, None, None].expand(n, *shape).clone(), torch.arange(n) % classes)

    names = tuple(str(i) for i in range(classes))
    return Task(name, names, part(train, 0), part(validation, 100), part(test, 200), index)


def drawn(batches):
    return [x[:, 0, 0, 0].tolist() for _, (x, _) in batches]


def test_an_epoch_serves_every_image_once_and_keeps_the_rest():
    batches = list(make_task().epoch(0, batch_size=4))
    assert [len(y) for _, (_, y) in batches] == [4, 4, 2]
    assert sorted(value for batch in drawn(batches) for value in batch) == list(range(10))
    for _, (x, y) in batches:
        assert y.tolist() == [int(v) % 2 for v in x[:, 0, 0, 0]]


@pytest.mark.parametrize(("batch_size", "expected"), [(4, [0.0, 0.5, 1.0]), (5, [0.0, 1.0]), (10, [1.0]), (64, [1.0])])
def test_progress_goes_from_0_to_1_in_every_epoch(batch_size, expected):
    task = make_task()
    assert [p for p, _ in task.epoch(3, batch_size=batch_size)] == expected
    assert [p for p, _ in task.batches(epochs=3, batch_size=batch_size)] == expected * 3


def test_epoch_does_not_depend_on_history():
    task = make_task(train=50)
    chained = drawn(task.batches(epochs=4, batch_size=8, seed=5))
    fresh = [drawn(make_task(train=50).epoch(e, batch_size=8, seed=5)) for e in (3, 1)]
    assert fresh == [chained[21:28], chained[7:14]]
    torch.manual_seed(123)
    assert drawn(task.epoch(3, batch_size=8, seed=5)) == chained[21:28]


def test_serving_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    list(make_task().batches(epochs=2))
    assert torch.equal(state, torch.random.get_rng_state())


def test_order_differs_by_epoch_seed_name_and_index():
    orders = [
        drawn(make_task(train=50).epoch(0)),
        drawn(make_task(train=50).epoch(1)),
        drawn(make_task(train=50).epoch(0, seed=1)),
        drawn(make_task(train=50, name="another").epoch(0)),
        drawn(make_task(train=50, index=1).epoch(0)),
    ]
    assert len({str(o) for o in orders}) == len(orders)


def test_to_and_device():
    task = make_task().to("meta")
    assert {p.device.type for p in (task.train, task.validation, task.test)} == {"meta"}
    for _, (x, y) in make_task().batches(epochs=2, batch_size=4, device="meta"):
        assert x.device.type == y.device.type == "meta"


def test_arguments_are_checked_at_the_call():
    task = make_task()
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got -1"):
        task.epoch(0, batch_size=-1)
    with pytest.raises(ValueError, match="epoch: expected at least 0, got -1"):
        task.epoch(-1)
    with pytest.raises(ValueError, match=r"epochs: expected an int, got 1\.5"):
        task.batches(epochs=1.5)
    with pytest.raises(ValueError, match="batch_size"):
        task.batches(batch_size=0)
    assert list(task.batches(epochs=0)) == []


def test_parts_must_agree():
    with pytest.raises(ValueError, match="train: expected at least one image"):
        make_task(train=0)
    good, other = make_task(), make_task(shape=(1, 3, 3))
    with pytest.raises(ValueError, match=r"test: expected images of \(1, 2, 2\)"):
        Task("x", ("a", "b"), good.train, good.validation, other.test)
    with pytest.raises(ValueError, match=r"train: expected labels in 0\.\.0 \(1 classes\), got 0\.\.1"):
        Task("x", ("a",), good.train, good.validation, good.test)


def test_stream_is_a_sequence():
    stream = Stream("s", [make_task(name=str(i), index=i) for i in range(4)])
    assert (len(stream), stream.input_shape, stream[-1].name) == (4, (1, 2, 2), "3")
    assert [t.name for t in stream] == list("0123")
    assert [t.name for t in reversed(stream)] == list("3210")
    part = stream[1:3]
    assert isinstance(part, Stream)
    assert ([t.name for t in part], part.name) == (["1", "2"], "s")
    assert stream[4:].input_shape == (1, 2, 2)
    with pytest.raises(IndexError):
        stream[4]


def test_stream_checks_its_tasks():
    with pytest.raises(ValueError, match=r"tasks: expected images of \(1, 2, 2\), got \(1, 3, 3\) in 'odd'"):
        Stream("s", [make_task(), make_task(shape=(1, 3, 3), name="odd")])
    with pytest.raises(ValueError, match="tasks: expected at least one"):
        Stream("s", [])
