"""Speed of turning image files into views on one core, next to a plain Pillow pipeline."""

import io
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from lift_jax.benchmarks.results import Seconds
from lift_jax.data.images.cuts import Cut
from lift_jax.data.images.decode import Decoding, open_image
from lift_jax.data.images.resize import compile_filters
from lift_jax.data.images.views import FiveCrop, TestTransform, TrainTransform, View
from lift_jax.data.prepared import prepare
from lift_jax.data.prepared.shards import PreparedImages
from lift_jax.data.types import FileImages, Images, Split
from lift_jax.output.terminal import Terminal

SIZES = ((375, 500), (600, 800))  # (height, width) of the JPEGs, half each: ImageNet, iNaturalist
COUNT = 24
ROUNDS = 15
RES = 224
MEAN, STD = (np.array(values, np.float32) for values in ((0.48, 0.46, 0.41), (0.27, 0.26, 0.28)))


def photographs(folder: Path) -> FileImages:
    """Writes `COUNT` JPEGs of about 80 kB that have slopes, edges and grain like photographs."""
    for i in range(COUNT):
        height, width = SIZES[i % len(SIZES)]
        rng = np.random.default_rng(i)
        layers = np.zeros((height, width, 3))
        for cell, weight in ((160, 90), (40, 45), (10, 18), (3, 7)):
            shape = (height // cell + 3, width // cell + 3, 3)
            noise = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
            grown = noise.resize((width, height), Image.Resampling.BICUBIC)
            layers += weight * (np.asarray(grown) / 127.5 - 1)
        pixels = np.clip(layers + 128, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=94)
    return FileImages(str(folder), [f"{i}.jpg" for i in range(COUNT)])


def measure(console: Console, seconds: Seconds | None = None) -> dict[str, float]:
    """Times each way of reading; prints images per second, and returns the ratios to plain Pillow.

    All ways draw the same crops, of training (MDA in the middle epoch, half of them mirrored) and
    of tests, and take turns in `ROUNDS` rounds. Each image counts with its shortest time, because
    longer ones come from other work on the machine. `seconds` is given the times of the images by
    way. Filters are compiled before, as in a process that has read many images.
    """
    compile_filters()
    train = TrainTransform(RES, "mda", "bicubic", "convex", 0.08, True, 3)
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        files = photographs(Path(name))
        size = sum(len(files.content(i)) for i in range(COUNT)) / COUNT
        each = decimal(round(size), precision=0)
        about = f"one core: {COUNT} JPEGs of {each}, half 500x375 and half 800x600"
        fast = FileImages(files.root, files.paths, how=Decoding(fast=True))
        whole = {"data.decode=exact": files, "data.decode=fast": fast}
        for title, before, view, ways in (
            ("to training view", "", train, whole | _prepared(files, fast, Path(name))),
            ("to test view", "test view, ", TestTransform(RES), whole),
            ("to five crops", "five crops, ", FiveCrop(RES), whole),
        ):
            timed, views = _compare(files, {before + way: ways[way] for way in ways}, view)
            if seconds is not None:
                seconds |= {way: times.tolist() for way, times in timed.items()}
            shortest = {way: times.sum() for way, times in timed.items()}
            ratios |= _print(f"From file {title}, {about}", COUNT, shortest, console)
            pillow, exact, *others = views.items()
            same = "" if (exact[1] == pillow[1]).all() else "NOT "
            console.print(f"{exact[0]}: {same}the pixels of Pillow.")
            for way, found in others:
                print_error(way, "these images", np.abs(found - exact[1]), console)
    print_error("data.decode=fast", "crops of two photographs", on_photographs(), console)
    return ratios | stage(exact[1][:, 0].astype(np.uint8), console)


def _prepared(files: FileImages, fast: FileImages, folder: Path) -> dict[str, Images]:
    """Prepares the images in a folder; returns the ways of reading them."""
    split, side = Split(files, np.zeros(COUNT)), prepare.default_size(RES)
    made = prepare.prepare(
        split, folder / "prepared", size=side, workers=1, console=Terminal(quiet=True)
    )
    shards = tuple(str(path) for path in sorted(made.glob("*.array_record")))
    small, soon = (PreparedImages(shards, np.arange(COUNT), taken) for taken in (files, fast))
    return {f"prepared, short side {side}": small, "prepared, data.decode=fast": soon}


def _compare(
    files: FileImages, ways: Mapping[str, Images], view: TrainTransform | View
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the times of plain Pillow and of each way, and the levels of their views."""

    def draw(i: int) -> tuple[Any, ...]:
        return (np.random.default_rng(i), 1) if isinstance(view, TrainTransform) else ()

    def ours(images: Images) -> Callable[[int], np.ndarray]:
        return lambda i: view(images[i], *draw(i))

    cuts = [view.cuts(files[i].height, files[i].width, *draw(i)) for i in range(COUNT)]
    plain = f"{next(iter(ways)).rpartition('data.')[0]}plain Pillow, float32"
    calls = {plain: lambda i: _by_pillow(files.name(i), cuts[i])}
    calls |= {name: ours(images) for name, images in ways.items()}
    found = {name: np.stack([call(i) for i in range(COUNT)]) for name, call in calls.items()}
    found[plain] = np.round((found[plain] * STD + MEAN) * 255)
    levels = {k: v.astype(int).reshape(COUNT, -1, RES, RES, 3) for k, v in found.items()}
    return _time(calls, COUNT), levels


def _by_pillow(path: str, cuts: list[Cut]) -> np.ndarray:
    """Returns the views of an image that share a box, cut by Pillow and normalised in float32."""
    box, size, _, mirror = cuts[0]
    with Image.open(path) as image:
        part = image.convert("RGB")
    if box != (0, 0, *part.size):
        part = part.crop(box)
    part = part.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    views = []
    for top, left in (cut.place for cut in cuts):
        view = part.crop((left, top, left + RES, top + RES))
        view = ImageOps.mirror(view) if mirror else view
        views.append((np.asarray(view, np.float32) / 255 - MEAN) / STD)
    return np.stack(views)


def stage(views: np.ndarray, console: Console) -> dict[str, float]:
    """Times the last stage of a batch: float32 on the host, or bytes that the device normalises."""

    @jax.jit
    def normalise(images: jax.Array) -> jax.Array:
        return (images.astype(jnp.float32) / 255 - MEAN) / STD

    def host() -> None:
        rows = [(view.astype(np.float32) / 255 - MEAN) / STD for view in views]
        jax.block_until_ready(jax.device_put(np.stack(rows)))

    def device() -> None:
        jax.block_until_ready(normalise(jax.device_put(np.stack(list(views)))))

    ways = {
        "float32 on the host": lambda _: host(),
        "bytes, normalised on the device": lambda _: device(),
    }
    seconds = {name: times.sum() for name, times in _time(ways, 1, rounds=60).items()}
    return _print("Last stage of a batch", len(views), seconds, console)


def on_photographs() -> np.ndarray:
    """Measures how far fast views are from exact ones on scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images  # takes a second to import

    photographs: Any = load_sample_images()
    transform = TrainTransform(RES, "mda", "bicubic", "convex", 0.08, False, 3)
    found = []
    for image in photographs.images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=92)
        exact, fast = (
            open_image(stream.getvalue(), "a photograph", Decoding(fast=way))
            for way in (False, True)
        )
        for i in range(COUNT):
            one, two = (transform(each, np.random.default_rng(i), 1) for each in (exact, fast))
            found.append(np.abs(one.astype(int) - two))
    return np.stack(found)


def print_error(name: str, where: str, error: np.ndarray, console: Console) -> None:
    """Prints how many grey levels a way of reading is off."""
    console.print(
        f"{name}: differs on {where} by {error.mean():.1f} grey levels of 255 in the mean, "
        f"{np.percentile(error, 99):.0f} at the 99th percentile, {error.max()} at most."
    )


def _time(
    ways: Mapping[str, Callable[[int], object]], count: int, rounds: int = ROUNDS
) -> dict[str, np.ndarray]:
    """Returns the shortest time of each way with each of `count` items, in seconds.

    A first round is not timed.
    """
    best = {name: np.full(count, np.inf) for name in ways}
    for turn in range(1 + rounds):
        for name, way in ways.items():
            for i in range(count):
                begin = time.perf_counter()
                way(i)
                if turn:
                    best[name][i] = min(best[name][i], time.perf_counter() - begin)
    return best


def _print(
    title: str, count: int, seconds: Mapping[str, float], console: Console
) -> dict[str, float]:
    """Prints images per second of each way; returns the ratios to the first way."""
    table = Table(title=title, title_justify="left")
    for column in ("", "images/s", "ratio"):
        table.add_column(column, justify="left" if column == "" else "right")
    first = next(iter(seconds.values()))
    ratios = {name: float(first / found) for name, found in seconds.items()}
    for name, found in seconds.items():
        table.add_row(name, f"{count / found:,.0f}", f"{ratios[name]:.2f}")
    console.print(table)
    return ratios
