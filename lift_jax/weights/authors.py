"""The checkpoints of the authors' code: what was tuned, without the backbone.

LIFT saves `checkpoint.pth.tar` as {"tuner": tensors by name, "head": ...}, LIFT+ as {"tuner": ...}
with the classifier among the tuner's names. Written as safetensors, a name has its key in front:
"tuner.adaptformer_list.0.ln.weight". Neither says which classes the rows of the classifier are (on
iNaturalist 2018 they are the class names sorted), nor the scale of a cosine classifier.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike

from lift_jax.errors import UserError, unknown
from lift_jax.models import tree
from lift_jax.settings.schema import BLOCK_PARTS
from lift_jax.tuners.rules import PATH_RULES
from lift_jax.weights.author_names import BLOCK, LIFT_BIAS, LIFT_BLOCK, LIFT_LN, TABLES
from lift_jax.weights.files import torch_archive
from lift_jax.weights.files.source import read_safetensors
from lift_jax.weights.rename import Table, their_name, to_ours, to_theirs

MASKS = {"lift": "joint", "lift_plus": "each"}  # the rule of each layout, as tuner.mask


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        layout: whose names it has, lift or lift_plus.
        tuners: the blocks, counted from 0, of each tuner.
        foreign: what else it holds, by the authors' names, which is not read.
        dim: width of the bottlenecks.
        width: of the backbone.
        classes: rows of the classifier.
        prompts: in a block. All four are 0 where that is not clear.
        parts: where ssf and aft are, as in tuner.parts.
        joint: coop, clip_adapter and proj, as far as it holds them.
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
        """The tuners in words: "adaptformer of width 4 in blocks 0 to 11"."""

        def size(name: str) -> str:
            if name in ("ssf", "aft"):
                return f" of {self.parts}"
            if name.startswith("vpt"):
                return f" of length {self.prompts}" if self.prompts else ""
            return f" of width {self.dim}" if self.dim and name not in PATH_RULES else ""

        parts = [f"{n}{size(n)} in {_places(blocks)}" for n, blocks in self.tuners.items()]
        texts = [f"{name} of texts" for name in self.texts]
        return " and ".join([*parts, *self.joint, *texts, *self.foreign]) or "no tuner"


def read(
    path: str | Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    mask: str = "each",
    entries: Mapping[str, ArrayLike] | None = None,
) -> dict[str, np.ndarray]:
    """Reads a checkpoint of LIFT or LIFT+, or what `write` wrote, as float32 leaves by our paths.

    Args:
        shapes: those of the tuned leaves.
        mask: `tuner.mask`, the rule by which aft has chosen its entries.
        entries: which these are, by the path of a leaf with "_at" behind it. LIFT+ saves its own.

    Raises:
        UserError: for a file that cannot be read or is something else; all faults in one message
            with the settings that fit the checkpoint, for names that are missing, unexpected, of
            another shape or not finite; for entries of aft that are others.
    """
    tensors, found, masks = _open(Path(path).expanduser())
    table = table_of(shapes, found.layout)
    wanted = _contents(found.layout, shapes)
    if "aft" in found.tuners and "aft" in wanted.tuners:
        check_mask(str(path), found.layout, mask)
    remedy = _remedy(found, wanted)
    leaves = to_ours(tensors, shapes, table, str(path), remedy=remedy)
    read = {leaf: np.array(array, np.float32, order="C") for leaf, array in leaves}
    for leaf in read:
        theirs = masks.get(their_name(leaf, table)[0].replace("optimized_params", "mask"))
        own = (entries or {}).get(f"{leaf}_at")
        if theirs is not None and own is not None and np.any(np.flatnonzero(theirs) != own):
            raise UserError(
                f"{path} trains other entries than the config gives aft: set tuner.seed (and "
                "tuner.ratio) to what it was trained with."
            )
    return read


def check_mask(where: str, layout: str, mask: str) -> None:
    """Raises UserError if aft's entries are not chosen by the rule of a layout (tuner.mask)."""
    if mask != MASKS[layout]:
        raise UserError(
            f"{where}: with tuner.mask={mask!r} aft trains other entries than {layout} does: "
            f"--config.tuner.mask={MASKS[layout]} is its rule."
        )


def describe(path: str | Path) -> Contents:
    """What a checkpoint of LIFT or LIFT+, or one that `write` wrote, holds.

    Raises UserError for a file that cannot be read or is something else.
    """
    return _open(Path(path).expanduser())[1]


