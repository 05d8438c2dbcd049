"""The setup of training from settings: data, backbone, head, tuners and optimizer.

`build` calls the steps in order; each step is a function below it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from lift_jax.data import datasets, loader
from lift_jax.data.agreement import agree_on_data
from lift_jax.data.images import traits
from lift_jax.data.names.meaning import GIVE, Meaning, meaning
from lift_jax.data.types import Dataset, EncodedImages, Split
from lift_jax.errors import UserError
from lift_jax.evaluation import metrics
from lift_jax.evaluation.activations import Cache
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, Classifier, Tower, Vision
from lift_jax.models.heads import HEADS
from lift_jax.models.resnet import ResNet
from lift_jax.models.tree import Tree
from lift_jax.parallel import exchange, memory
from lift_jax.parallel.agreement import agree
from lift_jax.parallel.mesh import check_batch, make_mesh
from lift_jax.settings.rules import check_shots
from lift_jax.settings.schema import (
    DataSettings,
    HeadSettings,
    MeshSettings,
    ModelSettings,
    Settings,
    TestSettings,
    TrainSettings,
)
from lift_jax.storage import addresses
from lift_jax.training import head_init, text_classifier
from lift_jax.training.classifier import (
    Assembled,
    assemble,
    check_names,
    fingerprint,
    make_head,
    make_zero_shot_head,
)
from lift_jax.training.needs import needed_memory
from lift_jax.training.optimizer import schedule, sgd
from lift_jax.training.placement import Placement, chosen_precision, use_precision
from lift_jax.training.state import split_trainable
from lift_jax.training.texts import encode
from lift_jax.tuners.attach import applies
from lift_jax.tuners.parameters import Parameter, list_parameters, parameter_table
from lift_jax.tuners.rules import PATH_RULES
from lift_jax.weights import authors
from lift_jax.weights.load import load_backbone, load_tokenizer

MOST_STEPS = 2**31 - 1  # of a run: the training state counts them in 32 bits

FrozenClassifier = tuple[nnx.GraphDef[Classifier], Tree]


@dataclass(frozen=True)
class Setup:
    """Everything that exists before the first step.

    Attributes:
        mesh: the devices.
        data: the data set with its splits.
        vision: sizes of the image tower.
        graph: graph of the classifier that is tuned.
        tuned: initial tuned leaves in float32, placed on the mesh.
        frozen: frozen leaves in the precision of the settings, placed on the mesh.
        zero_shot: CLIP's zero-shot classifier, untuned; None without class texts.
        untuned: the backbone as it was loaded, embedding images as the tuned classifier does.
        fingerprint: fingerprint of those weights of the backbone that are used.
        cache: cache of activations.
        parameters: all parameters of the classifier.
        steps_per_epoch: number of batches in an epoch.
        rate: learning rate by step, counted from 0.
        optimizer: SGD at that rate.
    """

    mesh: Mesh
    data: Dataset
    vision: Vision
    graph: nnx.GraphDef[Classifier]
    tuned: Tree
    frozen: Tree
    zero_shot: FrozenClassifier | None
    untuned: FrozenClassifier
    fingerprint: str
    cache: Cache
    parameters: list[Parameter]
    steps_per_epoch: int
    rate: optax.Schedule
    optimizer: optax.GradientTransformation


def build(settings: Settings, console: Console, fresh: bool = True) -> Setup:
    """Loads data and backbone, makes head and tuners, and places the weights.

    With `fresh` False the tuned leaves will be replaced by restored ones, so the slow part of their
    initialisation is left out. Raises UserError for faults in settings, data or weights.
    """
    s = settings
    names = check_names(s)  # before anything slow
    mesh = prepare_mesh(s.mesh, s.train, s.test)
    data = prepare_data(s.data, s.test, s.seed, console)
    found = meaning(data, s.data.clean_names, s.head)
    check_named(found, s)

    placement = Placement(mesh, chosen_precision(s.model), any(n in PATH_RULES for n in names))
    backbone = prepare_backbone(s.model, placement, console)
    for line in found.lines(backbone.config.text):
        console.print(line)
    agree_on_weights(backbone, s.model, found.texts)
    memory.check(needed_memory(s, names, backbone.config, mesh.size))
    cache = Cache(
        s.data.features_gb, backbone.fingerprint, mesh, s.test.batch, s.data.workers, console
    )
    texts = encode_class_texts(s.model.backbone, s.head.init, backbone, found.texts, console)
    zero_shot = zero_shot_classifier(backbone, texts)
    use_remat(backbone.visual, s.train.remat)

    head_key, tuner_key = jax.random.split(jax.random.key(s.seed))
    if s.head.kind == "text":
        head, in_texts = text_classifier.make(
            backbone, s.model.backbone, found.names, prompt=s.head.prompt, coop=s.coop,
            clip_adapter=s.clip_adapter, tuner=s.tuner, text_tuner=s.text_tuner, key=head_key,
            devices=mesh.size,
        )  # fmt: skip
    else:
        images = data.train if fresh and not s.model.tuned else None
        view = s.test.interpolation
        source = HeadSource(backbone, s.model.backbone, texts, images, view, s.seed, cache)
        weight = start_head(s.head, source, len(data.class_names), head_key, console)
        head, in_texts = make_head(s.head, weight), None
    untuned = untuned_classifier(backbone, s.head.kind, zero_shot)
    names = drop_inapplicable(names, backbone.visual, s.model.backbone, console)
    use_precision(placement.precision, backbone.text)  # class texts were encoded in float32
    assembled = assemble(
        backbone.visual, head, names, s.tuner, len(data.class_names),
        rngs=nnx.Rngs(tuner_key), in_texts=in_texts,
    )  # fmt: skip
    graph, tuned, frozen, parameters = split_weights(assembled, console)
    if s.model.tuned and fresh:
        tuned = read_tuned(s.model.tuned, s.tuner.mask, tuned, frozen)

    zero_shot, untuned, frozen = place_frozen(placement, zero_shot, untuned, frozen)
    steps = count_steps(len(data.train), s.train)
    rate = schedule(s.train.lr, s.train.epochs, steps)
    return Setup(
        mesh=mesh, data=data, vision=backbone.config.vision, graph=graph,
        tuned=placement.tuned(tuned), frozen=frozen, zero_shot=zero_shot, untuned=untuned,
        fingerprint=fingerprint(backbone, s.head), cache=cache, parameters=parameters,
        steps_per_epoch=steps, rate=rate,
        optimizer=sgd(rate, s.train.momentum, s.train.weight_decay),
    )  # fmt: skip


def count_steps(images: int, train: TrainSettings) -> int:
    """Returns the number of steps in an epoch. Raises UserError for a run too long to count."""
    steps = loader.steps_per_epoch(images, train.batch)
    if steps * train.epochs > MOST_STEPS:
        raise UserError(
            f"train.epochs={train.epochs} of {steps:,} steps are more than {MOST_STEPS:,} steps, "
            "which is as far as they are counted. Give fewer train.epochs or a larger train.batch."
        )
    return steps


# -- devices


def prepare_mesh(mesh: MeshSettings, train: TrainSettings, test: TestSettings) -> Mesh:
    """Returns the mesh of devices. Raises UserError if they cannot share the batches evenly."""
    devices = make_mesh(mesh.data, mesh.model, mesh.strategy)
    check_batch(devices, "train.batch", train.batch, train.accum)
    check_batch(devices, "test.batch", test.batch)
    return devices


# -- data


def prepare_data(
    settings: DataSettings, test: TestSettings, seed: int, console: Console
) -> Dataset:
    """Loads and checks a data set, and prints its sizes and notes.

    Raises UserError for faults in its settings or files, and if it differs between processes.
    """
    data = datasets.load(settings, seed)
    agree_on_data(data)
    check_validation(data, test, settings.name)
    check_readable(data)
    print_data(data, console)
    return data


def check_validation(data: Dataset, test: TestSettings, name: str) -> None:
    """Raises UserError if test.adjust or test.split needs a validation split that is not there.

    `name` is data.name, for the message.
    """
    if data.val:
        return
    use = "test.split=val tests on the validation split" * (test.split == "val")
    if test.adjust:
        use = "test.adjust chooses its strength on a validation split, never on the test split"
    if use:
        raise UserError(
            f"{use}, and data.name={name!r} has none here. Give one: a folder val/ beside train/ "
            "and test/ (folder), data.val_list (list, table, inaturalist), or data.val_share=0.1, "
            "which holds that share of the training images out."
        )


def check_readable(data: Dataset) -> None:
    """Raises UserError for a split that skips unreadable images and has no other ones."""
    for name, split in (("training", data.train), ("validation", data.val), ("test", data.test)):
        if split is None or not split.skip:
            continue
        error = None
        for i in range(len(split)):
            try:
                np.asarray(split.images[i])
                break  # usually the first image
            except UserError as e:
                error = error or e
        else:
            raise UserError(f"None of the {len(split):,} {name} images can be read. {error}")


def print_data(data: Dataset, console: Console) -> None:
    """Prints sizes and notes of a data set, and a warning for classes without training images."""
    sizes = {k: int(v.sum()) for k, v in metrics.groups(data.group_counts).items()}
    console.print(
        f"Data: {len(data.train.labels):,} training and {len(data.test.labels):,} test images of "
        f"{len(data.class_names):,} classes ({sizes['many']} many, {sizes['medium']} medium, "
        f"{sizes['few']} few shot; {data.counts.max():,} to {data.counts.min():,} images a class)"
    )
    for note in data.notes:
        console.print(note)
    images = data.train.images
    if isinstance(images, EncodedImages) and not addresses.is_remote(images.name(0)):
        if note := traits.orientation_note(images):
            console.print(note)
    if not data.counts.all():
        empty = [data.class_names[i] for i in np.flatnonzero(data.counts == 0)]
        console.print(
            f"Warning: classes without a training image ({len(empty)} of "
            f"{len(data.class_names)}), which count as the smallest in the loss: {shorten(empty)}",
        )


def shorten(names: Sequence[str]) -> str:
    """Returns the first ten names, followed by dots if there are more."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


