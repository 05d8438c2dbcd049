"""Pre-trained weights: their download, check, conversion and loading."""

from lift_jax.weights.load import load_backbone, load_tokenizer
from lift_jax.weights.save import convert, save_backbone, save_converted
from lift_jax.weights.tokenizer import Tokenizer

__all__ = [
    "Tokenizer",
    "convert",
    "load_backbone",
    "load_tokenizer",
    "save_backbone",
    "save_converted",
]
