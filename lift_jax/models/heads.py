"""Classifier heads on the image feature.

The logits of a head are `classify(embed(features))`, and `classify` is affine. Therefore the mean
logits of several crops are the logits of their mean embedding: one matrix product a test image.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lift_jax.models.tunable import Tuned


def l2_normalise(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Returns x at unit length along the last axis, in float32.

    As in torch's `normalize`, lengths below 1e-12 count as 1e-12.
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


class Head(Protocol):
    """The interface of a classifier head."""

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n e"]:
        """Returns embeddings, which may be averaged over the crops of an image."""
        ...

    def classify(self, embedded: Float[Array, "n e"]) -> Float[Array, "n c"]:
        """Returns float32 logits, which are affine in `embedded`."""
        ...


class CosineHead(nnx.Module):
    """The cosine classifier (LIFT section 4), with weight f32[classes width].

    The logit of a class is scale * cos(feature, weight row of the class).
    """

    def __init__(self, weight: Float[Array, "c d"], scale: float = 25.0):
        self.weight = Tuned(weight.astype(jnp.float32))
        self.scale = scale

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return l2_normalise(features)

    def classify(self, embedded: Float[Array, "n d"]) -> Float[Array, "n c"]:
        return self.scale * embedded @ l2_normalise(self.weight[...]).T


class LinearHead(nnx.Module):
    """The linear classifier, with weight f32[classes width] and bias f32[classes]."""

    def __init__(self, weight: Float[Array, "c d"]):
        self.weight = Tuned(weight.astype(jnp.float32))
        self.bias = Tuned(jnp.zeros(len(weight)))

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return features.astype(jnp.float32)

    def classify(self, embedded: Float[Array, "n d"]) -> Float[Array, "n c"]:
        return embedded @ self.weight[...].T + self.bias[...]


class L2NormHead(nnx.Module):
    """A linear classifier without bias whose weight rows, f32[classes width], have unit length."""

    def __init__(self, weight: Float[Array, "c d"]):
        self.weight = Tuned(weight.astype(jnp.float32))

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return features.astype(jnp.float32)

    def classify(self, embedded: Float[Array, "n d"]) -> Float[Array, "n c"]:
        return embedded @ l2_normalise(self.weight[...]).T


class LayerNormHead(L2NormHead):
    """An `L2NormHead` on features normalised to mean 0 and variance 1 along their width."""

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        x = features.astype(jnp.float32)
        x = x - x.mean(axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + 1e-12)


class ZeroShotHead(nnx.Module):
    """CLIP's own classifier, exp(logit_scale) * cos(projected image, text of the class), frozen.

    `class_texts` are the projected text features. Without `image_proj` the image features lie in
    the shared space already (CLIP's ResNets, SigLIP). SigLIP adds `logit_bias`.
    """

    def __init__(
        self,
        image_proj: Float[Array, "d e"] | None,
        class_texts: Float[Array, "c e"],
        logit_scale: Float[Array, ""],
        logit_bias: Float[Array, ""] | None = None,
    ):
        self.image_proj = None if image_proj is None else nnx.Param(image_proj)
        self.class_texts = nnx.Param(jax.jit(l2_normalise)(class_texts))
        self.logit_scale = nnx.Param(logit_scale)
        self.logit_bias = None if logit_bias is None else nnx.Param(logit_bias)

    def embed(self, features: Float[Array, "n d"]) -> Float[Array, "n e"]:
        features = features.astype(jnp.float32)
        if self.image_proj is not None:
            features = features @ self.image_proj[...].astype(jnp.float32)
        return l2_normalise(features)

    def classify(self, embedded: Float[Array, "n e"]) -> Float[Array, "n c"]:
        texts = self.class_texts[...].astype(jnp.float32)
        logits = jnp.exp(self.logit_scale[...].astype(jnp.float32)) * embedded @ texts.T
        bias = self.logit_bias
        return logits if bias is None else logits + bias[...].astype(jnp.float32)


HEADS = {
    "cosine": CosineHead, "linear": LinearHead, "l2norm": L2NormHead, "layernorm": LayerNormHead,
}  # fmt: skip
