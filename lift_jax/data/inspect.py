"""Checks of every image of a data set: its size, whether it can be read, and its duplicates."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lift_jax.data.images import traits
from lift_jax.data.images.decode import open_image
from lift_jax.data.types import EncodedImages, Images, Split
from lift_jax.errors import UserError

KINDS_OF_EQUAL = ("in two splits", "two labels", "duplicate")  # worst first


@dataclass(frozen=True)
class ImageSummary:
    """The size of an image in pixels and the digest of its pixels, or why it cannot be read.

    `traits` are those of its file (`images.traits`). `fault` is empty for an image that can be
    read; the other fields are meaningless otherwise.
    """

    height: int = 0
    width: int = 0
    digest: bytes = b""
    fault: str = ""
    traits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A problem with one image or a group of images.

    Attributes:
        kind: "unreadable", "in two splits", "two labels" or "duplicate".
        images: (split, index) of every image concerned.
        cause: why an image is unreadable.
    """

    kind: str
    images: tuple[tuple[str, int], ...]
    cause: str = ""


def scan(images: Images, threads: int) -> Iterator[ImageSummary]:
    """Yields the summary of every image, in order. `threads` images are decoded at a time."""

    def summarise(i: int) -> ImageSummary:
        try:
            found: tuple[str, ...] = ()
            if isinstance(images, EncodedImages):
                content = images.content(i)
                pixels = np.asarray(open_image(content, images.name(i), images.how))
                found = traits.find(content)
            else:
                pixels = np.asarray(images[i])
        except UserError as error:
            return ImageSummary(fault=str(error))
        height, width = pixels.shape[:2]
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=str(height).encode())
        return ImageSummary(height, width, digest.digest(), traits=found)

    with ThreadPoolExecutor(threads) as pool:
        rows = iter(range(len(images)))
        pending = [pool.submit(summarise, i) for i in islice(rows, 4 * threads)]
        while pending:  # a window, so that a million images are not a million tasks
            yield pending.pop(0).result()
            pending += [pool.submit(summarise, i) for i in islice(rows, 1)]


def findings(
    splits: Mapping[str, Split], summaries: Mapping[str, list[ImageSummary]]
) -> list[Finding]:
    """Returns the problems of a data set, worst first.

    The kinds are "unreadable"; "in two splits", images with equal pixels, which make results look
    better than they are; "two labels", equal pixels with different labels in one split; and
    "duplicate", equal pixels with the same label in one split.
    """
    unreadable: list[Finding] = []
    by_digest: dict[bytes, list[tuple[str, int]]] = {}
    for name, own in summaries.items():
        for i, summary in enumerate(own):
            if summary.fault:
                unreadable.append(Finding("unreadable", ((name, i),), summary.fault))
            else:
                by_digest.setdefault(summary.digest, []).append((name, i))
    equal = [
        Finding(_kind_of_equal(splits, images), tuple(images))
        for images in by_digest.values()
        if len(images) > 1
    ]
    return unreadable + sorted(equal, key=lambda finding: KINDS_OF_EQUAL.index(finding.kind))


def _kind_of_equal(splits: Mapping[str, Split], images: list[tuple[str, int]]) -> str:
    """Returns the kind of finding that a group of images with equal pixels is."""
    if len({name for name, _ in images}) > 1:
        return "in two splits"
    labels = {int(splits[name].labels[i]) for name, i in images}
    return "two labels" if len(labels) > 1 else "duplicate"