# -- backbone


def prepare_backbone(model: ModelSettings, placement: Placement, console: Console) -> Backbone:
    """Loads the backbone and places its image tower, in its precision; prints notes of loading."""
    backbone = load_backbone(
        model.backbone, place=placement.loaded, **model.loading,
        tell=lambda note: console.print(f"Backbone: {note}"),
    )  # fmt: skip
    use_precision(placement.precision, backbone.visual)
    return backbone


def agree_on_weights(
    backbone: Backbone, model: ModelSettings, prompts: Sequence[Sequence[str]]
) -> None:
    """Raises UserError in all processes unless all have the same backbone and texts of the classes.

    `prompts` holds the texts of each class. `read_tuned` compares given tuned weights.
    """
    if exchange.count() == 1:
        return
    held = {
        "the weights of the image side (model.backbone)": backbone.fingerprint,
        "the weights of the text side (model.backbone)": backbone.text_fingerprint,
        "the start (model.tuned)": "given weights" if model.tuned else "new weights",
        "the texts of the classes": json.dumps(prompts, ensure_ascii=False),
    }
    if text := backbone.config.text:
        try:
            tokenizer = load_tokenizer(model.backbone, text.context, text.vocab)
            tokens = _digest(tokenizer([t for own in prompts for t in own]).tobytes())
        except UserError:  # the head starts otherwise then (head.init)
            tokens = "no tokenizer"
        held["the tokens of these texts"] = tokens
    agree(held)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def use_remat(visual: Tower, remat: str) -> None:
    """Sets what the blocks compute again in the backward pass (train.remat).

    Raises UserError for a ResNet, unless `remat` is none.
    """
    if remat == "none":
        return
    if isinstance(visual, ResNet):
        raise UserError("train.remat is for transformer blocks: leave it at 'none' for a ResNet.")
    visual.remat = remat


