"""Pictures of digits, letters and signs, 32 px square and as varied as handwriting.

Shapes are distance fields of a font's glyphs, so that one threshold makes strokes of any width. A
field is warped smoothly at random, cut to its box, averaged into few cells, as by a scanner of low
resolution, and enlarged again. Whole batches are drawn as arrays: 256 pictures take less than a
tenth of a second on one core, so every batch can be drawn afresh.
"""

import functools
import string
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

SIZE = 32
CANVAS = 48  # pixels of the drawing before it is cut to its box
LOW, HIGH = -0.3, 1.3  # the canvas in units of the glyph's box
CELLS = (8, 10, 12, 16, 32)  # resolutions a picture is reduced to
CELL_SHARES = (0.5, 0.15, 0.1, 0.1, 0.15)

DIGITS = string.digits
# Capitals that differ from the small letter in size alone are left out: pictures fill the box.
LETTERS = string.ascii_lowercase + "".join(sorted(set(string.ascii_uppercase) - set("COSVWXZ")))
SIGNS = "+-=*#%&@?!$/()<>"
CHARACTERS = DIGITS + LETTERS + SIGNS
SHARES = (("digit", len(DIGITS), 0.5), ("letter", len(LETTERS), 0.4), ("sign", len(SIGNS), 0.1))

# Fonts that matplotlib ships; the TeX fonts have other signs at the codes of ASCII signs.
FONTS = ("DejaVuSans*", "DejaVuSerif*", "STIXGeneral*")
TEX_FONTS = ("cmr10*", "cmb10*", "cmss10*", "cmti10*", "cmtt10*")


@dataclass(frozen=True)
class Bank:
    """Distance fields of font glyphs, negative inside, and the fields that show each character."""

    fields: Float[np.ndarray, "g canvas canvas"]
    of: tuple[np.ndarray, ...]  # CHARACTERS index -> rows of `fields`


@functools.cache
def bank() -> Bank:
    """Draws every character in every font; takes about five seconds, the first time alone."""
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    fields, of = [], [[] for _ in CHARACTERS]
    for patterns, characters in ((FONTS, CHARACTERS), (TEX_FONTS, DIGITS + LETTERS)):
        files = sorted(file for pattern in patterns for file in folder.glob(f"{pattern}.ttf"))
        for file in files:
            if "Display" in file.name:  # ornaments
                continue
            font = ImageFont.truetype(str(file), 100)
            for character in characters:
                of[CHARACTERS.index(character)].append(len(fields))
                fields.append(field(font, character))
    return Bank(np.stack(fields), tuple(np.array(rows) for rows in of))


def field(font: ImageFont.FreeTypeFont, character: str) -> Float[np.ndarray, "canvas canvas"]:
    """Returns the signed distance to a glyph's outline; the unit is the glyph's longer side."""
    fine = 3 * CANVAS
    left, top, right, bottom = font.getbbox(character)
    unit = fine / (HIGH - LOW)
    font = font.font_variant(size=font.size * unit / max(right - left, bottom - top))
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (fine, fine))
    corner = ((fine - left - right) / 2, (fine - top - bottom) / 2)
    ImageDraw.Draw(image).text(corner, character, fill=255, font=font)
    inside = np.asarray(image) > 127
    outwards, inwards = (np.asarray(ndimage.distance_transform_edt(a)) for a in (~inside, inside))
    blocks = (outwards - inwards).reshape(CANVAS, 3, CANVAS, 3).mean((1, 3))
    return (blocks / unit).astype(np.float32)


