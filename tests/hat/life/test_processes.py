"""Several processes begin and end tasks together; every process says so if another one does not."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import warnings
from contextlib import nullcontext
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import hat
from hat.network import processes, replicas
from hat.network.checksums import checksum
from tests.hat.several import WAIT, Processes

SHORT, LONG = 2.0, 60.0  # seconds, the timeout of a group while a process does not come, and otherwise


@pytest.fixture(scope="module")
def two():
    processes = Processes(2)
    yield processes
    processes.close()


def mlp(**options):
    return hat.HATModel(hat.models.mlp(20, hidden=(30, 30)), **options)


def with_norm_and_loose(**options):
    """A network with running statistics, and with a parameter along no gate, which freezes after the first task."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(20, 16), nn.BatchNorm1d(16)
            self.shift = nn.Linear(20, 20)
            self.second, self.last = nn.Linear(16, 12), nn.Linear(12, 2)

        def forward(self, x):
            return self.last(self.second(self.norm(self.first(self.shift(x))).relu()).relu())

    return hat.convert(
        Shifted(), torch.randn(4, 20), filter=lambda module, name: name != "shift", process_group="default", **options
    )


class Around(nn.Module):
    """A user's module with a model inside."""

    def __init__(self, model):
        super().__init__()
        self.inner = nn.Module()
        self.inner.model = model

    def forward(self, x):
        return self.inner.model(2 * x) * 0.5


def learn(model, call, rank, *, steps=4, sync=None, optimizer=hat.optim.SGD, lr=0.1):
    """Train the current task on samples of this process alone."""
    optimizer = optimizer(model.task_parameters(), lr=lr)
    generator = torch.Generator().manual_seed(100 * rank + model.task)
    for step in range(steps):
        model.anneal(step / max(steps - 1, 1))
        optimizer.zero_grad()
        for micro in range(2 if sync else 1):
            x = torch.randn(16, 20, generator=generator)
            y = torch.randint(0, 2, (16,), generator=generator)
            with sync() if sync and not micro else nullcontext():
                (F.cross_entropy(call(x), y) + 0.75 * model.penalty()).backward()
        optimizer.step()


def state(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def differences(states):
    first, second = states
    assert isinstance(first, dict), first
    assert isinstance(second, dict), second
    assert first.keys() == second.keys()
    return [name for name in first if first[name].tobytes() != second[name].tobytes()]


# -- a wrapper -----------------------------------------------------------------------------------------------------


def wrapped_tasks(rank, network, when, options, sync=False, tasks=3):
    """Three tasks under a wrapper; the processes start with other values, and draw other ones.

    Returns:
        The state at the end, and whether old logits kept every bit.
    """
    torch.manual_seed(rank)
    model = {"mlp": mlp, "norm": with_norm_and_loose}[network]()
    x = torch.randn(8, 20, generator=torch.Generator().manual_seed(7))

    def wrap():
        return DistributedDataParallel(Around(model) if when == "around" else model, **options)

    wrapper = wrap() if when in ("once", "around") else None
    before = []
    for task in range(tasks):
        model.begin_task(2 + task)
        if when == "each" or (when == "after" and wrapper is None):
            wrapper = wrap()
        learn(model, wrapper, rank, sync=wrapper.no_sync if sync else None)
        model.end_task()
        before.append(model(x, task=task).detach().clone())
    kept = all(torch.equal(model(x, task=task), logits) for task, logits in enumerate(before))
    return state(model), kept


@pytest.mark.parametrize("network", ["mlp", "norm"])
@pytest.mark.parametrize(
    ("options", "sync"),
    [
        ({}, False),
        ({}, True),
        ({"find_unused_parameters": True}, False),
        ({"static_graph": True}, False),
        ({"gradient_as_bucket_view": True}, True),
    ],
)
def test_a_wrapper_made_once_trains_as_one_made_for_every_task(two, tmp_path, network, options, sync):
    results = {
        when: two.run(wrapped_tasks, tmp_path, network, when, options, sync) for when in ("each", "once", "after")
    }
    for when, (first, second) in results.items():
        assert isinstance(first, tuple), (when, first)
        assert isinstance(second, tuple), (when, second)
        assert first[1], when
        assert second[1], when
        assert not differences([first[0], second[0]]), when
        assert not differences([first[0], results["each"][0][0]]), when


def compiled_tasks(rank, where):
    torch.manual_seed(rank)
    torch.compiler.reset()
    model, graphs = mlp(), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    inner = torch.compile(model, backend=backend, fullgraph=True) if where == "inside" else model
    wrapper = DistributedDataParallel(inner)
    outer = torch.compile(wrapper, backend=backend) if where == "outside" else wrapper
    for _ in range(2):
        model.begin_task(2)
        learn(model, outer, rank)
        model.end_task()
    return len(graphs), state(model)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_wrapper_of_compiled_code_follows(two, tmp_path, where):
    (graphs, first), (_, second) = two.run(compiled_tasks, tmp_path, where)
    assert graphs == 2
    assert not differences([first, second])


def test_a_wrapper_around_a_module_that_holds_the_model(two, tmp_path):
    first, second = two.run(wrapped_tasks, tmp_path, "mlp", "around", {})
    assert not differences([first[0], second[0]])
    assert first[1]


def changed_set(rank, change):
    """A wrapper kept while the set or the shapes of the parameters change between its forward passes."""
    torch.manual_seed(rank)
    model = hat.convert(
        nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 2)), torch.randn(2, 20)
    )
    wrapper = DistributedDataParallel(model)
    hooked = []
    if change == "hook":
        wrapper.register_comm_hook(None, lambda state, bucket: (hooked.append(1), averaged(bucket))[1])
    for task in range(3):
        model.begin_task(2)
        learn(model, wrapper, rank)
        if change == "grow while learning" and task == 1:
            hat.grow(model, 3)
            learn(model, wrapper, rank)
        if change == "load" and task == 1:
            model.load_state_dict(copy.deepcopy(model.state_dict()))
            learn(model, wrapper, rank)
        model.end_task()
        if change == "grow" and task == 1:
            hat.grow(model, 0.2)
            model.begin_task(2)
            model.penalty().backward()  # before a forward pass through the wrapper
            learn(model, wrapper, rank)
            model.end_task()
        if change == "forget" and task == 1:
            hat.forget(model, 0)
            hat.forget(model, 1)
        if change == "hook":
            assert hooked
            hooked.clear()
    return state(model)


