"""From a backbone's name to the folder that holds its files, downloading where needed."""

import re
from pathlib import Path

from lift_jax.errors import UserError, unknown
from lift_jax.weights import tokenizer
from lift_jax.weights.huggingface import CONFIG, PREPROCESSOR, WEIGHTS

# our names -> Hugging Face repositories
NAMES = {
    "clip_vit_b32": "openai/clip-vit-base-patch32",
    "clip_vit_b16": "openai/clip-vit-base-patch16",
    "clip_vit_l14": "openai/clip-vit-large-patch14",
    "clip_vit_l14_336": "openai/clip-vit-large-patch14-336",
}
DEMO = Path(__file__).parent.parent / "demo" / "tiny_clip"


def folder_of(name: str) -> Path:
    """Resolves a known name ('clip_vit_b16', 'demo'), a folder, or a hub name ('owner/repository').

    Hub files are kept in the cache of huggingface_hub and used from there without a network.
    Raises UserError if there is no such thing, or it cannot be had.
    """
    if name == "demo":
        return DEMO
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name in NAMES:
        return _download(NAMES[name])
    if path.exists():
        raise UserError(
            f"The backbone {name} is a file; expected a folder with {CONFIG}, {WEIGHTS} and the "
            "tokenizer files, or a hub name such as openai/clip-vit-base-patch16."
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return _download(name)
    if "/" in name:
        raise UserError(f"The backbone folder {name} does not exist. Check model.backbone.")
    raise unknown("backbone (model.backbone)", name, [*NAMES, "demo", "debug"])


def _download(repository: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [CONFIG, WEIGHTS, PREPROCESSOR, *tokenizer.FILES]
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as e:
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise UserError(
            f"Cannot get the backbone {repository} from the Hugging Face hub: {first}\n"
            "Check the name and the network, or give model.backbone the path of a folder that "
            f"holds {CONFIG}, {WEIGHTS} and the tokenizer files."
        ) from e
    missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).exists()]
    if missing:
        raise UserError(
            f"{repository} on the Hugging Face hub has no {' and no '.join(missing)}: expected a "
            "CLIP with a ViT image tower, stored as safetensors."
        )
    return folder
