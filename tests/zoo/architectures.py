"""The networks of the zoo: small members of every family, with random weights and small images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10


@dataclass(frozen=True)
class Architecture:
    """A network and its inputs.

    Attributes:
        name: the name in its library.
        family: the family of similar networks.
        make: makes the network, in evaluation mode.
        inputs: makes an input for a number of samples.
        head: the argument `head` of `hat.convert`.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    head: str | None = "last"


# The names in timm of every family. `name:96`: the smallest image of the network has 96 x 96 pixels; without a number,
# 32 x 32. `name=`: the network is made for one size of images, and the size is given as `img_size`.
_TIMM = {
    "vgg": "vgg11 vgg11_bn",
    "resnet": "resnet18 resnet26d resnet50",
    "resnext": "resnext50_32x4d resnext26ts=",
    "se, eca, gc, sk, resnest": "seresnet18 ecaresnet26t gcresnext26ts= skresnet18 resnest14d",
    "resnet with standardized weights": "resnetv2_50 resnetv2_50d_gn resnetv2_50x1_bit",
    "norm-free": "nf_resnet26 eca_nfnet_l0 nf_regnet_b0",
    "attention in resnets": "botnet26t_256= lambda_resnet26t= halonet26t:256=",
    "densenet": "densenet121 densenetblur121d rdnet_tiny",
    "inception": "inception_v3:96 inception_v4:96 inception_resnet_v2:96",
    "xception": "legacy_xception xception41",
    "dpn": "dpn48b",
    "res2net": "res2net50_14w_8s res2next50",
    "hrnet": "hrnet_w18_small",
    "dla": "dla34 dla46_c",
    "cspnet": "cspresnet50 cspdarknet53 darknet53",
    "vovnet, selecsls, hgnet": "ese_vovnet19b_dw selecsls42b hgnetv2_b0",
    "mobilenet": "mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 lcnet_035",
    "mnasnet, fbnet, spnas, hardcorenas": "mnasnet_small fbnetc_100 spnasnet_100 hardcorenas_a semnasnet_075",
    "efficientnet": "efficientnet_b0 tf_efficientnet_lite0 tf_efficientnetv2_b0 tinynet_e",
    "ghostnet": "ghostnet_050 ghostnetv2_100:64",
    "rexnet, gernet, tresnet": "rexnet_100 gernet_s= tresnet_m",
    "regnet": "regnetx_002 regnety_002 regnetz_005",
    "repvgg, mobileone, repvit": "repvgg_a0= mobileone_s0= repvit_m0_9=",
    "convnext": "convnext_atto convnext_femto_ols convnextv2_atto inception_next_tiny",
    "convmixer, starnet, mambaout": "convmixer_768_32 starnet_s1 mambaout_femto",
    "vit": "vit_tiny_patch16_224= vit_relpos_small_patch16_224= flexivit_small= eva02_tiny_patch14_224=",
    "deit": "deit_tiny_patch16_224= deit3_small_patch16_224=",
    "beit": "beit_base_patch16_224=",
    "cait, xcit": "cait_xxs24_224= xcit_nano_12_p16_224=",
    "pit, tnt, crossvit": "pit_ti_224= tnt_s_patch16_224= crossvit_9_240:240",
    "swin": "swin_tiny_patch4_window7_224= swinv2_tiny_window8_256= swinv2_cr_tiny_ns_224=",
    "twins, pvt, nest": "twins_pcpvt_small= twins_svt_small= pvt_v2_b0 nest_tiny=",
    "mixer": "mixer_s32_224= resmlp_12_224= gmlp_ti16_224= sequencer2d_s=",
    "levit, efficientformer": "levit_128s= efficientformer_l1:224= efficientformerv2_s0=",
    "coatnet, maxvit": "coatnet_nano_rw_224= maxvit_rmlp_pico_rw_256=",
    "coat, convit, visformer": "coat_lite_tiny= convit_tiny= visformer_tiny=",
    "metaformer": "poolformer_s12 poolformerv2_s12 caformer_s18 convformer_s18",
    "edgenext, mobilevit": "edgenext_xx_small mobilevit_xxs= mobilevitv2_050=",
    "davit, focalnet, gcvit": "davit_tiny focalnet_tiny_srf gcvit_xxtiny=",
    "hiera, mvit": "hiera_tiny_224= mvitv2_tiny=",
    "fastvit, efficientvit, tinyvit": "fastvit_t8 efficientvit_b0 efficientvit_m0= tiny_vit_5m_224",
    "volo": "volo_d1_224=",
}

# Large networks are made narrower, and networks with two heads are made with one head.
_OPTIONS: dict[str, dict[str, Any]] = {
    "vgg11": {"mlp_ratio": 0.05},
    "vgg11_bn": {"mlp_ratio": 0.05},
    "beit_base_patch16_224": {"embed_dim": 192, "num_heads": 3, "depth": 4},
    "repvit_m0_9": {"distillation": False},
    "levit_128s": {"distilled": False},
    "efficientformerv2_s0": {"distillation": False},
    "volo_d1_224": {"use_aux_head": False},
}


def architectures() -> list[Architecture]:
    """All networks of the zoo."""
    timm_networks = [_timm(entry, family) for family, entries in _TIMM.items() for entry in entries.split()]
    return [*timm_networks, *_language_models(), *_torch_models()]


def _timm(entry: str, family: str) -> Architecture:
    name, _, size = entry.rstrip("=").partition(":")
    side = int(size or 32)
    options = _OPTIONS.get(name, {}) | ({"img_size": side} if entry.endswith("=") else {})

    def make() -> nn.Module:
        import timm

        module: nn.Module = timm.create_model(name, num_classes=CLASSES, **options)
        return module.eval()

    return Architecture(name, family, make, lambda samples: torch.randn(samples, 3, side, side))


class FirstOutput(nn.Module):
    """A network that returns one output of another network, chosen by name."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def forward(self, tokens: Tensor) -> Any:
        return self.network(tokens)[self.name]


def _language_models() -> list[Architecture]:
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
    }

    def bert(attention: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            from transformers import BertConfig, BertModel

            return FirstOutput(BertModel(BertConfig(**sizes, attn_implementation=attention)), "pooler_output").eval()

        return make

    def tokens(samples: int) -> Tensor:
        return torch.randint(0, sizes["vocab_size"], (samples, 6))

    return [Architecture(f"BertModel, {kind}", "bert", bert(kind), tokens, None) for kind in ("eager", "sdpa")]


def _torch_models() -> list[Architecture]:
    def make() -> nn.Module:
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        return nn.Sequential(nn.Linear(8, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, CLASSES)).eval()

    return [Architecture("TransformerEncoder", "torch.nn", make, lambda samples: torch.randn(samples, 5, 8))]
