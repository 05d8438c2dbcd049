"""lift_jax: LIFT and LIFT+ long-tailed recognition in JAX.

    backbone = lift_jax.load_backbone("clip_vit_b16")
    loss = lift_jax.losses.make("la", counts)
    predictor = lift_jax.Predictor("runs/demo")

Names are imported when they are first used, so that processes that only decode images start
without JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lift_jax import losses
    from lift_jax.predict import Predictor
    from lift_jax.weights import load_backbone, load_tokenizer

__all__ = ["Predictor", "load_backbone", "load_tokenizer", "losses"]


def __getattr__(name: str):
    if name in ("load_backbone", "load_tokenizer"):
        return getattr(importlib.import_module("lift_jax.weights"), name)
    if name == "Predictor":
        return importlib.import_module("lift_jax.predict").Predictor
    if name == "losses":
        return importlib.import_module("lift_jax.losses")
    raise AttributeError(f"module 'lift_jax' has no attribute {name!r}")
