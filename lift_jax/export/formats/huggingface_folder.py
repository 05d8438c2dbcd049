"""Hugging Face: the merged run as `transformers` loads it, its classifier, and a script."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from lift_jax.errors import UserError
from lift_jax.evaluation.forward import normalise
from lift_jax.export import rendered
from lift_jax.export.deployed import Deployed
from lift_jax.export.golden import Probabilities
from lift_jax.models import tree
from lift_jax.models.heads import Head, l2_normalise
from lift_jax.runs.weights import merge
from lift_jax.storage import atomic
from lift_jax.storage.formats.tensors import write_tensors
from lift_jax.storage.reading import read_json
from lift_jax.tuners import prompt_learning
from lift_jax.weights.files.source import read_safetensors
from lift_jax.weights.formats.written import layout_of
from lift_jax.weights.load import load_saved
from lift_jax.weights.save import save_for_transformers

WEIGHTS, ABOUT, SCRIPT = "classifier.safetensors", "classifier.json", "classify.py"
# how a head embeds features, by its kind (head.kind)
EMBEDDINGS = {
    "cosine": "unit", "text": "unit", "linear": "plain", "l2norm": "plain",
    "layernorm": "layernorm",
}  # fmt: skip
HOW = (
    "logits = x @ weight.T + bias, where x is the image feature (times projection, if there is "
    "one), then at unit length (embedding unit), at mean 0 and variance 1 (layernorm) or as it is "
    "(plain). The probabilities are softmax(logits / temperature)."
)


def write(deployed: Deployed, folder: Path) -> Probabilities:
    """Writes the merged backbone, the classifier and a script; returns the folder, read back.

    Raises UserError if the run has tuners that cannot be merged, or if transformers has no class
    for the backbone.
    """
    about = deployed.about
    try:
        layout_of(deployed.found.backbone.config)  # raises before the slow merging
        backbone, merged = merge.merge_run(deployed.run, deployed.found)
        layout = save_for_transformers(
            backbone, folder, about["backbone"], short=about["short_side"],
            resample=int(Image.Resampling[about["filter"].upper()]), do_convert_rgb=True,
        )  # fmt: skip
    except UserError as e:
        raise UserError(f"{e} The formats onnx, stablehlo and adapters take every run.") from e
    graph, leaves = tree.split(merged.classifier)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    graph, leaves = prompt_learning.encode_texts_once(graph, leaves, device)
    classifier = affine(tree.merge(graph, leaves).head, deployed.found.backbone.visual.width)
    about = about | {"embedding": EMBEDDINGS[merged.settings.head.kind], "classifier": HOW}
    write_tensors(folder / WEIGHTS, classifier, {"format": "pt"})
    atomic.write_json(folder / ABOUT, about)
    shown = {"options": layout.options, "feature": layout.feature}
    shown |= {"projected": "projection" in classifier}
    rendered.write_script(folder / SCRIPT, "classify_transformers.txt", about | shown)
    return load(folder)


def affine(head: Head, width: int) -> dict[str, np.ndarray]:
    """Returns weight and bias of a head, whose logits are affine in its embedding.

    If the head projects the features, the projection is there as well.
    """
    projection = getattr(head, "image_proj", None)
    found = {} if projection is None else {"projection": projection[...]}
    width = width if projection is None else projection[...].shape[1]
    zeros = jnp.zeros(width)

    def logits(embedded: Float[Array, " e"]) -> Float[Array, " c"]:
        return head.classify(embedded[None])[0]

    found |= {"weight": jax.jacfwd(logits)(zeros), "bias": logits(zeros)}
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def load(folder: Path) -> Probabilities:
    """Returns the function from views to probabilities of a folder, by our own reader."""
    backbone, about = load_saved(folder), read_json(folder / ABOUT)
    tensors, _, _ = read_safetensors(folder / WEIGHTS)
    stored = {name: np.array(array) for name, array in tensors.items()}
    graph, arrays = tree.split(backbone.visual)

    @jax.jit
    def work(arrays: tree.Tree, images: Array) -> Array:
        x = tree.merge(graph, arrays)(normalise(images, backbone.config.vision))
        if "projection" in stored:
            x = x @ stored["projection"]
        if about["embedding"] == "unit":
            x = l2_normalise(x)
        elif about["embedding"] == "layernorm":
            x = jax.nn.standardize(x, epsilon=1e-12)
        return jax.nn.softmax((x @ stored["weight"].T + stored["bias"]) / about["temperature"])

    return lambda images: np.asarray(work(arrays, jnp.asarray(images)))
