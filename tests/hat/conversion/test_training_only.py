"""What modules do in training only is kept, or the user is warned, or the network is refused. Nothing is silent.

`OF_LIBRARIES` is the table for modules of torch, torchvision, timm and transformers, `OWN` for modules of users.
"""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import hat
from hat.conversion.api import convert_body
from hat.tracing.generators import generators
from tests.zoo.environment import prepare

pytestmark = pytest.mark.usefixtures("one_thread")

HAS_TIMM = prepare()
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
FLAT, IMAGES, TOKENS, WORDS = (4, 20), (2, 3, 16, 16), (4, 9, 6), "words"


class Part(nn.Module):
    """A module made of a function and of parts: modules, parameters, buffers (tensors) and plain attributes."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def flat(*parts: nn.Module) -> nn.Module:
    """A network around parts [B, 16] -> [B, 16], the first of which is named 2."""
    return nn.Sequential(nn.Linear(20, 16), nn.Tanh(), *parts, nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def maps(*parts: nn.Module, channels: int = 8) -> nn.Module:
    """A network around parts [B, 8, H, W] -> [B, channels, H, W], the first of which is named 2."""
    ends = nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), *parts, *ends)


def tokens(*parts: nn.Module) -> nn.Module:
    """A network around parts [B, N, 16] -> [B, N, 16], the first of which is named 1."""
    return nn.Sequential(nn.Linear(6, 16), *parts, Part(lambda self, x: x.mean(1)), nn.Linear(16, 3))


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        module: its name.
        does: what it does in training.
        fate: "kept", "warned" or "refused".
        make: makes a network with the module.
        shape: of the inputs of the network.
        text: a pattern that the warning or the refusal must match; it has the place.
        needs: the library that must be installed.
    """

    module: str
    does: str
    fate: str
    make: Callable[[], nn.Module]
    shape: Any = FLAT
    text: str = ""
    needs: str = "torch"


def inputs_of(row: Row, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if row.shape == WORDS:
        return torch.randint(0, 50, (2, 6), generator=generator)
    return torch.randn(row.shape, generator=generator)


# ---------------------------------------------------------------- libraries


def attention() -> nn.Module:
    layer = nn.MultiheadAttention(16, 2, 0.4, batch_first=True)
    return Part(lambda self, x: self.layer(x, x, x, need_weights=False)[0], layer=layer)


def functional_attention(self: Part, x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, dropout_p=0.4 if self.training else 0.0)


def spectral() -> nn.Module:
    return parametrizations.spectral_norm(nn.Linear(16, 16))


def segments() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))


def timm_layer(name: str, *args: Any, **options: Any) -> nn.Module:
    import timm.layers

    return getattr(timm.layers, name)(*args, **options)


def timm_vit(**options: Any) -> nn.Module:
    import timm

    sizes = {"img_size": 16, "patch_size": 8, "num_classes": 3, "depth": 2, "embed_dim": 24, "num_heads": 2}
    return timm.create_model("vit_tiny_patch16_224", **sizes, **options)


def checkpointing(network: nn.Module) -> nn.Module:
    network.set_grad_checkpointing(True)
    return network


def vision(name: str, *args: Any, **options: Any) -> nn.Module:
    import torchvision

    home = torchvision.ops if hasattr(torchvision.ops, name) else torchvision.models
    return getattr(home, name)(*args, **options)


def with_auxiliary_head() -> nn.Module:
    """As GoogLeNet: the auxiliary head of torchvision answers in training only."""
    from torchvision.models.googlenet import InceptionAux

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.aux, self.head = nn.Conv2d(3, 8, 3), InceptionAux(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x).relu()
            logits = self.head(x.mean((2, 3)))
            return (logits, self.aux(x)) if self.training else logits

    return Two()


def transformer(name: str, *, checkpoints: bool = False, encoder: bool = False, **options: Any) -> nn.Module:
    import transformers

    network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**options))
    if checkpoints:
        network.gradient_checkpointing_enable()
    network = network.encoder if encoder else network

    def forward(self: Part, x: Tensor) -> Tensor:
        features = self.network(x).last_hidden_state
        return self.head(features.flatten(2).mean(2) if features.dim() == 4 else features.mean(1))

    return Part(forward, network=network, head=nn.Linear(32, 3))


