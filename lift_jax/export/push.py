"""The upload of an exported folder to the Hugging Face hub, or the one that HF_ENDPOINT names."""

import re
from pathlib import Path

from lift_jax.errors import UserError, shown
from lift_jax.weights.files.repository import OTHER_REPLY

NAME = re.compile(r"[A-Za-z0-9_-][\w.-]{0,95}/[A-Za-z0-9_-][\w.-]{0,95}", re.ASCII)


def check(name: str) -> None:
    """Raises UserError for a name that no repository has, and where there is no token."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        if not NAME.fullmatch(name):
            raise HFValidationError
        validate_repo_id(name)
    except HFValidationError as e:
        raise UserError(
            f"--push is {shown(name)}; expected owner/name, of letters, digits, '-', '_' and '.', "
            "such as anna/birds."
        ) from e
    if constants.HF_HUB_OFFLINE:
        raise UserError("--push needs a network, and HF_HUB_OFFLINE is set. Unset it.")
    if get_token() is None:
        raise UserError(
            f"--push={name} needs a token of {constants.ENDPOINT} that may write. Run `hf auth "
            "login`, or set HF_TOKEN."
        )


def push(folder: Path, name: str) -> str:
    """Uploads a folder to a repository, which is made, private, if there is none.

    Returns the address of the repository. Raises UserError if the hub refuses or cannot be reached;
    the folder is as it was.
    """
    import httpx2  # the HTTP client of huggingface_hub, whose errors reach us as they are
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    try:
        url = str(api.create_repo(name, private=True, exist_ok=True))
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message="Upload by lift-jax export"
        )
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError, *OTHER_REPLY) as e:
        raise _failure(folder, name, e) from e
    return url


def _failure(folder: Path, name: str, error: Exception) -> UserError:
    """Returns the UserError for an error of huggingface_hub: what happened and what to do."""
    import httpx2
    from huggingface_hub import constants, errors

    cause = error.__cause__ if isinstance(error, RuntimeError) else error  # of one large file
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2])[:300] or type(error).__name__  # further lines are advice
    reason += "." * (reason[-1] not in ".!?")
    if status == 401:
        remedy = "The hub does not know the token: run `hf auth login`, or set HF_TOKEN."
    elif status == 403:
        remedy = f"The token may not write to {name}: take one that may, or another name."
    elif status == 404:
        remedy = f"There is no owner of {name} that the token may write for: check the name."
    elif status is None and isinstance(cause, httpx2.TransportError | OSError):
        remedy = f"{constants.ENDPOINT} is out of reach: check the network, and HF_ENDPOINT."
    else:
        remedy = f"Check {constants.ENDPOINT} (HF_ENDPOINT), and try again."
    return UserError(
        f"Cannot push to {name}: {reason} {remedy} The folder is written; to push it alone: hf "
        f"upload {name} {folder}"
    )
