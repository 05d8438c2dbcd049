"""Data that a backbone has seen in its pre-training, where that is published: a leak in a test."""

import re
from collections.abc import Iterable

# (pattern of a backbone's name, pattern of a data set's name, what has been seen), the surest first
INAT = r"(?<![a-z])i[-_ ]?nat([-_ ]?uralist)?(?![a-z])"
_SEEN = (
    (
        r"bioclip[-_ ]?v?2", INAT,
        "photographs of iNaturalist in training (TreeOfLife-200M), perhaps iNaturalist 2021",
    ),
    (r"bioclip|biocap", INAT, "iNaturalist 2021 in training"),
)  # fmt: skip


def warning(backbone: str, data: Iterable[str]) -> str:
    """Returns a sentence if a backbone has seen the data by their names, "" if nothing says so.

    `data` holds the names of a data set, and the paths of its files.
    """
    names = [name.lower() for name in data]
    for model, kind, what in _SEEN:
        if re.search(model, backbone.lower()):
            if any(re.search(kind, name) for name in names):
                return (
                    f"{backbone:.300} has seen {what}: images and classes of the test may be among "
                    "them, so that its accuracy is too high."
                )
            return ""
    return ""