def averaged(bucket):
    done = dist.all_reduce(bucket.buffer().div_(dist.get_world_size()), async_op=True).get_future()
    return done.then(lambda future: future.value()[0])


@pytest.mark.parametrize("change", ["hook", "grow", "grow while learning", "forget", "load"])
def test_a_wrapper_follows_what_changes(two, tmp_path, change):
    assert not differences(two.run(changed_set, tmp_path, change))


def stateful_hook(rank):
    model = mlp()
    wrapper = DistributedDataParallel(model)
    wrapper.register_comm_hook({"errors": []}, lambda state, bucket: averaged(bucket))
    model.begin_task(2)
    learn(model, wrapper, rank)


def built_in_hook(rank):
    model = mlp()
    wrapper = DistributedDataParallel(model)
    wrapper._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
    model.begin_task(2)
    learn(model, wrapper, rank)


def joined(rank):
    model = mlp()
    wrapper = DistributedDataParallel(model)
    model.begin_task(2)
    with wrapper.join():
        learn(model, wrapper, rank)


@pytest.mark.parametrize(
    ("function", "option"), [(stateful_hook, "hook with a state"), (built_in_hook, "built-in"), (joined, "join")]
)
def test_a_wrapper_that_cannot_follow_is_to_be_made_anew(two, tmp_path, function, option):
    for result in two.run(function, tmp_path):
        assert result.startswith("RuntimeError: DistributedDataParallel")
        assert option in result
        assert "make it anew after begin_task()" in result


def joined_anew(rank):
    torch.manual_seed(rank)
    model = mlp()
    for _ in range(2):
        model.begin_task(2)
        wrapper = DistributedDataParallel(model)
        with wrapper.join():
            learn(model, wrapper, rank, steps=4 + rank)
        model.end_task()
    return state(model)


def test_a_new_wrapper_takes_uneven_inputs(two, tmp_path):
    first, second = two.run(joined_anew, tmp_path)
    assert not differences([first, second])


# -- meetings ------------------------------------------------------------------------------------------------------


def begun(rank, **options):
    torch.manual_seed(0)
    model = mlp(**options)
    model.begin_task(2)
    return model


