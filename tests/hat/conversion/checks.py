"""Checks that every converted network must pass."""

from __future__ import annotations

import copy
import math
import warnings

import torch
import torch.nn.functional as F
from torch import nn

import hat
import hat_kernels
from hat.units.per_task import per_task
from hat.units.state import LEARNING, OPEN, Finished
from hat_kernels.lock import rate

EPS = torch.finfo(torch.float32).eps

OPTIMIZERS = {
    "SGD": lambda m: hat.optim.SGD(m.task_parameters(), lr=0.05, momentum=0.9, weight_decay=0.1, max_norm=1.0),
    "AdamW": lambda m: hat.optim.AdamW(m.task_parameters(), lr=0.01, weight_decay=0.5),
    "torch SGD": lambda m: hat.guard(
        torch.optim.SGD(m.task_parameters(), lr=0.05, momentum=0.9, weight_decay=0.1), m, max_norm=1.0
    ),
    "torch AdamW": lambda m: hat.guard(torch.optim.AdamW(m.task_parameters(), lr=0.01, weight_decay=0.5), m),
}


def convert(module, example, **options):
    """`hat.convert` without warnings about frozen parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hat.UnlockedWarning)
        return hat.convert(module, example, **options)


def batch(example):
    return example if isinstance(example, tuple) else (example,)


def features(model, example, answer):
    """The features that the body makes of an example while it answers for `answer`."""
    with torch.no_grad(), model.state.answering(answer):
        return model.body(*batch(example))


def opened(module, example):
    """The answer of a network. The converted network must answer the same with open gates."""
    with torch.no_grad():
        return module.eval()(*batch(example))


def same_function(module, example, **options):
    """Check that a conversion without a head changes neither the function nor the network; return the model."""
    before = copy.deepcopy(module.state_dict())
    expected = opened(copy.deepcopy(module), example)
    model = convert(module, example, head=None, **options)
    torch.testing.assert_close(features(model.eval(), example, OPEN), expected, rtol=1e-9, atol=1e-9)
    for name, values in module.state_dict().items():
        assert torch.equal(values, before[name]), name
    return model


def draw_units(model, seed, share=0.6):
    """Set the embeddings so that the task uses random units, at least one of every gate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in model.gates.values():
            values = torch.rand(gate.units, generator=generator)
            on = (values < share).index_fill(0, values.argmin(), True)
            gate.embedding.copy_(torch.where(on[gate.origin], 1.0, -1.0))


