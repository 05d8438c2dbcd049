"""The forward pass from a batch to logits, and the jitted features and counts of a batch."""

from collections.abc import Callable
from typing import Any

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
from lift_jax.models.heads import Head
from lift_jax.models.resnet import ResNetConfig
from lift_jax.models.tree import Tree
from lift_jax.parallel.mesh import batch_sharding, gather, replicated

# A batch holds image u8[b r r 3] or u8[b k r r 3] (k crops), label i32[b] and mask bool[b]. If
# views are cut on the device, it holds image u8[b h w 3] and cut i32[b 2 6] or i32[b k 2 6]. In a
# batch of activations, `image` holds the inputs of a block.
Batch = dict[str, jax.Array]


def pixels(batch: Batch, vision: Vision) -> Array:
    """Returns the views of a batch; cuts them if the batch holds whole images (see `on_device`)."""
    if "cut" in batch:
        return on_device.render(batch["image"], batch["cut"], vision.resolution)
    return batch["image"]


def normalise(images: UInt8[Array, "..."], vision: Vision) -> Float[Array, "..."]:
    """Returns images u8[... 3] in float32, normalised by the backbone's mean and deviation."""
    mean, std = jnp.array(vision.mean, jnp.float32), jnp.array(vision.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean) / std


def feature(visual: Tower, rows: Array, start: int = 0) -> Float[Array, "n d"]:
    """Returns the tower's feature of each image.

    `rows` are images u8[n h w 3] if `start` is 0, and otherwise the activations that enter block
    `start` (see `activations`).
    """
    return visual.upper(rows, start) if start else visual(normalise(rows, visual.config))


def logits_of(model: Classifier, rows: Array, start: int) -> Float[Array, "n c"]:
    """Returns the logits of images or activations; see `feature` for `rows` and `start`."""
    return model.head.classify(model.head.embed(feature(model.visual, rows, start)))


def features(visual: Tower, batch: Batch, vision: Vision, start: int = 0) -> Float[Array, "b *k d"]:
    """Returns the tower's features of a batch, f[b d], or f[b k d] for k crops of each image.

    Crops are a vmapped axis, or rows for a ResNet, so that the batch axis stays sharded. See
    `feature` for `start`.
    """
    images = pixels(batch, vision)
    if start or images.ndim == 4:
        return feature(visual, images, start)
    if isinstance(vision, ResNetConfig):
        # Under vmap, a convolution would gather the images of all devices on each device.
        rows = feature(visual, images.reshape(-1, *images.shape[2:]))
        return rows.reshape(*images.shape[:2], -1)
    return jax.vmap(lambda crop: feature(visual, crop), 1, 1)(images)


def embed(head: Head, features: Float[Array, "b *k d"]) -> Float[Array, "b e"]:
    """Returns the head's embeddings of features; for several crops, the mean of theirs.

    Logits are affine in the embedding, so it gives the mean of their logits.
    """
    if features.ndim == 2:
        return head.embed(features)
    return jax.vmap(head.embed, 1, 1)(features).mean(axis=1)


def make_outputs(
    graph: nnx.GraphDef[Classifier], vision: Vision
) -> Callable[[Tree, Batch], tuple[Float[Array, "b c"], Float[Array, "b e"]]]:
    """Returns `(leaves, batch) -> (logits, embedding)`; for several crops, the means of theirs."""

    def outputs(leaves: Tree, batch: Batch) -> tuple[Float[Array, "b c"], Float[Array, "b e"]]:
        model = tree.merge(graph, leaves)
        embedded = embed(model.head, features(model.visual, batch, vision))
        return model.head.classify(embedded), embedded

    return outputs


def make_predict(
    graph: nnx.GraphDef[Classifier], vision: Vision
) -> Callable[[Tree, Batch], Float[Array, "b c"]]:
    """Returns `(leaves, batch) -> logits`; for several crops, the mean of their logits."""
    outputs = make_outputs(graph, vision)
    return lambda leaves, batch: outputs(leaves, batch)[0]


def make_features(
    graph: nnx.GraphDef[Tower], vision: Vision, mesh: Mesh, start: int = 0
) -> Callable[[Tree, Batch], Float[Array, "b *k d"]]:
    """Returns the jitted `(leaves, batch) -> features` of a tower; see `features`."""

    def tower(leaves: Tree, batch: Batch) -> Float[Array, "b *k d"]:
        return features(tree.merge(graph, gather(mesh, leaves)), batch, vision, start)

    return jax.jit(tower, out_shardings=batch_sharding(mesh))


def make_embed(
    graph: nnx.GraphDef[Any], mesh: Mesh
) -> Callable[[Tree, Array], Float[Array, "b e"]]:
    """Returns the jitted `(leaves, features) -> embedding` of a head; see `embed`."""

    def embedding(leaves: Tree, features: Float[Array, "b *k d"]) -> Float[Array, "b e"]:
        return embed(tree.merge(graph, gather(mesh, leaves)), features)

    return jax.jit(embedding, out_shardings=batch_sharding(mesh))


def make_classify(
    graph: nnx.GraphDef[Any], mesh: Mesh
) -> Callable[[Tree, Array], Float[Array, "b c"]]:
    """Returns the jitted `(leaves, embedding) -> logits` of a head."""

    def classify(leaves: Tree, embedded: Float[Array, "b e"]) -> Float[Array, "b c"]:
        return tree.merge(graph, gather(mesh, leaves)).classify(embedded)

    return jax.jit(classify, out_shardings=batch_sharding(mesh))


def make_count(
    mesh: Mesh, shifts: Float[np.ndarray, "t c"] | None = None, top: int = 0
) -> Callable[[Array, Batch], dict[str, Array]]:
    """Returns the jitted `(logits, batch) -> counts` (`metrics.count`) over all devices.

    With `shifts`, each of them is subtracted from the logits, and all counts have a first axis [t].
    With `top`, the counts also hold the `answers` to the images of the batch.
    """

    def count(logits: Float[Array, "b c"], batch: Batch) -> dict[str, Array]:
        def count_logits(logits: Array) -> dict[str, Array]:
            counts = metrics.count(logits, batch["label"], batch["mask"])
            return counts | answers(logits, batch, top) if top else counts

        if shifts is None:
            return count_logits(logits)
        return jax.lax.map(lambda shift: count_logits(logits - shift), jnp.asarray(shifts))

    return jax.jit(count, out_shardings=replicated(mesh))


def answers(logits: Float[Array, "b c"], batch: Batch, top: int) -> dict[str, Array]:
    """Returns the likeliest classes of each image, for `metrics.add` to join.

    Returns:
        `answer_image` i32[b 2], the row in the split (-1 where there is no image) and the label;
        `answer_classes` i32[b k], k = min(top, c), the likeliest first, the first of equal ones
        before the others; `answer_probabilities` f32[b k], by softmax; `answer_label` f32[b 1], the
        probability of the label.
    """
    rows = jnp.where(batch["mask"], batch["row"], -1)
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    _, classes = jax.lax.top_k(logits, min(top, logits.shape[-1]))

    def of(classes: Array) -> Array:
        return jnp.take_along_axis(probabilities, classes, axis=1)

    return {
        "answer_image": jnp.stack([rows, batch["label"]], axis=1),
        "answer_classes": classes.astype(jnp.int32),
        "answer_probabilities": of(classes),
        "answer_label": of(batch["label"][:, None]),
    }
