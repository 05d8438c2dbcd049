"""Pen skeletons of the ten digits: the ways of writing them that printed fonts do not have.

A variant is a few strokes, a stroke a row of control points in the unit box (x to the right, y
down) joined by a Catmull-Rom spline. A point that two strokes share is one point: it moves as one
when the points are jittered, so corners stay closed. Drawing is distance to the nearest segment.
"""

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

SPANS = 4  # straight pieces a spline span is drawn with

# digit -> variants -> strokes -> "x,y" control points in hundredths of the unit box.
SKELETONS = {
    "0": (
        ("50,0 18,18 8,50 18,84 50,100 82,84 92,50 82,18 50,0",),
        ("62,2 30,12 10,48 20,86 50,100 80,80 90,44 74,10 40,6",),
        ("50,0 30,16 24,50 30,84 50,100 70,84 76,50 70,16 50,0",),
        ("80,12 50,0 16,20 6,56 26,94 58,98 88,70 92,34 68,6 46,14",),
    ),
    "1": (
        ("50,0 50,50 50,100",),
        ("60,0 50,50 42,100",),
        ("24,26 40,16 54,0", "54,0 54,50 54,100"),
        ("14,36 36,22 60,0", "60,0 54,50 50,100"),
        ("26,24 42,14 52,0", "52,0 52,50 52,100", "22,100 52,100 82,100"),
        ("20,30 52,0", "52,0 50,50 48,100", "24,98 48,100 76,97"),
    ),
    "2": (
        ("10,26 24,5 52,0 82,10 84,34 60,64 10,100", "10,100 50,100 92,100"),
        ("14,20 34,2 66,2 84,24 70,52 42,80 12,98", "12,98 50,92 90,100"),
        ("12,22 36,2 70,6 80,32 58,66 26,92 8,84 20,72 44,86 70,100 94,88",),
        ("12,8 48,2 84,6", "84,6 50,52 12,98", "12,98 50,96 90,98"),
        ("16,30 24,8 50,0 76,10 78,34 50,66 14,92 30,94 56,98 88,90",),
    ),
    "3": (
        ("12,14 40,0 76,6 82,26 64,42 38,48", "38,48 70,52 90,72 74,94 40,100 8,86"),
        ("14,4 46,2 84,4", "84,4 62,22 42,42", "42,42 74,48 90,70 72,94 38,100 8,88"),
        ("16,12 46,0 78,12 74,34 48,46 76,56 86,78 60,100 28,98 10,84",),
        ("20,16 50,2 78,18 70,40 52,48", "52,48 82,62 80,90 48,100 14,90"),
    ),
    "4": (
        ("26,0 18,30 10,60", "10,60 50,60 92,58", "68,22 66,60 62,100"),
        ("70,0 36,34 6,68", "6,68 50,68 96,68", "70,0 70,50 70,100"),
        ("22,0 16,26 18,50 44,56 76,48", "80,0 76,48 70,100"),
        ("60,0 34,34 10,66", "10,66 50,66 92,62", "66,36 64,66 60,100"),
        ("12,2 10,28 14,52", "14,52 50,52 84,50", "84,2 84,50 84,100"),
        ("64,2 8,58", "8,58 44,62 90,60", "60,40 52,70 46,100"),
    ),
    "5": (
        (
            "84,2 50,2 20,2",
            "20,2 18,24 14,46",
            "14,46 44,36 78,46 88,70 68,94 36,100 8,88",
        ),
        ("84,4 50,4 24,4", "24,4 20,26 18,44", "18,44 56,42 84,62 74,90 42,100 10,92"),
        ("82,4 48,2 26,12 18,36 48,46 80,60 78,86 46,100 12,92",),
        ("28,8 24,28 20,46", "20,46 58,42 84,64 70,92 40,100 10,90", "28,6 58,6 92,2"),
        ("90,0 56,4 34,8", "34,8 22,40", "22,40 60,38 76,56 64,84 34,100 4,94"),
    ),
    "6": (
        ("74,4 44,14 18,44 12,74 32,98 64,98 86,78 76,56 48,50 20,66",),
        ("60,0 36,26 18,58 20,88 46,100 76,90 82,68 58,54 32,62 20,78",),
        ("34,0 22,34 18,70 34,98 64,98 82,80 68,60 40,60 20,76",),
        ("84,10 60,0 30,14 12,48 16,84 46,100 80,88 84,64 58,48 28,56 16,72",),
    ),
    "7": (
        ("10,6 50,4 90,4", "90,4 62,46 40,100"),
        ("10,4 50,2 88,2", "88,2 64,48 46,100", "30,50 58,50 86,48"),
        ("12,22 14,4", "14,4 50,6 88,2", "88,2 66,46 54,100"),
        ("8,12 34,2 62,8 90,4", "90,4 66,34 52,66 50,100"),
        ("8,10 32,2 60,8 88,2", "88,2 62,50 44,100", "24,56 54,50 86,46"),
        ("16,2 50,2 80,4", "80,4 76,50 70,100"),
    ),
    "8": (
        ("80,14 50,0 20,14 26,36 52,48 80,64 82,88 50,100 18,88 20,64 50,48 76,34 80,14",),
        (
            "50,0 22,10 22,36 50,46 78,36 78,10 50,0",
            "50,46 16,58 14,88 50,100 86,88 84,58 50,46",
        ),
        ("66,6 36,4 26,24 46,44 68,66 64,94 38,100 24,80 42,56 68,34 76,14 62,4",),
        ("86,8 50,2 24,18 44,42 70,64 66,92 38,100 20,82 36,58 66,36 88,10",),
    ),
    "9": (
        ("78,12 48,0 18,14 14,38 40,52 70,42 80,14", "80,14 78,56 74,100"),
        ("76,22 54,2 24,10 16,36 42,50 70,36 78,14 80,50 64,86 30,100",),
        ("84,10 52,2 20,14 14,40 42,52 76,40 84,10", "84,10 84,56 70,92 40,100 14,88"),
        ("72,8 40,2 18,22 30,46 60,40 74,10", "74,10 62,54 44,100"),
        ("60,4 26,6 18,32 48,42 74,24 60,4 80,30 78,66 54,100",),
    ),
}


