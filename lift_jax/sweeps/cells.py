"""The sweeps: tables and figures of the papers, each a list of runs, as in `--sweep=losses`.

    lift-jax train --config=inat --sweep=losses --workdir=runs/inat_losses

A sweep is a function from a finished config and its origin to its cells: {name: {dotted key:
value}}. Values of a cell win over the command line; all other settings are the config's, so
--config.train.epochs=3 shortens every run but those of a sweep over epochs.

Learning rates are those of the papers: of LIFT for a config of `method=lift`, otherwise of LIFT+.
RATES are this package's choice, around the papers' rates.
"""

import itertools
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from lift_jax.data.images.crops import SCHEDULES
from lift_jax.data.images.views import CROPS
from lift_jax.data.sources.inaturalist import LEVELS
from lift_jax.errors import UserError, unknown
from lift_jax.evaluation.evaluator import margin
from lift_jax.models.heads import HEADS
from lift_jax.settings.methods import (
    EXPAND_OF_PATCH_14,
    LIFT,
    LIFT_PLUS,
)
from lift_jax.settings.rules import TEXT_FEATURE_TUNERS
from lift_jax.sweeps.changes import (
    Origin,
    alone,
    is_resnet,
    named,
    of_method,
    with_loss,
    with_method,
    with_tuner,
)
from lift_jax.training.losses import LOSSES
from lift_jax.tuners.attach import TUNERS
from lift_jax.tuners.rules import FOR_RESNETS, PATH_RULES
from lift_jax.weights.names.known import PIXELS, depth_of, resolution_of

Cells = dict[str, dict[str, Any]]
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
ADAPTERS_RATE = 3e-4  # of LT-Soups with adapters
PAPERS_EPOCHS = (5, 10, 15, 20, 25, 30)
PAPERS_EPOCHS_OF_INAT = (5, 10, 15, 20, 30, 40, 50)
CROSS = "_lr_"  # between the two parts of a cell's name in a sweep of CROSSED


def main(c: ConfigDict, origin: Origin) -> Cells:
    """Compares both methods with the classifier alone and with full fine-tuning."""
    return {
        "classifier_only": alone("none", c, origin),
        "full": alone("full", c, origin),
        LIFT: with_method("lift", c, origin),
        LIFT_PLUS: with_method("lift_plus", c, origin),
    }


def soups(c: ConfigDict, origin: Origin) -> Cells:
    """Compares LT-Soups, in full and with adapters, with the others: classifier, full, LIFT+.

    Adapters have the second learning rate of the authors' script, which does not use it.
    """
    stages = with_method("lt_soups", c, origin)
    light = of_method("lift_plus", c, origin).tuner.name
    adapters = light if c.tuner.name in ("full", "none") else c.tuner.name
    return {
        "classifier_only": alone("none", c, origin),
        "full": alone("full", c, origin),
        LIFT_PLUS: with_method("lift_plus", c, origin),
        "lt_soups": stages | named("full"),
        f"lt_soups_{adapters}": stages | named(adapters) | {"train.lr": ADAPTERS_RATE},
    }


def ablation(c: ConfigDict, origin: Origin) -> Cells:
    """Compares each part alone and with the others: tuner, start of the classifier, loss."""
    parts = {
        "tuner": (named("none"), {"tuner.name": c.tuner.name}),
        "start": ({"head.init": "none"}, {"head.init": c.head.init}),
        "loss": (with_loss("ce"), with_loss(c.loss.name)),
    }
    cells = {}
    for chosen in itertools.product((False, True), repeat=len(parts)):
        name = "+".join(part for part, on in zip(parts, chosen, strict=True) if on)
        cells[name or "nothing"] = {
            key: value
            for options, on in zip(parts.values(), chosen, strict=True)
            for key, value in options[on].items()
        }
    return cells


def tuners(c: ConfigDict, origin: Origin) -> Cells:
    """Compares the tuners, each at its automatic size or the config's."""
    known = ["none", *TUNERS, *PATH_RULES]
    if is_resnet(c.model.backbone):
        known = [name for name in known if name in ("none", *FOR_RESNETS)]
    else:
        known.remove("bn")
    texts = not c.model.backbone.startswith(("vit_", "resnet", "dinov"))
    if texts and not c.soups.models:  # LT-Soups needs a classifier
        known += TEXT_FEATURE_TUNERS
    return {name: with_tuner(name, c, origin) for name in known}


