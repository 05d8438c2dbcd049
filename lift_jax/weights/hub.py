"""The names of backbones, and the download of their files from the Hugging Face hub."""

import json
import os
import re
from pathlib import Path

from absl import logging

from lift_jax.errors import UserError, unknown
from lift_jax.storage.names import expand_user
from lift_jax.weights import tokenizer
from lift_jax.weights.files.headers import shard_names
from lift_jax.weights.files.source import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    OPEN_CLIP,
    PREPROCESSOR,
    SUFFIXES,
    read_json,
    weight_names,
)

# Our names -> repositories of the hub. A repository's name includes the training recipe, so the
# weights behind a name never change, as they did behind timm's bare model names.
NAMES = {
    # CLIP by OpenAI
    "clip_vit_b32": "openai/clip-vit-base-patch32",
    "clip_vit_b16": "openai/clip-vit-base-patch16",
    "clip_vit_l14": "openai/clip-vit-large-patch14",
    "clip_vit_l14_336": "openai/clip-vit-large-patch14-336",
    "clip_rn50": "timm/resnet50_clip.openai",
    "clip_rn101": "timm/resnet101_clip.openai",
    "clip_rn50x4": "timm/resnet50x4_clip.openai",
    "clip_rn50x16": "timm/resnet50x16_clip.openai",
    # CLIP by others
    "clip_vit_b16_laion2b": "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    "clip_vit_h14_laion2b": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "clip_vit_b16_datacomp": "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    "clip_vit_l14_datacomp": "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    "clip_vit_b16_dfn": "apple/DFN2B-CLIP-ViT-B-16",
    "clip_vit_h14_dfn": "apple/DFN5B-CLIP-ViT-H-14",
    "clip_vit_b16_metaclip": "facebook/metaclip-b16-fullcc2.5b",
    "clip_vit_l14_metaclip": "facebook/metaclip-l14-fullcc2.5b",
    "clip_vit_h14_metaclip": "facebook/metaclip-h14-fullcc2.5b",
    "clip_vit_b16_metaclip2": "facebook/metaclip-2-worldwide-b16",
    "clip_vit_l14_metaclip2": "facebook/metaclip-2-worldwide-l14",
    "clip_vit_h14_metaclip2": "facebook/metaclip-2-worldwide-huge-quickgelu",
    # CLIP of plants, animals and fungi, which has seen iNaturalist (seen.py)
    "bioclip_b16": "imageomics/bioclip",
    "bioclip2_l14": "imageomics/bioclip-2",
    "bioclip2_5_h14": "imageomics/bioclip-2.5-vith14",
    # images and texts with a sigmoid loss
    "siglip_b16": "google/siglip-base-patch16-224",
    "siglip2_b16": "google/siglip2-base-patch16-224",
    # the Perception Encoder, with its text tower
    "pe_core_b16": "timm/PE-Core-B-16",
    "pe_core_l14": "timm/PE-Core-L-14-336",
    # the image tower of TIPSv2
    "tipsv2_b14": "timm/vit_base_patch14_reg1_tipsv2.webli",
    # supervised
    "vit_b16_in21k": "timm/vit_base_patch16_224.augreg_in21k",
    "vit_b16_in21k_ft_in1k": "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_b16_augreg2_in21k_ft_in1k": "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "vit_b16_384_in21k_ft_in1k": "timm/vit_base_patch16_384.augreg_in21k_ft_in1k",
    "vit_l16_in21k": "timm/vit_large_patch16_224.augreg_in21k",
    "vit_l16_in21k_ft_in1k": "timm/vit_large_patch16_224.augreg_in21k_ft_in1k",
    "vit_l16_384_in21k_ft_in1k": "timm/vit_large_patch16_384.augreg_in21k_ft_in1k",
    "resnet50": "timm/resnet50.a1_in1k",
    "resnet101": "timm/resnet101.a1h_in1k",
    "resnet152": "timm/resnet152.a1h_in1k",
    # self-supervised
    "dinov2_s14": "facebook/dinov2-small",
    "dinov2_b14": "facebook/dinov2-base",
    "dinov2_l14": "facebook/dinov2-large",
    "dinov2_b14_reg": "facebook/dinov2-with-registers-base",
    "dinov3_s16": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dinov3_b16": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "dinov3_l16": "facebook/dinov3-vitl16-pretrain-lvd1689m",
}
# The number of blocks of image towers with more than 12, for backbones that are not downloaded yet.
DEPTHS = {
    name: 32 if "_h14" in name else 24
    for name in NAMES
    if any(part in name for part in ("_l14", "_l16", "_h14"))
} | {
    "clip_rn50": 16, "clip_rn101": 33, "clip_rn50x4": 26, "clip_rn50x16": 40,
    "resnet50": 16, "resnet101": 33, "resnet152": 50,
}  # fmt: skip
# What the hub's client raises where a reply is JSON of another kind than a hub's.
OTHER_REPLY = (TypeError, LookupError, AttributeError, AssertionError)
DEMO = Path(__file__).parent.parent / "demo" / "tiny_clip"

