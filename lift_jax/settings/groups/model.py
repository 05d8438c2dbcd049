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
        "Backbone: a name, a folder, a file, or owner/repository[@revision].",
        longest=4096,
        path=True,
    )
    resolution: int = setting(
        0,
        "Image size in pixels, a multiple of the patch size. 0: as pre-trained.",
        low=0,
        high=16_384,
    )
    mean: str = setting(
        "",
        "Mean of the images' red, green and blue values, like 0.485,0.456,0.406, which is taken "
        "from them. Empty: as the weights say, or as the run says where they do not.",
        before="",
    )
    std: str = setting(
        "",
        "Standard deviation of the images' red, green and blue values, like 0.229,0.224,0.225, by "
        "which they are divided. Empty: as the weights say.",
        before="",
    )
    tuned: str = setting(
        "",
        "File of tuned weights to start from: a checkpoint of the authors' code, or what "
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
        "Type of the residual stream, of embeddings, biases and norms: float32, or the same as "
        "model.precision, as in version 0.1.0, where auto was bfloat16 on GPUs.",
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
