"""Adapters of peft: which files are one, its config, checked, and the weights that it changes.

Plain LoRA alone is read. `folding` computes what it makes of the weights.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lift_jax.errors import UserError, shown
from lift_jax.weights.files import state_dicts, torch_archive
from lift_jax.weights.files.source import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    MERGE,
    read_json,
    read_safetensors,
    weight_names,
)
from lift_jax.weights.files.state_dicts import Tensors

BASE = "base_model_name_or_path"
# the settings of LoRA that are read, or that matter in training alone; any other that is on is
# refused, as DoRA
_READ = """alpha_pattern base_model_name_or_path bias fan_in_fan_out lora_alpha lora_bias
    modules_to_save peft_type r rank_pattern revision target_modules use_rslora""".split()
_TRAINING = """auto_mapping ensure_weight_tying eva_config exclude_modules inference_mode
    init_lora_weights layers_pattern layers_to_transform lora_dropout megatron_config megatron_core
    peft_version qalora_group_size runtime_config task_type""".split()
# the beginnings of A and B that leave the weights as they were; others change them, as PiSSA
_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")
LARGEST = 10**9  # rank or alpha
_WORDS = {int: "a number", bool: "true or false", dict: "an object"}


@dataclass(frozen=True)
class Adapter:
    """An adapter: its folder, the contents of its config, and its tensors by peft's names."""

    folder: Path
    files: list[Path]
    config: dict[str, Any]
    tensors: Tensors

    @property
    def where(self) -> str:
        """The beginning of messages on a setting."""
        return f"{self.folder / ADAPTER}:"


def folder_of(path: Path) -> Path | None:
    """Returns the folder of an adapter, given that or its weight file; None for anything else.

    A folder that also holds weights of its own is none.
    """
    if path.name in ADAPTER_WEIGHTS and path.is_file():
        return path.parent
    if not (path / ADAPTER).exists():
        return None
    config = path / CONFIG
    names = weight_names(config if config.exists() else None)
    return None if any((path / name).exists() for name in names) else path


def read(folder: Path) -> Adapter:
    """Reads an adapter.

    Raises UserError if it is damaged, and says what to do for one that is not LoRA or that has a
    variant of it.
    """
    files = [folder / ADAPTER, *(folder / n for n in ADAPTER_WEIGHTS if (folder / n).exists())][:2]
    if len(files) < 2 or not files[0].exists():
        raise UserError(
            f"{folder} holds half an adapter of peft: expected {ADAPTER} and {ADAPTER_WEIGHTS[0]} "
            f"(or {ADAPTER_WEIGHTS[1]}). Save it again with save_pretrained()."
        )
    config, weights = read_json(files[0]), files[1]
    if torch_archive.is_torch_file(weights):
        tensors = state_dicts.find(torch_archive.read(weights).contents, str(weights)).tensors
    else:
        tensors = read_safetensors(weights)[0]
    adapter = Adapter(folder, files, config, tensors)
    _check(adapter)
    return adapter


def base_of(adapter: Adapter) -> str:
    """Returns the name or path of the weights that an adapter was trained on.

    A path counts from the working folder, or else from the adapter's. Raises UserError if the
    config does not name them.
    """
    name = adapter.config.get(BASE)
    if not isinstance(name, str) or not name:
        raise UserError(
            f"{adapter.where} {BASE} is {shown(name)}; expected the backbone that the adapter was "
            "trained on: write its name on the hub, or its folder, there."
        )
    if os.path.exists(name):
        return name
    beside = adapter.folder / name
    if os.path.exists(beside):
        return str(beside)
    revision = adapter.config.get("revision")
    return f"{name}@{revision}" if isinstance(revision, str) and revision else name


def _check(adapter: Adapter) -> None:
    """Raises UserError unless an adapter is plain LoRA with settings of the right kinds."""
    config = adapter.config
    kind = config.get("peft_type")
    on = [key for key, value in config.items() if value and key not in (*_READ, *_TRAINING)]
    begun = config.get("init_lora_weights", True)
    if not isinstance(begun, bool | str) or begun not in _BEGINNINGS:
        on.append("init_lora_weights")
    if kind != "LORA" or on or any(".lora_magnitude" in name for name in adapter.tensors):
        what = f"{on[0]} {shown(config[on[0]])}" if on and kind == "LORA" else shown(kind)
        what = what if kind != "LORA" or on else "DoRA's magnitudes"
        raise UserError(
            f"{adapter.folder} is an adapter of peft with {what}; plain LoRA alone is folded in. "
            f"{MERGE}"
        )
    kinds: dict[str, tuple[type, ...]] = {
        "r": (int,), "lora_alpha": (int, float), "use_rslora": (bool,), "rank_pattern": (dict,),
        "alpha_pattern": (dict,),
    }  # fmt: skip
    for key, types in kinds.items():
        value: Any = config.get(key, types[0]() if key not in ("r", "lora_alpha") else None)
        if type(value) not in types or (types[0] is int and not abs(value) <= LARGEST):
            raise UserError(
                f"{adapter.where} {key} is {shown(value)}; expected {_WORDS[types[0]]}. Save the "
                "adapter again."
            )
