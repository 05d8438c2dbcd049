"""The rules across settings: values that do not go together."""

from collections.abc import Mapping
from typing import Any

from lift_jax.errors import UserError, near, shown
from lift_jax.settings.groups.head import HeadSettings
from lift_jax.settings.groups.tuner import BLOCK_PARTS
from lift_jax.settings.methods import METHODS
from lift_jax.settings.schema import Settings, all_entries, entries
from lift_jax.settings.setting import Entry

# Tuners of what the texts give: they need CLIP's own classifier (head.kind=text).
TEXT_FEATURE_TUNERS = ("coop", "clip_adapter", "proj")
PROMPT_KINDS = ("classname", "ensemble", "descriptor")
DEFAULTS = {key: entry.default for key, entry in all_entries().items()}


def check_rules(s: Settings) -> None:
    """Raises UserError for settings that do not go together.

    `s` has values of the right types and in range, with `head.kind` resolved.
    """
    if s.train.batch % s.train.accum:
        raise UserError(
            f"train.batch {s.train.batch} is not a multiple of train.accum {s.train.accum}."
        )
    check_statistics(s.model.loading)
    check_prompt(s.head.prompt, s.head.descriptors)  # zero-shot needs it, whatever head.init is
    check_shots(s.head, "text" if s.head.kind == "text" else s.head.init)
    if s.head.kind != "cosine" and s.head.scale != DEFAULTS["head.scale"]:
        raise UserError(
            f"head.scale is {s.head.scale}, but head.kind is {s.head.kind!r}: scale belongs to "
            "'cosine'. The scale of ldam's margins is loss.scale."
        )
    check_options(s)
    check_tuned_blocks(s)
    if s.test.crops != "random" and s.test.views != DEFAULTS["test.views"]:
        raise UserError(
            f"test.views is {s.test.views}, but test.crops is {s.test.crops!r}: views counts "
            "'random' crops."
        )
    check_text_head(s)
    check_soups(s)
    if s.mesh.strategy == "replicate" and s.mesh.model > 1:
        raise UserError(
            f"mesh.model is {s.mesh.model}, but mesh.strategy is 'replicate', which splits "
            "nothing: set mesh.strategy=fsdp as well."
        )


def check_statistics(loading: Mapping[str, Any]) -> None:
    """Raises UserError unless mean and std of the images are given together, or neither."""
    if ("mean" in loading) != ("std" in loading):
        given, absent = ("mean", "std") if "mean" in loading else ("std", "mean")
        raise UserError(
            f"model.{given} is given, and model.{absent} is not: give both, which normalise the "
            "images together."
        )
    if not all(value > 0 for value in loading.get("std", ())):
        raise UserError(f"model.std is {shown(loading['std'])}; expected three numbers above 0.")


def check_options(s: Settings) -> None:
    """Raises UserError for an option of a loss, optimizer or tuner that is not chosen."""

    def written(entry: Entry) -> Any:  # a config of an older version lacks what came later
        group, _, option = entry.key.partition(".")
        return s.written[group].get(option, entry.about.before)

    for group, chosen in (("loss", "name"), ("train", "optimizer")):
        name = getattr(getattr(s, group), chosen)
        for entry in entries(group):
            only, value = entry.about.only_for, written(entry)
            if only and only != name and value != entry.default:
                raise UserError(
                    f"{entry.key} is {value}, but {group}.{chosen} is {name!r}: "
                    f"{entry.key.partition('.')[2]} belongs to {only!r}."
                )
    for entry in (*entries("tuner"), *entries("coop"), *entries("clip_adapter")):
        only, value = entry.about.only_for, written(entry)
        if only and only not in s.tuner.names and value != entry.default:
            raise UserError(
                f"{entry.key} is {value}, but tuner.name is {s.tuner.name!r}: it belongs to "
                f"{only!r}."
            )
    for entry in entries("text_tuner"):
        value = written(entry)
        if s.text_tuner.name == "none" and value != entry.default:
            raise UserError(
                f"{entry.key} is {value!r}, but text_tuner.name is 'none': set a tuner of the text "
                "tower, or leave it out."
            )


