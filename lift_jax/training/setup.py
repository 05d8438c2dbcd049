"""The setup of training from settings: data, backbone, head, tuners and optimizer.

`build` calls the steps in order; `training.start` holds each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import optax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from lift_jax.data.batches.order import steps_per_epoch
from lift_jax.data.names.meaning import meaning
from lift_jax.data.types import Dataset
from lift_jax.errors import UserError
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.evaluation.programs import Programs
from lift_jax.models.backbone import BackboneConfig, Classifier, Vision
from lift_jax.models.tree import Tree
from lift_jax.parallel import memory, processes
from lift_jax.parallel.mesh import check_batch, make_mesh
from lift_jax.settings.groups.mesh import MeshSettings
from lift_jax.settings.groups.test import TestSettings
from lift_jax.settings.groups.train import TrainSettings
from lift_jax.settings.schema import Settings
from lift_jax.training import optimizer as optimizers
from lift_jax.training import text_classifier
from lift_jax.training.classifier import assemble, check_names, fingerprint, make_head
from lift_jax.training.needs import needed_memory
from lift_jax.training.placement import Placement, chosen_precision, use_precision
from lift_jax.training.start.backbone import (
    FrozenClassifier,
    agree_on_weights,
    check_named,
    encode_class_texts,
    prepare_backbone,
    untuned_classifier,
    zero_shot_classifier,
)
from lift_jax.training.start.data import prepare_data
from lift_jax.training.start.head import HeadSource, start_head
from lift_jax.training.start.leaves import (
    drop_inapplicable,
    place_frozen,
    read_tuned,
    split_weights,
)
from lift_jax.training.start.remat import Remat, choose_remat, use_remat
from lift_jax.tuners.parameters import Parameter
from lift_jax.tuners.rules import PATH_RULES

MOST_STEPS = 2**31 - 1  # of a run: the training state counts them in 32 bits


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
        programs: programs of the tests.
        remat: what blocks compute again in the backward pass, and why.
        parameters: all parameters of the classifier.
        steps_per_epoch: number of batches in an epoch.
        rate: learning rate by step, counted from 0.
        optimizer: the optimizer at that rate.
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
    programs: Programs
    remat: Remat
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
    backbone = prepare_backbone(s.model, s.data, placement, console)
    for line in found.lines(backbone.config.text):
        console.print(line)
    agree_on_weights(backbone, s.model, found.texts)
    s, remat = fit(s, names, backbone.config, mesh.size)
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
    rate = optimizers.rate_of(s.train, steps)
    return Setup(
        mesh=mesh, data=data, vision=backbone.config.vision, graph=graph, remat=remat,
        tuned=placement.tuned(tuned), frozen=frozen, zero_shot=zero_shot, untuned=untuned,
        fingerprint=fingerprint(backbone, s.head), cache=cache, programs=Programs(), rate=rate,
        parameters=parameters, steps_per_epoch=steps, optimizer=optimizers.of_run(s, rate, tuned),
    )  # fmt: skip


def on_subset(setup: Setup, data: Dataset, train: TrainSettings) -> Setup:
    """Returns a setup that tunes all its tuned leaves on other training images.

    Raises UserError as `count_steps`.
    """
    steps = count_steps(len(data.train), train)
    rate = optimizers.rate_of(train, steps)
    optimizer = optimizers.make(train, rate)
    return replace(setup, data=data, steps_per_epoch=steps, rate=rate, optimizer=optimizer)


def fit(
    settings: Settings, names: Sequence[str], backbone: BackboneConfig, devices: int
) -> tuple[Settings, Remat]:
    """Returns settings in which train.remat is chosen, and the choice with its reason.

    Process 0 chooses for all processes, whose devices may differ a little in memory. Raises
    UserError for sizes that cannot fit.
    """
    remat = Remat(*processes.from_first(lambda: choose_remat(settings, names, backbone, devices)))
    settings = replace(settings, train=replace(settings.train, remat=remat.chosen))
    memory.check(needed_memory(settings, names, backbone, devices))
    return settings, remat


def count_steps(images: int, train: TrainSettings) -> int:
    """Returns the number of steps in an epoch.

    Raises UserError for a run too long to count, or not longer than its warm-up.
    """
    steps = steps_per_epoch(images, train.batch)
    if steps * train.epochs > MOST_STEPS:
        raise UserError(
            f"train.epochs={train.epochs} of {steps:,} steps are more than {MOST_STEPS:,} steps, "
            "which is as far as they are counted. Give fewer train.epochs or a larger train.batch."
        )
    if train.warmup >= steps * train.epochs:
        raise UserError(
            f"train.warmup is {train.warmup:,}, and training has {steps * train.epochs:,} steps "
            f"({train.epochs} epochs of {steps:,}): the full learning rate would never be reached. "
            "Give fewer steps of warm-up, or more train.epochs."
        )
    return steps


def prepare_mesh(mesh: MeshSettings, train: TrainSettings, test: TestSettings) -> Mesh:
    """Returns the mesh of devices. Raises UserError if they cannot share the batches evenly."""
    devices = make_mesh(mesh.data, mesh.model, mesh.strategy)
    check_batch(devices, "train.batch", train.batch, train.accum)
    check_batch(devices, "test.batch", test.batch)
    return devices