# -- class texts and CLIP's own classifier


def check_named(found: Meaning, s: Settings) -> None:
    """Raises UserError if the head is made of names, or is to start from them, and there are none.

    `found` is the meaning of the class names.
    """
    if not found.no_names or "text" not in (s.head.kind, s.head.init):
        return
    asked = "head.init is 'text'"
    if s.head.kind == "text":
        tuners = f"tuner.name={s.tuner.name!r}, text_tuner.name={s.text_tuner.name!r}"
        asked = f"head.kind is 'text' ({tuners})"
    raise UserError(
        f"{asked}, which needs the names of the classes, but {found.no_names}. {GIVE}, or start "
        "from images: a tuner of the image tower, with head.init=auto."
    )


def encode_class_texts(
    name: str,
    init: str,
    backbone: Backbone,
    prompts: Sequence[Sequence[str]],
    console: Console,
) -> jax.Array | None:
    """Returns the text features of the classes, f32[classes embed].

    Args:
        name: name of the backbone, beside whose weights the tokenizer lies.
        init: start of the head (head.init).
        backbone: the backbone, whose text tower encodes the texts.
        prompts: texts of each class.
        console: for messages and a progress bar.

    Returns None without a text tower or without texts. Without a tokenizer it prints a warning and
    returns None if `init` is auto, and otherwise raises UserError.
    """
    text = backbone.config.text
    if text is None or not prompts:
        return None
    try:
        tokenizer = load_tokenizer(name, text.context, text.vocab)
    except UserError as e:
        if init != "auto":
            raise
        console.print(
            f"Warning: {e} Without it there is no zero-shot classifier, and the head starts from "
            "the images of the classes instead of their names (head.init).",
        )
        return None
    return encode.class_texts(backbone, tokenizer, prompts, console)