def draw_per_task(model, seed):
    """Change the per-task tensors of the current task, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in per_task(model.body).values():
            for name, values in module.current():
                if values.is_floating_point():
                    change = 0.5 * torch.rand(values.shape, generator=generator).to(values)
                    values.mul_(1 + change) if name == "running_var" else values.add_(change - 0.25)


def others(example):
    """Other inputs of the same shapes, which the conversion has not seen."""
    generator = torch.Generator().manual_seed(99)
    return tuple(
        torch.randn(x.shape, generator=generator, dtype=x.dtype) if x.is_floating_point() else x.roll(1, 1)
        for x in batch(example)
    )


def answers(model, example):
    """The features of every finished task."""
    return [features(model.eval(), example, Finished(task)) for task in range(model.tasks)]


def poison(model, seed, size=30.0):
    """Set all free weights and all per-task tensors of the current task to large random values.

    Returns:
        The share of the shared weights that was free.
    """
    generator = torch.Generator().manual_seed(seed)
    count = whole = 0
    per_task_ids = {id(p) for module in per_task(model.body).values() for p in module.parameters(recurse=False)}
    locks = model.locks()
    with torch.no_grad():
        for name, parameter in model.body.named_parameters():
            if not parameter.requires_grad and parameter not in locks:
                continue  # frozen
            lock = locks.get(parameter)
            assert lock is not None or id(parameter) in per_task_ids or name.endswith("embedding"), name
            noise = size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
            free = torch.ones_like(parameter) if lock is None else rate(lock, parameter).expand_as(parameter)
            parameter.copy_(torch.where(free > 0, noise, parameter))
            if lock is not None:
                whole, count = whole + free.numel(), count + int((free > 0).sum())
        for module in per_task(model.body).values():
            for _, values in module.current():
                if values.is_floating_point() and not isinstance(values, nn.Parameter):
                    values.copy_(size * torch.rand(values.shape, generator=generator).to(values) + 0.1)
    return count / max(whole, 1)


def nothing_forgotten(model, example, *, tasks=3, seed=0, share=0.5):
    """Check that every finished task answers the same bits after all free weights have changed.

    Returns:
        The share of the weights that was free after the first task.
    """
    remembered, first, example = [], None, others(example)
    for task in range(tasks):
        model.begin_task(2)
        draw_units(model, seed + task, share)
        draw_per_task(model, seed + task)
        before = answer(model, example)
        model.end_task()
        remembered.append(features(model, example, Finished(task)))
        assert remembered[-1].isfinite().all()
        close(answer(model, example, task), before)
        same(answers(model, example), remembered)
        freedom = poison(model, seed + task)
        first = freedom if first is None else first
        same(answers(model, example), remembered)
        with torch.no_grad():  # smaller weights for the next task, so that nothing overflows
            for parameter, lock in model.locks().items():
                parameter.copy_(torch.where(rate(lock, parameter) > 0, parameter / 30, parameter))
        same(answers(model, example), remembered)
    return first


def answer(model, example, task=None):
    """The logits of a task, by default of the task that is being learned."""
    with torch.no_grad():
        head = model.heads[-1 if task is None else task]
        return head(features(model.eval(), example, LEARNING if task is None else Finished(task)))


def close(now, then):
    """Check that two answers agree to rounding, as after units have changed places."""
    assert (now - then).abs().max() <= 1e-9 * (1 + then.abs().max()), (now - then).abs().max()


def same(now, then):
    """Check that the answers of all tasks are equal bit for bit."""
    for task, (new, old) in enumerate(zip(now, then, strict=True)):
        assert torch.equal(new, old), f"task {task} has moved by {(new - old).abs().max()}"


def loss_of(model, example):
    """The loss of the task that is being learned, with the same dropout every time."""
    torch.manual_seed(5)
    logits = model.head(model.body(*batch(example))).flatten(0, -2)
    return F.cross_entropy(logits, torch.arange(len(logits)) % 2)


def learn(model, example, optimizer, steps=3):
    for step in range(steps):
        model.train().anneal(step / max(steps - 1, 1))
        loss = loss_of(model, example) + 0.75 * model.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def no_drift(model, example, name, *, tasks=3, seed=0):
    """Check that training changes no bit of the answers of finished tasks."""
    remembered, example = [], others(example)
    for task in range(tasks):
        model.begin_task(2)
        learn(model, example, OPTIMIZERS[name](model))
        draw_units(model, seed + task, 0.4)
        model.end_task()
        remembered.append(features(model, example, Finished(task)))
        same(answers(model, example), remembered)


def right_gradients(model, example, seed=0):
    """Compare gradients with finite differences along random directions of the weights and of the embeddings.

    Gates are computed in float32, so their step and tolerance are larger.
    """
    model.begin_task(2)
    model.train().anneal(0.0)
    model.state.scale.fill_(1.3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in model.gates.values():
            gate.embedding.copy_(torch.randn(gate.units, generator=generator))
    embeddings = {id(e) for e in model.embeddings}
    weights = [p for p in model.body.parameters() if id(p) not in embeddings and p.requires_grad]
    parameters = [*weights, *model.embeddings]
    loss = loss_of(model, example)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    locks = model.locks()
    for index, parameter in enumerate(weights):
        if locks.get(parameter) is not None:
            directions[index] *= rate(locks[parameter], parameter).expand_as(parameter) > 0
    kinds = [(slice(0, len(weights)), 1e-6, 1e-4), (slice(len(weights), None), 3e-3, 2e-2)]
    for kind, step, tolerance in kinds:
        chosen = list(zip(parameters[kind], directions[kind], gradients[kind], strict=True))
        expected = sum(float((_true(model, p, g).double() * d).sum()) for p, d, g in chosen)
        size = math.sqrt(sum(float(_true(model, p, g).double().square().sum()) for p, _, g in chosen))
        values = []
        for sign in (1, -1):
            before = [p.detach().clone() for p, _, _ in chosen]
            with torch.no_grad():
                for p, d, _ in chosen:
                    p.add_((sign * step * d).to(p.dtype))
                values.append(float(loss_of(model, example)))
                for (p, _, _), old in zip(chosen, before, strict=True):
                    p.copy_(old)
        got = (values[0] - values[1]) / (2 * step)
        assert abs(got - expected) <= tolerance * (size + 2e-2), (kind, got, expected, size)


def _true(model, parameter, gradient):
    """The gradient without the compensation of embeddings.

    The gradient of an embedding is multiplied by (derivative of the gate) / (compensated derivative).
    """
    if all(parameter is not e for e in model.embeddings):
        return gradient
    config, scale = model.config, model.state.scale
    e = parameter.detach().clone().requires_grad_()
    gate = hat_kernels.gate(e, scale, s_max=config.s_max, compensation=config.compensation)
    (compensated,) = torch.autograd.grad(gate.sum(), e)
    a = torch.sigmoid(scale * e.detach())
    return gradient * (scale * a * (1 - a)) / compensated
