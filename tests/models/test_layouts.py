"""Checkpoints spelled by other people's code. The spellings here were written from that code, not from our rules."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lvexport.models import weights as checkpoints
from lvexport.models.build import build
from lvexport.models.errors import WeightsError
from lvexport.models.layouts import Fusion, Layout, translate
from lvexport.models.provenance import Provenance
from lvexport.models.registry import ENTRIES

State = dict[str, Tensor]
Spelling = Callable[[State], State]


def moved(model: nn.Module) -> nn.Module:
    """The model with every number off its default, so that one that is not loaded shows."""
    generator = torch.Generator().manual_seed(1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            # Around zero for weights, which would else all grow alike and overflow; variances stay positive.
            centre = 0.5 if value.ndim > 1 else 0.0
            value.add_(0.05 * (torch.rand(value.shape, generator=generator) - centre))
    return model


def spell(state: State, *table: tuple[str, str]) -> State:
    """Rename by a table of plain or regular expressions, each from a name of ours to one of theirs."""
    spelled = {}
    for key, value in state.items():
        for ours, theirs in table:
            key = re.sub(ours, theirs, key)
        spelled[key] = value
    return spelled


def ml_cvnets(state: State) -> State:
    depth = {"2": "2", "3": "4", "4": "3"}  # transformer layers, behind which the norm stands in the same list

    def layer(match: re.Match[str]) -> str:
        return f"layer_{int(match[1]) + 1}."

    common = (
        (r"\.1\.norm\.", ".1.LASTNORM."),
        (r"\.(expand|depthwise|project|local|narrow|fuse)\.(conv|norm)\.", r".\1.block.\2."),
        (r"\.expand\.", ".block.exp_1x1."),
        (r"\.depthwise\.", ".block.conv_3x3."),
        (r"\.project\.", ".block.red_1x1."),
        (r"\.narrow\.", ".conv_proj."),
        (r"\.transformer\.", ".global_rep."),
        (r"^stem\.", "conv_1.block."),
    )
    version1 = (
        (r"\.local\.", ".local_rep.conv_3x3."),
        (r"\.widen\.", ".local_rep.conv_1x1.block.conv."),
        (r"\.fuse\.", ".fusion."),
        (r"\.norm1\.", ".pre_norm_mha.0."),
        (r"\.attention\.(qkv|proj)\.", r".pre_norm_mha.1.\1."),
        (r"\.qkv\.", ".qkv_proj."),
        (r"mha\.1\.proj\.", "mha.1.out_proj."),
        (r"\.norm2\.", ".pre_norm_ffn.0."),
        (r"\.mlp\.0\.", ".pre_norm_ffn.1."),
        (r"\.mlp\.2\.", ".pre_norm_ffn.4."),
        (r"^head\.", "conv_1x1_exp.block."),
        (r"^classifier\.", "classifier.fc."),
    )
    version2 = (
        (r"\.local\.", ".local_rep.0."),
        (r"\.widen\.", ".local_rep.1.block.conv."),
        (r"\.norm1\.", ".pre_norm_attn.0."),
        (r"\.attention\.qkv\.", ".pre_norm_attn.1.qkv_proj.block.conv."),
        (r"\.attention\.proj\.", ".pre_norm_attn.1.out_proj.block.conv."),
        (r"\.norm2\.", ".pre_norm_ffn.0."),
        (r"\.mlp\.0\.", ".pre_norm_ffn.1.block.conv."),
        (r"\.mlp\.2\.", ".pre_norm_ffn.3.block.conv."),
        (r"^classifier\.", "classifier.1."),
    )
    second = "head.conv.weight" not in state
    spelled = {}
    for key, value in spell(state, *common, *(version2 if second else version1)).items():
        key = re.sub(r"^stages\.(\d)\.1\.LASTNORM\.", lambda m: f"stages.{m[1]}.1.global_rep.{depth[m[1]]}.", key)
        spelled[re.sub(r"^stages\.(\d)\.", layer, key)] = value
    return spelled


def transformers(state: State) -> State:
    second = "head.conv.weight" not in state
    common = (
        (r"^(stages\.\d\.1)\.norm\.", r"\1.layernorm."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.norm\.", ".normalization."),
        (r"\.conv\.", ".convolution."),
        (r"\.transformer\.", ".transformer.layer."),
        (r"\.widen\.", ".conv_1x1.convolution."),
        (r"\.local\.", ".conv_kxk."),
        (r"\.narrow\.", ".conv_projection."),
        (r"\.fuse\.", ".fusion."),
        (r"\.expand\.", ".expand_1x1."),
        (r"\.depthwise\.", ".conv_3x3."),
        (r"\.project\.", ".reduce_1x1."),
        (r"^stages\.([01])\.(\d)\.", r"encoder.layer.\1.layer.\2."),
        (r"^stages\.(\d)\.0\.", r"encoder.layer.\1.downsampling_layer."),
        (r"^stages\.(\d)\.1\.", r"encoder.layer.\1."),
        (r"^stem\.", "conv_stem."),
        (r"^head\.", "conv_1x1_exp."),
    )
    version1 = (
        (r"\.attention\.proj\.", ".attention.output.dense."),
        (r"\.mlp\.0\.", ".intermediate.dense."),
        (r"\.mlp\.2\.", ".output.dense."),
    )
    version2 = (
        (r"\.attention\.qkv\.", ".attention.qkv_proj.convolution."),
        (r"\.attention\.proj\.", ".attention.out_proj.convolution."),
        (r"\.mlp\.0\.", ".ffn.conv1.convolution."),
        (r"\.mlp\.2\.", ".ffn.conv2.convolution."),
    )
    spelled: State = {}
    for key, value in spell(state, *common, *(version2 if second else version1)).items():
        name = key if key.startswith("classifier.") else f"mobilevit{'v2' * second}.{key}"
        if ".qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                spelled[name.replace(".qkv.", f".attention.{part}.")] = third.clone()
        else:
            spelled[name] = value
    return spelled


def timm_mobilevit_v2(state: State) -> State:
    return spell(
        state,
        (r"^(stages\.\d\.1)\.norm\.", r"\1.NORM."),
        (r"\.norm\.", ".bn."),
        (r"\.NORM\.", ".norm."),
        (r"\.expand\.", ".conv1_1x1."),
        (r"\.depthwise\.", ".conv2_kxk."),
        (r"\.project\.", ".conv3_1x1."),
        (r"\.local\.", ".conv_kxk."),
        (r"\.widen\.", ".conv_1x1."),
        (r"\.narrow\.", ".conv_proj."),
        (r"\.attention\.qkv\.", ".attn.qkv_proj."),
        (r"\.attention\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.2\.", ".mlp.fc2."),
        (r"^classifier\.", "head.fc."),
    )


def mobile_former(state: State) -> State:
    def number(match: re.Match[str]) -> str:
        return f"features.{int(match[1]) + 1}."

    spelled = spell(
        state,
        (r"^classifier\.", "classifier.classifier.1."),
        (r"^head\.conv\.", "classifier.conv.1."),
        (r"^head\.norm\.", "classifier.conv.2."),
        (r"^hidden\.", "classifier.fc."),
        (r"^tokens$", "tokens.weight"),
        (r"^first\.depthwise\.conv\.", "features.0.conv.0."),
        (r"^first\.depthwise\.norm\.", "features.0.conv.1."),
        (r"^first\.pointwise\.conv\.", "features.0.conv.4."),
        (r"^first\.pointwise\.norm\.", "features.0.conv.5."),
        (r"^stem\.conv\.", "stem.0."),
        (r"^stem\.norm\.", "stem.1."),
        (r"\.mobile\.relu(\d)\.hyper\.", r".hyper\1.hyper."),
        (r"\.mobile\.conv(\d)\.conv\.", r".conv\1.0."),
        (r"\.mobile\.conv(\d)\.norm\.", r".conv\1.1."),
        (r"\bto_former\.query\.", "local_global.q."),
        (r"\bto_former\.gate\.", "local_global.alpha."),
        (r"\bto_former\.proj\.", "local_global.proj."),
        (r"\bto_former\.norm\.", "local_global.layer_norm."),
        (r"\.former\.query\.", ".global_block.q."),
        (r"\.former\.proj\.", ".global_block.channel_mlp."),
        (r"\.former\.norm1\.", ".global_block.layer_norm."),
        (r"\.former\.norm2\.", ".global_block.ffn_norm."),
        (r"\.former\.ffn\.", ".global_block.ffn."),
        (r"\.to_mobile\.key\.", ".global_local.k."),
        (r"\.to_mobile\.value\.", ".global_local.proj."),
    )
    return {re.sub(r"^blocks\.(\d+)\.", number, key): value for key, value in spelled.items()}


def with_indices(state: State) -> State:
    """As their code registers its indices: buffers beside every table of biases."""
    tables = [key for key in state if key.endswith(".attention_biases")]
    side = {key: state[key].shape[1] for key in tables}
    return state | {key.removesuffix("es") + "_idxs": torch.zeros(n, n, dtype=torch.int64) for key, n in side.items()}


def timm_efficientformer(state: State) -> State:
    return with_indices(
        spell(
            state,
            (r"^stem\.0\.(conv|norm)\.", r"stem.\g<1>1."),
            (r"^stem\.1\.(conv|norm)\.", r"stem.\g<1>2."),
            (r"\.scale([12])$", r".ls\1.gamma"),
            (r"\.mlp\.expand\.", ".mlp.fc1."),
            (r"\.mlp\.expand_norm\.", ".mlp.norm1."),
            (r"\.mlp\.reduce\.", ".mlp.fc2."),
            (r"\.mlp\.reduce_norm\.", ".mlp.norm2."),
            (r"\.attention\.bias\.table$", ".token_mixer.attention_biases"),
            (r"\.attention\.", ".token_mixer."),
            (r"^classifier\.label\.", "head."),
            (r"^classifier\.teacher\.", "head_dist."),
        )
    )


def snap_trunk(state: State) -> State:
    def place(match: re.Match[str]) -> str:
        return f"network.{2 * int(match[1]) - (match[2] == 'downsample')}."

    return {
        re.sub(r"^stages\.(\d)\.(blocks|downsample)\.", place, key): value
        for key, value in spell(
            state,
            (r"^stem\.0\.conv\.", "patch_embed.0."),
            (r"^stem\.0\.norm\.", "patch_embed.1."),
            (r"^stem\.1\.conv\.", "patch_embed.3."),
            (r"^stem\.1\.norm\.", "patch_embed.4."),
            (r"\.scale([12])$", r".layer_scale_\1"),
            (r"^classifier\.label\.", "head."),
            (r"^classifier\.teacher\.", "dist_head."),
        ).items()
    }


def snap_efficientformer(state: State) -> State:
    return with_indices(
        spell(
            snap_trunk(state),
            (r"^(network\.[135])\.conv\.", r"\1.proj."),
            (r"\.mlp\.expand\.", ".mlp.fc1."),
            (r"\.mlp\.expand_norm\.", ".mlp.norm1."),
            (r"\.mlp\.reduce\.", ".mlp.fc2."),
            (r"\.mlp\.reduce_norm\.", ".mlp.norm2."),
            (r"\.attention\.bias\.table$", ".token_mixer.attention_biases"),
            (r"\.attention\.", ".token_mixer."),
        )
    )


def timm_efficientformer_v2(state: State) -> State:
    return spell(
        state,
        (r"^stem\.0\.", "stem.conv1."),
        (r"^stem\.1\.", "stem.conv2."),
        (r"\.(conv|q|k|v|local|shrink|proj|expand|middle|reduce|conv1|conv2)\.norm\.", r".\1.bn."),
        (r"\.scale([12])$", r".ls\1.gamma"),
        (r"\.bias\.table$", ".attention_biases"),
        (r"(attention)\.local\.", r"\1.v_local."),
        (r"\.shrink\.", ".stride_conv."),
        (r"\.talk_before\.", ".talking_head1."),
        (r"\.talk_after\.", ".talking_head2."),
        (r"\.downsample\.attention\.", ".downsample.attn."),
        (r"\.attention\.", ".token_mixer."),
        (r"\.mlp\.expand\.", ".mlp.fc1."),
        (r"\.mlp\.middle\.", ".mlp.mid."),
        (r"\.mlp\.reduce\.", ".mlp.fc2."),
        (r"^classifier\.label\.", "head."),
        (r"^classifier\.teacher\.", "head_dist."),
    )


def snap_efficientformer_v2(state: State) -> State:
    spelled = spell(
        snap_trunk(state),
        (r"^(network\.[13])\.conv\.conv\.", r"\1.proj."),
        (r"^(network\.[13])\.conv\.norm\.", r"\1.norm."),
        (r"^network\.5\.conv\.conv\.", "network.5.conv."),
        (r"^network\.5\.conv\.norm\.", "network.5.bn."),
        (r"\.attention\.q\.local\.", ".attention.q.local.0."),
        (r"\.q\.proj\.conv\.", ".q.proj.0."),
        (r"\.q\.proj\.norm\.", ".q.proj.1."),
        (r"\.attention\.proj\.conv\.", ".attention.proj.1."),
        (r"\.attention\.proj\.norm\.", ".attention.proj.2."),
        (r"\.(q|k|v|local|shrink)\.conv\.", r".\1.0."),
        (r"\.(q|k|v|local|shrink)\.norm\.", r".\1.1."),
        (r"\.attention\.local\.", ".attention.v_local."),
        (r"\.shrink\.", ".stride_conv."),
        (r"\.talk_before\.", ".talking_head1."),
        (r"\.talk_after\.", ".talking_head2."),
        (r"\.bias\.table$", ".attention_biases"),
        (r"^network\.5\.attention\.", "network.5.attn."),
        (r"\.attention\.", ".token_mixer."),
        (r"\.expand\.conv\.", ".fc1."),
        (r"\.expand\.norm\.", ".norm1."),
        (r"\.middle\.conv\.", ".mid."),
        (r"\.middle\.norm\.", ".mid_norm."),
        (r"\.reduce\.conv\.", ".fc2."),
        (r"\.reduce\.norm\.", ".norm2."),
    )
    # Their scales are (C, 1, 1).
    return with_indices({k: v.reshape(-1, 1, 1) if "layer_scale" in k else v for k, v in spelled.items()})


def one_head(spelling: Spelling) -> Spelling:
    def spelled(state: State) -> State:
        return {
            key: value for key, value in spelling(state).items() if not key.startswith(("dist_head.", "head_dist."))
        }

    return spelled


# Network, layout, spelling, and names as they stand in the published state dict of that network, one of each kind.
CASES: list[tuple[str, str, Spelling, set[str]]] = [
    (
        "mobilevit_xxs",
        "ml-cvnets",
        ml_cvnets,
        {
            "conv_1.block.conv.weight",
            "layer_1.0.block.exp_1x1.block.norm.running_mean",
            "layer_2.2.block.conv_3x3.block.conv.weight",
            "layer_3.0.block.red_1x1.block.norm.bias",
            "layer_3.1.local_rep.conv_3x3.block.norm.weight",
            "layer_3.1.local_rep.conv_1x1.block.conv.weight",
            "layer_3.1.global_rep.0.pre_norm_mha.0.weight",
            "layer_3.1.global_rep.1.pre_norm_mha.1.qkv_proj.bias",
            "layer_4.1.global_rep.3.pre_norm_mha.1.out_proj.weight",
            "layer_4.1.global_rep.0.pre_norm_ffn.0.bias",
            "layer_4.1.global_rep.0.pre_norm_ffn.1.weight",
            "layer_4.1.global_rep.0.pre_norm_ffn.4.bias",
            "layer_3.1.global_rep.2.weight",
            "layer_4.1.global_rep.4.bias",
            "layer_5.1.global_rep.3.weight",
            "layer_5.1.conv_proj.block.norm.running_var",
            "layer_5.1.fusion.block.conv.weight",
            "conv_1x1_exp.block.norm.weight",
            "classifier.fc.weight",
        },
    ),
    (
        "mobilevit_xxs",
        "transformers",
        transformers,
        {
            "mobilevit.conv_stem.convolution.weight",
            "mobilevit.encoder.layer.0.layer.0.expand_1x1.normalization.running_mean",
            "mobilevit.encoder.layer.1.layer.2.conv_3x3.convolution.weight",
            "mobilevit.encoder.layer.2.downsampling_layer.reduce_1x1.normalization.bias",
            "mobilevit.encoder.layer.2.conv_kxk.convolution.weight",
            "mobilevit.encoder.layer.2.conv_1x1.convolution.weight",
            "mobilevit.encoder.layer.2.transformer.layer.0.attention.attention.query.weight",
            "mobilevit.encoder.layer.2.transformer.layer.0.attention.attention.key.bias",
            "mobilevit.encoder.layer.3.transformer.layer.3.attention.attention.value.weight",
            "mobilevit.encoder.layer.3.transformer.layer.0.attention.output.dense.bias",
            "mobilevit.encoder.layer.3.transformer.layer.0.intermediate.dense.weight",
            "mobilevit.encoder.layer.3.transformer.layer.0.output.dense.weight",
            "mobilevit.encoder.layer.4.transformer.layer.0.layernorm_before.weight",
            "mobilevit.encoder.layer.4.transformer.layer.2.layernorm_after.bias",
            "mobilevit.encoder.layer.4.layernorm.weight",
            "mobilevit.encoder.layer.4.conv_projection.normalization.running_var",
            "mobilevit.encoder.layer.4.fusion.convolution.weight",
            "mobilevit.conv_1x1_exp.normalization.weight",
            "classifier.bias",
        },
    ),
    (
        "mobilevitv2_050",
        "timm",
        timm_mobilevit_v2,
        {
            "stem.bn.running_mean",
            "stages.0.0.conv1_1x1.conv.weight",
            "stages.1.1.conv2_kxk.bn.bias",
            "stages.2.1.conv_kxk.conv.weight",
            "stages.2.1.conv_1x1.weight",
            "stages.2.1.transformer.0.norm1.weight",
            "stages.3.1.transformer.3.attn.qkv_proj.bias",
            "stages.3.1.transformer.3.attn.out_proj.weight",
            "stages.4.1.transformer.0.mlp.fc1.weight",
            "stages.4.1.transformer.0.mlp.fc2.bias",
            "stages.4.1.norm.bias",
            "stages.4.1.conv_proj.bn.weight",
            "head.fc.weight",
        },
    ),
    (
        "mobilevitv2_050",
        "ml-cvnets",
        ml_cvnets,
        {
            "conv_1.block.norm.bias",
            "layer_2.1.block.red_1x1.block.conv.weight",
            "layer_3.1.local_rep.0.block.norm.running_var",
            "layer_3.1.local_rep.1.block.conv.weight",
            "layer_3.1.global_rep.0.pre_norm_attn.0.weight",
            "layer_3.1.global_rep.0.pre_norm_attn.1.qkv_proj.block.conv.bias",
            "layer_4.1.global_rep.3.pre_norm_attn.1.out_proj.block.conv.weight",
            "layer_4.1.global_rep.0.pre_norm_ffn.0.weight",
            "layer_4.1.global_rep.0.pre_norm_ffn.1.block.conv.weight",
            "layer_5.1.global_rep.2.pre_norm_ffn.3.block.conv.bias",
            "layer_3.1.global_rep.2.weight",
            "layer_4.1.global_rep.4.weight",
            "layer_5.1.conv_proj.block.norm.running_mean",
            "classifier.1.weight",
        },
    ),
    (
        "mobilevitv2_050",
        "transformers",
        transformers,
        {
            "mobilevitv2.conv_stem.normalization.weight",
            "mobilevitv2.encoder.layer.1.layer.1.expand_1x1.convolution.weight",
            "mobilevitv2.encoder.layer.2.downsampling_layer.conv_3x3.normalization.running_var",
            "mobilevitv2.encoder.layer.2.conv_kxk.convolution.weight",
            "mobilevitv2.encoder.layer.2.conv_1x1.convolution.weight",
            "mobilevitv2.encoder.layer.2.transformer.layer.0.layernorm_before.weight",
            "mobilevitv2.encoder.layer.2.transformer.layer.0.attention.qkv_proj.convolution.bias",
            "mobilevitv2.encoder.layer.3.transformer.layer.3.attention.out_proj.convolution.weight",
            "mobilevitv2.encoder.layer.3.transformer.layer.0.ffn.conv1.convolution.weight",
            "mobilevitv2.encoder.layer.3.transformer.layer.0.ffn.conv2.convolution.bias",
            "mobilevitv2.encoder.layer.4.layernorm.bias",
            "mobilevitv2.encoder.layer.4.conv_projection.normalization.running_mean",
            "classifier.weight",
        },
    ),
    (
        "mobile_former_26m",
        "official Mobile-Former",
        mobile_former,
        {
            "tokens.weight",
            "stem.0.weight",
            "stem.1.running_mean",
            "features.0.conv.0.weight",
            "features.0.conv.1.running_var",
            "features.0.conv.4.weight",
            "features.0.conv.5.bias",
            "features.1.conv1.0.weight",
            "features.1.conv3.1.running_mean",
            "features.1.hyper1.hyper.0.weight",
            "features.1.hyper2.hyper.2.bias",
            "features.2.hyper3.hyper.0.weight",
            "features.2.conv4.1.weight",
            "features.1.local_global.alpha.0.weight",
            "features.1.local_global.q.bias",
            "features.1.local_global.proj.weight",
            "features.1.local_global.layer_norm.weight",
            "features.1.global_block.ffn.2.weight",
            "features.1.global_block.ffn_norm.bias",
            "features.1.global_block.q.weight",
            "features.1.global_block.channel_mlp.weight",
            "features.1.global_block.layer_norm.bias",
            "features.8.global_local.k.weight",
            "features.8.global_local.proj.bias",
            "local_global.alpha.0.bias",
            "local_global.layer_norm.weight",
            "classifier.conv.1.weight",
            "classifier.conv.2.running_mean",
            "classifier.fc.0.weight",
            "classifier.fc.1.running_var",
            "classifier.classifier.1.weight",
        },
    ),
    (
        "efficientformer_l1",
        "timm",
        timm_efficientformer,
        {
            "stem.conv1.bias",
            "stem.norm2.running_mean",
            "stages.0.blocks.0.ls1.gamma",
            "stages.0.blocks.2.mlp.fc1.weight",
            "stages.0.blocks.0.mlp.norm1.running_var",
            "stages.2.blocks.5.mlp.fc2.bias",
            "stages.2.blocks.5.mlp.norm2.weight",
            "stages.1.downsample.conv.weight",
            "stages.3.downsample.norm.bias",
            "stages.3.blocks.4.norm1.weight",
            "stages.3.blocks.4.token_mixer.attention_biases",
            "stages.3.blocks.4.token_mixer.attention_bias_idxs",
            "stages.3.blocks.4.token_mixer.qkv.weight",
            "stages.3.blocks.4.token_mixer.proj.bias",
            "stages.3.blocks.4.ls2.gamma",
            "stages.3.blocks.4.mlp.fc1.weight",
            "norm.weight",
            "head.weight",
            "head_dist.bias",
        },
    ),
    (
        "efficientformer_l1",
        "snap-research",
        snap_efficientformer,
        {
            "patch_embed.0.weight",
            "patch_embed.4.running_mean",
            "network.0.0.layer_scale_1",
            "network.0.2.mlp.fc1.weight",
            "network.0.0.mlp.norm1.running_var",
            "network.4.5.mlp.norm2.weight",
            "network.1.proj.weight",
            "network.5.norm.bias",
            "network.6.4.norm1.weight",
            "network.6.4.token_mixer.attention_biases",
            "network.6.4.token_mixer.attention_bias_idxs",
            "network.6.4.token_mixer.qkv.bias",
            "network.6.4.mlp.fc2.weight",
            "network.6.4.layer_scale_2",
            "norm.bias",
            "head.weight",
            "dist_head.weight",
        },
    ),
    (
        "efficientformerv2_s0",
        "timm",
        timm_efficientformer_v2,
        {
            "stem.conv1.conv.bias",
            "stem.conv2.bn.running_mean",
            "stages.0.blocks.0.mlp.fc1.conv.weight",
            "stages.0.blocks.0.mlp.mid.bn.running_var",
            "stages.0.blocks.1.mlp.fc2.conv.bias",
            "stages.0.blocks.0.ls2.gamma",
            "stages.1.downsample.conv.conv.weight",
            "stages.2.downsample.conv.bn.weight",
            "stages.2.blocks.4.ls1.gamma",
            "stages.2.blocks.4.token_mixer.attention_biases",
            "stages.2.blocks.4.token_mixer.stride_conv.conv.weight",
            "stages.2.blocks.4.token_mixer.q.bn.bias",
            "stages.2.blocks.5.token_mixer.v_local.conv.weight",
            "stages.2.blocks.5.token_mixer.talking_head1.weight",
            "stages.3.blocks.2.token_mixer.talking_head2.bias",
            "stages.3.blocks.3.token_mixer.proj.bn.running_mean",
            "stages.3.downsample.attn.attention_biases",
            "stages.3.downsample.attn.q.local.weight",
            "stages.3.downsample.attn.q.proj.bn.weight",
            "stages.3.downsample.attn.v_local.conv.bias",
            "stages.3.downsample.attn.proj.conv.weight",
            "norm.running_var",
            "head.bias",
            "head_dist.weight",
        },
    ),
    (
        "efficientformerv2_s0",
        "snap-research",
        snap_efficientformer_v2,
        {
            "patch_embed.3.bias",
            "network.0.0.layer_scale_2",
            "network.0.1.mlp.fc1.weight",
            "network.0.0.mlp.norm1.running_mean",
            "network.0.0.mlp.mid.weight",
            "network.0.0.mlp.mid_norm.bias",
            "network.2.0.mlp.norm2.weight",
            "network.1.proj.weight",
            "network.3.norm.running_var",
            "network.4.4.layer_scale_1",
            "network.4.4.token_mixer.attention_biases",
            "network.4.4.token_mixer.attention_bias_idxs",
            "network.4.4.token_mixer.stride_conv.0.weight",
            "network.4.5.token_mixer.q.1.running_mean",
            "network.4.5.token_mixer.v_local.0.bias",
            "network.4.5.token_mixer.talking_head1.weight",
            "network.6.3.token_mixer.proj.1.weight",
            "network.6.3.token_mixer.proj.2.bias",
            "network.5.attn.attention_biases",
            "network.5.attn.q.local.0.weight",
            "network.5.attn.q.proj.0.weight",
            "network.5.attn.q.proj.1.bias",
            "network.5.attn.k.0.weight",
            "network.5.attn.proj.2.running_var",
            "network.5.conv.weight",
            "network.5.bn.weight",
            "norm.running_mean",
            "head.weight",
            "dist_head.bias",
        },
    ),
]
IDS = [f"{name}-{layout}" for name, layout, _, _ in CASES]


def layouts(name: str) -> dict[str, Layout]:
    found: dict[str, Layout] = importlib.import_module(ENTRIES[name].module).LAYOUTS
    return found


@pytest.mark.parametrize(("name", "layout", "spelling", "published"), CASES, ids=IDS)
def test_a_published_layout_is_recognised(
    name: str, layout: str, spelling: Spelling, published: set[str], tmp_path: Path
) -> None:
    original = moved(build(name, weights="random", num_classes=5))
    state = spelling(original.state_dict())
    assert published <= set(state)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    x = torch.rand(2, 3, 64, 64)
    loaded = build(name, weights=tmp_path / "w.pth", num_classes=5)
    assert torch.equal(loaded(x), original(x))
    assert isinstance(loaded.provenance, Provenance)
    assert loaded.provenance.layout == layout
    # Only the first MobileViTs, as their authors and transformers keep them, saw their training pictures blue first.
    blue_first = ENTRIES[name].family == "mobilevit" and layout in ("ml-cvnets", "transformers")
    assert loaded.provenance.preprocessing.channels == ("BGR" if blue_first else "RGB")


@pytest.mark.parametrize(("name", "layout", "spelling", "published"), CASES, ids=IDS)
def test_a_tensor_too_many_or_too_few_is_refused(
    name: str, layout: str, spelling: Spelling, published: set[str], tmp_path: Path
) -> None:
    state = spelling(build(name, weights="random", num_classes=5).state_dict())
    lost = sorted(key for key in published if not key.endswith("_idxs"))[0]
    for number, changed in enumerate(({k: v for k, v in state.items() if k != lost}, state | {"extra": torch.ones(1)})):
        target = build(name, weights="random", num_classes=5)
        before = {key: value.clone() for key, value in target.state_dict().items()}
        torch.save(changed, tmp_path / f"{number}.pth")
        with pytest.raises(WeightsError, match=re.escape(f"closest layout, {layout}")):
            checkpoints.load(target, tmp_path / f"{number}.pth", layouts(name))
        assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("efficientformer_l1", snap_efficientformer),
        ("efficientformerv2_s0", snap_efficientformer_v2),
        ("efficientformerv2_s0", timm_efficientformer_v2),
    ],
)
def test_a_network_trained_without_a_teacher_answers_with_its_one_head(
    name: str, spelling: Spelling, tmp_path: Path
) -> None:
    original = moved(build(name, weights="random", num_classes=5))
    original.classifier.teacher.load_state_dict(original.classifier.label.state_dict())
    torch.save(one_head(spelling)(original.state_dict()), tmp_path / "w.pth")
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(build(name, weights=tmp_path / "w.pth", num_classes=5)(x), original(x))


@pytest.mark.parametrize(("name", "layout", "spelling", "published"), CASES, ids=IDS)
def test_another_number_of_classes_points_to_the_option(
    name: str, layout: str, spelling: Spelling, published: set[str], tmp_path: Path
) -> None:
    torch.save(spelling(build(name, weights="random", num_classes=5).state_dict()), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="--num-classes"):
        build(name, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "mobile_former_26m", "efficientformer_l1"])
def test_a_file_of_another_family_is_refused(name: str, tmp_path: Path) -> None:
    other = "mobile_former_52m" if name == "mobile_former_26m" else "efficientformerv2_s0"
    save_file(build(other, weights="random").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="Nothing was loaded"):
        build(name, weights=tmp_path / "w.safetensors")


def test_ml_cvnets_training_state_gives_its_average(tmp_path: Path) -> None:
    original = moved(build("mobilevitv2_050", weights="random", num_classes=5))
    state = ml_cvnets(original.state_dict())
    zeros = {key: value * 0 for key, value in state.items()}
    torch.save({"epoch": 3, "model_state_dict": zeros, "ema_state_dict": state}, tmp_path / "w.pt")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(build("mobilevitv2_050", weights=tmp_path / "w.pt", num_classes=5)(x), original(x))


def test_two_names_that_become_one_are_not_silently_merged() -> None:
    layout = Layout(rename=((r"^old\.", "new."),))
    translated = translate({"new.weight": torch.zeros(1), "old.weight": torch.ones(1)}, layout)
    assert len(translated) == 2
    assert translated["new.weight"].item() == 0


def test_parts_are_stacked_only_when_all_are_there() -> None:
    layout = Layout(fuse=(Fusion((".q.", ".k."), ".qk."),))
    parts = {"a.q.weight": torch.zeros(2, 3), "a.k.weight": torch.ones(2, 3), "b.q.weight": torch.zeros(2, 3)}
    translated = translate(parts, layout)
    assert sorted(translated) == ["a.qk.weight", "b.q.weight"]
    assert translated["a.qk.weight"][:, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "mobile_former_26m", "efficientformerv2_s0"])
def test_no_layout_has_a_rule_twice(name: str) -> None:
    for layout in layouts(name).values():
        patterns = [pattern for pattern, _ in layout.rename]
        assert len(set(patterns)) == len(patterns)
