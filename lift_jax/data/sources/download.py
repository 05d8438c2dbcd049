"""Downloads of archives from their official address into the user's cache, with their checksums."""

import hashlib
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from lift_jax.errors import DiskError, UserError
from lift_jax.output.terminal import Terminal
from lift_jax.storage import atomic
from lift_jax.storage.cache import cache_folder

TIMEOUT = 60  # seconds without a byte
BLOCK = 1 << 18
NETWORK = (
    urllib.error.URLError,
    http.client.HTTPException,
    ssl.SSLError,
    TimeoutError,
    ConnectionError,
)  # the network's errors; other kinds of OSError come from the disk


_offline = ContextVar("offline", default=False)


@contextmanager
def offline() -> Iterator[None]:
    """Takes archives from the cache alone within the block."""
    token = _offline.set(True)
    try:
        yield
    finally:
        _offline.reset(token)


@dataclass(frozen=True)
class Archive:
    """An archive to download, with the checksum and size that it should have."""

    url: str
    md5: str
    size: int  # bytes

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


def fetch(archive: Archive) -> Path:
    """Returns the path of the archive in the user's cache; downloads it if it is not there.

    A download gets its name only after its checksum was found right, so that a file of that name is
    always complete. Raises UserError if the download fails, or is needed while `offline`.
    """
    place = cache_folder() / "data" / archive.name
    if place.is_file():
        return place
    if _offline.get():
        raise UserError(f"There is no {place}. {_by_hand(archive)}")
    try:
        with atomic.replacement(place) as partial, open(partial, "wb") as file:
            digest = _download(archive, file)
            if digest != archive.md5:
                raise UserError(
                    f"{archive.url} came with the checksum (MD5) {digest}, expected {archive.md5}: "
                    "it was damaged on its way, or the server answered with another file. Run it "
                    f"again. {_by_hand(archive)}"
                )
    except NETWORK as e:
        cause = getattr(e, "reason", None) or e
        if isinstance(e, urllib.error.HTTPError):
            e.close()  # it is the answer as well
        raise UserError(
            f"Cannot download {archive.url}: {cause}. Run it again with a network. "
            f"{_by_hand(archive)}"
        ) from e
    except DiskError as e:
        raise DiskError(
            f"{e} The download takes {decimal(archive.size)}; XDG_CACHE_HOME may be a folder "
            f"on another disk. {_by_hand(archive)}"
        ) from e
    return place


def _by_hand(archive: Archive) -> str:
    return f"Or get {archive.name} by other means and set data.root to where it is."


def _download(archive: Archive, file: BinaryIO) -> str:
    """Downloads to `file` behind a progress bar; returns the MD5 of the content."""
    digest, many = hashlib.md5(usedforsecurity=False), 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "lift_jax"})
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT) as answer,
        Progress(*columns, TimeRemainingColumn(), console=Terminal(stderr=True)) as bar,
    ):
        expected = answer.length or archive.size  # the server may not say
        task = bar.add_task(archive.name, total=expected)
        while block := answer.read(BLOCK):
            file.write(block)
            digest.update(block)
            many += len(block)
            bar.update(task, advance=len(block))
        if many < expected:
            raise ConnectionError(f"the connection broke after {many:,} of {expected:,} bytes")
    return digest.hexdigest()
