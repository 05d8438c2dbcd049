"""The folding of LoRA into the weights that it was trained on.

A layer with weight W becomes W + s B A, where s is alpha / rank (alpha / sqrt(rank) with rslora).
peft stores the matrices by the names of its model, "base_model.model.LAYER.lora_A.weight".
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lift_jax.errors import UserError, shown
from lift_jax.weights.files.adapters import BASE, LARGEST, Adapter
from lift_jax.weights.files.source import ADAPTER, MERGE, Source
from lift_jax.weights.files.state_dicts import Tensors

_PART = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.\w+)??(?:\.(weight|bias))?")
# the layers of ViT and DINOv2 as transformers names them since version 5 -> their names in files
_ATTENTION = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value",
              "o_proj": "output.dense"}  # fmt: skip
_RENAMED = (
    *(
        (rf"(?:encoder\.layer|layers)\.(\d+)\.attention\.{new}\b",
         rf"encoder.layer.\1.attention.{old}")
        for new, old in _ATTENTION.items()
    ),
    (r"(?<!encoder\.)layers\.(\d+)\.mlp\.fc1\b", r"encoder.layer.\1.intermediate.dense"),
    (r"(?<!encoder\.)layers\.(\d+)\.mlp\.fc2\b", r"encoder.layer.\1.output.dense"),
)  # fmt: skip
LONGEST_LAYER, MOST_REPEATS = 200, 3  # of a layer's name, and in a pattern of such names


@dataclass
class _Layer:
    """What an adapter changes of a layer: the matrices "A" and "B", and B's "bias".

    `path` is the layer's name in its model. An embedding stores its weight with the axes of B A
    swapped.
    """

    path: str
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    embedding: bool = False


def fold(source: Source, adapter: Adapter) -> None:
    """Folds an adapter into the tensors of a source, in float32, and notes it.

    Raises UserError if the adapter has layers that the source does not have, or other shapes.
    """
    layers, whole = _parts(adapter)
    names = _names(adapter, source, layers)
    if names is None:
        layers = {_renamed(layer): change for layer, change in layers.items()}
        whole = {_renamed(name): tensor for name, tensor in whole.items()}
        names = _names(adapter, source, layers)
    if names is None:
        raise UserError(
            f"{adapter.folder} changes layers that {source.where} does not have in this shape, "
            f"like {next(iter(layers.values())).path}. Check {BASE} in its {ADAPTER}. {MERGE}"
        )
    strange = []
    for layer, change in layers.items():
        for name, tensor in _folded(adapter, source, names[layer], change):
            source.tensors[name] = tensor
    begins = _begins(names)
    for name, tensor in whole.items():
        ours = begins[1] + name.removeprefix(begins[0])
        if ours in source.tensors:
            source.tensors[ours] = tensor
        else:
            strange.append(name)
    source.files += adapter.files
    replaced = len(whole) - len(strange)
    more = f", and {replaced} whole tensors" if replaced else ""
    left = f" Left out, as the backbone has none: {', '.join(strange[:3])}." if strange else ""
    source.notes += (
        f"The adapter of peft in {adapter.folder} is folded into {source.where}: LoRA on "
        f"{len(layers)} layers{more}.{left}",
    )


def _parts(adapter: Adapter) -> tuple[dict[str, _Layer], Tensors]:
    """Returns (changes by layer, whole tensors by name) of an adapter, under its model's names."""
    layers: dict[str, _Layer] = {}
    whole: Tensors = {}
    for stored, tensor in adapter.tensors.items():
        name = stored.removeprefix("base_model.model.")
        name = re.sub(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)", "", name[:500])
        if match := _PART.fullmatch(name):
            layer = layers.setdefault(match[1], _Layer(match[1]))
            layer.embedding = ".lora_embedding_" in name
            layer.parts["bias" if match[3] == "bias" else match[2]] = tensor
        elif ".original_module." not in name:
            whole[name] = tensor
    for layer, change in layers.items():
        if not {"A", "B"} <= change.parts.keys() or len(layer) > LONGEST_LAYER:
            raise UserError(
                f"{adapter.folder} is damaged: {layer:.80} has no lora_A and lora_B. Save the "
                "adapter again."
            )
    if not layers and not whole:
        raise UserError(f"{adapter.folder} holds no tensor. Save the adapter again.")
    return layers, whole


def _renamed(name: str) -> str:
    """Returns a name as files have it, whose model has another one in newer transformers."""
    for pattern, stored in _RENAMED:
        name = re.sub(pattern, stored, name)
    return name


def _names(adapter: Adapter, source: Source, layers: Mapping[str, _Layer]) -> dict[str, str] | None:
    """Returns the source's names of the weights of an adapter's layers.

    The adapter's model may have wrapped the source's (a prefix more), or be a tower of it (a prefix
    less): the same prefix for all layers, by which each has a weight of its shape. None if there is
    none. Raises UserError if there is more than one.
    """
    first = next(iter(layers), "")
    words = first.split(".")
    drops = [_dotted(words[:n]) for n in range(len(words))]
    drops = [d for d in drops if all(layer.startswith(d) for layer in layers)]
    for drop in drops:
        ends = tuple(f"{first.removeprefix(drop)}.{kind}" for kind in ("weight", "in_proj_weight"))
        adds = {name[: -len(end)] for end in ends for name in source.tensors if name.endswith(end)}
        adds = {add for add in adds if not add or add.endswith(".")}
        found = [
            names
            for add in sorted(adds, key=len)
            if (names := _all_names(source, layers, drop, add)) is not None
        ]
        if len(found) > 1:
            found = _of_tower(adapter, found) or found
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{adapter.folder} fits several towers of {source.where}: {first:.80} may be "
                f"{' or '.join(names[first] for names in found[:2])}. {MERGE}"
            )
    return None if layers else {}