def consistency(c: ConfigDict, origin: Origin) -> Cells:
    """Compares what light and heavy tuning do to rare classes (LIFT, section 3)."""
    return {
        "classifier_only": alone("none", c, origin),
        c.label: {},
        "full": alone("full", c, origin),
    }


def dims(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the width of the bottleneck."""
    return {str(2**k): {"tuner.dim": 2**k} for k in range(9)}


def scale(c: ConfigDict, origin: Origin) -> Cells:
    """Compares numbers as AdaptFormer's scale with a learned one."""
    values = ("learned", "0.01", "0.05", "0.1", "0.5", "1", "2")
    return {value: named("adaptformer") | {"tuner.scale": value} for value in values}


def ratio(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the share of the blocks' weights that is tuned, drawn at random, up to all."""
    shares = (0.0001, 0.001, 0.005, 0.01, 0.1, 0.5)
    random = {str(s): with_tuner("aft", c, origin) | {"tuner.ratio": s} for s in shares}
    return random | {"1": with_tuner("full", c, origin)}


def partial(c: ConfigDict, origin: Origin) -> Cells:
    """Varies how many of the last blocks are tuned."""
    depth = depth_of(c.model.backbone)
    step = max(1, depth // 12)
    return {str(k): {"tuner.partial": k} for k in range(step, depth + 1, step)}


def lr(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the learning rate."""
    return {str(rate): {"train.lr": rate} for rate in RATES}


def partial_lr(c: ConfigDict, origin: Origin) -> Cells:
    """Crosses how many of the last blocks are tuned in full with the learning rate.

    For a backbone twice as deep as ViT-B the numbers are twice as large. For a shallower one, the
    depth takes the place of numbers above it.
    """
    depth = depth_of(c.model.backbone)
    step = max(1, depth // 12)
    numbers = sorted({min(k * step, depth) for k in (0, 1, 2, 3, 6, 9)} | {depth})
    full = {str(k): named("full") | {"tuner.partial": k} for k in numbers if k}
    return with_rates({"0": named("none")} | full)


def share_lr(c: ConfigDict, origin: Origin) -> Cells:
    """Crosses the share of the blocks' weights that is tuned, drawn at random, with the rate."""
    shares = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    random = {str(s): named("aft") | {"tuner.ratio": s} for s in shares}
    return with_rates(random | {"1": named("full")})


def with_rates(values: Cells) -> Cells:
    """Returns each cell with each learning rate."""
    return {
        f"{name}{CROSS}{rate}": changes | {"train.lr": rate}
        for name, changes in values.items()
        for rate in RATES
    }


def epochs(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the length of training: LIFT+ keeps learning rate x epochs, LIFT the learning rate."""
    papers = origin.name in ("cifar100", "imagenet_lt", "places_lt", "inat")
    longer = () if papers else (1, 2, 4)
    chosen = {max(1, round(c.train.epochs * share)) for share in (0.2, 0.4, 0.6, 0.8, *longer)}
    if papers:
        chosen |= set(PAPERS_EPOCHS_OF_INAT if origin.name == "inat" else PAPERS_EPOCHS)
    return {
        str(n): {"train.epochs": n}
        | ({} if c.label == LIFT else {"train.lr": c.train.lr * c.train.epochs / n})
        for n in sorted(chosen)
    }


def mda(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the crops for training: how the smallest one grows, random resized crops, and none."""
    others = {kind: {"train.augment": kind} for kind in ("rrc", "none")}
    return {s: {"train.augment": "mda", "train.mda": s} for s in SCHEDULES} | others


def losses(c: ConfigDict, origin: Origin) -> Cells:
    """Compares the losses."""
    return {name: with_loss(name) for name in LOSSES}


def heads(c: ConfigDict, origin: Origin) -> Cells:
    """Compares the kinds of classifier."""
    return {
        kind: {"head.kind": kind} | ({} if kind == "cosine" else {"head.scale": 25.0})
        for kind in HEADS
    }


def scales(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the scale of the cosine classifier."""
    return {str(s): {"head.kind": "cosine", "head.scale": float(s)} for s in range(15, 36, 5)}


def inits(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the start of the classifier: random, images (some or all of a class) or texts."""
    means = {"1_shot": 1, "10_shot": 10, "100_shot": 100, "class_mean": 0}
    return {
        "none": {"head.init": "none"},
        **{n: {"head.init": "class_mean", "head.shots": shots} for n, shots in means.items()},
        "linear_probe": {"head.init": "linear_probe"},
        "text": {"head.init": "text"},
    }


def prompts(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the prompts, also for zero-shot; phrases if the config has some."""
    texts = {
        "classname": "classname", "photo": "a photo of a {}.",
        "good_photo": "a good photo of a {}.", "picture": "a picture of a {}.",
        "ensemble": "ensemble",
    }  # fmt: skip
    cells = {name: {"head.prompt": text, "head.descriptors": ""} for name, text in texts.items()}
    return cells | ({"descriptor": {"head.prompt": "descriptor"}} if c.head.descriptors else {})


def backbones(c: ConfigDict, origin: Origin) -> Cells:
    """Compares pre-trained models; the classifier starts from texts where there is a text tower."""
    names = (
        "clip_rn50", "clip_rn101", "clip_vit_b32", "clip_vit_b16", "clip_vit_l14",
        "clip_vit_l14_336", "siglip2_b16", "vit_b16_in21k", "vit_b16_in21k_ft_in1k", "resnet50",
        "dinov2_b14",
    )  # fmt: skip
    cells = {name: {"model.backbone": name, "model.resolution": 0} for name in names}
    for name in cells:
        if is_resnet(name):
            cells[name] |= named("ssf")
        if name.startswith("clip_vit_l14") and c.label == LIFT:
            cells[name]["test.expand"] = EXPAND_OF_PATCH_14
    return cells


def levels(c: ConfigDict, origin: Origin) -> Cells:
    """Tests zero-shot at every level of the taxonomy, by the names of the classes there.

    Raises UserError for data without a taxonomy.
    """
    if c.data.name != "inaturalist":
        raise UserError(
            f"data.name is {c.data.name!r}, which has no taxonomy: --sweep=levels is for "
            "'inaturalist', as in configs/inat.py."
        )
    return {
        level: {"data.level": level} | ({} if level == c.data.level else {"data.expected": ""})
        for level in LEVELS
    }


def tte(c: ConfigDict, origin: Origin) -> Cells:
    """Compares the crops of test-time ensembling; one training for all."""
    cells = {crops: {"test.crops": crops, "test.views": 10} for crops in CROPS}
    del cells["random"]
    views = {f"random_{n}": {"test.crops": "random", "test.views": n} for n in (1, 5, 10, 15, 20)}
    return {name: {"test.tte": True} | changes for name, changes in (cells | views).items()}


def expand(c: ConfigDict, origin: Origin) -> Cells:
    """Varies the margin around the crops of TTE; one training for all."""
    resolution = c.model.resolution or resolution_of(c.model.backbone) or PIXELS
    own = margin(c.test.expand, resolution)
    chosen = [own * k // 6 for k in range(13)]  # 0, 4, ..., 48 for 224 pixels
    return {
        str(size): {"test.tte": True, "test.expand": size}
        for size in chosen
        if margin(size, resolution) == size  # the default stands for a smaller one below 224
    }


SWEEPS: dict[str, Callable[[ConfigDict, Origin], Cells]] = {
    "main": main, "soups": soups, "ablation": ablation, "tuners": tuners,
    "consistency": consistency, "dims": dims, "scale": scale, "ratio": ratio, "partial": partial,
    "lr": lr,
    "partial_lr": partial_lr, "share_lr": share_lr, "epochs": epochs, "mda": mda,
    "losses": losses, "heads": heads, "scales": scales, "inits": inits, "prompts": prompts,
    "backbones": backbones, "tte": tte, "expand": expand, "levels": levels,
}  # fmt: skip
ZERO_SHOT = ("levels",)  # sweeps whose cells are not trained
OF_FEATURES = ("consistency",)  # sweeps that compare the features of their runs as well
# Sweeps that cross values with learning rates, which are drawn as heat maps, and what varies.
CROSSED = {"partial_lr": "last blocks tuned", "share_lr": "share of weights tuned"}


def cells(name: str, c: ConfigDict, origin: Origin) -> Cells:
    """Returns the cells of a sweep over a config. Raises UserError for an unknown sweep."""
    if name not in SWEEPS:
        raise unknown("sweep (--sweep)", name, SWEEPS)
    return SWEEPS[name](c, origin)
