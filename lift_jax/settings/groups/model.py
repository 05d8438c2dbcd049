"""The settings of the pre-trained backbone."""

from dataclasses import dataclass
from typing import Any

from lift_jax.settings.setting import setting
from lift_jax.settings.values import three_numbers


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The pre-trained backbone."""

    backbone: str = setting(
        "clip_vit_b16",
        "Pre-trained backbone: a name, a folder, a file, or owner/repository[@revision].",
        longest=4096,
        path=True,
    )
    resolution: int = setting(
        0,
        "Side of the input images in pixels, a multiple of the patch size. 0: as pre-trained.",
        low=0,
        high=16_384,
    )
    mean: str = setting(
        "",
        "Mean to subtract from the images' red, green and blue values, like 0.485,0.456,0.406. "
        "Empty: the mean that belongs to the weights.",
        before="",
    )
    std: str = setting(
        "",
        "Standard deviation by which the images' red, green and blue values are divided, like "
        "0.229,0.224,0.225. Empty: the one that belongs to the weights.",
        before="",
    )
    tuned: str = setting(
        "",
        "File of tuned weights to start from: a checkpoint of the authors' code, or a file that "
        "`lift-jax export` wrote.",
        longest=4096,
        path=True,
    )
    precision: str = setting(
        "auto",
        "Type of the frozen weights and of matrix products. auto: float32 on CPUs, float16 on "
        "GPUs, bfloat16 on TPUs.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    residual: str = setting(
        "float32",
        "Type of the residual stream, embeddings, biases and norms: float32, or same (as "
        "model.precision). Version 0.1.0 used same, with bfloat16 on GPUs.",
        choices=("float32", "same"),
        before="same",
    )

    @property
    def loading(self) -> dict[str, Any]:
        """Returns the arguments of `load_backbone` that the settings give."""
        numbers = {
            key: three_numbers(f"model.{key}", getattr(self, key)) for key in ("mean", "std")
        }
        given = {"resolution": self.resolution, **numbers}
        return {key: value for key, value in given.items() if value}
