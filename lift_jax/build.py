"""From a config to everything that the first step needs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from lift_jax import config as config_lib
from lift_jax import init, log, losses, metrics, optim, prompts, text_head
from lift_jax import mesh as mesh_lib
from lift_jax import state as state_lib
from lift_jax.data import catalog, loader
from lift_jax.data.images import Dataset, Split
from lift_jax.errors import UserError, unknown
from lift_jax.features import Cache
from lift_jax.models import tree, tuners
from lift_jax.models.backbone import Backbone, Classifier, Vision
from lift_jax.models.heads import HEADS, Head, ZeroShotHead
from lift_jax.models.prompting import TextHead
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.tree import Tree
from lift_jax.weights import authors, load_backbone, load_tokenizer


@dataclass(frozen=True)
class Setup:
    """Everything that a config makes before the first step."""

    mesh: Mesh
    data: Dataset
    vision: Vision
    graph: nnx.GraphDef[Classifier]  # of the classifier that is tuned
    tuned: Tree  # float32, as they start; placed
    frozen: Tree  # in the precision of the config; placed
    zero_shot: tuple[nnx.GraphDef[Classifier], Tree] | None  # CLIP's own classifier, untuned
    fingerprint: str  # of the backbone, as far as it is used
    cache: Cache  # of activations
    parameters: list[log.Parameter]
    steps_per_epoch: int
    rate: optax.Schedule  # step (0-based) -> learning rate
    optimizer: optax.GradientTransformation


def build(config: ConfigDict, console: Console, fresh: bool = True) -> Setup:
    """Loads data and backbone, initialises head and tuners, and places the weights.

    With `fresh` False the tuned leaves are about to be restored, and nothing slow is done for them.
    Raises UserError for what the user can mend.
    """
    # -- names, before anything slow
    names = check(config)
    options = tuners.Options.of(config.tuner)

    # -- devices
    mesh = mesh_lib.make(**config.mesh)
    mesh_lib.check_batch(mesh, "train.batch", config.train.batch, config.train.accum)
    mesh_lib.check_batch(mesh, "test.batch", config.test.batch)
    bfloat16 = uses_bfloat16(config)

    # -- data
    data = catalog.load(config.data, config.seed)
    if config.test.adjust and not data.val:
        raise UserError(
            "test.adjust chooses its strength on a validation split, never on the test split, and "
            f"data.name={config.data.name!r} has none here. Give one: a folder val/ beside train/ "
            "and test/ (folder), data.val_list (list, table, inaturalist), or data.val_share=0.1, "
            "which holds that share of the training images out."
        )
    sizes = {k: int(v.sum()) for k, v in metrics.groups(data.group_counts).items()}
    console.print(
        f"Data: {len(data.train.labels):,} training and {len(data.test.labels):,} test images of "
        f"{len(data.class_names):,} classes ({sizes['many']} many, {sizes['medium']} medium, "
        f"{sizes['few']} few shot; {data.counts.max():,} to {data.counts.min():,} images a class)"
    )
    for note in data.notes:
        console.print(note, markup=False)
    if not data.counts.all():
        empty = [data.class_names[i] for i in np.flatnonzero(data.counts == 0)]
        console.print(
            f"Warning: classes without a training image ({len(empty)} of "
            f"{len(data.class_names)}), which count as the smallest in the loss: {some(empty)}",
            markup=False,
        )

    phrases = prompts.texts(data.class_names, config.head.prompt, config.head.descriptors)

    # -- backbone: the image tower in place and in its precision, the rest as it is needed once
    exact = any(name in tuners.PATH_RULES for name in names)  # trained leaves are float32

    def place(path: str, array: np.ndarray) -> jax.Array:
        if not path.startswith("visual/"):
            return jax.device_put(array.astype(np.float32, copy=False))
        array = array.astype(jnp.bfloat16 if bfloat16 and not exact else np.float32, copy=False)
        return mesh_lib.put(array, mesh_lib.frozen_sharding(mesh, path, array.shape))

    sizes = {"resolution": config.model.resolution} if config.model.resolution else {}
    backbone = load_backbone(config.model.backbone, place=place, **sizes)
    vision = backbone.config.vision
    for note in backbone.config.notes:
        console.print(f"Backbone: {note}", markup=False)

    cache = Cache(
        config.data.features_gb, backbone.fingerprint, mesh, config.test.batch,
        config.data.workers, console,
    )  # fmt: skip

    # -- CLIP's own classifier, before anything is tuned
    texts = zero_shot = None
    if backbone.text is not None:
        texts = class_texts(config, backbone, phrases, console)
    if texts is not None:
        zero_graph, leaves = tree.flatten(Classifier(backbone.visual, zero_head(backbone, texts)))
        zero_shot = zero_graph, {path: leaf[...] for path, leaf in leaves.items()}

    if config.train.remat != "none":
        if isinstance(backbone.visual, ResNet):
            raise UserError(
                "train.remat is for transformer blocks: leave it at 'none' for a ResNet."
            )
        backbone.visual.remat = config.train.remat

    # -- head and tuners
    head_key, tuner_key = jax.random.split(jax.random.key(config.seed))
    kind = config_lib.head_kind(config)
    if kind == "text":
        head, in_texts = text_head.make(
            config, backbone, data.class_names, key=head_key, devices=mesh.size
        )
        names = tuple(name for name in names if name not in config_lib.JOINT)
    else:
        images = data.train if fresh and not config.model.tuned else None
        weight = start_head(
            config, backbone, len(data.class_names), texts, images, head_key, cache, console
        )
        head, in_texts = head_of(config, weight), None
    resnet = isinstance(vision, ResNetConfig)
    if lost := [name for name in names if not tuners.applies(name, backbone.visual)]:
        kinds = "transformer blocks", "a ResNet"
        has, needs = kinds[::-1] if resnet else kinds
        names = tuple(name for name in names if name not in lost)
        console.print(
            f"Warning: {' and '.join(lost)} belongs into {needs}, and {config.model.backbone} is "
            f"{has}: {' and '.join(names) or 'its classifier'} alone is tuned.",
            markup=False,
        )
    tuners.attach(
        backbone.visual, names, len(data.class_names), rngs=nnx.Rngs(tuner_key), **asdict(options)
    )
    in_images = tuners.trainable(
        names, len(backbone.visual.blocks), options.partial, options.layers, resnet=resnet
    )
    classifier = Classifier(backbone.visual, head)
    graph, tuned, frozen = state_lib.split(
        classifier,
        lambda path, leaf: in_images(path, leaf) or (in_texts is not None and in_texts(path, leaf)),
    )
    if not tuned:
        raise UserError("Nothing would be trained: give another tuner.name, or head.kind=cosine.")
    listed = parameters(classifier, tuned)
    if config.model.tuned and fresh:
        shapes = {path: leaf.shape for path, leaf in tuned.items()}
        read = authors.read(
            config.model.tuned, shapes, mask=config.tuner.mask,
            entries={path: leaf for path, leaf in frozen.items() if path.endswith("_at")},
        )  # fmt: skip
        tuned = {path: jnp.asarray(array) for path, array in read.items()}
    console.print(log.parameter_table(listed))

    # -- placement: what the two classifiers share is placed once
    def settle(path: str, leaf: jax.Array) -> jax.Array:
        if path == "head/tokens":
            return mesh_lib.put(leaf, mesh_lib.batch_sharding(mesh))
        if stays_float32(path):
            return mesh_lib.put(leaf, mesh_lib.replicated(mesh))
        if bfloat16 and leaf.dtype == jnp.float32:
            return mesh_lib.put(
                leaf.astype(jnp.bfloat16), mesh_lib.frozen_sharding(mesh, path, leaf.shape)
            )
        return leaf

    if zero_shot is not None:
        placed = {path: settle(path, leaf) for path, leaf in zero_shot[1].items()}
        zero_shot = zero_shot[0], placed
        frozen = {p: placed[p] if p in placed else settle(p, leaf) for p, leaf in frozen.items()}
    else:
        frozen = {path: settle(path, leaf) for path, leaf in frozen.items()}

    # -- optimizer
    per_epoch = loader.steps_per_epoch(len(data.train), config.train.batch)
    rate = optim.schedule(config.train.lr, config.train.epochs, per_epoch)

    return Setup(
        mesh=mesh,
        data=data,
        vision=vision,
        graph=graph,
        tuned={
            path: mesh_lib.put(a, mesh_lib.tuned_sharding(mesh, path, a.shape))
            for path, a in tuned.items()
        },
        frozen=frozen,
        zero_shot=zero_shot,
        fingerprint=backbone.fingerprint + (kind == "text") * backbone.text_fingerprint,
        cache=cache,
        parameters=listed,
        steps_per_epoch=per_epoch,
        rate=rate,
        optimizer=optim.sgd(rate, config.train.momentum, config.train.weight_decay),
    )


def check(config: ConfigDict) -> tuple[str, ...]:
    """The tuners' names; raises UserError for a config that needs no data to be seen as wrong."""
    config_lib.validate(config)
    kind = config_lib.head_kind(config)
    if kind not in (*HEADS, "text"):
        raise unknown("head (head.kind)", kind, [*HEADS, "text", "auto"])
    losses.check(config.loss.name, config_lib.loss_options(config))
    tuners.Options.of(config.tuner)
    text_head.check(config)
    return tuners.parse_names(config.tuner.name, config_lib.JOINT)