def wait_for(seconds):
    """Set the timeout of the default group."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), dist.group.WORLD)


def outcome(call, *arguments, **options):
    """The error of a call as text, or None."""
    try:
        call(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def first_values(rank):
    torch.manual_seed(rank)
    model = with_norm_and_loose()
    model.begin_task(3)
    return state(model)


def test_the_first_values_are_those_of_rank_0(two, tmp_path):
    first, second = two.run(first_values, tmp_path)
    assert not differences([first, second])
    torch.manual_seed(0)
    with pytest.warns(hat.UnlockedWarning):
        alone = with_norm_and_loose()
    alone.begin_task(3)
    assert not differences([first, state(alone)])


def absent(rank, call):
    model = begun(rank)
    before = state(model)
    wait_for(SHORT)
    error = outcome(getattr(model, call)) if rank == 0 else None
    return error, model.learning, not differences([before, state(model)])


def test_a_process_that_does_not_come_is_named(two, tmp_path):
    (error, learning, same), _ = two.run(absent, tmp_path, "end_task")
    assert error.startswith("RuntimeError: end_task of task 0: rank 1 did not come within 2 s")
    assert "process_group=None" in error
    assert learning
    assert same


def late(rank):
    model = begun(rank)
    store = dist.distributed_c10d._get_default_store()
    if rank == 1:
        store.wait(["gone"], timedelta(seconds=WAIT))
    wait_for(SHORT)
    error = outcome(model.end_task)
    store.set("gone", "")
    wait_for(LONG)
    model.end_task()
    return error, state(model)


def test_a_late_process_hears_that_the_other_has_gone_and_both_may_try_again(two, tmp_path):
    (first_error, first), (second_error, second) = two.run(late, tmp_path)
    assert "rank 1 did not come" in first_error
    assert second_error == first_error
    assert not differences([first, second])


def different(rank, what):
    torch.manual_seed(0)
    options = {"config": hat.GateConfig(s_max=400 + rank)} if what == "config" else {}
    model = hat.HATModel(hat.models.mlp(20, hidden=(30, 30 + rank * (what == "shape"))), **options)
    if what in ("config", "shape"):
        return outcome(model.begin_task, 2), model.learning, len(model.heads)
    if what == "classes":
        return outcome(model.begin_task, 2 + rank), model.learning, len(model.heads)
    if what == "bad classes":
        return outcome(model.begin_task, 2 - 2 * rank), model.learning, len(model.heads)
    if what == "tasks":
        model.process_group = None
        for _ in range(rank):
            model.begin_task(2)
            model.end_task()
        model.process_group = "default"
        return outcome(model.begin_task, 2), model.learning, len(model.heads) - rank
    model.begin_task(2)
    with torch.no_grad():
        if what == "weight" and rank:
            model.get_parameter("body.network.linear1.weight").view(-1)[7] += 1e-4
        if what == "zero" and rank:
            model.head.bias.view(-1)[0] = -0.0
        if what == "zero" and not rank:
            model.head.bias.view(-1)[0] = 0.0
        if what == "embedding" and rank:
            next(iter(model.gates.values())).embedding[2] += 1
        if what == "order" and rank:
            next(iter(model.gates.values())).origin.copy_(torch.arange(30).flip(0))
        if what == "not finite" and rank:
            model.head.weight[0, 0] = torch.nan
    if what == "still learning" and rank:
        return outcome(model.begin_task, 2), model.learning, len(model.heads)
    if what == "calls":
        model.end_task()
        return outcome(hat.forget, model, 0) if rank else outcome(model.begin_task, 2), model.learning, len(model.heads)
    return outcome(model.end_task), model.learning, len(model.heads)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("config", "expected the same call in all processes"),
        ("classes", "begin_task of task 0 [['0', '1'], "),
        ("classes", "begin_task of task 0 [['0', '1', '2'], "),
        (
            "shape",
            "body.network.linear2.weight float32 [30, 30], rank 1 has body.network.linear2.weight float32 [31, 30]",
        ),
        ("tasks", "rank 1 begin_task of task 1"),
        ("calls", "rank 1 hat.forget of task 0"),
        ("weight", "body.network.linear1.weight has other values in rank 1 than in rank 0"),
        ("zero", "heads.0.bias has other values in rank 1"),
        ("embedding", "embedding has other values in rank 1"),
        ("order", "origin has other values in rank 1"),
    ],
)
def test_processes_that_differ_say_so_and_nothing_has_changed(two, tmp_path, what, expected):
    for error, learning, heads in two.run(different, tmp_path, what):
        assert error.startswith("RuntimeError: ")
        assert expected in error
        assert learning == (heads == 1 and what != "calls")


@pytest.mark.parametrize(
    ("what", "own", "heard"),
    [
        ("bad classes", "ValueError: classes: expected at least one class", "rank 1 cannot: ValueError: classes: "),
        (
            "not finite",
            "ValueError: heads.0.weight: expected finite values",
            "rank 1 cannot: ValueError: heads.0.weight",
        ),
        (
            "still learning",
            "RuntimeError: begin_task: task 0 is still",
            "rank 1 cannot: RuntimeError: begin_task: task 0",
        ),
    ],
)
def test_an_error_of_one_process_is_heard_by_the_other(two, tmp_path, what, own, heard):
    (first, *unchanged), (second, *_) = two.run(different, tmp_path, what)
    assert second.startswith(own)
    assert heard in first
    assert unchanged in ([True, 1], [False, 0])


def dies(rank, dying):
    """A process is killed in `end_task`, before it has met the other."""
    model = begun(rank)
    model.end_task()
    model.begin_task(2)
    learn(model, DistributedDataParallel(model), rank)
    before = state(model)
    if rank == dying:
        model._check_finite = lambda: os.kill(os.getpid(), signal.SIGKILL)
    wait_for(SHORT)
    error = outcome(model.end_task)
    same = not differences([before, state(model)])
    model.process_group = None
    return error, same, model.end_task()


@pytest.mark.parametrize(
    ("dying", "store", "expected"),
    [
        (1, "file", "rank 1 did not come within 2 s"),
        (0, "tcp", "the process that holds it (rank 0 or the launcher) may have ended"),
    ],
)
def test_a_process_that_is_killed_in_end_task_is_named(tmp_path, dying, store, expected):
    pair = Processes(2)
    results = pair.run(dies, tmp_path, dying, store=store)
    pair.close()
    assert results[dying] is None
    error, same, task = results[1 - dying]
    assert error.startswith("RuntimeError: end_task of task 1: ")
    assert expected in error
    assert same
    assert task == 1


def alone(rank):
    """Every process has a model of its own, with tasks of its own, and code that rank 0 alone runs."""
    torch.manual_seed(rank)
    model = mlp(process_group=None)
    converted = hat.convert(
        nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 20), process_group=None
    )
    for _ in range(1 + rank):
        for each in (model, converted):
            each.begin_task(2 + rank)
            learn(each, each, rank)
            each.end_task()
    hat.grow(model, 1 + rank)
    hat.forget(model, 0)
    if rank == 0:
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin.begin_task(2)
            twin.end_task()
    return model.tasks, next(iter(model.gates.values())).units, converted.classes[-1]


def test_a_model_for_every_process_meets_nobody(two, tmp_path):
    first, second = two.run(alone, tmp_path)
    assert first == (1, 31, ("0", "1"))
    assert second == (2, 32, ("0", "1", "2"))


def group_of_one(rank):
    """Two groups of one process each, and one of both."""
    ones = [dist.new_group([0]), dist.new_group([1])]
    both = dist.new_group([0, 1])
    model = mlp(process_group=ones[rank])
    for _ in range(1 + rank):
        model.begin_task(2)
        model.end_task()
    errors = [outcome(mlp, process_group=ones[1 - rank]), outcome(mlp, process_group="both")]
    shared = mlp(process_group=both)
    shared.begin_task(2)
    copied = copy.deepcopy(shared)
    kept = copied.process_group is both
    error = outcome(copied.end_task) if rank == 0 else None
    if rank == 1:
        error = outcome(copied.end_task)
    return errors, kept, error, state(copied), pickle.loads(pickle.dumps(shared)).process_group


def test_a_group_is_checked_copied_and_pickled(two, tmp_path):
    results = two.run(group_of_one, tmp_path)
    for errors, kept, error, _, group in results:
        assert errors[0].startswith("ValueError: process_group: expected a group of this process")
        assert errors[1].startswith("TypeError: process_group: expected a process group")
        assert kept
        assert error is None
        assert group == "default"
    assert not differences([result[3] for result in results])


def refused(rank):
    """Sharded parameters, wherever they may come in."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    mesh = init_device_mesh("cpu", (2,))
    found = {}
    plain = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 2))
    fully_shard(plain, mesh=mesh)
    found["convert"] = outcome(hat.convert, plain, torch.randn(2, 20))
    layers = nn.Sequential(hat.HATLinear(20, 8), hat.HATLinear(8, 8))
    fully_shard(layers, mesh=mesh)
    found["HATModel"] = outcome(hat.HATModel, layers)
    model = mlp()
    fully_shard(model, mesh=mesh)
    found["begin_task"] = outcome(model.begin_task, 2)
    model = begun(rank)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    fully_shard(model, mesh=mesh)
    found["guard"] = outcome(hat.guard, optimizer, model)
    found["optim"] = outcome(hat.optim.SGD, model.parameters(), lr=0.1, model=model)
    found["end_task"] = outcome(model.end_task)
    for use_orig_params in (True, False):
        model = mlp()
        FullyShardedDataParallel(model, use_orig_params=use_orig_params, device_id=torch.device("cpu"))
        found[f"FullyShardedDataParallel {use_orig_params}"] = outcome(model.begin_task, 2)
    return found


