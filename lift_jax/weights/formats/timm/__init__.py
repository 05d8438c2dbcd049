"""timm's format: its ViTs and ResNets, as a folder from its hub or as bare weights.

Names and shapes of a ViT's weights (also of EVA-02, DINOv3, PE-Core) show its tokens, their
positions, its norms and biases, and most of its pooling (tensors.py). Heads, activation and epsilon
follow from timm's name of the model (names.py).

A folder has a config.json with the mean and standard deviation of the images (config.py). For bare
weights these are taken by their family (families.py): DINO, iBOT, MAE, MoCo and DeiT name a ViT in
the same way. Images for a ResNet are normalised by ImageNet's statistics at 224 pixels.
torchvision's ResNets have the same names and can be read too. A PE-Core within a model of OpenCLIP
is read by the same rules (trunk.py).
"""

from lift_jax.weights.formats.timm.config import SIZES, read_config, recognises, resize
from lift_jax.weights.formats.timm.names import is_eva
from lift_jax.weights.formats.timm.tensors import IGNORED, table
from lift_jax.weights.formats.timm.trunk import is_trunk, read_trunk, trunk_table, within

__all__ = [
    "IGNORED", "SIZES", "is_eva", "is_trunk", "read_config", "read_trunk", "recognises", "resize",
    "table", "trunk_table", "within",
]  # fmt: skip
