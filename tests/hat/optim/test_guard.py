"""The guard of a torch optimizer: its step if nothing is locked, and the arguments that it refuses."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

import hat

pytestmark = pytest.mark.usefixtures("one_thread")

X, Y = torch.randn(5, 6, generator=torch.Generator().manual_seed(7)), torch.arange(5) % 2


def make(**config):
    torch.manual_seed(0)
    body = hat.models.mlp(6, (9, 8), input_dropout=0.0, dropout=0.0)
    model = hat.HATModel(body, config=hat.GateConfig(**config))
    model.begin_task(2)
    return model


def step(model, optimizer, clip=None):
    optimizer.zero_grad()
    model.anneal(0.01)
    (F.cross_entropy(model(X), Y) + 0.75 * model.penalty()).backward()
    if clip:
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
    optimizer.step()


@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_changes_nothing_in_the_first_task(max_norm):
    guarded, plain = make(), make()
    one = hat.guard(torch.optim.AdamW(guarded.task_parameters(), lr=0.01, weight_decay=0.0), guarded, max_norm=max_norm)
    other = torch.optim.AdamW(plain.task_parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(3):
        step(guarded, one)
        step(plain, other, max_norm)
    for a, b in zip(guarded.parameters(), plain.parameters(), strict=True):
        # AdamW divides by a root that a clip cancels from: the rounding of the norm stays a rounding of the update.
        atol = 0 if max_norm is None else 64 * torch.finfo(torch.float32).eps
        assert torch.allclose(a, b, rtol=0, atol=atol)


def test_returns_the_optimizer():
    model = make()
    optimizer = torch.optim.SGD(model.task_parameters())
    assert hat.guard(optimizer, model) is optimizer


def test_clamps_the_embeddings():
    model = make(limit=2.0)
    optimizer = hat.guard(torch.optim.SGD(model.task_parameters(), lr=1e6), model)
    step(model, optimizer)
    assert all(e.abs().max() <= 2.0 for e in model.embeddings)


def test_soft_masks_scale_the_update_once():
    """SGD under the guard is hat.optim.SGD, also with fractional rates."""
    guarded, plain = make(mask_mode="published"), make(mask_mode="published")
    for model in (guarded, plain):
        with torch.no_grad():
            for embedding in model.embeddings:
                embedding.copy_(torch.linspace(-0.01, 0.01, embedding.numel()))
        model.end_task()
        torch.manual_seed(1)
        model.begin_task(2)
    one = hat.guard(torch.optim.SGD(guarded.task_parameters(), lr=0.5), guarded)
    step(guarded, one)
    step(plain, hat.optim.SGD(plain.task_parameters(), lr=0.5))
    for a, b in zip(guarded.parameters(), plain.parameters(), strict=True):
        # before + r (after - before) rounds the stored sum twice more than before - lr r g.
        assert torch.allclose(a, b, rtol=0, atol=3 * torch.finfo(torch.float32).eps * b.abs().max().item())


def test_clipping_leaves_strangers_alone_and_counts_what_may_move():
    model = make()
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding.fill_(1.0)
            embedding[1] = -1.0
    model.end_task()
    model.begin_task(2)
    stranger = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([*model.task_parameters(), stranger], lr=1.0)
    hat.guard(optimizer, model, max_norm=1.0)
    for parameter in model.task_parameters():
        parameter.grad = torch.zeros_like(parameter)
    stranger.grad = torch.full((2,), 1e6)
    model.body.network.linear1.weight.grad[0] = 1e6
    model.head.bias.grad[:] = torch.tensor([3.0, 4.0])
    before = model.head.bias.detach().clone()
    optimizer.step()
    assert stranger.tolist() == [-1e6, -1e6]
    moved = before - model.head.bias.detach()
    wanted = torch.tensor([3.0, 4.0]) / (5 + 1e-6)
    assert torch.allclose(moved, wanted, rtol=0, atol=4 * torch.finfo(torch.float32).eps)


def test_holds_for_later_tasks():
    model, probes = make(), hat.Probes()
    optimizer = hat.guard(torch.optim.Adam(model.task_parameters(), lr=0.1), model)
    for task in range(3):
        step(model, optimizer)
        with torch.no_grad():
            for embedding in model.embeddings:
                embedding.fill_(-1.0)
                embedding[2 * task : 2 * task + 2] = 1.0
        model.end_task()
        probes.add(model, task, X)
        assert hat.verify(model, probes).exact
        model.begin_task(2)
        optimizer.add_param_group({"params": list(model.head.parameters())})


def test_a_head_that_is_finished_does_not_decay():
    model = make()
    optimizer = hat.guard(torch.optim.SGD(model.task_parameters(), lr=0.1, weight_decay=0.5, momentum=0.9), model)
    step(model, optimizer)
    head = model.head
    with torch.no_grad():
        for embedding in model.embeddings:
            embedding[0], embedding[1] = 1.0, -1.0
    model.end_task()
    before = head.weight.detach().clone()
    model.begin_task(2)
    head.weight.grad = torch.ones_like(head.weight)  # a user who keeps old gradients
    optimizer.step()
    assert torch.equal(head.weight, before)


def test_refusals():
    model = make()
    with pytest.raises(TypeError, match=r"optimizer: SGD of hat\.optim locks by itself, no guard needed"):
        hat.guard(hat.optim.SGD(model.task_parameters()), model)
    with pytest.raises(ValueError, match="optimizer: expected parameters of the model, got none"):
        hat.guard(torch.optim.SGD(torch.nn.Linear(2, 2).parameters()), model)
    for max_norm in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_norm: expected a number > 0, got"):
            hat.guard(torch.optim.SGD(model.task_parameters()), model, max_norm=max_norm)


def learning_a_second_task():
    torch.manual_seed(0)
    model = hat.HATModel(hat.models.mlp(8, (12, 10), input_dropout=0.0, dropout=0.0))
    model.begin_task(3)
    model.end_task()
    model.begin_task(3)
    return model


def backward_of(model):
    torch.nn.functional.cross_entropy(model(torch.randn(6, 8)), torch.arange(6) % 3).backward()


def test_a_state_of_other_blocks_is_refused_and_nothing_is_lost():
    model = learning_a_second_task()
    optimizer = hat.guard(torch.optim.Adam(model.task_parameters()), model)
    backward_of(model)
    optimizer.step()
    weight = model.body.network.linear1.weight
    groups, good = [list(group["params"]) for group in optimizer.param_groups], optimizer.state[weight]["exp_avg"]
    optimizer.state[weight]["exp_avg"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="state: expected tensors of"):
        optimizer.step()
    assert [list(map(id, g["params"])) for g in optimizer.param_groups] == [list(map(id, g)) for g in groups]
    optimizer.state[weight]["exp_avg"] = good
    before = weight.clone()
    optimizer.step()
    assert not torch.equal(weight, before)


def test_an_optimizer_goes_on_after_a_load_of_an_earlier_stage_of_the_model():
    """Its states grow to the elements that may move again, with 0 there."""
    model = learning_a_second_task()
    early = {name: value.clone() for name, value in hat.HATModel(hat.models.mlp(8, (12, 10))).state_dict().items()}
    optimizer = hat.guard(torch.optim.Adam(model.task_parameters()), model)
    backward_of(model)
    optimizer.step()
    weight = model.body.network.linear2.weight
    rows, columns = (gate.locked for gate in reversed(model.gates.values()))
    assert min(rows, columns) > 0
    model.load_state_dict(early)
    moment = optimizer.state[weight]["exp_avg"]
    assert moment.shape == weight.shape
    assert not moment[:rows, :columns].any()
    assert moment[rows:].any()
    model.begin_task(3)
    backward_of(model)
    before = weight.clone()
    optimizer.step()
    assert not torch.equal(weight[:rows, :columns], before[:rows, :columns])


def test_an_error_between_the_step_and_its_hook_leaves_what_is_locked():
    model = hat.HATModel(hat.models.mlp(8, (12, 10)), config=hat.GateConfig(locked_first=False))
    model.begin_task(3)
    model.end_task()
    model.begin_task(3)
    optimizer = hat.guard(torch.optim.SGD(model.task_parameters(), lr=0.1, weight_decay=0.5), model)
    probes = hat.Probes()
    probes.add(model, 0, torch.randn(5, 8))

    def cut_short(*_):
        raise KeyboardInterrupt

    handle = optimizer.register_step_post_hook(cut_short)
    optimizer._optimizer_step_post_hooks.move_to_end(handle.id, last=False)
    backward_of(model.train())
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    handle.remove()
    optimizer.step()
    assert hat.verify(model, probes).exact


def test_a_counter_stays_where_it_is():
    """The counter tensor stays the same object, because a CUDA graph may have recorded its address."""
    model = learning_a_second_task()
    optimizer = hat.guard(torch.optim.Adam(model.task_parameters()), model)
    places = set()
    for _ in range(3):
        backward_of(model)
        optimizer.step()
        places.add(optimizer.state[model.body.network.linear2.weight]["step"].data_ptr())
    assert len(places) == 1


@pytest.mark.parametrize("scheduled", ["no", "before", "after"])
def test_a_guarded_optimizer_goes_with_its_last_name(scheduled):
    """A kept one would follow every change of the model. No collection of garbage is needed for it."""
    model = hat.HATModel(hat.models.mlp(4, hidden=(6,)))
    model.begin_task(classes=2)
    optimizer = torch.optim.AdamW(model.task_parameters())
    if scheduled == "before":
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    hat.guard(optimizer, model)
    if scheduled == "after":
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    before = model.head.weight.detach().clone()
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.head.weight, before)
    reference = weakref.ref(optimizer)
    gc.collect()  # what the scheduler has left
    gc.disable()
    try:
        del optimizer
        assert reference() is None
    finally:
        gc.enable()
