"""State dicts: which dict of tensors in a checkpoint is taken, and where its names begin.

A training checkpoint holds one or several state dicts under keys (`model`, `teacher`), and wrappers
around a model put a prefix before its names (`module.`, `_orig_mod.module.`, `backbone.`). The
backbone begins where one of the names in ANCHORS stands, which every known backbone has.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lift_jax.errors import UserError

Tensors = dict[str, np.ndarray]

# the keys that a state dict lies under, the preferred first
KEYS = (
    "state_dict", "model", "model_state_dict", "teacher", "model_ema", "state_dict_ema", "ema",
    "net", "network", "backbone", "module", "student",
)  # fmt: skip
WRAPPERS = ("module.", "_orig_mod.")  # which training puts around any model
# the words that other wrappers put before names, the preferred first: of several towers, the first
# is taken, as the authors of DINO, MoCo and solo-learn do
WORDS = (
    "module", "_orig_mod", "model", "clip", "base_model", "net", "network", "backbone", "teacher",
    "base_encoder", "encoder_q", "encoder", "visual", "student", "momentum_backbone",
    "momentum_encoder", "encoder_k", "model_ema", "ema",
)  # fmt: skip
ANCHORS = (
    "patch_embed.proj.weight",  # ViT of timm, DINOv2, DINOv3
    "layer1.0.conv1.weight",  # ResNet
    "class_embedding", "visual.class_embedding", "visual.layer1.0.conv1.weight",  # OpenAI's CLIP
    "conv_proj.weight",  # torchvision's ViT
    "vision_model.embeddings.patch_embedding.weight", "embeddings.patch_embedding.weight",
    "embeddings.patch_embeddings.weight", "embeddings.patch_embeddings.projection.weight",
    *(
        f"{kind}.embeddings.patch_embeddings.projection.weight"
        for kind in ("vit", "dinov2", "dinov2_with_registers")
    ),
)  # fmt: skip


@dataclass(frozen=True)
class StateDict:
    """A state dict out of a file.

    Attributes:
        tensors: the tensors by name, without prefix.
        keys: the keys of the file beside or around the tensors, empty if it holds tensors alone.
        prefix: what stood before the names.
        left_out: the names of the tensors that did not have the prefix.
        notes: sentences on what was chosen.
    """

    tensors: Tensors
    keys: tuple[str, ...] = ()
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find(contents: Any, where: str) -> StateDict:
    """Returns the state dict in the contents of a file, with the prefix still before its names.

    It is the contents themselves, or lies under one of KEYS, or is the only dict of tensors there.
    A note says which was taken if there are several. Raises UserError, which lists the keys, if
    there is no dict of tensors. `where` names the file.
    """
    outer = contents if isinstance(contents, dict) else {}
    if _is_state_dict(outer):
        return StateDict(outer)
    held = [key for key, value in outer.items() if isinstance(key, str) and _is_state_dict(value)]
    known = [key for key in KEYS if key in held]
    if not known and len(held) != 1:
        listed = ", ".join(f"{key!r:.80}" for key in list(outer)[:20])
        raise UserError(
            f"{where} holds no state dict: expected a dict of tensors, alone or under one of the "
            f"keys {', '.join(KEYS)}; found a {type(contents).__name__} with the keys [{listed}]. "
            "Save the state dict of the model alone."
        )
    taken = (known or held)[0]
    note = (
        f"{where} holds several state dicts ({', '.join(known)}): {taken} is taken. For another, "
        "save it alone."
    )
    keys = tuple(key for key in outer if isinstance(key, str))
    return StateDict(outer[taken], keys, notes=(note,) if len(known) > 1 else ())


def _is_state_dict(value: Any) -> bool:
    """Returns True for a dict from names to tensors that is not empty."""
    kinds = {(str, np.ndarray)}
    return isinstance(value, dict) and {(type(k), type(v)) for k, v in value.items()} == kinds


def without_prefix(found: StateDict, where: str) -> StateDict:
    """Returns a state dict whose names begin where the backbone does.

    A prefix before all names is dropped, whatever it is. Names without it are left out, which a
    note says, if the prefix is of WORDS alone. Raises UserError for several towers of which none is
    preferred.
    """
    for word in WRAPPERS:
        if found.tensors and all(name.startswith(word) for name in found.tensors):
            names = {name.removeprefix(word): tensor for name, tensor in found.tensors.items()}
            return without_prefix(replace(found, tensors=names), where)
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
    return replace(found, tensors=kept, prefix=prefix, left_out=left_out, notes=notes)


def prefixes(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the shortest prefixes before ANCHORS, none if a backbone begins at the root."""
    pattern = re.compile(rf"((?:[\w-]+\.)*?)(?:{'|'.join(map(re.escape, ANCHORS))})")
    found = {match[1] for name in tensors if (match := pattern.fullmatch(name[:500]))}
    return sorted(p for p in found if not any(p != q and p.startswith(q) for q in found) and p)


def _words(prefix: str) -> list[str]:
    return prefix.rstrip(".").split(".")


def _rank(prefix: str) -> tuple[int, ...]:
    """Returns the order of preference of a prefix that has no other words than WORDS."""
    return tuple(map(WORDS.index, _words(prefix)))
