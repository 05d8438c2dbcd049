"""The config's argument, the methods' presets, the debug patch, and every cross-field rule."""

from dataclasses import dataclass

from ml_collections import ConfigDict

from lift_jax import prompts
from lift_jax.errors import UserError, unknown

# What LIFT and LIFT+ differ in (LIFT section 5.1, LIFT+ section 5.1).
METHODS = {
    "lift_plus": {
        "label": "LIFT+",
        "train": {
            "epochs": 5, "lr": 0.02, "augment": "mda", "interpolation": "bicubic", "flip": False,
        },
        "test": {"interpolation": "bicubic"},
        "tuner": {
            "init": "kaiming_uniform", "parts": "attn+mlp", "prompts": 0, "place": "start",
            "mask": "each", "budget": "joint",
        },
        "head": {"shots": 100, "random": "uniform"},
    },
    "lift": {
        "label": "LIFT",
        "train": {
            "epochs": 10, "lr": 0.01, "augment": "rrc", "interpolation": "bilinear", "flip": True,
        },
        "test": {"interpolation": "bilinear"},
        "tuner": {
            "init": "kaiming_normal", "parts": "attn+mlp+ln", "prompts": 10, "place": "end",
            "mask": "joint", "budget": "each",
        },
        "head": {"shots": 0, "random": "kaiming_normal"},
    },
}  # fmt: skip
KEYS = ("backbone", "debug", "method", "tuner")

# The options in the group `loss`: whose each is, and its default.
LOSS_OPTIONS = {
    "tau": ("la", 1.0), "gamma": ("focal", 2.0), "max_margin": ("ldam", 0.5),
    "scale": ("ldam", 0.0), "beta": ("cb", 0.9999), "exponent": ("grw", 1.0),
    "weight": ("lade", 0.1),
}  # fmt: skip

# Options of one tuner alone: whose each is, and its default; those of the text tower's tuner.
TUNER_OPTIONS = {
    "tuner.ratio": ("aft", 0.0), "tuner.seed": ("aft", 0), "coop.init": ("coop", "random"),
    "coop.tokens": ("coop", 4), "coop.place": ("coop", "end"),
    "clip_adapter.dim": ("clip_adapter", 4),
}  # fmt: skip

TEXT_TUNER_OPTIONS = {
    "dim": 4, "partial": 0, "layers": "", "parts": "attn+mlp", "ratio": 0.0, "seed": 0,
    "prompts": 2,
}  # fmt: skip

# Tuners of what texts give, which need CLIP's own classifier (head.kind text).
JOINT = ("coop", "clip_adapter", "proj")


@dataclass(frozen=True)
class Argument:
    """What stands behind the colon of `--config=configs/x.py:...`; empty strings if not given."""

    debug: bool = False
    method: str = "lift_plus"
    backbone: str = ""
    tuner: str = ""


def parse_argument(argument: str | None) -> Argument:
    """Parses `debug`, `method=lift`, `backbone=NAME_OR_PATH`, `tuner=NAME`, comma separated.

    Raises UserError for an unknown or repeated key, a missing value, or an unknown method.
    """
    values: dict[str, str] = {}
    for part in filter(None, (argument or "").split(",")):
        key, equals, value = (s.strip() for s in part.partition("="))
        if key not in KEYS:
            raise unknown("key in the config's argument", key, KEYS)
        if key in values:
            raise UserError(f"The config's argument gives {key!r} twice: {argument!r}.")
        if key == "debug":
            if value not in ("", "true", "false"):
                raise UserError(f"The config's argument has debug={value!r}; write debug alone.")
        elif not value:
            raise UserError(f"The config's argument has no value for {key!r}; write {key}=VALUE.")
        values[key] = value
    if values.get("method", "lift") not in METHODS:
        raise unknown("method in the config's argument", values["method"], METHODS)
    debug = "debug" in values and values.pop("debug") != "false"
    return Argument(debug=debug, **values)


def finish(config: ConfigDict, argument: str | None) -> ConfigDict:
    """Applies debug patch, backbone and tuner of the argument; the last call of a `get_config`."""
    parsed = parse_argument(argument)
    if parsed.debug:
        debug(config)
    if parsed.backbone:
        config.model.backbone = parsed.backbone
    if parsed.tuner:
        config.tuner.name = parsed.tuner
    if parsed.method == "lift" and parsed.backbone.startswith("clip_vit_l14"):
        config.test.expand = 21  # LIFT's, a multiple of 7 for patches of 14 pixels
    return config


