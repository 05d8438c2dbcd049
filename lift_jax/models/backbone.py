"""The pre-trained backbone (an image tower, with or without a text tower) and the classifier."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.errors import UserError
from lift_jax.models.blocks.layers import Normal
from lift_jax.models.heads import Head
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.text import TextConfig, TextTransformer
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer

Vision = VisionConfig | ResNetConfig
Tower = VisionTransformer | ResNet


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a backbone.

    Attributes:
        vision: sizes of the image tower.
        text: sizes of the text tower, None without one.
        embed: width of the space that images and texts share; 0 without a text tower.
        projections: towers with a projection into that space. A CLIP ViT has both; the image
            features of a CLIP ResNet, and all features of SigLIP, lie in it without one.
        logit_bias: whether there is a bias on the logits (SigLIP).
        notes: sentences on what the loading changed or left out.
    """

    vision: Vision
    text: TextConfig | None = None
    embed: int = 0
    projections: tuple[str, ...] = ("image", "text")
    logit_bias: bool = False
    notes: tuple[str, ...] = ()


class Backbone(nnx.Module):
    """An image tower, optionally with a text tower, projections and logit scale.

    Attributes:
        config: sizes.
        visual: the image tower.
        text: the text tower, or None.
        image_proj, text_proj: projections into the shared space, f32[width embed], or None.
        logit_scale, logit_bias: scalars of CLIP's own classifier, or None.
        fingerprint: identifies sizes and weights of all but the text side; set by the loader.
        text_fingerprint: identifies those of the text tower and `text_proj`; set by the loader.
    """

    def __init__(self, config: BackboneConfig, *, rngs: nnx.Rngs):
        vision, text = config.vision, config.text

        def projection(tower: str, width: int) -> nnx.Param | None:
            if text is None or tower not in config.projections:
                return None
            init = Normal(width**-0.5)
            return nnx.Param(init(rngs.params(), (width, config.embed), jnp.float32))

        self.config = config
        self.fingerprint = self.text_fingerprint = ""
        self.visual: Tower = (
            ResNet(vision, rngs=rngs)
            if isinstance(vision, ResNetConfig)
            else VisionTransformer(vision, rngs=rngs)
        )
        self.text = None if text is None else TextTransformer(text, rngs=rngs)
        self.image_proj = projection("image", self.visual.width)
        self.text_proj = projection("text", 0 if text is None else text.width)
        self.logit_scale = None if text is None else nnx.Param(jnp.log(jnp.float32(1 / 0.07)))
        self.logit_bias = nnx.Param(jnp.zeros((), jnp.float32)) if config.logit_bias else None

    def encode_image(self, images: Float[Array, "n h w 3"], project: bool = False) -> Array:
        """Returns the features of normalised images, f32[n width] (LIFT section 3).

        With `project` they lie in the space shared with the texts, f32[n embed]. Raises UserError
        if `project` is given without a text tower.
        """
        if project and self.text is None:
            raise UserError(
                "This backbone has no text tower, so there is no shared space: give project=False."
            )
        features = self.visual(jnp.asarray(images)).astype(jnp.float32)
        return _project(features, self.image_proj) if project else features

    def encode_text(self, tokens: Int[Array, "n t"], project: bool = False) -> Array:
        """Returns the features of texts from their token ids, f32[n width].

        With `project` they lie in the space shared with the images, f32[n embed]. Raises UserError
        without a text tower.
        """
        if self.text is None:
            raise UserError("This backbone has no text tower, so it cannot encode texts.")
        features = self.text(jnp.asarray(tokens)).astype(jnp.float32)
        return _project(features, self.text_proj) if project else features


def _project(features: Float[Array, "n d"], matrix: nnx.Param | None) -> Float[Array, "n e"]:
    """Returns features in the shared space; without a matrix they lie in it already."""
    return features if matrix is None else features @ matrix[...].astype(jnp.float32)


class Classifier(nnx.Module):
    """An image tower and a head."""

    def __init__(self, visual: Tower, head: Head):
        self.visual = visual
        self.head = head

    def embed(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n e"]:
        """Returns the head's embeddings of normalised images."""
        return self.head.embed(self.visual(images))

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n c"]:
        """Returns the float32 logits of normalised images."""
        return self.head.classify(self.embed(images))