def write(path: str | Path, leaves: Mapping[str, ArrayLike], layout: str = "lift_plus") -> None:
    """Writes tuned leaves, by our paths, as safetensors in float32 with the authors' names.

    `layout` is lift or lift_plus. Raises UserError for another, for leaves that it has no name for,
    and if the file cannot be written.
    """
    path = Path(path).expanduser()
    table = table_of(leaves, layout)
    arrays = {leaf: np.asarray(array, np.float32) for leaf, array in leaves.items()}
    about = {"format": "pt", "layout": layout}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(safetensors.numpy.save(to_theirs(arrays, table), about))
            file.flush()
            os.fsync(file.fileno())  # a rename may outrun the data when the machine stops
        os.replace(partial, path)
    except OSError as e:
        raise UserError(f"Cannot write {path} ({e.strerror}). Choose another place.") from e
    finally:
        partial.unlink(missing_ok=True)


def table_of(paths: Iterable[str], layout: str) -> Table:
    """The rules of a layout. Raises UserError if there is none, or one of the paths has none."""
    if layout not in TABLES:
        raise unknown("layout", layout, TABLES)
    table = TABLES[layout]
    own = {"ln": LIFT_LN, "bitfit": LIFT_BIAS}.get(_rule(paths))
    if layout == "lift" and own:
        table = own + [rule for rule in table if rule not in LIFT_BLOCK]
    patterns = [pattern for pattern, _, _ in table]
    unnamed = [path for path in paths if not any(re.fullmatch(p, path) for p in patterns)]
    if unnamed:
        raise UserError(
            f"The checkpoints of {layout} have no name for {', '.join(unnamed[:3])}"
            f"{', ...' * (len(unnamed) > 3)}: they hold {', '.join(_known(layout))} and the "
            "classifier's weight."
        )
    return table


def _open(path: Path) -> tuple[dict[str, np.ndarray], Contents, dict[str, np.ndarray]]:
    """The tensors of a checkpoint, their names with the key in front, what they are, and the masks
    that say which entries aft trains (LIFT+)."""
    if torch_archive.is_torch_file(path):
        saved = torch_archive.read(path).contents
        tensors = {
            f"{key}.{name}": tensor
            for key, group in (saved.items() if isinstance(saved, dict) else ())
            for name, tensor in (group.items() if isinstance(group, dict) else [("", group)])
        }
    else:
        tensors, _, _ = read_safetensors(path)
    # a bias that gives aft no entry
    tensors = {k: v for k, v in tensors.items() if not isinstance(v, np.ndarray) or v.size}
    others = [
        name.rstrip(".")
        for name, tensor in tensors.items()
        if not re.match(r"(tuner|head)\..", name) or not isinstance(tensor, np.ndarray)
    ]
    if others or not tensors:
        raise UserError(
            f"{path} is not a checkpoint of LIFT or LIFT+: expected tensors under the keys tuner "
            f"and head, found {', '.join(others[:3]) or 'none'}. Give the checkpoint.pth.tar of "
            "their training, or what lift_jax.export wrote."
        )
    lift = any(re.match(r"head\.|tuner\.\w+_(list|tuned)\.", name) for name in tensors)
    layout = "lift" if lift else "lift_plus"
    masks = {
        name: tensors.pop(name) for name in [*tensors] if re.search(r"\.masked_\w+\.mask$", name)
    }
    table = TABLES[layout] + (LIFT_LN + LIFT_BIAS if layout == "lift" else [])
    rules = [(_regex(name), pattern) for pattern, name, _ in table]
    ours, foreign = {}, {}
    for name, tensor in tensors.items():
        filled = {
            _filled(pattern, match.groups()): pattern
            for regex, pattern in rules
            if (match := regex.fullmatch(name))
        }
        paths = [leaf for leaf, pattern in filled.items() if re.fullmatch(pattern, leaf)]
        ours |= dict.fromkeys(paths, tensor.shape)
        if not any(re.match(r"visual/|head/", leaf) for leaf in paths):
            foreign[_kind(name)] = True
    return tensors, _contents(layout, ours, foreign), masks


def _regex(name: str) -> re.Pattern[str]:
    """What matches their names of one rule."""
    return re.compile(re.sub(r"\\\\\d", r"(\\w+)", re.escape(name)))


def _filled(pattern: str, values: Iterable[str]) -> str:
    """Our path of one rule, with values for its groups."""
    rest = iter(values)
    chosen = re.sub(r"\(\?:(\w+)\|\w+\)", r"\1", pattern)
    return re.sub(r"\([^)]+\)", lambda _: next(rest), chosen)


def _kind(name: str) -> str:
    """The authors' word for what a name belongs to: lora of "tuner.lora_list.0.q.lora_A"."""
    if name in ("head.bias", "tuner.classifier.bias"):
        return "a classifier with bias"
    place = r"(tuner|head)\.(image_encoder\.)?(blocks\.\d+\.)?((attn|mlp)\.)?"
    return re.sub(place, "", name, count=1).split(".")[0].removesuffix("_list")