# the files that are read beside the weights
_BESIDE = (CONFIG, OPEN_CLIP, PREPROCESSOR, *tokenizer.FILES, "special_tokens_map.json")


def locate(name: str) -> Path:
    """Returns the file or folder that a backbone's name stands for, downloading where needed.

    A name is a key of `NAMES`, 'demo', the path of a file or folder, or a hub name
    'owner/repository'. Keys and hub names may end in '@revision': a branch, a tag or a commit. Hub
    files are kept in the cache of huggingface_hub, and are used from there without a network.
    Raises UserError if nothing has this name, or if it cannot be downloaded.
    """
    if name == "demo":
        return DEMO
    known, _, revision = name.partition("@")
    if known in NAMES:
        return _download(NAMES[known], revision or None)
    path = expand_user(name)
    if name and os.path.exists(path):
        return path
    hub_name = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?", name)
    if hub_name and not name.endswith(SUFFIXES):
        return _download(hub_name[1], hub_name[2])
    if "/" in name or name.endswith(SUFFIXES):
        raise UserError(
            f"The backbone {name:.300} does not exist: no such file or folder. Check the path "
            "(model.backbone)."
        )
    raise unknown("backbone (model.backbone)", known, [*NAMES, "demo", "debug"])


def clip_tokenizer() -> Path:
    """Returns a folder with the tokenizer of OpenAI's CLIP, downloading it where needed.

    Raises UserError if it cannot be downloaded.
    """
    return _download(NAMES["clip_vit_b32"], None, weights=False)


def _download(repository: str, revision: str | None, weights: bool = True) -> Path:
    """Downloads the files that we read, and no others; returns the folder of the snapshot.

    With `weights` False only the files beside the weights are downloaded.
    """
    import httpx2  # the HTTP client of huggingface_hub, whose errors reach us as they are
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        commit, names, unreachable = _look_up(repository, revision)

        def fetch(name: str) -> Path:
            offline = unreachable is not None
            return Path(
                hf_hub_download(repository, name, revision=commit, local_files_only=offline)
            )

        # The weights come last, so that a cached snapshot with weights has all the other files.
        beside = {name: fetch(name) for name in _BESIDE if name in names}
        if not weights and beside:
            return next(iter(beside.values())).parent
        order = weight_names(beside.get(CONFIG))
        chosen = next((name for name in order if name in names), None)
        if chosen is None and unreachable is not None:
            raise LocalEntryNotFoundError("no weights in the cache") from unreachable
        if chosen is None and ADAPTER in names:
            fetch(ADAPTER)
            order = ADAPTER_WEIGHTS
            chosen = next((name for name in order if name in names), None)
        if chosen is None:
            raise UserError(
                f"{repository} on the hub has no weights that can be read here: expected one of "
                f"{', '.join(order)}; found {', '.join(sorted(names))}. Choose another repository."
            )
        file = fetch(chosen)
        if chosen.endswith(".index.json"):
            for shard in shard_names(read_json(file), str(file)):
                fetch(shard)
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError, *OTHER_REPLY) as e:
        raise _failure(repository, revision, e) from e
    return file.parent


