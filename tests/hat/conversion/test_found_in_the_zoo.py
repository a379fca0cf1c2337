"""Small versions of networks that once forgot."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hat


class Blurred(nn.Module):
    """A norm over input channels, which belong to no unit, and channels of a layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (8, 12))
        self.c, self.head = nn.Conv2d(12, 6, 3), nn.Linear(6, 5)
        self.register_buffer("blur", torch.ones(1, 1, 3, 3) / 9)

    def forward(self, x):
        x = F.conv2d(self.a(x).relu(), self.blur.expand(8, -1, -1, -1), padding=1, groups=8)
        y = torch.cat([x, self.b(self.norms[0](x).relu())], 1)
        return self.head(self.c(self.norms[1](y).relu()).mean((2, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_channels_that_nobody_knows_keep_their_places_in_a_norm(seed):
    torch.manual_seed(seed)
    model = hat.convert(Blurred(), torch.randn(2, 3, 8, 8))
    probes = hat.Probes()
    for task in range(2):
        model.begin_task(5)
        optimizer = hat.optim.SGD(model.task_parameters(), lr=0.01, momentum=0.9)
        for progress in (0.0, 0.5, 1.0):
            model.anneal(progress)
            loss = F.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.randint(0, 5, (4,))) + model.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.end_task()
        if task == 0:
            probes.add(model, 0, torch.randn(4, 3, 8, 8))
    assert hat.verify(model, probes).exact