def debug(config: ConfigDict) -> None:
    """Makes any config a run of two steps on made-up images and random weights, offline."""
    config.data.name = "fake"
    config.data.imbalance = 1.0
    config.data.val_share = 0.0
    config.data.expected = ""
    config.data.workers = 0
    config.model.backbone = "debug"
    config.model.resolution = 0
    config.train.epochs = 1
    config.train.batch = 32
    config.train.accum = 1
    config.test.batch = 16
    config.test.expand = 4
    config.checkpoint.every_steps = 1


def validate(config: ConfigDict) -> None:
    """Raises UserError for values that are out of range or do not go together."""
    c = config
    at_least = {
        "seed": (c.seed, 0),
        "data.workers": (c.data.workers, -1),
        "data.features_gb": (c.data.features_gb, 0),
        "model.resolution": (c.model.resolution, 0),
        "tuner.dim": (c.tuner.dim, 0),
        "tuner.partial": (c.tuner.partial, 0),
        "tuner.prompts": (c.tuner.prompts, 0),
        "tuner.seed": (c.tuner.seed, 0),
        "text_tuner.dim": (c.text_tuner.dim, 0),
        "text_tuner.partial": (c.text_tuner.partial, 0),
        "text_tuner.prompts": (c.text_tuner.prompts, 0),
        "text_tuner.seed": (c.text_tuner.seed, 0),
        "coop.tokens": (c.coop.tokens, 1),
        "clip_adapter.dim": (c.clip_adapter.dim, 1),
        "head.shots": (c.head.shots, 0),
        "train.epochs": (c.train.epochs, 1),
        "train.batch": (c.train.batch, 1),
        "train.accum": (c.train.accum, 1),
        "test.batch": (c.test.batch, 1),
        "test.expand": (c.test.expand, 0),
        "test.views": (c.test.views, 1),
        "checkpoint.every_steps": (c.checkpoint.every_steps, 1),
        "checkpoint.every_minutes": (c.checkpoint.every_minutes, 0),
        "checkpoint.keep": (c.checkpoint.keep, 1),
        "mesh.data": (c.mesh.data, 0),
        "mesh.model": (c.mesh.model, 0),
    }
    for key, (value, least) in at_least.items():
        if value < least:
            raise UserError(f"{key} is {value}; it must be at least {least}.")
    for key, value in {"train.lr": c.train.lr, "head.scale": c.head.scale}.items():
        if not 0 < value < float("inf"):
            raise UserError(f"{key} is {value}; it must be positive.")
    if not 0 <= c.train.weight_decay < float("inf"):
        raise UserError(f"train.weight_decay is {c.train.weight_decay}; it must not be negative.")
    if not 0 <= c.train.momentum < 1:
        raise UserError(f"train.momentum is {c.train.momentum}; it must be in [0, 1).")
    if not 0 < c.train.min_area <= 1:
        raise UserError(f"train.min_area is {c.train.min_area}; it must be in (0, 1].")
    if c.train.batch % c.train.accum:
        raise UserError(
            f"train.batch {c.train.batch} is not a multiple of train.accum {c.train.accum}."
        )
    prompts.check(c.head.prompt, c.head.descriptors)  # zero-shot needs it, whatever head.init is
    check_shots(c, "text" if head_kind(c) == "text" else c.head.init)
    if head_kind(c) != "cosine" and c.head.scale != 25.0:
        raise UserError(
            f"head.scale is {c.head.scale}, but head.kind is {head_kind(c)!r}: scale belongs to "
            "'cosine'. The scale of ldam's margins is loss.scale."
        )
    for option, (loss, default) in LOSS_OPTIONS.items():
        if c.loss.name != loss and c.loss[option] != default:
            raise UserError(
                f"loss.{option} is {c.loss[option]}, but loss.name is {c.loss.name!r}: {option} "
                f"belongs to {loss!r}."
            )
    names = [name.strip() for name in c.tuner.name.split("+")]
    for key, (tuner, default) in TUNER_OPTIONS.items():
        group, option = key.split(".")
        if tuner not in names and c[group][option] != default:
            raise UserError(
                f"{key} is {c[group][option]}, but tuner.name is {c.tuner.name!r}: it belongs to "
                f"{tuner!r}."
            )
    for option, default in TEXT_TUNER_OPTIONS.items():
        if c.text_tuner.name == "none" and c.text_tuner[option] != default:
            raise UserError(
                f"text_tuner.{option} is {c.text_tuner[option]!r}, but text_tuner.name is 'none': "
                "give a tuner, for the text tower has none."
            )
    for group in ("tuner", "text_tuner"):
        if c[group].partial and c[group].layers:
            raise UserError(
                f"{group}.partial is {c[group].partial} and {group}.layers {c[group].layers!r}: "
                "both choose the blocks. Give one."
            )
    if c.test.crops != "random" and c.test.views != 10:
        raise UserError(
            f"test.views is {c.test.views}, but test.crops is {c.test.crops!r}: views are counted "
            "of 'random' ones."
        )
    validate_texts(c)
    choices = {
        "mesh.strategy": (c.mesh.strategy, ("replicate", "fsdp")),
        "train.remat": (c.train.remat, ("none", "dots", "blocks")),
        "model.precision": (c.model.precision, ("auto", "float32", "bfloat16")),
        "head.init": (c.head.init, ("auto", "text", "class_mean", "linear_probe", "none")),
        "head.random": (c.head.random, ("uniform", "kaiming_normal")),
        "coop.init": (c.coop.init, ("random", "photo")),
        "coop.place": (c.coop.place, ("front", "middle", "end")),
        "test.crops": (c.test.crops, ("five", "ten", "random")),
    }
    for key, (value, known) in choices.items():
        if value not in known:
            raise unknown(key, value, known)
    if c.mesh.strategy == "replicate" and c.mesh.model > 1:
        raise UserError(
            f"mesh.model is {c.mesh.model}, but mesh.strategy is 'replicate', which cuts nothing: "
            "give mesh.strategy=fsdp as well."
        )


