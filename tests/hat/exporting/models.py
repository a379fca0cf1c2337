"""Small models with finished tasks: wired by hand, made by `hat.models`, and converted."""

from __future__ import annotations

import torch
from torch import nn

import hat
from tests.hat.conversion.checks import draw_per_task, draw_units
from tests.hat.nets import Branches, Residual, Squeezed, text_transformer, wired

WORDS, LENGTH, WIDTH = 11, 5, 12


def learned(body, *, tasks=2, share=0.5, dtype=torch.float32, config=None, **options):
    """A model that has learned some tasks of two classes."""
    model = hat.HATModel(body, config=config, **options).to(dtype)
    for task in range(tasks):
        model.begin_task(2)
        draw_units(model, task, share)
        draw_per_task(model, task)
        model.end_task()
    return model.eval()


def mlp(activation="relu", **options):
    body = hat.models.mlp(5, (8, 6), activation=activation, input_dropout=0.0, dropout=0.0)
    return learned(body, **options), torch.randn(3, 5)


def alexnet(**options):
    body = hat.models.alexnet((3, 16, 16), channels=(6, 8, 8), hidden=(12, 10))
    return learned(body, **options), torch.randn(3, 3, 16, 16)


def normed(**options):
    """Convolution, norm, pool and flatten, wired by hand, with a softmax between two layers."""
    layers = [hat.HATConv2d(2, 6, 3, activation="identity"), hat.HATBatchNorm2d(6, activation="relu"), nn.MaxPool2d(2)]
    layers += [nn.Dropout(0.1), nn.Flatten(), hat.HATLinear(54, 7), nn.Softmax(-1), hat.HATLinear(7, 5)]
    body = wired(*layers)
    for gate, complete in body.complete().items():
        gate.complete = complete
    return learned(nn.Sequential(*body), outputs=body.tail, **options), torch.randn(3, 2, 8, 8)


def converted(**options):
    parts = [nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 8), nn.RMSNorm(8, elementwise_affine=False)]
    x = torch.randn(3, 5)
    body = hat.convert(nn.Sequential(*parts, nn.Linear(8, 7), nn.ReLU()), x, head=None).body
    return learned(body, **options), x


def transformer(**options):
    """A transformer with attention and tables."""
    body = text_transformer(WORDS, WIDTH, 3, LENGTH, dropout=0.1)
    return learned(body, **options), torch.randint(WORDS, (3, LENGTH))


def residual(**options):
    body = Residual(4, 6, [5, 4], activation="gelu", bias=True)
    return by_hand(body, body.stem.gate, features=6, **options), torch.randn(3, 4)


def branches(**options):
    body = Branches(6)
    return by_hand(body, body.head.gate, **options), torch.randn(3, 1, 5, 5)


def squeezed(**options):
    x = torch.randn(3, 1, 5, 5)
    return learned(hat.convert(Squeezed(6, 4), x, head=None).body, **options), x


def by_hand(body, outputs, **options):
    """A model of a body that is wired by hand, in which every gate is complete."""
    for gate in body.modules():
        if isinstance(gate, hat.Gate):
            gate.complete = True
    return learned(body, outputs=outputs, **options)


CONVERTED = (mlp, alexnet, converted, transformer, squeezed)
BY_HAND = (normed, residual, branches)


def example(make, x):
    """The additional arguments that `hat.export` needs."""
    return {"example_input": x} if make in BY_HAND else {}