def _look_up(repository: str, revision: str | None) -> tuple[str, set[str], Exception | None]:
    """Returns (commit, file names, error) of a revision.

    The error is None if the hub answered. Otherwise it says why the hub did not, and the commit and
    the names are those in the cache. Raises the errors of huggingface_hub if both fail.
    """
    import httpx2
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        info = api.model_info(repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        # This also notes in the cache which commit a branch or tag means, for offline use.
        commit = api.resolve_revision(repository, revision=revision).resolved
        names = {file.rfilename for file in info.siblings or ()}
        if not all(isinstance(name, str) for name in (commit, *names)):
            raise TypeError("the hub's reply holds other values than names")
        return commit, names, None
    except (httpx2.TransportError, OfflineModeIsEnabled) as e:
        unreachable = e
    except HfHubHTTPError as e:
        if e.response.status_code < 500:
            raise
        unreachable = e
    try:
        folder = snapshot_download(
            repository, revision=revision, local_files_only=True, allow_patterns=[]
        )
    except OSError as e:
        raise e from unreachable
    if not isinstance(unreachable, OfflineModeIsEnabled):
        logging.warning("The hub is out of reach, using %s: %s", folder, unreachable)
    return Path(folder).name, {path.name for path in Path(folder).iterdir()}, unreachable


def _failure(repository: str, revision: str | None, error: Exception) -> UserError:
    """Returns the UserError for an error of huggingface_hub: what happened and what to do."""
    from huggingface_hub import constants, errors

    page, cache = f"{constants.ENDPOINT}/{repository}", constants.HF_HUB_CACHE
    not_cached = isinstance(error, errors.LocalEntryNotFoundError)
    cause = error.__cause__ if not_cached and isinstance(error.__cause__, Exception) else error
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    if isinstance(cause, errors.GatedRepoError):
        remedy = f"Accept its licence at {page}, then run `hf auth login`."
    elif isinstance(cause, errors.RevisionNotFoundError):
        remedy = f"It has no branch, tag or commit {revision!r}; see {page}/commits/main."
    elif isinstance(cause, errors.RepositoryNotFoundError):
        remedy = (
            f"There is no such repository, nor a folder {repository} here. Check the name; a "
            "private repository needs `hf auth login`."
        )
    elif status in (401, 403):
        remedy = "The hub refuses your token: run `hf auth login`."
    elif isinstance(cause, errors.RemoteEntryNotFoundError):
        remedy = "The repository lists a file that it does not have: choose another revision."
    elif not_cached:
        remedy = (
            f"The hub is out of reach and the cache {cache} does not have all of it. Run it once "
            "with a network, or copy a cache that has all files and set HF_HUB_CACHE to it."
        )
    elif isinstance(cause, OSError) and cause.errno is not None:
        remedy = (
            f"The cache {cache} cannot be written: make room there, or set HF_HOME to a folder on "
            "another disk."
        )
    elif isinstance(cause, (json.JSONDecodeError, *OTHER_REPLY)):
        remedy = f"Its reply is not that of a hub: check {constants.ENDPOINT} (HF_ENDPOINT)."
    elif isinstance(cause, ValueError):
        remedy = "Check the name: expected owner/repository or owner/repository@revision."
    else:
        remedy = f"Run it again: the files that came whole are kept in {cache}."
    lines = [line for line in str(cause).splitlines() if line.strip()]
    reason = " ".join(lines[:2]) or type(cause).__name__  # further lines are the hub's own advice
    name = f"{repository}@{revision}" if revision else repository
    return UserError(f"Cannot get the backbone {name} from the hub: {reason}\n{remedy}")
