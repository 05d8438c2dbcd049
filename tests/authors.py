"""The names that the golden files give to our leaves."""

import numpy as np

_LEAVES = {
    "norm.weight": ("norm/scale", False),
    "norm.bias": ("norm/bias", False),
    "down.weight": ("down/kernel", True),
    "down.bias": ("down/bias", False),
    "up.weight": ("up/kernel", True),
    "up.bias": ("up/bias", False),
    "scale": ("scale", False),
}


def ours(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """The authors' tuner leaf as (our path, array in our layout)."""
    if name == "classifier.weight":
        return "head/weight", array
    _, _, layer, tuner, leaf = name.split(".", 4)
    path, transposed = _LEAVES[leaf]
    return f"visual/blocks/{layer}/tuners/{tuner}/{path}", array.T if transposed else array


def leaves(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """All leaves whose key starts with the prefix ("CASE/param/"), by our paths."""
    return dict(
        ours(key.removeprefix(prefix), value)
        for key, value in arrays.items()
        if key.startswith(prefix)
    )