def class_texts(
    config: ConfigDict, backbone: Backbone, texts: Sequence[Sequence[str]], console: Console
) -> jax.Array | None:
    """The text features of the classes, by the tokenizer that lies beside the weights.

    None, with a warning, where there is no tokenizer and head.init leaves the start open.
    """
    text = backbone.config.text
    assert text is not None
    try:
        tokenizer = load_tokenizer(config.model.backbone, text.context, text.vocab)
    except UserError as e:
        if config.head.init != "auto":
            raise
        console.print(
            f"Warning: {e} Without it there is no zero-shot classifier, and the head starts from "
            "the images of the classes instead of their names (head.init).",
            markup=False,
        )
        return None
    return init.class_texts(backbone, tokenizer, texts, console)


def uses_bfloat16(config: ConfigDict) -> bool:
    """Whether frozen weights are kept in bfloat16: `model.precision`, or else on accelerators."""
    precision = config.model.precision
    return precision == "bfloat16" or (precision == "auto" and jax.default_backend() != "cpu")


def stays_float32(path: str) -> bool:
    """Whether a frozen leaf does so beside bfloat16: of a head, as a tuned one would."""
    return path.startswith("head/") and not path.startswith("head/text/")


def head_of(config: ConfigDict, weight: jax.Array) -> Head:
    """The config's classifier with weights of its own, from f32[classes width]."""
    kind = config_lib.head_kind(config)
    return HEADS[kind](weight, **({"scale": config.head.scale} if kind == "cosine" else {}))