def check_tuned_blocks(s: Settings) -> None:
    """Raises UserError for wrong parts of a block or scales, and for two choices of the blocks."""
    for tuner in (s.tuner, s.text_tuner):
        _ = tuner.fixed_scale  # raises for a text that is no number
        for part in tuner.parts.split("+"):
            if part not in BLOCK_PARTS:
                meant = "".join(f" Did you mean {name!r}?" for name in near(part, BLOCK_PARTS)[:1])
                raise UserError(
                    f"Unknown part ({tuner.group}.parts) {part!r}.{meant} Known: "
                    f"{', '.join(sorted(BLOCK_PARTS))}."
                )
        if tuner.partial and tuner.layers:
            raise UserError(
                f"{tuner.group}.partial is {tuner.partial} and {tuner.group}.layers "
                f"{tuner.layers!r}: both choose the blocks. Give one."
            )


def check_prompt(prompt: str, descriptors: str) -> None:
    """Raises UserError unless `prompt` is a template or one of `PROMPT_KINDS`, with its file."""
    if "{}" not in prompt and prompt not in PROMPT_KINDS:
        meant = "".join(f" Did you mean {name!r}?" for name in near(prompt, PROMPT_KINDS)[:1])
        raise UserError(
            f"head.prompt is {prompt!r}; it needs {{}} where the class name goes, as in 'a photo "
            f"of a {{}}.', or is one of {', '.join(PROMPT_KINDS)}.{meant}"
        )
    if prompt == "descriptor" and not descriptors:
        raise UserError(
            "head.prompt is 'descriptor': give head.descriptors, a JSON file of phrases by class "
            'name, as in {"red fox": ["a red animal", "a bushy tail"], ...}.'
        )
    if prompt != "descriptor" and descriptors:
        raise UserError(
            f"head.descriptors is {descriptors!r}, but head.prompt is {prompt!r}: descriptors "
            "belong to 'descriptor'."
        )


def check_shots(head: HeadSettings, init: str) -> None:
    """Raises UserError if head.shots is set for a head that does not start from images.

    `init` is how the head starts, which may be known only after the backbone is loaded.
    """
    defaults = [method["head"]["shots"] for method in METHODS.values()]
    if init in ("text", "none") and head.shots not in defaults:
        auto = " (by head.init=auto)" if init != head.init else ""
        raise UserError(
            f"head.shots is {head.shots}, but the head starts from {init!r}{auto}: shots belong "
            "to head.init 'class_mean' and 'linear_probe'."
        )


def tuners_of_texts(s: Settings) -> tuple[str, ...]:
    """Returns the tuners that change the text features: of both settings `name`."""
    in_tower = [] if s.text_tuner.name == "none" else [s.text_tuner.name]
    return (*(name for name in s.tuner.names if name in TEXT_FEATURE_TUNERS), *in_tower)


def check_text_head(s: Settings) -> None:
    """Raises UserError for a classifier on tuned texts that misses something, or for none."""
    tuned = tuners_of_texts(s)
    if tuned and s.head.kind != "text":
        raise UserError(
            f"head.kind is {s.head.kind!r}, a classifier that does not look at the texts that "
            f"{' and '.join(tuned)} would tune. Set head.kind=text, or auto."
        )
    if s.head.kind != "text":
        return
    if s.tuner.name == s.text_tuner.name == "none":
        raise UserError(
            "head.kind is 'text', which has no weights, and tuner.name and text_tuner.name are "
            "'none': nothing would be trained. Set a tuner, or give --mode=zero_shot."
        )
    if s.head.init not in ("auto", "text"):
        raise UserError(
            f"head.init is {s.head.init!r}, but head.kind is 'text', which starts from the names "
            "of the classes. Leave head.init at auto."
        )
    if "{}" not in s.head.prompt:
        raise UserError(
            f"head.prompt is {s.head.prompt!r}, but head.kind is 'text', which takes one text a "
            "class. Give a template, as 'a photo of a {}.'."
        )


def check_soups(s: Settings) -> None:
    """Raises UserError for options of LT-Soups without models, or with nothing to tune at last."""
    if not s.soups.models:
        for entry in entries("soups"):
            value = getattr(s.soups, entry.key.partition(".")[2])
            if value != entry.default:
                raise UserError(
                    f"{entry.key} is {value}, but soups.models is 0, which is a plain run: set "
                    "soups.models=2, or give the config's argument method=lt_soups."
                )
        return
    _ = s.soups.parsed_factors  # raises for a wrong text
    if s.head.kind == "text":
        raise UserError(
            "soups.models is set, but head.kind is 'text', which has no weights, but LT-Soups "
            "tunes the classifier in its last step. Give head.kind=cosine and a tuner of the image "
            "tower."
        )