def zero_shot_classifier(backbone: Backbone, texts: jax.Array | None) -> FrozenClassifier | None:
    """Returns CLIP's zero-shot classifier; None without class texts.

    Call it before tuners are attached to the image tower.
    """
    if texts is None:
        return None
    model = Classifier(backbone.visual, make_zero_shot_head(backbone, texts))
    graph, leaves = tree.flatten(model)
    return graph, {path: leaf[...] for path, leaf in leaves.items()}


def untuned_classifier(
    backbone: Backbone, kind: str, zero_shot: FrozenClassifier | None
) -> FrozenClassifier:
    """Returns a classifier whose embedding is that of a head of `kind`, before tuning.

    For a head of texts that is CLIP's own, for others one with a single class, of zeros. Call it
    before tuners are attached to the image tower.
    """
    if kind == "text" and zero_shot is not None:
        return zero_shot
    head = HEADS[kind](jnp.zeros((1, backbone.visual.width)))
    graph, leaves = tree.flatten(Classifier(backbone.visual, head))
    return graph, {path: leaf[...] for path, leaf in leaves.items()}


# -- head


@dataclass(frozen=True)
class HeadSource:
    """Everything from which a head can start.

    Attributes:
        backbone: the untuned backbone.
        name: name of the backbone, for messages.
        texts: text features of the classes, f32[classes embed], or None.
        train: training images; None if the start will be replaced, so that no image is read.
        interpolation: interpolation with which the images are resized.
        seed: seed of the choice of images.
        cache: cache of activations.
    """

    backbone: Backbone
    name: str
    texts: jax.Array | None
    train: Split | None
    interpolation: str
    seed: int
    cache: Cache


def start_head(
    head: HeadSettings, source: HeadSource, classes: int, key: jax.Array, console: Console
) -> jax.Array:
    """Returns the head's initial weight, f32[classes width], by head.init (LIFT section 4.2).

    A class without images starts from its texts, or at random if there are no texts. Raises
    UserError if head.init is text without a text tower, or if head.shots is set but the head starts
    from texts.
    """
    kind = head.init
    if kind == "auto":
        kind = "class_mean" if source.texts is None else "text"
        check_shots(head, kind)
    if kind == "text" and source.texts is None:
        raise UserError(
            f"head.init is 'text', but {source.name} has no text tower. Give auto, class_mean, "
            "linear_probe or none."
        )
    sizes = classes, source.backbone.visual.width
    if kind == "none" and head.kind == "linear" and head.random == "kaiming_normal":
        return head_init.kaiming_head(*sizes, key)
    if kind == "none" or source.texts is None:
        weight = head_init.unit_row_head(*sizes, key)
    else:
        proj = source.backbone.image_proj
        weight = head_init.head_from_texts(source.texts, None if proj is None else proj[...])
    if kind in ("text", "none") or source.train is None:
        return weight
    images = f"{head.shots} image{'s' * (head.shots > 1)} a class"
    most = f"at most {images}" if head.shots else "all images"
    console.print(f"Head: starts from {kind} of {most}.")
    features = head_init.image_features(
        source.backbone.visual, source.train, shots=head.shots, seed=source.seed,
        interpolation=source.interpolation, cache=source.cache,
    )  # fmt: skip
    if kind == "class_mean":
        return head_init.head_from_class_means(features, weight)
    return head_init.head_from_linear_probe(features, weight, console)


# -- tuners


def drop_inapplicable(
    names: Sequence[str], visual: Tower, backbone: str, console: Console
) -> tuple[str, ...]:
    """Returns the tuners that apply to this kind of tower; prints a warning about the others.

    `backbone` is the name for the warning.
    """
    dropped = [name for name in names if not applies(name, visual)]
    if not dropped:
        return tuple(names)
    kinds = "transformer blocks", "a ResNet"
    has, needs = kinds[::-1] if isinstance(visual, ResNet) else kinds
    kept = tuple(name for name in names if name not in dropped)
    console.print(
        f"Warning: {' and '.join(dropped)} belongs into {needs}, and {backbone} is {has}: "
        f"{' and '.join(kept) or 'its classifier'} alone is tuned.",
    )
    return kept


def split_weights(
    assembled: Assembled, console: Console
) -> tuple[nnx.GraphDef[Classifier], Tree, Tree, list[Parameter]]:
    """Returns graph, tuned leaves, frozen leaves and parameters; prints the table of parameters.

    Raises UserError if nothing would be trained.
    """
    graph, tuned, frozen = split_trainable(assembled.model, assembled.is_trainable)
    if not tuned:
        raise UserError("Nothing would be trained: give another tuner.name, or head.kind=cosine.")
    parameters = list_parameters(assembled.model, tuned)
    console.print(parameter_table(parameters))
    return graph, tuned, frozen, parameters


def read_tuned(file: str, mask: str, tuned: Tree, frozen: Tree) -> Tree:
    """Returns the tuned leaves in a file: a checkpoint of the authors' code, or an export.

    Args:
        file: path of the file (model.tuned).
        mask: how aft chose its entries (tuner.mask).
        tuned: leaves whose shapes the file must have.
        frozen: frozen leaves, among them the positions of aft's entries.

    Raises UserError if the file does not fit.
    """
    shapes = {path: leaf.shape for path, leaf in tuned.items()}
    entries = {path: leaf for path, leaf in frozen.items() if path.endswith("_at")}
    read = authors.read(file, shapes, mask=mask, entries=entries)
    agree({f"the weights of {p} (model.tuned)": _digest(a.tobytes()) for p, a in read.items()})
    return {path: jnp.asarray(array) for path, array in read.items()}


def place_frozen(
    placement: Placement,
    zero_shot: FrozenClassifier | None,
    untuned: FrozenClassifier,
    frozen: Tree,
) -> tuple[FrozenClassifier | None, FrozenClassifier, Tree]:
    """Places the frozen leaves of the zero-shot, the untuned and the tuned classifier.

    Leaves that several have are placed once and shared.
    """
    whole: Tree = {}
    for leaves in (zero_shot[1] if zero_shot else {}, frozen, untuned[1]):
        whole |= placement.frozen({p: a for p, a in leaves.items() if p not in whole})
    if zero_shot is not None:
        zero_shot = zero_shot[0], {path: whole[path] for path in zero_shot[1]}
    untuned = untuned[0], {path: whole[path] for path in untuned[1]}
    return zero_shot, untuned, {path: whole[path] for path in frozen}
