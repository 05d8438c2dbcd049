"""The writing of backbones in Hugging Face's layout, by the rename tables that read it.

A candidate is the config.json of a model class. It is taken if it reads as the sizes of the
backbone, so that what is written always comes back.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from lift_jax.errors import UserError
from lift_jax.models.backbone import BackboneConfig
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.storage import atomic
from lift_jax.weights.files.source import CONFIG, PREPROCESSOR, WEIGHTS, Source
from lift_jax.weights.formats import huggingface, siglip, vits
from lift_jax.weights.rename import Table, to_theirs

ACTIVATIONS = {ours: theirs for theirs, ours in reversed(huggingface.ACTIVATIONS.items())}
# the mask token of pre-training, which our towers do not have: its axes before the width
MASK = "embeddings.mask_token"
UNUSED = {"dinov2": (1,), "dinov2_with_registers": (1,), "dinov3_vit": (1, 1)}
Config = dict[str, Any]


class Layout(NamedTuple):
    """A model class of transformers for a backbone.

    Attributes:
        config: the contents of config.json.
        images: the contents of preprocessor_config.json.
        table: the rename table.
        options: arguments of from_pretrained.
        feature: the image feature, by the model's name `model` and its `pixels`.
        unused: shapes of weights that the class has and nothing of ours uses.
    """

    config: Config
    images: Config
    table: Table
    options: str
    feature: str
    unused: dict[str, tuple[int, ...]]


def save(
    folder: Path,
    config: BackboneConfig,
    arrays: Mapping[str, np.ndarray],
    short: int = 0,
    **images: object,
) -> Layout:
    """Writes config.json, model.safetensors and preprocessor_config.json; returns their layout.

    Args:
        folder: the folder to write in.
        config: the sizes of the backbone.
        arrays: the leaves by our paths; they are written in their dtype.
        short: the short side of an image before its centre is cut out; 0 for the resolution.
        **images: further entries of preprocessor_config.json.

    Raises UserError if transformers has no class for the backbone.
    """
    layout = layout_of(config)
    size = layout.images["size"] | ({"shortest_edge": short} if short else {})
    atomic.write_json(folder / CONFIG, layout.config)
    atomic.write_json(folder / PREPROCESSOR, layout.images | {"size": size} | images)
    theirs = to_theirs(arrays, layout.table)
    theirs |= {name: np.zeros(shape, np.float32) for name, shape in layout.unused.items()}
    with atomic.replacement(folder / WEIGHTS[0]) as partial:  # not in memory once more
        safetensors.numpy.save_file(theirs, partial, {"format": "pt"})
    return layout


def layout_of(config: BackboneConfig) -> Layout:
    """Returns the layout of a backbone. Raises UserError if transformers has no class for it."""
    v = config.vision
    for form, candidate in _candidates(config) if isinstance(v, VisionConfig) else ():
        images = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": v.resolution},
            "crop_size": {"height": v.resolution, "width": v.resolution},
            "image_mean": list(v.mean),
            "image_std": list(v.std),
        }
        source = Source(Path(), CONFIG, config=candidate, images=images)
        try:
            read = form.read_config(source)
        except UserError:
            continue
        if read == dataclasses.replace(config, notes=()):
            kind, tower = candidate["model_type"], "model" + ".vision_model" * bool(config.text)
            feature = "last_hidden_state[:, 0]" if form is vits else "pooler_output"
            return Layout(
                candidate, images, form.table(source),
                ", add_pooling_layer=False" * (kind == "vit"), f"{tower}(pixels).{feature}",
                {MASK: (*UNUSED[kind], v.width)} if kind in UNUSED else {},
            )  # fmt: skip
    raise UserError(
        "transformers has no class for this backbone, such as a ResNet of CLIP or a ViT that "
        "averages its tokens, so it cannot be written in Hugging Face's layout."
    )


def _candidates(config: BackboneConfig) -> Iterator[tuple[ModuleType, Config]]:
    """Yields each format with the config.json that a ViT would have in it."""
    vision, text = config.vision, config.text
    assert isinstance(vision, VisionConfig)
    if text is None:
        yield from _alone(vision)
        return
    towers: Config = {"vision_config": _image_tower(vision), "text_config": _text_tower(text)}
    eos = {"eos_token_id": 2 if text.eot is None else text.eot}
    width: Config = {"projection_dim": config.embed}
    for name, kind in (("CLIP", "clip"), ("MetaClip2", "metaclip_2")):
        yield (
            huggingface,
            {"architectures": [f"{name}Model"], "model_type": kind} | width
            | {"vision_config": towers["vision_config"] | width}
            | {"text_config": towers["text_config"] | width | eos},
        )  # fmt: skip
    towers["text_config"] |= {"projection_size": text.head}
    yield siglip, {"architectures": ["SiglipModel"], "model_type": "siglip", **towers}


def _alone(c: VisionConfig) -> Iterator[tuple[ModuleType, Config]]:
    """Yields each format with the config.json that an image tower alone would have in it."""
    tower = _image_tower(c)
    biases = {switch: not {*layers} <= {*c.unbiased} for switch, layers in vits.BIASES.items()}
    every = tower | biases | {
        "num_register_tokens": c.registers, "rope_theta": c.rope, "use_gated_mlp": c.gated,
        "use_swiglu_ffn": c.gated, "mlp_ratio": _ratio(c),
    }  # fmt: skip
    for form, kind, name in (
        (huggingface, "clip_vision_model", "CLIPVision"),
        (siglip, "siglip_vision_model", "SiglipVision"),
        (vits, "vit", "ViT"),
        (vits, "dinov2", "Dinov2"),
        (vits, "dinov2_with_registers", "Dinov2WithRegisters"),
        (vits, "dinov3_vit", "DINOv3ViT"),
    ):
        known = vits.DEFAULTS.get(kind, tower)
        config = {key: value for key, value in every.items() if key in known}
        if "mlp_ratio" in config:  # instead of
            del config["intermediate_size"]
        if "query_bias" in config:  # a switch for each of the three
            del config["qkv_bias"]
        yield form, {"architectures": [f"{name}Model"], "model_type": kind} | config


def _image_tower(c: VisionConfig) -> Config:
    return _tower(c) | {"image_size": c.resolution, "patch_size": c.patch}


def _text_tower(c: TextConfig) -> Config:
    return _tower(c) | {"vocab_size": c.vocab, "max_position_embeddings": c.context}


def _tower(c: VisionConfig | TextConfig) -> Config:
    """Returns the settings that image and text towers share, under the names of transformers."""
    return {
        "hidden_size": c.width, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "intermediate_size": c.mlp, "hidden_act": ACTIVATIONS[c.activation],
        "layer_norm_eps": c.eps,
    }  # fmt: skip


def _ratio(c: VisionConfig) -> int | None:
    """Returns DINOv2's mlp_ratio, which transformers takes as a whole number; None without one."""
    ratios = range(1, c.mlp // c.width + 4)
    return next((r for r in ratios if vits.mlp_width(c.width, r, c.gated) == c.mlp), None)
