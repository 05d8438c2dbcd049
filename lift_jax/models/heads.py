"""Classifiers on the CLS feature.

Every head is `classify(embed(features))`, and `classify` is affine, so that the mean of the
logits of several crops is the logits of the mean embedding: one matmul a test image.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.tunable import Tuned


def normalise(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Unit length along the last axis, as torch does it (length floored at 1e-12), in float32."""
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


class Head(Protocol):
    """What a classifier asks of a head."""

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n e"]:
        """The features of images or crops, as they may be averaged."""
        ...

    def classify(self, embedded: Float[Array, "n e"]) -> Float[Array, "n c"]:
        """Float32 logits; affine in `embedded`."""
        ...


class CosineHead(nnx.Module):
    """scale * cos(feature, weight row of the class); weight f32[classes width] (LIFT section 4)."""

    def __init__(self, weight: Float[Array, "c d"], scale: float = 25.0):
        self.weight = Tuned(weight.astype(jnp.float32))
        self.scale = scale

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return normalise(features)

    def classify(self, embedded: Float[Array, "n d"]) -> Float[Array, "n c"]:
        return self.scale * embedded @ normalise(self.weight[...]).T


class LinearHead(nnx.Module):
    """feature . weight row of the class + bias; weight f32[classes width], bias f32[classes]."""

    def __init__(self, weight: Float[Array, "c d"]):
        self.weight = Tuned(weight.astype(jnp.float32))
        self.bias = Tuned(jnp.zeros(len(weight)))

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return features.astype(jnp.float32)

    def classify(self, embedded: Float[Array, "n d"]) -> Float[Array, "n c"]:
        return embedded @ self.weight[...].T + self.bias[...]


class L2NormHead(nnx.Module):
    """feature . weight row of the class brought to unit length; weight f32[classes width]."""

    def __init__(self, weight: Float[Array, "c d"]):
        self.weight = Tuned(weight.astype(jnp.float32))

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return features.astype(jnp.float32)

    def classify(self, embedded: Float[Array, "n d"]) -> Float[Array, "n c"]:
        return embedded @ normalise(self.weight[...]).T


class LayerNormHead(L2NormHead):
    """As `L2NormHead`, of the feature brought to mean 0 and variance 1 along its width."""

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        x = features.astype(jnp.float32)
        x = x - x.mean(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-12)


class ZeroShotHead(nnx.Module):
    """CLIP's own classifier: exp(logit_scale) * cos(projected image, text of the class); frozen.

    Without `image_proj` the image features lie in the space of the texts. SigLIP adds `logit_bias`.
    """

    def __init__(
        self,
        image_proj: Float[Array, "d e"] | None,
        class_texts: Float[Array, "c e"],
        logit_scale: Float[Array, ""],
        logit_bias: Float[Array, ""] | None = None,
    ):
        self.image_proj = None if image_proj is None else nnx.Param(image_proj)
        self.class_texts = nnx.Param(normalise(class_texts))
        self.logit_scale = nnx.Param(logit_scale)
        self.logit_bias = None if logit_bias is None else nnx.Param(logit_bias)

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n e"]:
        features = features.astype(jnp.float32)
        if self.image_proj is not None:
            features = features @ self.image_proj[...].astype(jnp.float32)
        return normalise(features)

    def classify(self, embedded: Float[Array, "n e"]) -> Float[Array, "n c"]:
        texts = self.class_texts[...].astype(jnp.float32)
        logits = jnp.exp(self.logit_scale[...].astype(jnp.float32)) * embedded @ texts.T
        bias = self.logit_bias
        return logits if bias is None else logits + bias[...].astype(jnp.float32)


HEADS = {
    "cosine": CosineHead, "linear": LinearHead, "l2norm": L2NormHead, "layernorm": LayerNormHead,
}  # fmt: skip
