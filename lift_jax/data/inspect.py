"""A look at every image of a data set: its size, whether it can be read, and where it is twice."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lift_jax.data.types import Images, Split
from lift_jax.errors import UserError


@dataclass(frozen=True)
class ImageFacts:
    """What one image is like: its size in pixels and a digest of them, or why it cannot be read."""

    height: int = 0
    width: int = 0
    digest: bytes = b""
    fault: str = ""


@dataclass(frozen=True)
class Finding:
    """Something to look into: what, the images (split, index) that it is about, and the cause."""

    kind: str
    images: tuple[tuple[str, int], ...]
    cause: str = ""


def scan(images: Images, threads: int) -> Iterator[ImageFacts]:
    """Yields a look at every image in order; `threads` of them decode at a time."""

    def look(i: int) -> ImageFacts:
        try:
            pixels = np.asarray(images[i])
        except UserError as error:
            return ImageFacts(fault=str(error))
        height, width = pixels.shape[:2]
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=str(height).encode())
        return ImageFacts(height, width, digest.digest())

    with ThreadPoolExecutor(threads) as pool:
        order = iter(range(len(images)))
        waiting = [pool.submit(look, i) for i in islice(order, 4 * threads)]
        while waiting:  # a window, so that a million images are not a million tasks
            yield waiting.pop(0).result()
            waiting += [pool.submit(look, i) for i in islice(order, 1)]


def findings(splits: Mapping[str, Split], looks: Mapping[str, list[ImageFacts]]) -> list[Finding]:
    """Returns what is wrong or doubtful, worst first.

    The kinds are "unreadable"; "in two splits", of images whose pixels are equal, which makes
    results look better than they are; "two labels", equal pixels with different labels; and
    "duplicate", equal pixels with the same label in one split.
    """
    unreadable, places = [], {}
    for name, found in looks.items():
        for i, look in enumerate(found):
            if look.fault:
                unreadable.append(Finding("unreadable", ((name, i),), look.fault))
            else:
                places.setdefault(look.digest, []).append((name, i))
    twice = []
    for group in places.values():
        if len(group) < 2:
            continue
        where = {name for name, _ in group}
        labels = {int(splits[name].labels[i]) for name, i in group}
        kind = "duplicate"
        if len(where) > 1:
            kind = "in two splits"
        elif len(labels) > 1:
            kind = "two labels"
        twice.append(Finding(kind, tuple(group)))
    order = ("in two splits", "two labels", "duplicate")
    return unreadable + sorted(twice, key=lambda finding: order.index(finding.kind))