BERT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VIT = {**{key: BERT[key] for key in list(BERT)[1:]}, "image_size": 16, "patch_size": 8}
STAGES = {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1], "drop_path_rate": 0.4}
BART = {"vocab_size": 50, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, "encoder_attention_heads": 4, "decoder_attention_heads": 4}  # fmt: skip
OPT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
       "word_embed_proj_dim": 32, "max_position_embeddings": 16, "layerdrop": 0.5}  # fmt: skip

STATISTICS, DROPS = "running statistics", "drops"
OF_LIBRARIES = [
    Row("nn.Dropout", DROPS, "kept", lambda: flat(nn.Dropout(0.4))),
    Row("nn.Dropout1d", DROPS, "kept", lambda: tokens(nn.Dropout1d(0.4)), TOKENS),
    Row("nn.Dropout2d", DROPS, "kept", lambda: maps(nn.Dropout2d(0.4)), IMAGES),
    Row("nn.AlphaDropout", DROPS, "kept", lambda: flat(nn.AlphaDropout(0.4))),
    Row("nn.FeatureAlphaDropout", DROPS, "kept", lambda: maps(nn.FeatureAlphaDropout(0.4)), IMAGES),
    Row("F.dropout", DROPS, "kept", lambda: flat(Part(lambda self, x: F.dropout(x, 0.4, self.training)))),
    Row("nn.MultiheadAttention", DROPS, "kept", lambda: tokens(attention()), TOKENS),
    Row("F.scaled_dot_product_attention", DROPS, "kept", lambda: tokens(Part(functional_attention)), TOKENS),
    Row(
        "nn.TransformerEncoderLayer", DROPS, "kept",
        lambda: tokens(nn.TransformerEncoderLayer(16, 2, 32, 0.4, batch_first=True)), TOKENS,
    ),
    Row("nn.RReLU", "random slopes", "kept", lambda: flat(nn.RReLU())),
    Row(
        "nn.FractionalMaxPool2d", "random regions, in evaluation too", "refused",
        lambda: maps(nn.FractionalMaxPool2d(2, 9)), IMAGES, text="does the network answer the same from call to call",
    ),
    Row("nn.BatchNorm1d", STATISTICS, "kept", lambda: flat(nn.BatchNorm1d(16))),
    Row("nn.BatchNorm2d", STATISTICS, "kept", lambda: maps(nn.BatchNorm2d(8, momentum=None)), IMAGES),
    Row(
        "F.rrelu", "random slopes", "warned", lambda: flat(Part(lambda self, x: F.rrelu(x, training=self.training))),
        text=r"random numbers of 2 \(Part, test_training_only.py:\d+\) by rrelu",
    ),
    Row(
        "F.gumbel_softmax", "random weights", "warned",
        lambda: flat(Part(lambda self, x: x * (F.gumbel_softmax(x) if self.training else F.softmax(x, -1)))),
        text=r"random numbers of 2 \(Part, test_training_only.py:\d+\) by gumbel_softmax",
    ),
    Row(
        "torch.distributions.Beta", "mixes samples", "warned",
        lambda: flat(Part(lambda self, x: x.lerp(x.flip(0), torch.distributions.Beta(1.0, 1.0).sample())
                          if self.training else x)),
        text=r"random numbers of 2 \(Part, \S+\) by ",
    ),
    Row(
        "torch.bernoulli", "a random mask", "warned",
        lambda: flat(Part(lambda self, x: x * torch.bernoulli(torch.full_like(x, 0.5)) if self.training else x)),
        text=r"random numbers of 2 \(Part, \S+\) by bernoulli",
    ),
    Row(
        "parametrizations.spectral_norm", "power iteration", "refused", lambda: flat(spectral()),
        text=r"^2 \(ParametrizedLinear\): spectral_norm of weight .*\.remove_parametrizations\(layer, .weight.\), or ",
    ),
    Row(
        "nn.utils.spectral_norm", "power iteration", "refused", lambda: flat(nn.utils.spectral_norm(nn.Linear(16, 16))),
        text=r"^2 \(Linear\): spectral_norm .*\.remove_spectral_norm\(layer\)",
    ),
    Row(
        "nn.Embedding(max_norm)", "changes its weight", "refused",
        lambda: nn.Sequential(nn.Embedding(50, 16, max_norm=1.0), nn.Flatten(), nn.Linear(96, 3)), WORDS,
        text=r"^0 \(Embedding\): changes its weight when it reads it",
    ),
    Row(
        "nn.InstanceNorm2d, tracked", STATISTICS, "refused",
        lambda: maps(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)), IMAGES, text=r"^2 \(InstanceNorm2d",
    ),
    Row(
        "checkpoint", "saves memory", "warned",
        lambda: flat(Part(lambda self, x: checkpoint(self.parts, x, use_reentrant=False), parts=segments())),
        text=r"activation checkpoints of 2 \(Part, test_training_only.py:\d+\);",
    ),
    Row(
        "checkpoint, reentrant", "saves memory", "warned",
        lambda: flat(Part(lambda self, x: checkpoint(self.parts, x, use_reentrant=True), parts=segments())),
        text=r"activation checkpoints of 2 \(Part, test_training_only.py:\d+\);",
    ),
    Row(
        "checkpoint_sequential", "saves memory", "warned",
        lambda: flat(Part(lambda self, x: checkpoint_sequential(self.parts, 2, x, use_reentrant=False),
                          parts=segments())),
        text=r"activation checkpoints of 2 \(Part, test_training_only.py:\d+\);",
    ),
    Row(
        "torch.distributed checkpoint_wrapper", "saves memory", "warned", lambda: flat(checkpoint_wrapper(segments())),
        text=r"activation checkpoints of 2 \(CheckpointWrapper\);",
    ),
    Row(
        "parametrizations.weight_norm", "the same", "kept",
        lambda: flat(parametrizations.weight_norm(nn.Linear(16, 16))),
    ),
    Row(
        "torchvision StochasticDepth", DROPS, "kept", lambda: maps(vision("StochasticDepth", 0.5, "row")), IMAGES,
        needs="timm",
    ),
    Row(
        "torchvision DropBlock2d", DROPS, "kept", lambda: maps(vision("DropBlock2d", 0.5, 3)), IMAGES, needs="timm",
    ),
    Row(
        "torchvision SwinTransformer", DROPS, "kept",
        lambda: vision("SwinTransformer", [4, 4], 16, [2], [1], [2, 2], stochastic_depth_prob=0.0, dropout=0.4,
                       num_classes=3),
        IMAGES, needs="timm",
    ),
    Row(
        "torchvision DenseNet, memory_efficient", "saves memory", "warned",
        lambda: vision("DenseNet", 4, (2,), 8, num_classes=3, memory_efficient=True), (2, 3, 32, 32),
        r"activation checkpoints of features.denseblock1.denselayer1 \(_DenseLayer, densenet.py:\d+\), ", "timm",
    ),
    Row(
        "torchvision InceptionAux", "an auxiliary head", "warned", with_auxiliary_head, IMAGES,
        r"calls in training only of aux \(InceptionAux\);", "timm",
    ),
    Row("timm DropPath", DROPS, "kept", lambda: maps(timm_layer("DropPath", 0.5)), IMAGES, needs="timm"),
    Row("timm DropBlock2d", DROPS, "kept", lambda: maps(timm_layer("DropBlock2d", 0.5, 3)), IMAGES, needs="timm"),
    Row("timm BatchNormAct2d", STATISTICS, "kept", lambda: maps(timm_layer("BatchNormAct2d", 8)), IMAGES, needs="timm"),
    Row(
        "timm VisionTransformer, drop rates", DROPS, "kept",
        lambda: timm_vit(drop_path_rate=0.4, proj_drop_rate=0.2, attn_drop_rate=0.2), IMAGES, needs="timm",
    ),
    Row(
        "timm PatchDropout", "drops tokens", "warned",
        lambda: tokens(timm_layer("PatchDropout", 0.5, num_prefix_tokens=0)), TOKENS,
        r"random numbers of 1 \(PatchDropout, patch_dropout.py:\d+\) by randn;", "timm",
    ),
    Row(
        "timm VisionTransformer, patch_drop_rate", "drops tokens", "warned",
        lambda: timm_vit(patch_drop_rate=0.5), IMAGES,
        r"only: random numbers of patch_drop \(PatchDropout, patch_dropout.py:\d+\) by randn; a module", "timm",
    ),
    Row(
        "timm set_grad_checkpointing", "saves memory", "warned", lambda: checkpointing(timm_vit()), IMAGES,
        r"activation checkpoints of the network \(VisionTransformer, ", "timm",
    ),
    Row(
        "timm EvoNorm2dB0", "a running variance", "refused", lambda: maps(timm_layer("EvoNorm2dB0", 8)), IMAGES,
        r"^2 \(EvoNorm2dB0, evo_norm.py:\d+\): changes 2.running_var in training.*filter=", "timm",
    ),
    Row(
        "timm SplitBatchNorm2d", "a norm for each part of a batch", "warned",
        lambda: maps(timm_layer("SplitBatchNorm2d", 8, num_splits=2)), IMAGES, "another answer of the network", "timm",
    ),
    Row("transformers Bert", DROPS, "kept", lambda: transformer("Bert", **BERT), WORDS, needs="transformers"),
    Row(
        "transformers ConvNext", DROPS, "warned", lambda: transformer("ConvNext", **STAGES), IMAGES,
        r"of network.encoder.stages.1.layers.0.drop_path \(ConvNextDropPath, modeling_convnext.py:\d+\) by rand",
        "transformers",
    ),
    Row(
        "transformers OPT", "drops layers", "warned", lambda: transformer("OPT", **OPT), WORDS,
        r"random numbers of network.decoder \(OPTDecoder, modeling_opt.py:\d+\) by rand", "transformers",
    ),
    Row(
        "transformers BartEncoder", "drops layers", "warned",
        lambda: transformer("Bart", encoder=True, encoder_layerdrop=0.5, **BART), WORDS,
        r"random numbers of network \(BartEncoder, modeling_bart.py:\d+\) by rand", "transformers",
    ),
    Row(
        "transformers gradient_checkpointing_enable", "saves memory", "warned",
        lambda: transformer("ViT", checkpoints=True, **VIT), IMAGES,
        r"activation checkpoints of network.layers.0 \(ViTLayer, [^;]*network.layers.1 \(ViTLayer", "transformers",
    ),
]  # fmt: skip


