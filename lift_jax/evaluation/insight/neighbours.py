"""The nearest neighbours of features: the images that are most alike by cosine."""

import numpy as np
from jaxtyping import Float, Int

BLOCK = 2**24  # cosines that are held at a time: 64 MB


def nearest(
    queries: Float[np.ndarray, "m e"], features: Float[np.ndarray, "n e"], k: int
) -> tuple[Int[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    """Returns the indices and cosines of the `k` features most like each query, most alike first.

    Of equal ones the first comes first. If there are fewer than `k` features all are returned.
    Features of length 0 are like nothing (cosine 0).
    """
    k = min(k, len(features))
    found = np.zeros((len(queries), k), np.int32), np.zeros((len(queries), k), np.float32)
    if not k:
        return found
    known, rows = unit(features), max(1, BLOCK // len(features))
    for first in range(0, len(queries), rows):
        cosines = unit(queries[first : first + rows]) @ known.T
        # all that reach the k-th largest cosine, so that ties do not depend on the partition
        least = np.partition(cosines, -k, axis=1)[:, -k]
        for i, own in enumerate(cosines):
            candidates = np.flatnonzero(own >= least[i])
            order = candidates[np.argsort(-own[candidates], kind="stable")][:k]
            found[0][first + i], found[1][first + i] = order, own[order]
    return found


def unit(features: Float[np.ndarray, "n e"]) -> Float[np.ndarray, "n e"]:
    """Returns features at unit length, in float32; those of length 0 stay as they are."""
    features = features.astype(np.float32)
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(length > 0, length, 1)
