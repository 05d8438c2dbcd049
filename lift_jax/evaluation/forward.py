"""The two jitted functions: one step of training, and the counts of one batch of a test."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from lift_jax.data.images import on_device
from lift_jax.evaluation import metrics
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier, Tower, Vision
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.tree import Tree
from lift_jax.parallel.mesh import gather, replicated

# image u8[b r r 3] or u8[b k r r 3], label i32[b], mask bool[b]; of images that are cut here, image
# u8[b h w 3] and cut i32[b 2 6] or i32[b k 2 6]
Batch = dict[str, jax.Array]


def pixels(batch: Batch, vision: Vision) -> Array:
    """The views of a batch, also where it holds images that are smaller (see `data.small`)."""
    if "cut" in batch:
        return on_device.render(batch["image"], batch["cut"], vision.resolution)
    return batch["image"]


def normalise(images: UInt8[Array, "..."], vision: Vision) -> Float[Array, "..."]:
    """Bytes to float32, less the mean and over the standard deviation of the backbone."""
    mean, std = jnp.array(vision.mean, jnp.float32), jnp.array(vision.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def feature(visual: Tower, rows: Array, start: int = 0) -> Float[Array, "n d"]:
    """The tower's feature of images u8[n h w 3], or of what enters block `start` (from 1 on).

    The one place that decides where a forward pass begins: see features.py.
    """
    return visual.upper(rows, start) if start else visual(normalise(rows, visual.config))


def logits_of(model: Classifier, rows: Array, start: int) -> Float[Array, "n c"]:
    return model.head.classify(model.head.embed(feature(model.visual, rows, start)))


def make_predict(
    graph: nnx.GraphDef[Classifier], vision: Vision, start: int = 0
) -> Callable[[Tree, Batch], Float[Array, "b c"]]:
    """Returns `(leaves, batch) -> logits`, the mean over an image's crops where it has several.

    The crops are a vmapped axis (a ResNet's are rows), and the batch axis stays sharded. What is
    averaged is the embedding, in which the logits are affine.
    """

    def predict(leaves: Tree, batch: Batch) -> Float[Array, "b c"]:
        model = tree.merge(graph, leaves)
        images = pixels(batch, vision)
        if start or images.ndim == 4:
            return logits_of(model, images, start)
        if isinstance(vision, ResNetConfig):
            # under vmap a convolution gathers the images of all devices on each
            crops = model.embed(normalise(images.reshape(-1, *images.shape[2:]), vision))
            crops = crops.reshape(*images.shape[:2], -1)
        else:
            crops = jax.vmap(lambda crop: model.embed(normalise(crop, vision)), 1, 1)(images)
        return model.head.classify(crops.mean(axis=1))

    return predict


def make_count(
    graph: nnx.GraphDef[Classifier],
    vision: Vision,
    mesh: Mesh,
    shifts: Float[np.ndarray, "t c"] | None = None,
    start: int = 0,
) -> Callable[[Tree, Batch], dict[str, Array]]:
    """Returns the jitted `(leaves, batch) -> metrics.count` of the batch over all devices.

    With `shifts` all counts have a first axis [t]: each is of the logits less one of them.
    """
    predict = make_predict(graph, vision, start)

    def count(leaves: Tree, batch: Batch) -> dict[str, Array]:
        def of(logits: Array) -> dict[str, Array]:
            return metrics.count(logits, batch["label"], batch["mask"])

        logits = predict(gather(mesh, leaves), batch)
        if shifts is None:
            return of(logits)
        return jax.lax.map(lambda shift: of(logits - shift), jnp.asarray(shifts))

    return jax.jit(count, out_shardings=replicated(mesh))