@dataclass(frozen=True)
class Skeletons:
    """Every variant as arrays, padded to equal sizes: points, and segments linear in the points."""

    digit: Int[np.ndarray, " v"]
    points: Float[np.ndarray, "v k 2"]
    start: Float[np.ndarray, "v s k"]
    end: Float[np.ndarray, "v s k"]


def spline(count: int) -> Float[np.ndarray, "m count"]:
    """Returns the matrix from `count` control points to points along their Catmull-Rom spline."""
    rows = []
    eye = np.eye(count)
    for i in range(count - 1):
        before, a, b, after = (eye[min(max(j, 0), count - 1)] for j in range(i - 1, i + 3))
        for t in np.arange(SPANS) / SPANS:
            h = t * t * (3 - 2 * t)
            tangents = t * (1 - t) ** 2 * (b - before) / 2 - t * t * (1 - t) * (after - a) / 2
            rows.append((1 - h) * a + h * b + tangents)
    return np.stack([*rows, eye[-1]])


@functools.cache
def skeletons() -> Skeletons:
    """Parses `SKELETONS`."""
    parsed = []
    for digit, variants in SKELETONS.items():
        for strokes in variants:
            texts = [stroke.split() for stroke in strokes]
            names = list(dict.fromkeys(name for text in texts for name in text))
            points = np.array([[int(z) / 100 for z in name.split(",")] for name in names])
            starts, ends = [], []
            for text in texts:
                chosen = np.eye(len(names))[[names.index(name) for name in text]]
                along = spline(len(text)) @ chosen
                starts.append(along[:-1])
                ends.append(along[1:])
            parsed.append((int(digit), points, np.concatenate(starts), np.concatenate(ends)))
    k = max(len(points) for _, points, _, _ in parsed)
    s = max(len(start) for _, _, start, _ in parsed)

    def pad_points(matrix: np.ndarray) -> np.ndarray:
        return np.pad(matrix, ((0, k - len(matrix)), (0, 0)))

    def pad_segments(matrix: np.ndarray) -> np.ndarray:  # one repeated segment changes no distance
        rows = np.pad(matrix, ((0, s - len(matrix)), (0, 0)), "edge")
        return np.pad(rows, ((0, 0), (0, k - matrix.shape[1])))

    digits, *arrays = zip(*parsed, strict=True)
    stacked = (
        np.stack([pad(a) for a in column]).astype(np.float32)
        for pad, column in zip((pad_points, pad_segments, pad_segments), arrays, strict=True)
    )
    return Skeletons(np.array(digits, np.int32), *stacked)


def distances(
    places: Float[np.ndarray, "n p 2"],
    start: Float[np.ndarray, "n s 2"],
    end: Float[np.ndarray, "n s 2"],
) -> Float[np.ndarray, "n p"]:
    """Returns the distance of every place to the nearest of its drawing's segments."""
    result = np.empty(places.shape[:2], np.float32)
    along = end - start
    length2 = np.maximum((along**2).sum(-1), 1e-8)
    for i, (p, a, d, dd) in enumerate(zip(places, start, along, length2, strict=True)):
        # One drawing at a time stays in the cache: 3x faster than the whole batch at once.
        dot = p @ d.T
        dot -= (a * d).sum(-1)
        t = np.clip(dot / dd, 0, 1)
        # |p - a - t d|^2 without |p|^2, which is the same for all segments
        squared = (t * dd - 2 * dot) * t
        squared -= 2 * p @ a.T - (a * a).sum(-1)
        result[i] = np.sqrt(np.maximum(squared.min(-1) + (p * p).sum(-1), 0))
    return result