def test_sharded_parameters_are_refused_by_name(two, tmp_path):
    for found in two.run(refused, tmp_path):
        assert isinstance(found, dict), found
        for where, error in found.items():
            assert error is not None, where
            assert error.startswith("TypeError: "), (where, error)
            assert "weight" in error or "flat_param" in error, (where, error)
            assert "DistributedDataParallel" in error, where


def trainers(rank):
    """The same run in both processes, and then a run of each process for itself."""
    stream = hat.data.split("digits", classes_per_task=2, tasks=2)
    config = hat.TrainConfig(epochs=2, batch_size=64)
    torch.manual_seed(rank)
    model = hat.HATModel(hat.models.mlp(64, (20,)))
    hat.Trainer(model, stream, config, progress=False, grow="auto").run()
    own = hat.HATModel(hat.models.mlp(64, (20,)), process_group=None)
    hat.Trainer(own, stream[: 1 + rank], config, progress=False).run()
    return state(model), own.tasks


def test_a_trainer_runs_alike_in_all_processes_or_in_each_for_itself(two, tmp_path):
    (first, one), (second, both) = two.run(trainers, tmp_path)
    assert not differences([first, second])
    assert (one, both) == (1, 2)


# -- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_a_checksum_sees_every_change_and_every_move(dtype):
    values = (torch.arange(60).view(5, 12) % 7).to(dtype)
    of_values = checksum(values)
    assert checksum(values.clone()) == of_values
    assert checksum(values.t().contiguous().t()) == of_values
    for place in range(60):
        changed = values.clone()
        changed.view(-1)[place] = 0 if values.view(-1)[place] else 1
        assert checksum(changed) != of_values
    assert checksum(values.flip(0)) != of_values
    assert checksum(values[1:]) == checksum(values[1:].clone())
    assert checksum(values[:, :0]) == 0


