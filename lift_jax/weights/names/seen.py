"""Data that a backbone has seen in its pre-training, where that is published: a leak in a test."""

import re
from collections.abc import Iterable, Iterator

from lift_jax.weights.files import adapters
from lift_jax.weights.files.source import CONFIG, read_json
from lift_jax.weights.names import hub

INAT = r"(?<![a-z])i[-_ ]?nat([-_ ]?uralist)?(?![a-z])"  # in a data set's name
# (pattern of a backbone's name, what it has seen of iNaturalist), the surest first
_SEEN = (
    (
        r"bioclip[-_ ]?v?2",
        "photographs of iNaturalist in training (TreeOfLife-200M), perhaps iNaturalist 2021",
    ),
    (r"bioclip|biocap", "iNaturalist 2021 in training"),
)
_STATED = ("_name_or_path", "architecture")  # of a backbone in its config.json


def warning(backbone: str, data: Iterable[str]) -> str:
    """Returns a sentence if a backbone has seen the data by their names, "" if nothing says so.

    `backbone` is a name or path as `load_backbone` takes it, and `data` holds the names of a data
    set, and the paths of its files. Raises UserError if the backbone cannot be found.
    """
    if not any(re.search(INAT, name.lower()) for name in data):
        return ""
    for name in _names(backbone):
        for model, what in _SEEN:
            if re.search(model, name.lower()):
                return (
                    f"{backbone:.300} has seen {what}: images and classes of the test may be among "
                    "them, so that its accuracy is too high."
                )
    return ""


def _names(backbone: str) -> Iterator[str]:
    """Yields the names of a backbone: as given, of its file or folder, and what its files state.

    Those of an adapter are followed by those of the backbone that it changes. Raises UserError if
    one of them cannot be found or read.
    """
    yield backbone
    if backbone.partition("@")[0] in (*hub.NAMES, "demo", "debug"):
        return
    path = hub.locate(backbone)
    real = path.resolve()  # also of "." and of a link
    yield real.name
    yield real.parent.name if path.is_file() else ""
    yield from (part for part in real.parts if part.startswith("models--"))  # in the hub's cache
    if (adapter := adapters.folder_of(path)) is not None:
        yield from _names(adapters.base_of(adapters.read(adapter)))
        return
    config = (path if path.is_dir() else path.parent) / CONFIG
    stated = read_json(config) if config.exists() else {}
    yield from (name for key in _STATED if isinstance(name := stated.get(key), str))
