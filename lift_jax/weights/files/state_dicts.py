"""State dicts: which dict of tensors in a checkpoint is taken, and where its names begin.

A training checkpoint holds one or several state dicts under keys (`model`, `teacher`), and wrappers
around a model put a prefix before its names (`module.`, `_orig_mod.module.`, `backbone.`), and
wrappers around its parts a word within them (`visual._orig_mod.proj`). The backbone begins where
one of the names in ANCHORS stands, which every known backbone has.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lift_jax.errors import UserError
from lift_jax.weights.files.pickles import Foreign

Tensors = dict[str, np.ndarray]

# the keys that a state dict lies under, the preferred first
KEYS = (
    "state_dict", "model", "model_state_dict", "teacher", "model_ema", "state_dict_ema", "ema",
    "net", "network", "backbone", "module", "student",
)  # fmt: skip
# which training puts around any model, or any part of one
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# the words that other wrappers put before names, the preferred first: of several towers, the first
# is taken, as the authors of DINO, MoCo and solo-learn do
WORDS = (
    *WRAPPERS, "model", "clip", "base_model", "net", "network", "backbone", "teacher",
    "base_encoder", "encoder_q", "encoder", "visual", "student", "momentum_backbone",
    "momentum_encoder", "encoder_k", "model_ema", "ema",
)  # fmt: skip
# in the layout of transformers, whose sizes a config.json states
OF_TRANSFORMERS = (
    "vision_model.embeddings.patch_embedding.weight", "embeddings.patch_embedding.weight",
    "embeddings.patch_embeddings.weight", "embeddings.patch_embeddings.projection.weight",
    *(
        f"{kind}.embeddings.patch_embeddings.projection.weight"
        for kind in ("vit", "dinov2", "dinov2_with_registers")
    ),
)  # fmt: skip
ANCHORS = (
    "patch_embed.proj.weight",  # ViT of timm, DINOv2, DINOv3
    "layer1.0.conv1.weight",  # ResNet
    "class_embedding", "visual.class_embedding", "visual.layer1.0.conv1.weight",  # OpenAI's CLIP
    "conv_proj.weight",  # torchvision's ViT
    *OF_TRANSFORMERS,
)  # fmt: skip
DEEPEST = 3  # keys around a state dict
_WRAPPED = rf"(?:(?:{'|'.join(WRAPPERS)})\.)*"  # between two words of a name


@dataclass(frozen=True)
class StateDict:
    """A state dict out of a file.

    Attributes:
        tensors: the tensors by name, without prefix.
        keys: the keys of the file beside or around the tensors, empty if it holds tensors alone.
        under: the key that the tensors lay under, with those around it; "" for none.
        prefix: what stood before the names.
        left_out: the names of the tensors that did not have the prefix.
        notes: sentences on what was chosen.
    """

    tensors: Tensors
    keys: tuple[str, ...] = ()
    under: str = ""
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find(contents: Any, where: str) -> StateDict:
    """Returns the state dict in the contents of a file, with the prefix still before its names.

    It is the contents themselves, or lies under keys. Of several that is taken whose names are
    those of a backbone, and of these the one that comes first in KEYS, which a note says. Raises
    UserError, which lists the keys, if there is no dict of tensors, or several of which none is
    preferred. `where` names the file.
    """
    outer = contents if isinstance(contents, dict) else {}
    if _is_state_dict(outer):
        return StateDict(outer)
    held = dict(_held(outer))
    least = min(map(len, held), default=0)
    held = {path: held[path] for path in held if len(path) == least}
    held = {path: d for path, d in held.items() if _begins(d)} or held
    ranks = {path: KEYS.index(path[-1]) for path in held if path[-1] in KEYS}
    known = sorted(ranks, key=lambda path: ranks[path])
    if not known and len(held) != 1:
        listed = ", ".join(f"{key!r:.80}" for key in list(outer)[:20])
        several = ", ".join(map(_joined, [*held][:5]))
        kind = contents.name if isinstance(contents, Foreign) else f"a {type(contents).__name__}"
        found = f"several ({several})" if held else kind
        raise UserError(
            f"{where} holds no state dict: expected a dict of tensors, alone or under one of the "
            f"keys {', '.join(KEYS)}; found {found} with the keys [{listed}]. Save the state dict "
            "of the model alone."
        )
    taken = (known or [*held])[0]
    note = (
        f"{where} holds several state dicts ({', '.join(map(_joined, known))}): {_joined(taken)} "
        "is taken. For another, save it alone."
    )
    keys = tuple(key for key in outer if isinstance(key, str))
    notes = (note,) if len(known) > 1 else ()
    return StateDict(held[taken], keys, _joined(taken), notes=notes)


def _held(outer: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """Yields the state dicts within nested dicts, but for an optimizer's, by the keys to them."""
    for key, value in outer.items():
        if not isinstance(key, str) or not isinstance(value, dict) or "optim" in key.lower():
            continue
        inner = (*path, key)
        if _is_state_dict(value):
            yield inner, value
        elif len(inner) < DEEPEST:
            yield from _held(value, inner)