def draw_labels(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    """Draws indices of `CHARACTERS`, half of them digits."""
    each = np.concatenate([np.full(count, share / count) for _, count, share in SHARES])
    return rng.choice(len(CHARACTERS), size=n, p=each / each.sum()).astype(np.int32)


def render(rng: np.random.Generator, labels: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 32 32"]:
    """Draws one grey picture for each label (an index of `CHARACTERS`), mostly bright on dark."""
    ink = font_ink(rng, labels, warp(rng, len(labels)))
    return expose(rng, reduce(rng, ink))


def normal(rng: np.random.Generator, *shape: int) -> Float[np.ndarray, "..."]:
    """Draws float32 of this shape from N(0, 1)."""
    return rng.standard_normal(shape, np.float32)


def uniform(
    rng: np.random.Generator, low: float, high: float, *shape: int
) -> Float[np.ndarray, "..."]:
    """Draws float32 of this shape from [low, high)."""
    return low + (high - low) * rng.random(shape, np.float32)


def warp(rng: np.random.Generator, n: int) -> Float[np.ndarray, "n p 2"]:
    """Returns the point of the glyph's unit box that each pixel of the canvas shows."""
    axis = (LOW + (np.arange(CANVAS) + 0.5) * (HIGH - LOW) / CANVAS - 0.5).astype(np.float32)
    places = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    angle, shear = 0.15 * normal(rng, n), 0.25 * normal(rng, n)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    slant = np.stack([np.stack([np.ones(n), shear], -1), np.tile([0, 1], (n, 1))], -2)
    tilt = 1 + np.clip(0.25 * normal(rng, n, 2), -0.6, 0.6) @ places.T
    affine = places @ np.swapaxes(turn @ slant.astype(np.float32), 1, 2) / tilt[..., None]
    # Bumps on a 5 x 5 lattice, wide enough to overlap: a smooth displacement.
    knots = np.linspace(-0.8, 0.8, 5, dtype=np.float32)
    bumps = np.exp(-((axis[:, None] - knots) ** 2) / (2 * 0.25**2))
    strength = np.exp(uniform(rng, np.log(0.02), np.log(0.08), n, 1, 1, 1))
    elastic = bumps @ (strength * normal(rng, n, 2, 5, 5)) @ bumps.T
    return affine + np.moveaxis(elastic.reshape(n, 2, -1), 1, 2) + 0.5


def inked(
    distance: Float[np.ndarray, "n p"], width: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 48 48"]:
    """Returns how much of each pixel lies within `width` of the shape."""
    pixel = (HIGH - LOW) / CANVAS
    ink = np.clip(0.5 + (width[:, None] - distance) / pixel, 0, 1)
    return ink.reshape(-1, CANVAS, CANVAS)


def font_ink(
    rng: np.random.Generator, labels: Int[np.ndarray, " n"], places: Float[np.ndarray, "n p 2"]
) -> Float[np.ndarray, "n 48 48"]:
    """Draws the glyph of a random font for each label, thinned or thickened."""
    fields, of = bank().fields, bank().of
    rows = np.array([rng.choice(of[label]) for label in labels], np.int64)
    grid = np.clip((places - LOW) * (CANVAS / (HIGH - LOW)) - 0.5, 0, CANVAS - 1.001)
    corner = grid.astype(np.int64)
    x, y = np.moveaxis(grid - corner, -1, 0)
    flat = fields.reshape(-1)
    at = (rows[:, None] * CANVAS + corner[..., 1]) * CANVAS + corner[..., 0]
    above = flat[at] * (1 - x) + flat[at + 1] * x
    below = flat[at + CANVAS] * (1 - x) + flat[at + CANVAS + 1] * x
    return inked(above * (1 - y) + below * y, uniform(rng, -0.02, 0.05, len(labels)))


def extent(
    marked: Bool[np.ndarray, "n s"],
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Returns the index of the first marked element of each row, and one past the last."""
    return marked.argmax(1), marked.shape[1] - marked[:, ::-1].argmax(1)


def cells(
    low: Float[np.ndarray, " n"], length: Float[np.ndarray, " n"], count: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n 32 48"]:
    """Returns the weights that average the canvas into `count` equal cells of a frame."""
    edges = low[:, None] + np.arange(SIZE + 1) * (length / count)[:, None]
    pixels = np.arange(CANVAS)
    first = np.maximum(edges[:, :-1, None], pixels)
    last = np.minimum(edges[:, 1:, None], pixels + 1)
    return (np.maximum(last - first, 0) / (length / count)[:, None, None]).astype(np.float32)


@functools.cache
def enlargements() -> Float[np.ndarray, "r 32 32"]:
    """Returns, for each of `CELLS`, the bicubic enlargement to 32 px as Pillow does it."""
    result = np.zeros((len(CELLS), SIZE, SIZE), np.float32)
    for i, count in enumerate(CELLS):
        eye = Image.fromarray(np.eye(count, dtype=np.float32))
        result[i, :, :count] = np.asarray(eye.resize((count, SIZE), Image.Resampling.BICUBIC))
    return result


def reduce(
    rng: np.random.Generator, ink: Float[np.ndarray, "n 48 48"]
) -> Float[np.ndarray, "n 32 32"]:
    """Cuts each drawing to a frame around its ink, averages it into cells and enlarges it."""
    n = len(ink)
    (left, right), (top, bottom) = extent(ink.max(1) > 0.3), extent(ink.max(2) > 0.3)
    width, height = np.maximum(right - left, 4), np.maximum(bottom - top, 4)
    margin = np.maximum(uniform(rng, -0.12, 0.12, n), 0)  # half of the drawings touch their frame
    longer = np.maximum(width, height) * (1 + margin)
    mode = rng.random(n)
    free = mode < 0.15
    longer = np.where(free, longer * uniform(rng, 1, 1.6, n), longer)
    # Most drawings are framed by their longer side; some are stretched towards a square.
    squash = np.where(mode > 0.75, rng.random(n), 0)
    frame_x = np.maximum(longer * (width / longer) ** squash, 0.5 * longer)
    frame_y = np.maximum(longer * (height / longer) ** squash, 0.5 * longer)
    frame_x = np.maximum(frame_x * np.exp(0.12 * normal(rng, n)), width)
    spare = np.where(free, 1.0, 0.3)
    low_x = left - (frame_x - width) * (0.5 + spare * uniform(rng, -0.5, 0.5, n))
    low_y = top - (frame_y - height) * (0.5 + spare * uniform(rng, -0.5, 0.5, n))
    kind = rng.choice(len(CELLS), n, p=CELL_SHARES)
    count = np.array(CELLS)[kind]
    enlarge = enlargements()[kind]
    rows, columns = cells(low_y, frame_y, count), cells(low_x, frame_x, count)
    return (enlarge @ rows) @ ink @ np.swapaxes(enlarge @ columns, 1, 2)


def expose(
    rng: np.random.Generator, ink: Float[np.ndarray, "n 32 32"]
) -> UInt8[np.ndarray, "n 32 32"]:
    """Turns ink into grey levels with random contrast, pressure and noise; inverts one in eight."""
    n = len(ink)
    ink = np.clip(ink * uniform(rng, 1, 1.5, n, 1, 1), 0, 1) ** np.exp(0.2 * normal(rng, n, 1, 1))
    paper = np.where(rng.random((n, 1, 1)) < 0.6, 0, uniform(rng, 0, 0.25, n, 1, 1))
    bright = uniform(rng, 0.7, 1, n, 1, 1)
    noise = uniform(rng, 0, 0.03, n, 1, 1) * normal(rng, *ink.shape)
    grey = paper + (bright - paper) * ink + noise
    grey = np.where(rng.random((n, 1, 1)) < 0.125, 1 - grey, grey)
    return (np.clip(grey, 0, 1) * 255).round().astype(np.uint8)
