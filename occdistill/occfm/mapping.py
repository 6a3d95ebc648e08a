"""Our parameter names and OccFM's, in both directions.

The tables below run down the networks: our name on the left, the published one on the right, with a
table of its own where the names inside a block differ too; `*` stands for a number. A published
file keeps the autoencoder (`embedding`, `encoder`, `decoder`) and, in a world model, the transition
network (`transition_model`) in one dictionary.

Some published tensors have more dimensions of size 1, because that code convolves one frame with
space-time kernels. The numbers and their order are the same, so translating is a reshape.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from occdistill.autoencoder.occfm import OccFMVAE
from occdistill.flow.networks.base import DECOUPLED
from occdistill.flow.networks.occfm import OccFMTransition

Table = dict[str, "str | tuple[str, Table]"]

# ------------------------------------------------------------------ autoencoder

SWIN: Table = {
    "mask": "attn_mask",
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
    "attention.log_temperature": "attn.logit_scale",
    "attention.query_bias": "attn.q_bias",
    "attention.value_bias": "attn.v_bias",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "attention.offset_in": "attn.cpb_mlp.0",
    "attention.offset_out": "attn.cpb_mlp.2",
    "attention.offsets": "attn.relative_coords_table",
    "attention.relative_index": "attn.relative_position_index",
}
PIXEL_ATTENTION: Table = {
    "norm": "norm",
    "query": "attention.to_q",
    "key_value": "attention.to_kv",
    "merge": "attention.to_out",
    "out": "proj_out",
}
TEMPORAL: Table = {
    "res1": "temporal_conv_1",
    "res2": "temporal_conv_2",
    "qkv": "temporal_attn.qkv",
    "out": "temporal_attn.proj",
}
CODER: Table = {
    "patch": "patch_embed_layer.proj",
    "patch_norm": "patch_embed_layer.norm",
    "position": "absolute_pos_embed",
    "enter": "conv_in",
    "stages.0.blocks.*": ("net_blocks.0.blocks.*", SWIN),
    "stages.0.residual": "net_blocks.1",
    "stages.1.blocks.*": ("net_blocks.2.blocks.*", SWIN),
    "stages.1.residual": "net_blocks.3",
    "temporal.*": ("temporal_block.*", TEMPORAL),
    "downs.*": "downsample_blocks.*",
    "ups.*": "upsample_blocks.*.conv",
    "reduce": "conv_reduce",
    "middle.0": "mid.0",
    "middle.1": ("mid.1", PIXEL_ATTENTION),
    "middle.2": "mid.2",
    "norm": "norm_out",
    "out": "conv_out",
}
VAE: Table = {
    "embedding.classes": "embedding.class_embeds",
    "embedding.heights": "embedding.height_embedding",
    "embedding.project": "embedding.pre_pillar_feature.0",
    "encoder": ("encoder", CODER),
    "decoder": ("decoder", CODER),
}

# ------------------------------------------------------------------ transition network

RESIDUAL: Table = {
    "modulation": "mlp.1",
    "conv*": "block*.proj",
    "gain*": "block*.norm.gamma",
    "skip": "res_conv",
}
ATTENTION: Table = {
    "gain": "fn.norm.gamma",
    "qkv": "fn.fn.fn.to_qkv",
    "out": "fn.fn.fn.to_out",
}
TRANSFORMER: Table = {
    "modulation": "adaLN_modulation.1",
    "qkv": "attn.qkv",
    "out": "attn.proj",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
LEVEL: Table = {
    "residual1": ("0", RESIDUAL),
    "residual2": ("1", RESIDUAL),
    "space": ("2", TRANSFORMER),
    "time": ("3", TRANSFORMER),
}
TRANSITION: Table = {
    "position": "transition_model.pos_embed",
    "frame_position": "transition_model.temp_embed",
    "frame_bias": "transition_model.time_rel_pos_bias.relative_attention_bias",
    "clock": "transition_model.t_embedder",
    "trajectory": "transition_model.traj_encoder",
    "enter": "transition_model.init_conv",
    "enter_time": ("transition_model.init_temporal_attn", ATTENTION),
    "down.*": ("transition_model.downs.*", LEVEL),
    "downsample": "transition_model.downs.0.5",
    "middle1": ("transition_model.mid_block1", RESIDUAL),
    "middle_space": ("transition_model.mid_spatial_attn", ATTENTION),
    "middle_time": ("transition_model.mid_temporal_attn", ATTENTION),
    "middle2": ("transition_model.mid_block2", RESIDUAL),
    "up.*": ("transition_model.ups.*", LEVEL),
    "upsample": "transition_model.ups.0.4",
    "out_residual": ("transition_model.final_conv.0", RESIDUAL),
    "out": "transition_model.final_conv.1",
}
UNPUBLISHED = ("end_clock.", DECOUPLED)  # how a student is told the end of its step

# ------------------------------------------------------------------ translation


def translate(key: str, table: Table) -> str:
    """The right-hand name of a left-hand `key`.

    Raises:
        KeyError: if no row of the table begins the key.
    """
    for ours, row in table.items():
        theirs, inner = row if isinstance(row, tuple) else (row, None)
        match = re.match(re.escape(ours).replace(r"\*", r"(\d+)") + r"(\.|$)", key)
        if match:
            for number in match.groups()[:-1]:
                theirs = theirs.replace("*", number, 1)
            rest = key[match.end() :]
            if rest:
                return f"{theirs}.{translate(rest, inner) if inner else rest}"
            return theirs
    raise KeyError(key)


def published_names(network: nn.Module) -> dict[str, str]:
    """Our key to the published one, for every tensor that a published file holds."""
    table = VAE if isinstance(network, OccFMVAE) else TRANSITION
    keys = (key for key in network.state_dict() if not key.startswith(UNPUBLISHED))
    return {key: translate(key, table) for key in keys}


def published_shape(network: nn.Module, key: str, shape: torch.Size) -> tuple[int, ...]:
    """The shape under which OccFM stores our tensor `key`."""
    shape = tuple(shape)
    if isinstance(network, OccFMTransition):
        if len(shape) == 4:  # one-frame convolutions
            return (*shape[:2], 1, *shape[2:])
        if key.endswith(("_time.gain", "_space.gain")):
            return (1, *shape, 1, 1, 1)
        if re.search(r"gain\d$", key):
            return (*shape, 1, 1, 1)
    return shape


def layout(*networks: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Published key to shape and dtype, of what a file holding these networks must contain."""
    return {
        theirs: (published_shape(network, ours, state[ours].shape), state[ours].dtype)
        for network in networks
        for state in [network.state_dict()]
        for ours, theirs in published_names(network).items()
    }


def to_published(*networks: nn.Module) -> dict[str, Tensor]:
    """The networks' weights under OccFM's names and shapes (views of the same memory)."""
    return {
        theirs: state[ours].reshape(published_shape(network, ours, state[ours].shape))
        for network in networks
        for state in [network.state_dict()]
        for ours, theirs in published_names(network).items()
    }


def from_published(network: nn.Module, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A complete state dict for `network` from OccFM's names and shapes.

    What has no published counterpart (the second clock) keeps the network's own values.

    Raises:
        KeyError: if a tensor is missing.
        RuntimeError: if one can't have our shape.
    """
    state = network.state_dict()
    for ours, theirs in published_names(network).items():
        state[ours] = published[theirs].reshape(state[ours].shape)
    return state