def test_a_checksum_sees_masks_that_are_mirrored():
    masks = torch.tensor([[1.0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0, 0]])
    assert len({checksum(mask) for mask in masks}) == 3
    long = torch.zeros(2**20)
    long[2**19] = 1
    assert len({checksum(long), checksum(long.flip(0)), checksum(long.roll(2**19)), checksum(long.roll(2**18))}) == 4


def test_a_checksum_tells_zeros_and_nans_apart():
    assert checksum(torch.tensor([0.0])) != checksum(torch.tensor([-0.0]))
    assert checksum(torch.tensor([torch.nan])) == checksum(torch.tensor([torch.nan]))


def test_what_is_compared_does_not_grow_with_the_number_of_tasks():
    def compared():
        tensors = [*replicas.trained(model).values(), *replicas.written(model).values()]
        tensors += [*replicas.read(model).values(), *replicas.masks(model).values()]
        return [tensor.shape for tensor in tensors]

    with pytest.warns(hat.UnlockedWarning):
        model = with_norm_and_loose()
    shapes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hat.CapacityWarning)
        for _ in range(12):
            model.begin_task(2)
            model.body(torch.randn(8, 20))
            shapes.append(compared())
            model.end_task()
    assert all(each == shapes[0] for each in shapes)


def test_nothing_is_compared_without_a_group():
    def fail():
        raise AssertionError("no tensor is to be read")

    assert processes.Processes("default").agree("end_task", lambda: 3, fail) == 3
    assert processes.Processes(None).agree("end_task", lambda: 3, fail) == 3


def test_a_step_without_a_wrapper_does_nothing_for_processes():
    model = begun(0)
    names = []
    sys.setprofile(lambda frame, event, _: names.append(frame.f_code.co_filename) if event == "call" else None)
    try:
        (model(torch.randn(4, 20)).sum() + model.penalty()).backward()
    finally:
        sys.setprofile(None)
    assert any(name.endswith("network/network.py") for name in names)
    assert not any(name.endswith(("processes.py", "replicas.py", "data_parallel.py", "sharded.py")) for name in names)