def _all_names(
    source: Source, layers: Mapping[str, _Layer], drop: str, add: str
) -> dict[str, str] | None:
    """Returns the names of all layers with one prefix for another, None if one does not fit."""
    names = {}
    for layer, change in layers.items():
        for kind in ("weight", "in_proj_weight"):
            name = f"{add}{layer.removeprefix(drop)}.{kind}"
            if name in source.tensors and _fits(source.tensors[name], change):
                names[layer] = name
    return names if len(names) == len(layers) else None


def _of_tower(adapter: Adapter, found: list[dict[str, str]]) -> list[dict[str, str]]:
    """Returns those names that lie in the tower which the class of the adapter's model names."""
    mapping = adapter.config.get("auto_mapping")
    kind = str(mapping.get("base_model_class")) if isinstance(mapping, dict) else ""
    tower = next((t for t in ("vision", "text") if t in kind.lower()), None)
    return [n for n in found if tower and all(name.startswith(tower) for name in n.values())]


def _fits(weight: np.ndarray, change: _Layer) -> bool:
    """Returns True if B A has the shape of a layer's weight, or that with swapped axes."""
    a, b = change.parts["A"], change.parts["B"]
    if a.ndim < 2 or b.ndim < 2 or weight.ndim < 2 or b.size != b.shape[0] * a.shape[0]:
        return False
    made = (b.shape[0], *a.shape[1:])
    swapped = made[::-1] if len(made) == 2 else made
    return weight.shape == swapped or (weight.shape == made and not change.embedding)


def _folded(
    adapter: Adapter, source: Source, name: str, change: _Layer
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the names and values of a layer's weight, and of its bias where it has a change."""
    weight = source.tensors[name]
    a, b = (change.parts[key].astype(np.float32) for key in ("A", "B"))
    scale = _scale(adapter, change.path, len(a))
    delta = (b.reshape(len(b), -1) @ a.reshape(len(a), -1)).reshape(len(b), *a.shape[1:])
    if change.embedding or delta.shape != weight.shape:
        delta = delta.T
    yield name, weight.astype(np.float32) + np.float32(scale) * delta
    if "bias" in change.parts:
        beside = name.removesuffix("weight") + "bias"
        bias, more = source.tensors.get(beside), change.parts["bias"].astype(np.float32)
        if bias is None or bias.shape != more.shape:
            raise UserError(f"{adapter.folder} changes {beside:.80}, which {source.where} has not.")
        yield beside, bias.astype(np.float32) + np.float32(scale) * more


def _scale(adapter: Adapter, layer: str, rank: int) -> float:
    """Returns the factor of B A. Raises UserError if the rank is not that of the config."""
    config = adapter.config
    stated = _by_pattern(adapter, "rank_pattern", layer, config.get("r"))
    alpha = _by_pattern(adapter, "alpha_pattern", layer, config.get("lora_alpha"))
    if rank != stated or not rank:
        raise UserError(
            f"{adapter.where} the rank of {layer:.80} is {shown(stated)}, but {rank} is stored. "
            "Save the adapter again."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(adapter: Adapter, key: str, layer: str, default: Any) -> Any:
    """Returns the value of the first pattern that a layer's name ends in, or the default.

    Raises UserError for a pattern that cannot be read, or that could take forever.
    """
    for pattern, value in (adapter.config.get(key) or {}).items():
        repeats = len(re.findall(r"(?<!\\)[*+?{]", pattern))
        try:
            if repeats > MOST_REPEATS or re.search(r"\)[*+?{]", pattern) or len(pattern) > 500:
                raise re.error("it repeats too much")
            found = re.match(rf"(.*\.)?({pattern})$", layer)
        except re.error as e:
            raise UserError(
                f"{adapter.where} the pattern {pattern[:80]!r} of {key} is not supported ({e}). "
                f"{MERGE}"
            ) from None
        if found:
            if type(value) not in (int, float) or not abs(value) <= LARGEST:
                raise UserError(f"{adapter.where} {key} has {shown(value)}; expected a number.")
            return value
    return default


def _begins(names: Mapping[str, str]) -> tuple[str, str]:
    """Returns (the adapter's prefix, the source's in its place), which all layers share.

    `names` has the source's name of the weight of each layer; without any both are "".
    """
    if not names:
        return "", ""
    layer, name = next(iter(names.items()))
    ours, theirs = name.split(".")[:-1], layer.split(".")  # without "weight"
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return _dotted(theirs), _dotted(ours)


def _dotted(words: Sequence[str]) -> str:
    """Returns the words as the beginning of a name, "" for none."""
    return "".join(f"{word}." for word in words)