def _joined(path: tuple[str, ...]) -> str:
    return ".".join(path)


def _is_state_dict(value: Any) -> bool:
    """Returns True for a dict from names to tensors that is not empty."""
    kinds = {(str, np.ndarray)}
    return isinstance(value, dict) and {(type(k), type(v)) for k, v in value.items()} == kinds


def without_prefix(found: StateDict, where: str) -> StateDict:
    """Returns a state dict whose names begin where the backbone does.

    A prefix before all names is dropped, whatever it is. Names without it are left out, if the
    prefix is of WORDS alone. Words of WRAPPERS within the names are dropped too. Notes say what was
    taken. Raises UserError for several towers of which none is preferred, and for two names that
    would become one.
    """
    common = _common(found.tensors)
    inner = {name.removeprefix(common): tensor for name, tensor in found.tensors.items()}
    kept = _unwrapped(_without(replace(found, tensors=inner, prefix=common), where), where)
    read = [f"from {kept.under!r}"] if kept.under else []
    read += [f"without the prefix {kept.prefix!r}"] if kept.prefix else []
    return replace(kept, notes=(*kept.notes, f"Read {', '.join(read)}.")) if read else kept


def _without(found: StateDict, where: str) -> StateDict:
    """Returns a state dict without the prefix before ANCHORS. Raises UserError as the caller."""
    before = prefixes(found.tensors)
    if not before:
        return found
    whole = [p for p in before if all(name.startswith(p) for name in found.tensors)]
    plain = sorted((p for p in before if set(_words(p)) <= set(WORDS)), key=_rank)
    if len(before) > max(1, len(plain)):
        raise UserError(
            f"{where} holds several image towers, whose names begin "
            f"{', '.join(repr(p) for p in before[:5])}. Save the tensors of one alone."
        )
    if not whole and not plain:
        return found  # the formats refuse it, which name what they found
    prefix = (whole or plain)[0]
    left_out = tuple(name for name in found.tensors if not name.startswith(prefix))
    notes = found.notes
    if len(before) > 1:
        others = ", ".join(repr(other) for other in plain[1:])
        notes += (
            f"{where} holds several towers: that under {prefix!r} is taken, not {others}. For "
            "another, save its tensors alone.",
        )
    elif left_out:
        notes += (
            f"Of {where} the tensors under {prefix!r} are taken, and the rest is left out "
            f"({len(left_out)}, like {sorted(left_out)[0]:.80}).",
        )
    kept = {n.removeprefix(prefix): t for n, t in found.tensors.items() if n.startswith(prefix)}
    prefix = found.prefix + prefix
    return replace(found, tensors=kept, prefix=prefix, left_out=left_out, notes=notes)


def _common(tensors: Tensors) -> str:
    """Returns the words of WRAPPERS that all names begin with, "" for none."""
    begins = {match[0] for name in tensors if (match := re.match(_WRAPPED, name))}
    shortest = min(begins, key=len, default="")
    return shortest if all(begin.startswith(shortest) for begin in begins) else ""


def _unwrapped(found: StateDict, where: str) -> StateDict:
    """Returns a state dict without words of WRAPPERS within its names.

    Raises UserError for two names that would become one, also by a prefix of WRAPPERS that only
    some names have.
    """
    at_root = _begins(found.tensors)
    tensors: Tensors = {}
    for name, tensor in found.tensors.items():
        inner = re.sub(rf"\.{_WRAPPED}", ".", name)
        outer = re.sub(f"^{_WRAPPED}", "", inner)
        if inner in tensors or (at_root and outer != inner and outer in found.tensors):
            raise UserError(
                f"{where} holds {name:.80} and {outer:.80}, which are one name without "
                f"{' or '.join(WRAPPERS[:2])}. Save the tensors of one model alone."
            )
        tensors[inner] = tensor
    return replace(found, tensors=tensors)


def _begins(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns True if a backbone begins somewhere in the names."""
    return any(_PATTERN.fullmatch(name[:500]) for name in tensors)


def of_transformers(tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns True for names in the layout of transformers."""
    return any(name in tensors for name in OF_TRANSFORMERS)


# a prefix, and one of ANCHORS with wrappers between its words
_PATTERN = re.compile(
    r"((?:[\w-]+\.)*?)(?:{})".format(
        "|".join(re.escape(anchor).replace(r"\.", r"\." + _WRAPPED) for anchor in ANCHORS)
    )
)


def prefixes(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the shortest prefixes before ANCHORS, none if a backbone begins at the root."""
    found = {match[1] for name in tensors if (match := _PATTERN.fullmatch(name[:500]))}
    return sorted(p for p in found if not any(p != q and p.startswith(q) for q in found) and p)


def _words(prefix: str) -> list[str]:
    return prefix.rstrip(".").split(".")


def _rank(prefix: str) -> tuple[int, ...]:
    """Returns the order of preference of a prefix that has no other words than WORDS."""
    return tuple(map(WORDS.index, _words(prefix)))