# ---------------------------------------------------------------- modules of users


def in_training(change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda self, x: change(self, x) if self.training else x


def layer_drop(draw: Callable[[], float]) -> nn.Module:
    return Part(lambda self, x: x if self.training and draw() < 0.5 else x + self.layer(x), layer=nn.Linear(16, 16))


def tracked(track: Callable[..., None], **parts: Any) -> nn.Module:
    """A part that does something in training, and subtracts its `mean` if it has one."""

    def forward(self: Part, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                track(self, x)
        return x - self.mean if hasattr(self, "mean") else x

    return Part(forward, **parts)


def codebook(self: Part, x: Tensor) -> Tensor:
    nearest = torch.cdist(x, self.codes).argmin(1)
    quantized = self.codes[nearest]
    if self.training:
        with torch.no_grad():
            self.codes.lerp_(x.mean(0), 0.1)
    return x + (quantized - x).detach()


def average(self: Part, x: Tensor) -> None:
    for slow, fast in zip(self.slow.parameters(), self.fast.parameters(), strict=True):
        slow.lerp_(fast, 0.1)


def fill_queue(self: Part, x: Tensor) -> None:
    self.queue[: len(x)] = x


def first_scale(self: Part, x: Tensor) -> Tensor:
    if self.training and not self.is_set:
        self.scale.data, self.is_set = 1 / (1 + x.std(0).detach()), True
    return x * self.scale


class Average:
    """A running mean that belongs to no module."""

    def __init__(self) -> None:
        self.mean, self.calls = torch.zeros(16), 0


class PlainMean(nn.Module):
    """A running mean in a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(16)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0), 0.1)
        return x - self.mean


class FrozenNorm(nn.Module):
    """A norm that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.norm.eval()
        return self


class OwnNorm(nn.Module):
    """A norm with the function of torch and buffers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("var", torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, self.training)


class Rounded(torch.autograd.Function):
    """Rounds, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def attention_and_log(self: Part, x: Tensor) -> Tensor:
    x = functional_attention(self, x)
    if self.training:
        self.logged = x.mean().item()
    return x


def fails(self: Part, x: Tensor) -> Tensor:
    if self.training:
        raise ValueError("targets should not be None")
    return x


NOISE, PLACE = in_training(lambda self, x: x + torch.randn_like(x)), r"2 \(Part, test_training_only.py:\d+\)"
OWN = [
    Row("noise", "noise", "warned", lambda: flat(Part(NOISE)), text=f"random numbers of {PLACE} by randn_like"),
    Row(
        "noise by a generator", "noise", "warned",
        lambda: flat(Part(in_training(lambda self, x: x * torch.rand(16, generator=self.source)),
                          source=torch.Generator())),
        text=f"random numbers of {PLACE} by rand;",
    ),
    Row(
        "layer drop by torch", "drops layers", "warned", lambda: flat(layer_drop(lambda: torch.rand(()).item())),
        text=f"random numbers of {PLACE} by rand;",
    ),
    Row(
        "layer drop by Python", "drops layers", "warned", lambda: flat(layer_drop(random.random)),
        text=r"random numbers of 2 \(Part\) by random;",
    ),
    Row(
        "layer drop by NumPy", "drops layers", "warned", lambda: flat(layer_drop(np.random.random)),
        text=r"random numbers of 2 \(Part\) by numpy.random;",
    ),
    Row(
        "layer drop by a generator of NumPy", "drops layers", "warned",
        lambda: flat(Part(in_training(lambda self, x: x * self.source.random()), source=np.random.default_rng(0))),
        text=r"random numbers of 2 \(Part\) by 2.source;",
    ),
    Row(
        "token drop", "a random order", "warned",
        lambda: flat(Part(in_training(lambda self, x: x + x[:, torch.randperm(16)]))),
        text=f"random numbers of {PLACE} by randperm;",
    ),
    Row(
        "random crop", "random parts", "warned",
        lambda: maps(Part(in_training(lambda self, x: x.roll(int(torch.randint(0, 4, ())), 3)))), IMAGES,
        text=f"random numbers of {PLACE} by randint;",
    ),
    Row(
        "stochastic rounding", "rounds at random", "warned",
        lambda: flat(Part(lambda self, x: (x + (torch.rand_like(x) if self.training else 0.5)).floor())),
        text=f"random numbers of {PLACE} by rand_like;",
    ),
    Row(
        "attention with a log", DROPS, "warned",
        lambda: tokens(Part(attention_and_log, logged=0.0)), TOKENS,
        r"random numbers of 1 \(Part, \S+\) by scaled_dot_product_attention; .*only by 1 \(Part\): logged",
    ),
    Row(
        "running mean", "a running mean", "refused",
        lambda: flat(tracked(lambda self, x: self.mean.lerp_(x.mean(0), 0.1), mean=torch.zeros(16))),
        text=f"^{PLACE}: changes 2.mean in training, .* keep its module out with filter=",
    ),
    Row(
        "running mean, set", "a running mean", "refused",
        lambda: flat(tracked(lambda self, x: setattr(self, "mean", self.mean * 0.9 + x.mean(0)), mean=torch.zeros(16))),
        text=r"^2 \(Part\): changes 2.mean in training",
    ),
    Row(
        "running mean in no buffer", "a running mean", "refused", lambda: flat(PlainMean()),
        text=r"^2 \(PlainMean, \S+\): changes 2.mean in training, .* register it as a buffer and keep",
    ),
    Row(
        "running mean in an object", "a running mean", "refused",
        lambda: flat(tracked(lambda self, x: self.average.mean.lerp_(x.mean(0), 0.1), average=Average())),
        text=f"^{PLACE}: changes 2.average.mean in training, .* register it as a buffer",
    ),
    Row(
        "counter in an object", "counts", "refused",
        lambda: flat(tracked(lambda self, x: vars(self.average).update(calls=self.average.calls + 1),
                             average=Average())),
        text=r"^2 \(Part\): changes 2.average.calls in training",
    ),
    Row(
        "codebook", "an average of inputs", "refused", lambda: flat(Part(codebook, codes=torch.randn(5, 16))),
        text=f"^{PLACE}: changes 2.codes in training",
    ),
    Row(
        "queue in a buffer", "a queue", "refused", lambda: flat(tracked(fill_queue, queue=torch.zeros(8, 16))),
        text=f"^{PLACE}: changes 2.queue in training",
    ),
    Row(
        "queue in a list", "a queue", "refused",
        lambda: flat(tracked(lambda self, x: self.queue.append(x), queue=deque(maxlen=3))),
        text=r"^2 \(Part\): changes 2.queue in training",
    ),
    Row(
        "momentum encoder", "averages parameters", "refused",
        lambda: flat(tracked(average, slow=nn.Linear(16, 16), fast=nn.Linear(16, 16))),
        text=f"^{PLACE}: changes the parameter 2.slow.weight in training",
    ),
    Row(
        "counter of steps", "counts", "refused",
        lambda: flat(Part(lambda self, x: setattr(self, "steps", self.steps + self.training) or x / (1 + self.steps),
                          steps=0)),
        text=r"^2 \(Part\): changes 2.steps in training",
    ),
    Row(
        "weights in bounds", "clamps its weight", "refused",
        lambda: flat(tracked(lambda self, x: self.layer.weight.data.clamp_(-1, 1), layer=nn.Linear(16, 16))),
        text=f"^{PLACE}: changes the parameter 2.layer.weight in training",
    ),
    Row(
        "first scale from the data", "sets a parameter", "refused",
        lambda: flat(Part(first_scale, scale=nn.Parameter(torch.ones(16)), is_set=False)),
        text=r"^2 \(Part\): changes the parameter 2.scale in training",
    ),
    Row(
        "a loss that is noted", "sets an attribute", "warned",
        lambda: flat(tracked(lambda self, x: setattr(self, "loss", x.square().mean()), loss=None)),
        text=r"attributes set in training only by 2 \(Part\): loss;",
    ),
    Row(
        "another scale", "computes something else", "warned",
        lambda: flat(Part(lambda self, x: x * (1.0 if self.training else 0.5))), text=f"other functions of {PLACE};",
    ),
    Row(
        "a second answer", "computes more", "warned",
        lambda: nn.Sequential(flat(), Part(lambda self, x: (x, self.more(x)) if self.training else x,
                                           more=nn.Linear(3, 3))),
        text=r"calls in training only of 1.more \(Linear\);",
    ),
    Row(
        "another norm in evaluation", "computes something else", "warned",
        lambda: flat(Part(lambda self, x: self.one(x) if self.training else self.other(x), one=nn.LayerNorm(16),
                          other=nn.LayerNorm(16))),
        text=r"calls in evaluation only of 2.other \(LayerNorm\);",
    ),
    Row(
        "a frozen norm", "stays in evaluation mode", "warned", lambda: flat(FrozenNorm()),
        text=r"statistics that do not change of 2.norm \(BatchNorm1d\);",
    ),
    Row(
        "targets in training", "fails without them", "warned", lambda: flat(Part(fails)),
        text=r"unknown, because it fails in training on the example \(ValueError: targets should not be None\);",
    ),
    Row("norm by the function of torch", STATISTICS, "kept", lambda: flat(OwnNorm())),
    Row(
        "rounding with a gradient", "a gradient of its own", "kept",
        lambda: flat(Part(lambda self, x: Rounded.apply(x) if self.training else x.round())),
    ),
]  # fmt: skip


# ---------------------------------------------------------------- tests


def requires(row: Row) -> Any:
    missing = (row.needs == "timm" and not HAS_TIMM) or (row.needs == "transformers" and not HAS_TRANSFORMERS)
    return pytest.param(row, id=row.module, marks=pytest.mark.skipif(missing, reason=f"{row.needs} is not installed"))


def converted(network: nn.Module, example: Tensor, **options: Any) -> tuple[hat.HATModel, list[str]]:
    """The model and the texts of its training-only warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = hat.convert(network, example, **options)
    return model, [str(warning.message) for warning in caught if warning.category is hat.TrainingOnlyWarning]


def learning(model: hat.HATModel) -> hat.HATModel:
    model.begin_task(3)
    model.train()
    model.anneal(0.0)
    return model


def varies(model: nn.Module, x: Tensor) -> bool:
    return len({model(x).double().sum().item() for _ in range(8)}) > 1


def positions() -> list[bytes]:
    """Where the global generators of Python and NumPy are."""
    return [generator.position() for generator in generators(nn.Module())]


@pytest.mark.parametrize("row", [requires(row) for row in (*OF_LIBRARIES, *OWN)])
def test_nothing_is_silent(row: Row):
    network, x = row.make().train(), inputs_of(row)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = positions()
    if row.fate == "refused":
        with pytest.raises(hat.ConversionError, match=row.text) as caught:
            hat.convert(network, x)
        assert "\n" not in str(caught.value)
    else:
        model, told = converted(network, x)
        assert len(told) == (row.fate == "warned"), told
        assert all(re.search(row.text, text) for text in told), told
        learning(model)(x).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert positions() == drawn


KEPT = [row for row in (*OF_LIBRARIES, *OWN) if row.fate == "kept"]


@pytest.mark.parametrize("row", [requires(row) for row in KEPT if row.does in (DROPS, "random slopes")])
def test_calls_differ_in_training_where_randomness_is_kept(row: Row):
    network, x = row.make().train(), inputs_of(row)
    assert varies(network, x)
    assert varies(learning(hat.convert(network, x)), x)


@pytest.mark.parametrize("row", [requires(row) for row in KEPT if row.does == STATISTICS])
def test_statistics_move_in_training_where_they_are_kept(row: Row):
    x = inputs_of(row)
    model = learning(hat.convert(row.make(), x))
    before = {name: buffer.clone() for name, buffer in model.body.named_buffers() if buffer.shape in ((8,), (16,))}
    model(x)
    moved = [name for name, buffer in model.body.named_buffers() if not torch.equal(buffer, before.get(name, buffer))]
    assert len(moved) == 2, moved  # the mean and the variance


def test_the_tables_are_long_enough():
    assert len(OF_LIBRARIES) >= 36
    assert len(OWN) >= 12
    assert {row.fate for row in OF_LIBRARIES} == {row.fate for row in OWN} == {"kept", "warned", "refused"}
    assert all(bool(row.text) == (row.fate != "kept") for row in (*OF_LIBRARIES, *OWN))


# ---------------------------------------------------------------- what a user can do


def keep_out(name: str) -> Callable[[nn.Module, str], bool]:
    return lambda module, path: path != name


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning")
@pytest.mark.parametrize("name", ["noise", "noise by a generator", "layer drop by Python", "stochastic rounding"])
def test_noise_that_is_kept_out_stays(name: str):
    (row,) = (row for row in OWN if row.module == name)
    network, x = row.make(), inputs_of(row)
    model, told = converted(network, x, filter=keep_out("2"))
    assert not told
    assert varies(learning(model), x)


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning")
def test_a_checkpoint_that_is_kept_out_stays():
    layers = segments()
    network = flat(Part(lambda self, x: checkpoint(self.parts, x, use_reentrant=False), parts=layers))
    model, told = converted(network, torch.randn(FLAT), filter=keep_out("2"))
    assert not told
    calls = []
    layers[0].register_forward_hook(lambda *args: calls.append(1))
    learning(model)(torch.randn(FLAT)).sum().backward()
    assert len(calls) == 2


def learn_task(model: hat.HATModel, x: Tensor, classes: int = 3) -> None:
    model.begin_task(classes)
    model.train()
    optimizer = hat.optim.SGD(model.task_parameters(), lr=0.5)
    for step in range(20):
        model.anneal(step / 19)
        loss = F.cross_entropy(model(x), torch.arange(len(x)) % classes) + model.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.end_task()


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning", "ignore::hat.CapacityWarning")
def test_a_spectral_norm_that_is_kept_out_bounds_the_first_task_and_stays():
    layer, x = spectral(), torch.randn(FLAT)
    model, told = converted(flat(layer), x, filter=keep_out("2"))
    assert not told
    before = layer.parametrizations.weight[0]._u.clone()
    learn_task(model, x)
    assert not torch.equal(layer.parametrizations.weight[0]._u, before)
    assert torch.linalg.matrix_norm(layer.weight, 2) < 1.1
    probes = hat.Probes()
    probes.add(model, 0, x)
    kept = [value.clone() for value in layer.state_dict().values()]
    learn_task(model, x.flip(0))
    assert all(map(torch.equal, layer.state_dict().values(), kept))
    assert hat.verify(model, probes).exact


@pytest.mark.filterwarnings("ignore::hat.UnlockedWarning", "ignore::hat.CapacityWarning")
def test_a_running_mean_that_is_kept_out_follows_the_first_task_and_stays():
    centre, x = tracked(lambda self, x: self.mean.lerp_(x.mean(0), 0.1), mean=torch.zeros(16)), torch.randn(FLAT)
    model = hat.convert(flat(centre), x, filter=keep_out("2"))
    learn_task(model, x)
    mean = centre.mean.clone()
    assert mean.any()
    learn_task(model, x.flip(0))
    assert torch.equal(centre.mean, mean)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (PlainMean, "changes 2.mean in training, and finished tasks would change with it.*register it as a buffer"),
        (
            lambda: tracked(average, slow=nn.Linear(16, 16), fast=nn.Linear(16, 16)),
            "changes the parameter 2.slow.weight",
        ),
    ],
)
def test_a_part_that_is_kept_out_may_keep_its_state_in_buffers_only(part: Callable[[], nn.Module], text: str):
    with pytest.raises(hat.ConversionError, match=text):
        hat.convert(flat(part()), torch.randn(FLAT), filter=keep_out("2"))


def test_a_spectral_norm_that_is_removed_is_converted():
    layer = spectral()
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert not converted(flat(layer), torch.randn(FLAT))[1]


# ---------------------------------------------------------------- the warning


def test_one_warning_lists_all_places_and_shortens_them():
    parts = [Part(NOISE) for _ in range(7)], [Part(fails_never, layer=nn.Linear(16, 16)) for _ in range(2)]
    (text,) = converted(flat(*parts[0], *parts[1]), torch.randn(FLAT))[1]
    assert text.count("by randn_like") == 5
    assert ", 2 more; activation checkpoints of 9 (Part" in text
    assert "\n" not in text


def fails_never(self: Part, x: Tensor) -> Tensor:
    return checkpoint(self.layer, x, use_reentrant=False)


def test_the_warning_points_to_the_line_of_the_user():
    with pytest.warns(hat.TrainingOnlyWarning) as caught:
        hat.convert(flat(Part(NOISE)), torch.randn(FLAT))
    assert [warning.filename for warning in caught] == [__file__]


def test_dropouts_behind_a_token_drop_are_still_kept():
    drop = Part(in_training(lambda self, x: x[:, torch.randperm(9)[:4]]))
    network = tokens(drop, Part(lambda self, x: F.dropout(x, 0.4, self.training)), nn.Dropout(0.4))
    (text,) = converted(network, torch.randn(TOKENS))[1]
    assert re.search(r"only: random numbers of 1 \(Part, \S+\) by randperm; a module", text), text


def test_a_norm_is_tried_on_two_samples_if_the_example_has_one():
    assert not converted(flat(nn.BatchNorm1d(16)), torch.randn(1, 20))[1]


def test_a_failure_in_training_does_not_hide_a_state():
    centre = tracked(lambda self, x: self.mean.lerp_(x.mean(0), 0.1), mean=torch.zeros(16))
    with pytest.raises(hat.ConversionError, match=r"changes 2\.mean in training"):
        hat.convert(flat(centre, Part(fails)), torch.randn(FLAT))


NETWORKS = {
    "mlp": lambda: hat.models.mlp(12, (8, 8)),
    "alexnet": lambda: hat.models.alexnet((3, 32, 32), hidden=(16, 16)),
    "resnet18": lambda: hat.models.resnet18((3, 8, 8), width=4, dropout=0.1),
    "resnet50": lambda: hat.models.resnet50((3, 8, 8), width=4),
    "vit": lambda: hat.models.vit((3, 8, 8), features=12, depth=2, heads=2, hidden=16, dropout=0.1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_our_own_networks_do_nothing_in_training_that_is_lost(name, monkeypatch):
    """So `hat.models` does not look for it each time. A warning is an error in these tests."""
    converted = []

    def look(network, *args, ours, **kwargs):
        assert ours
        converted.append(convert_body(network, *args, **kwargs))
        return converted[0]

    monkeypatch.setattr("hat.models.shapes.convert_body", look)
    assert NETWORKS[name]() is converted[0]


def test_a_conversion_does_not_load_the_compiler():
    """It would take seconds, and 160 MiB."""
    code = (
        "import sys, torch, hat; from torch import nn; "
        "hat.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2)), torch.ones(2, 4)); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
