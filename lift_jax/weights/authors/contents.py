"""The contents of a checkpoint of LIFT or LIFT+: its tuners, and the settings that fit them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lift_jax.models import tree
from lift_jax.settings.groups.tuner import BLOCK_PARTS
from lift_jax.tuners.rules import PATH_RULES
from lift_jax.weights.authors.names import BLOCK, TABLES, fill

# The rule by which each layout chooses the entries that aft trains (the setting tuner.mask).
MASKS = {"lift": "joint", "lift_plus": "each"}
# The leaf of the head that each tuner of images and texts together has.
_JOINT = {"coop": "context", "clip_adapter": "text_adapter/down/bias", "proj": "text_proj"}


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint of tuned weights.

    Attributes:
        layout: whose names it uses, lift or lift_plus.
        tuners: the blocks of each tuner, counted from 0.
        foreign: the parts that cannot be read, by the authors' names.
        dim: width of the bottlenecks; 0 if unknown.
        width: width of the backbone; 0 if unknown.
        classes: rows of the classifier; 0 if unknown.
        prompts: prompts in a block; 0 if unknown.
        parts: the parts of a block that ssf and aft tune, as in tuner.parts.
        joint: the tuners of images and texts together: coop, clip_adapter, proj.
        texts: the tuners in the text tower.
    """

    layout: str
    tuners: dict[str, tuple[int, ...]]
    foreign: tuple[str, ...]
    dim: int
    width: int
    classes: int
    prompts: int = 0
    parts: str = ""
    joint: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def tuned(self) -> str:
        """Returns the tuners in words: "adaptformer of width 4 in blocks 0 to 11"."""

        def size(name: str) -> str:
            if name in ("ssf", "aft"):
                return f" of {self.parts}"
            if name.startswith("vpt"):
                return f" of length {self.prompts}" if self.prompts else ""
            return f" of width {self.dim}" if self.dim and name not in PATH_RULES else ""

        parts = [f"{n}{size(n)} in {_in_words(blocks)}" for n, blocks in self.tuners.items()]
        texts = [f"{name} of texts" for name in self.texts]
        return " and ".join([*parts, *self.joint, *texts, *self.foreign]) or "no tuner"


def contents_of(
    layout: str, shapes: Mapping[str, tuple[int, ...]], foreign: Iterable[str] = ()
) -> Contents:
    """Returns the contents of a checkpoint.

    Args:
        layout: lift or lift_plus.
        shapes: the shapes of its leaves, by our paths.
        foreign: the authors' names of its parts that have no path.
    """
    tuners: dict[str, set[int]] = {}
    dims, widths, prompts, layers = set(), set(), set(), set()
    for path, shape in shapes.items():
        if match := re.fullmatch(rf"{BLOCK}/(?:tuners/(\w+)/)?(.+)", path):
            block, tuner, leaf = match.groups()
            tuners.setdefault(tuner or path_rule(shapes), set()).add(int(block))
            if leaf == "prompt":
                prompts.add(shape[0])
            elif leaf == "down/bias" or leaf.endswith("/down"):
                dims.add(shape[-1])
            elif tuner in ("ssf", "aft"):
                layers.add(leaf.split("/")[0])
            if leaf in ("norm/scale", "ln1/scale"):
                widths |= set(shape)
    if len(tuners.get("vpt_deep", ())) == 1:
        tuners["vpt_shallow"] = tuners.pop("vpt_deep")
    in_texts = [re.match(r"head/text/blocks/\d+/tuners/(\w+)/", path) for path in shapes]
    head = shapes.get("head/weight", ())
    width = widths.pop() if len(widths) == 1 else head[-1] if head else 0
    known = known_tuners(layout)
    return Contents(
        layout=layout,
        tuners={name: tuple(sorted(blocks)) for name, blocks in tuners.items()},
        foreign=tuple(kind for kind in foreign if kind not in known),
        dim=dims.pop() if len(dims) == 1 else 0,
        width=width,
        classes=head[0] if len(head) == 2 and head[1] == width else 0,
        prompts=prompts.pop() if len(prompts) == 1 else 0,
        parts="+".join(
            part
            for part, names in BLOCK_PARTS.items()
            if layers & {*names, *(["qkv"] * (part == "attn"))}
        ),
        joint=tuple(name for name, leaf in _JOINT.items() if f"head/{leaf}" in shapes),
        texts=tuple(sorted({match[1] for match in in_texts if match})),
    )


