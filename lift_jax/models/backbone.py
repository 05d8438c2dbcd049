"""A pre-trained backbone, image tower with or without a text tower, and the classifier on it."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.errors import UserError
from lift_jax.models.heads import Head
from lift_jax.models.layers import Normal
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.text import TextConfig, TextTransformer
from lift_jax.models.vit import VisionConfig, VisionTransformer

Vision = VisionConfig | ResNetConfig
Tower = VisionTransformer | ResNet


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes of a backbone.

    A CLIP ViT has both `projections` into the space that images and texts share, `embed` wide; the
    image features of a CLIP ResNet lie in it already ("text" alone), and so do both of SigLIP (no
    projection). Without a text tower there is no such space. `notes` are sentences on what the
    loading changed or left out.
    """

    vision: Vision
    text: TextConfig | None = None
    embed: int = 0
    projections: tuple[str, ...] = ("image", "text")
    logit_bias: bool = False
    notes: tuple[str, ...] = ()


class Backbone(nnx.Module):
    """Image tower `visual`, and where there is one the text tower `text`, with what joins them.

    `fingerprint` tells the weights and sizes of the image side from any others, `text_fingerprint`
    those of the side of texts.
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
        self.image_proj = projection("image", vision.width)
        self.text_proj = projection("text", 0 if text is None else text.width)
        self.logit_scale = None if text is None else nnx.Param(jnp.log(jnp.float32(1 / 0.07)))
        self.logit_bias = nnx.Param(jnp.zeros((), jnp.float32)) if config.logit_bias else None

    def encode_image(self, images: Float[Array, "n h w 3"], project: bool = False) -> Array:
        """Normalised images to f32[n d], the feature (LIFT section 3), or f32[n e] if
        projected into the space of the texts.

        Raises UserError for `project` without a text tower.
        """
        if project and self.text is None:
            raise UserError("This backbone has no text tower, so project=True has no meaning.")
        features = self.visual(jnp.asarray(images)).astype(jnp.float32)
        return _project(features, self.image_proj) if project else features

    def encode_text(self, tokens: Int[Array, "n t"], project: bool = False) -> Array:
        """Token ids to f32[n d], the text feature, or f32[n e] if projected.

        Raises UserError without a text tower.
        """
        if self.text is None:
            raise UserError("This backbone has no text tower.")
        features = self.text(jnp.asarray(tokens)).astype(jnp.float32)
        return _project(features, self.text_proj) if project else features


def _project(features: Float[Array, "n d"], matrix: nnx.Param | None) -> Float[Array, "n e"]:
    """A tower without a matrix gives features in the shared space already."""
    return features if matrix is None else features @ matrix[...].astype(jnp.float32)


class Classifier(nnx.Module):
    """An image tower and a head."""

    def __init__(self, visual: Tower, head: Head):
        self.visual = visual
        self.head = head

    def embed(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n e"]:
        return self.head.embed(self.visual(images))

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n c"]:
        """Normalised images to float32 logits."""
        return self.head.classify(self.embed(images))
