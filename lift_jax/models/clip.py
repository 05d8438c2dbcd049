"""CLIP, the two towers and their projections, and the classifier made from its image tower."""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.models.heads import Head
from lift_jax.models.layers import Normal
from lift_jax.models.text import TextConfig, TextTransformer
from lift_jax.models.vit import VisionConfig, VisionTransformer


@dataclass(frozen=True)
class ClipConfig:
    vision: VisionConfig
    text: TextConfig
    embed: int  # width of the space that images and texts share


class Clip(nnx.Module):
    """Image tower `visual`, text tower `text`, their projections, and the logit scale."""

    def __init__(self, config: ClipConfig, *, rngs: nnx.Rngs):
        vision, text, embed = config.vision, config.text, config.embed
        self.config = config
        self.visual = VisionTransformer(vision, rngs=rngs)
        self.text = TextTransformer(text, rngs=rngs)
        init = Normal(vision.width**-0.5)
        self.image_proj = nnx.Param(init(rngs.params(), (vision.width, embed), jnp.float32))
        init = Normal(text.width**-0.5)
        self.text_proj = nnx.Param(init(rngs.params(), (text.width, embed), jnp.float32))
        self.logit_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07)))

    def encode_image(self, images: Float[Array, "n h w 3"], project: bool = False) -> Array:
        """Normalised images to f32[n d], the CLS feature, or f32[n e] if projected."""
        features = self.visual(jnp.asarray(images)).astype(jnp.float32)
        return features @ self.image_proj[...].astype(jnp.float32) if project else features

    def encode_text(self, tokens: Int[Array, "n t"], project: bool = False) -> Array:
        """Token ids to f32[n d], the feature at the end-of-text, or f32[n e] if projected."""
        features = self.text(jnp.asarray(tokens)).astype(jnp.float32)
        return features @ self.text_proj[...].astype(jnp.float32) if project else features


class Classifier(nnx.Module):
    """An image tower and a head."""

    def __init__(self, visual: VisionTransformer, head: Head):
        self.visual = visual
        self.head = head

    def embed(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n e"]:
        return self.head.embed(self.visual(images))

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n c"]:
        """Normalised images to float32 logits."""
        return self.head.classify(self.embed(images))