def start_head(
    config: ConfigDict,
    backbone: Backbone,
    classes: int,
    texts: jax.Array | None,
    train: Split | None,
    key: jax.Array,
    cache: Cache,
    console: Console,
) -> jax.Array:
    """The head's first weight f32[classes width], by head.init.

    `train` is None where the weight will be replaced, so that no image needs to be looked at. A
    class without images starts from its texts, without texts at random.
    """
    kind, c = config.head.init, config.head
    if kind == "auto":
        kind = "class_mean" if texts is None else "text"
        config_lib.check_shots(config, kind)
    if kind == "text" and texts is None:
        raise UserError(
            f"head.init is 'text', but {config.model.backbone} has no text tower. Give auto, "
            "class_mean, linear_probe or none."
        )
    sizes = classes, backbone.visual.width
    if kind == "none" and c.kind == "linear" and c.random == "kaiming_normal":
        return init.kaiming_head(*sizes, key)
    if kind == "none" or texts is None:
        weight = init.random_head(*sizes, key)
    else:
        proj = backbone.image_proj
        weight = init.text_head(texts, None if proj is None else proj[...])
    if kind in ("text", "none") or train is None:
        return weight
    most = f"at most {c.shots} image{'s' * (c.shots > 1)} a class" if c.shots else "all images"
    console.print(f"Head: starts from {kind} of {most}.")
    features = init.image_features(
        backbone.visual, train, shots=c.shots, seed=config.seed,
        interpolation=config.test.interpolation, cache=cache,
    )  # fmt: skip
    if kind == "class_mean":
        return init.class_mean_head(features, weight)
    return init.linear_probe_head(features, weight, console)


def zero_head(backbone: Backbone, texts: jax.Array) -> ZeroShotHead:
    """CLIP's own classifier from the texts of the classes."""
    proj, scale, bias = backbone.image_proj, backbone.logit_scale, backbone.logit_bias
    assert scale is not None
    return ZeroShotHead(
        None if proj is None else proj[...], texts, scale[...], None if bias is None else bias[...]
    )


def parameters(classifier: Classifier, tuned: Tree) -> list[log.Parameter]:
    """Path, shape and kind of every leaf but running statistics; a classifier's are of the kind
    head."""

    def kind(path: str) -> Literal["tuned", "head", "frozen"]:
        if path not in tuned:
            return "frozen"
        in_head = path.startswith("head/") and not isinstance(classifier.head, TextHead)
        return "head" if in_head else "tuned"

    _, leaves = tree.flatten(classifier)
    return [
        log.Parameter(path, leaf.shape, kind(path))
        for path, leaf in leaves.items()
        if isinstance(leaf, nnx.Param)
    ]


def some(names: list[str]) -> str:
    """The first ten names, and dots for the others."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
