"""Repositories of the Hugging Face hub: files that are downloaded once and kept in its cache."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from lift_jax.errors import UserError

NAME = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")  # owner/repository@revision
# What the hub's client raises where a reply is JSON of another kind than a hub's.
OTHER_REPLY = (TypeError, LookupError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Snapshot:
    """A commit of a repository.

    Attributes:
        repository: its name, owner/repository.
        commit: the commit.
        names: of its files; where the hub is out of reach, of those in the cache.
        unreachable: why the hub did not answer; None if it did.
    """

    repository: str
    commit: str
    names: frozenset[str]
    unreachable: Exception | None = None

    def fetch(self, name: str) -> Path:
        """Returns a file, downloading it where needed. Raises the errors of huggingface_hub."""
        from huggingface_hub import hf_hub_download

        offline = self.unreachable is not None
        return Path(
            hf_hub_download(self.repository, name, revision=self.commit, local_files_only=offline)
        )

    def check_reached(self, lack: str) -> None:
        """Raises an error of huggingface_hub if the cache lacks what the hub may have."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        if self.unreachable is not None:
            raise LocalEntryNotFoundError(lack) from self.unreachable


@contextmanager
def failures(kind: str, repository: str, revision: str | None) -> Iterator[None]:
    """Raises the errors of huggingface_hub as UserErrors; `kind` says what is downloaded."""
    import httpx2  # the HTTP client of huggingface_hub, whose errors reach us as they are

    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError, *OTHER_REPLY) as e:
        raise _failure(kind, repository, revision, e) from e


def look_up(repository: str, revision: str | None) -> Snapshot:
    """Returns the commit that a revision means: that in the cache, if the hub does not answer.

    Raises the errors of huggingface_hub if there is none.
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
        return Snapshot(repository, commit, frozenset(names))
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
    names = frozenset(path.name for path in Path(folder).iterdir())
    return Snapshot(repository, Path(folder).name, names, unreachable)


def _failure(kind: str, repository: str, revision: str | None, error: Exception) -> UserError:
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
            "There is no such repository. Check the name; a private repository needs `hf auth "
            "login`."
        )
    elif status in (401, 403):
        remedy = "The hub refuses your token: run `hf auth login`."
    elif isinstance(cause, errors.RemoteEntryNotFoundError):
        remedy = "The repository lists a file that it does not have: choose another revision."
    elif not_cached:
        remedy = (
            f"The hub is out of reach, and the cache {cache} does not have all of it. Run it once "
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
    return UserError(
        f"There is no folder {repository} here, and the {kind} {name} cannot be had from the hub: "
        f"{reason}\n{remedy}"
    )