def path_rule(paths: Iterable[str]) -> str:
    """Returns the method that trains these weights of a backbone: full, ln, bn or bitfit.

    Paths of tuners and of the head are ignored; bitfit if there are no others.
    """
    own = [path for path in paths if re.match(rf"{BLOCK}/(?!tuners/)", path)]
    if all(path.endswith("/bias") for path in own):
        return "bitfit"
    return next(
        rule for rule in ("ln", "bn", "full") if all(PATH_RULES[rule](tree.parts(p)) for p in own)
    )


def known_tuners(layout: str) -> list[str]:
    """Returns the tuners that a layout has names for."""
    patterns = [pattern for pattern, _, _ in TABLES[layout] if pattern.startswith(BLOCK)]
    matches = [re.search(r"tuners/(\w+)", fill(pattern, "0000")) for pattern in patterns]
    names = [match[1] if match else "full" for match in matches]
    return list(dict.fromkeys([*names, "ln", "bitfit"]))


def remedy(held: Contents, wanted: Contents) -> str:
    """Returns what to do with a checkpoint that does not fit: the settings that fit, if any do.

    `held` are the contents of the checkpoint, `wanted` those that the config asks for.
    """
    if held.foreign:
        return (
            f"It holds {', '.join(held.foreign)}, which cannot be read; known: "
            f"{', '.join(known_tuners(held.layout))}, and a classifier without bias."
        )
    if held.width not in (0, wanted.width):
        return f"It belongs to a backbone of width {held.width}, not {wanted.width}."
    advice = []
    if wanted.classes and held.classes not in (0, wanted.classes):
        advice.append(f"Its classifier has {held.classes} classes, the data have {wanted.classes}.")
    sizes = (held.dim, wanted.dim), (held.prompts, wanted.prompts), (held.parts, wanted.parts)
    other_sizes = any(theirs and theirs != ours for theirs, ours in sizes)
    other_tuners = any(
        getattr(held, kind) != getattr(wanted, kind) for kind in ("tuners", "joint", "texts")
    )
    if other_tuners or other_sizes:
        advice.append(
            f"It holds {held.tuned}, and the config asks for {wanted.tuned}: "
            f"{_settings(held, wanted)}."
        )
    elif "aft" in held.tuners:
        advice.append("How many entries aft trains is tuner.ratio.")
    return " ".join(advice) or "Get it again: no setting makes up for that."


def _settings(held: Contents, wanted: Contents) -> str:
    """Returns the flags that fit a checkpoint, for a backbone of the depth in `wanted`."""
    flags = [f"--config.tuner.name={'+'.join([*held.tuners, *held.joint]) or 'none'}"]
    if held.texts != wanted.texts:
        flags.append(f"--config.text_tuner.name={'+'.join(held.texts) or 'none'}")
    mask = MASKS[held.layout] if "aft" in held.tuners else ""
    for key, value in (
        ("dim", held.dim), ("prompts", held.prompts), ("parts", held.parts), ("mask", mask),
    ):  # fmt: skip
        if value:
            flags.append(f"--config.tuner.{key}={value}")
    if held.tuners:
        # vpt_shallow is always in the first of the tuned blocks, so the others say which these are
        blocks, *others = {b for n, b in held.tuners.items() if n != "vpt_shallow"} or {
            held.tuners["vpt_shallow"]
        }
        depth = 1 + max(max(indices) for indices in (wanted.tuners or held.tuners).values())
        if others:
            return "no tuner.layers names these blocks"
        if blocks == tuple(range(depth - len(blocks), depth)):
            flags.append(f"--config.tuner.partial={len(blocks) % depth}")
        else:
            flags.append(f"--config.tuner.layers={','.join(map(str, blocks))}")
    return f"set {' '.join(flags)}"


def _in_words(blocks: tuple[int, ...]) -> str:
    """Returns blocks in words: "block 3", "blocks 0 to 11" or "blocks 0, 2"."""
    first, last = blocks[0], blocks[-1]
    if len(blocks) == 1:
        return f"block {first}"
    if blocks == tuple(range(first, last + 1)):
        return f"blocks {first} to {last}"
    return f"blocks {', '.join(map(str, blocks))}"