def check_shots(config: ConfigDict, init: str) -> None:
    """Raises UserError if head.shots is given for a start that looks at no image."""
    shots = config.head.shots
    defaults = [method["head"]["shots"] for method in METHODS.values()]
    if init in ("text", "none") and shots not in defaults:
        auto = " (by head.init=auto)" if init != config.head.init else ""
        raise UserError(
            f"head.shots is {shots}, but the head starts from {init!r}{auto}: shots belong to "
            "head.init 'class_mean' and 'linear_probe'."
        )


def text_tuners(config: ConfigDict) -> tuple[str, ...]:
    """What is asked for that changes what texts give: `JOINT` tuners, and those of the tower."""
    names = [name.strip() for name in config.tuner.name.split("+")]
    in_tower = [] if config.text_tuner.name == "none" else [config.text_tuner.name]
    return (*(name for name in names if name in JOINT), *in_tower)


def head_kind(config: ConfigDict) -> str:
    """`head.kind`, of which auto is text where what texts give is tuned, else cosine."""
    if config.head.kind != "auto":
        return config.head.kind
    return "text" if text_tuners(config) else "cosine"


def validate_texts(config: ConfigDict) -> None:
    """Raises UserError for a classifier on tuned texts, and for options of one on the texts."""
    c, tuned = config, text_tuners(config)
    if tuned and head_kind(c) != "text":
        raise UserError(
            f"head.kind is {c.head.kind!r}, a classifier that does not look at the texts that "
            f"{' and '.join(tuned)} would tune. Give head.kind=text, or auto."
        )
    if head_kind(c) != "text":
        return
    if c.tuner.name == c.text_tuner.name == "none":
        raise UserError(
            "head.kind is 'text', which has no weights, and tuner.name and text_tuner.name are "
            "'none': nothing would be trained. Give a tuner, or --mode=zero_shot."
        )
    if c.head.init not in ("auto", "text"):
        raise UserError(
            f"head.init is {c.head.init!r}, but head.kind is 'text', which starts from the names "
            "of the classes. Leave head.init at auto."
        )
    if "{}" not in c.head.prompt:
        raise UserError(
            f"head.prompt is {c.head.prompt!r}, but head.kind is 'text', which takes one text a "
            "class. Give a template, as 'a photo of a {}.'."
        )


def loss_options(config: ConfigDict) -> dict[str, float]:
    """What `losses.make` takes for the config's loss."""
    name = config.loss.name
    options = {key: config.loss[key] for key, (loss, _) in LOSS_OPTIONS.items() if loss == name}
    if name == "ldam" and not options["scale"]:
        options["scale"] = config.head.scale
    return options


def differences(saved: dict, current: dict, prefix: str = "") -> list[str]:
    """Lists "key: saved -> current" for each leaf that differs between two config dicts."""
    lines = []
    for key in sorted(saved.keys() | current.keys()):
        a, b = saved.get(key, "absent"), current.get(key, "absent")
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines
