"""timm's image tower within a model of OpenCLIP: PE-Core, with the projection as its head."""

import re
from dataclasses import replace
from typing import Any

import numpy as np

from lift_jax.errors import UserError, shown
from lift_jax.models.vit.config import VisionConfig
from lift_jax.weights.files.source import Source
from lift_jax.weights.formats import declared
from lift_jax.weights.formats.timm.config import read_config
from lift_jax.weights.formats.timm.names import PE_NAMES
from lift_jax.weights.formats.timm.tensors import table
from lift_jax.weights.rename import Table

PREFIX = "visual.trunk."
_BIAS = f"{PREFIX}head.bias"


def is_trunk(name: Any) -> bool:
    """Returns True for timm's name of an image tower that is read within a model of OpenCLIP."""
    return isinstance(name, str) and re.fullmatch(PE_NAMES, name) is not None


def within(source: Source) -> bool:
    """Returns True if OpenCLIP's config names such an image tower."""
    model = declared.part(source.where, source.open_clip, "model_cfg")
    return is_trunk(declared.part(source.where, model, "vision_cfg").get("timm_model_name"))


def read_trunk(
    source: Source, where: str, options: dict[str, Any], statistics: dict[str, Any]
) -> tuple[VisionConfig, tuple[str, ...]]:
    """Returns (sizes of the image tower, notes).

    `options` are those of vision_cfg, and `statistics` the images' mean and std. Raises UserError
    for another pooling or projection than PE-Core's, and for a bias that the projection adds.
    """
    for option, value, expected in (("timm_pool", "map", "'map'"), ("timm_proj", None, "null")):
        if (options.get(option) or None) != value:
            raise UserError(
                f"{where} vision_cfg.{option} is {shown(options.get(option))}; expected "
                f"{expected}, as in PE-Core."
            )
    if np.any(np.asarray(source.tensors.get(_BIAS, 0)) != 0):
        raise UserError(
            f"{source.where} holds {_BIAS} that is not zero; expected zeros, as in PE-Core, whose "
            "projection has no bias. Get the file again."
        )
    found = read_config(_alone(source, options["timm_model_name"], statistics))
    assert isinstance(found.vision, VisionConfig)
    return found.vision, found.notes


def trunk_table(source: Source) -> Table:
    """Returns the rename table of the image tower and its projection."""
    vision = source.open_clip["model_cfg"]["vision_cfg"]
    rules = table(_alone(source, vision["timm_model_name"], {}))
    return [
        *((ours, PREFIX + theirs, layout) for ours, theirs, layout in rules),
        ("image_proj", f"{PREFIX}head.weight", "linear"),
    ]


def _alone(source: Source, name: str, statistics: dict[str, Any]) -> Source:
    """Returns the image tower alone, as timm's folder of it would be."""
    tensors = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in source.tensors.items()
        if name.startswith(PREFIX)
    }
    config = {"architecture": name, "pretrained_cfg": statistics}
    return replace(source, tensors=tensors, config=config, open_clip={})