def _contents(
    layout: str, shapes: Mapping[str, tuple[int, ...]], foreign: Iterable[str] = ()
) -> Contents:
    """What leaves of these paths, and foreign ones, are."""
    tuners: dict[str, set[int]] = {}
    dims, widths, prompts, layers = set(), set(), set(), set()
    for path, shape in shapes.items():
        if match := re.fullmatch(rf"{BLOCK}/(?:tuners/(\w+)/)?(.+)", path):
            block, tuner, leaf = match.groups()
            tuners.setdefault(tuner or _rule(shapes), set()).add(int(block))
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
    joint = {"coop": "context", "clip_adapter": "text_adapter/down/bias", "proj": "text_proj"}
    in_texts = [re.match(r"head/text/blocks/\d+/tuners/(\w+)/", path) for path in shapes]
    head = shapes.get("head/weight", ())
    width = widths.pop() if len(widths) == 1 else head[-1] if head else 0
    known = _known(layout)
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
        joint=tuple(name for name, leaf in joint.items() if f"head/{leaf}" in shapes),
        texts=tuple(sorted({match[1] for match in in_texts if match})),
    )


def _rule(paths: Iterable[str]) -> str:
    """Which method trains these of the weights that a backbone has: full, ln, bn or bitfit."""
    own = [path for path in paths if re.match(rf"{BLOCK}/(?!tuners/)", path)]
    if all(path.endswith("/bias") for path in own):
        return "bitfit"
    return next(
        rule for rule in ("ln", "bn", "full") if all(PATH_RULES[rule](tree.parts(p)) for p in own)
    )


def _known(layout: str) -> list[str]:
    """The tuners that a layout has rules for."""
    patterns = [pattern for pattern, _, _ in TABLES[layout] if pattern.startswith(BLOCK)]
    found = [re.search(r"tuners/(\w+)", _filled(p, "0000")) for p in patterns]
    return list(
        dict.fromkeys([match[1] if match else "full" for match in found] + ["ln", "bitfit"])
    )


def _remedy(found: Contents, wanted: Contents) -> str:
    """What to do with a checkpoint that does not fit: the settings that it fits, if it can."""
    if found.foreign:
        return (
            f"It holds {', '.join(found.foreign)}, which cannot be read; known: "
            f"{', '.join(_known(found.layout))}, and a classifier without bias."
        )
    if found.width not in (0, wanted.width):
        return f"It belongs to a backbone of width {found.width}, not {wanted.width}."
    advice = []
    if wanted.classes and found.classes not in (0, wanted.classes):
        advice.append(
            f"Its classifier has {found.classes} classes, the data have {wanted.classes}."
        )
    sizes = (found.dim, wanted.dim), (found.prompts, wanted.prompts), (found.parts, wanted.parts)
    own = (found.joint, found.texts) != (wanted.joint, wanted.texts)
    if (
        own
        or found.tuners != wanted.tuners
        or any(theirs and theirs != ours for theirs, ours in sizes)
    ):
        advice.append(
            f"It holds {found.tuned}, and the config asks for {wanted.tuned}: "
            f"{_settings(found, wanted)}."
        )
    elif "aft" in found.tuners:
        advice.append("How many entries aft trains is tuner.ratio.")
    return " ".join(advice) or "Get it again: no setting makes up for that."


def _settings(found: Contents, wanted: Contents) -> str:
    """The flags that ask for what was found, in a backbone as deep as `wanted` says."""
    flags = [f"--config.tuner.name={'+'.join([*found.tuners, *found.joint]) or 'none'}"]
    if found.texts != wanted.texts:
        flags.append(f"--config.text_tuner.name={'+'.join(found.texts) or 'none'}")
    mask = MASKS[found.layout] if "aft" in found.tuners else ""
    for key, value in (
        ("dim", found.dim), ("prompts", found.prompts), ("parts", found.parts), ("mask", mask),
    ):  # fmt: skip
        if value:
            flags.append(f"--config.tuner.{key}={value}")
    if found.tuners:
        # vpt_shallow is in the first of the blocks that the others are in
        blocks, *others = {b for n, b in found.tuners.items() if n != "vpt_shallow"} or {
            found.tuners["vpt_shallow"]
        }
        depth = 1 + max(max(indices) for indices in (wanted.tuners or found.tuners).values())
        if others:
            return "no tuner.layers names these blocks"
        if blocks == tuple(range(depth - len(blocks), depth)):
            flags.append(f"--config.tuner.partial={len(blocks) % depth}")
        else:
            flags.append(f"--config.tuner.layers={','.join(map(str, blocks))}")
    return f"set {' '.join(flags)}"


def _places(blocks: tuple[int, ...]) -> str:
    """The blocks in words."""
    first, last = blocks[0], blocks[-1]
    if len(blocks) == 1:
        return f"block {first}"
    if blocks == tuple(range(first, last + 1)):
        return f"blocks {first} to {last}"
    return f"blocks {', '.join(map(str, blocks))}"
