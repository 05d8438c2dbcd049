"""Attacks on functions: settings, JSON, images, lists, weights, pickles, names and hub replies."""

import csv
import io
import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

from lift_jax import settings
from lift_jax.data import datasets
from lift_jax.data.images import decode, traits
from lift_jax.data.images.formats import FORMATS
from lift_jax.settings.config_file import override
from lift_jax.settings.parse import parse, to_dict
from lift_jax.settings.schema import all_entries
from lift_jax.storage.formats.csv_files import read_csv, write_csv
from lift_jax.storage.reading import parse_json
from lift_jax.training.classifier import check_names
from lift_jax.weights import conversion
from lift_jax.weights.files import torch_archive
from lift_jax.weights.files.source import open_source
from tests.attack.engine import Fault, Kind
from tests.support.nasty_names import NASTY
from tests.support.odd_values import ODD_VALUES
from tests.support.paths import GOLDEN

# --- bytes ---


def changes(rng: random.Random, most: int = 4) -> list[tuple[str, float, int]]:
    """Draws changes of bytes: what is done, where (as a share of the length), and a number."""
    kinds = ("set", "cut", "repeat", "insert", "end", "token")
    return [
        (rng.choice(kinds), rng.random() ** rng.choice((1, 4)), rng.randrange(2**16))
        for _ in range(rng.randint(1, most))
    ]


TOKENS = (
    b"9" * 30, b"[" * 300, b"null", b'"', b"-1", b"\0\0\0\0", b"\xff\xfe", b"1e999",
    b"\\ud800", b"NaN",
)  # fmt: skip


def changed(content: bytes, done: list[tuple[str, float, int]]) -> bytes:
    """Returns bytes after changes."""
    raw = bytearray(content)
    for kind, place, number in done:
        at = int(place * len(raw))
        if kind == "set" and raw:
            raw[min(at, len(raw) - 1)] = number % 256
        elif kind == "cut":
            raw[at : at + number % 16] = b""
        elif kind == "repeat":
            raw[at:at] = raw[at : at + number % 64]
        elif kind == "insert":
            raw[at:at] = bytes([number % 256])
        elif kind == "token":
            raw[at : at + 1] = TOKENS[number % len(TOKENS)]
        else:
            del raw[at + 1 :]
    return bytes(raw)


def fewer(case: tuple[Any, list[Any]]) -> Iterator[tuple[Any, list[Any]]]:
    """Yields a case with one of its changes left out."""
    first, done = case
    for i in range(len(done) if len(done) > 1 else 0):
        yield first, done[:i] + done[i + 1 :]


# --- settings ---

CONFIG = to_dict(settings.load("demo", "debug"))


def draw_setting(rng: random.Random) -> tuple[str, Any]:
    key = rng.choice(list(all_entries()))
    if rng.random() < 0.6:
        return key, rng.randrange(len(ODD_VALUES))
    number = rng.choice((1, -1)) * 10 ** rng.uniform(-20, 25)
    texts = (repr(number), str(int(number)), *NASTY, "1e400", "0x10", "١٢", "1_000", "[1]", "(1,)")
    return key, rng.choice(texts)


def attempt_setting(case: tuple[str, Any], folder: Path) -> None:
    key, value = case
    if isinstance(value, str):  # as on the command line
        config = settings.load("demo", "debug")
        override(config, [(key, value)])
    else:
        config = json.loads(json.dumps(CONFIG))
        group, _, name = key.rpartition(".")
        (config[group] if group else config)[name] = ODD_VALUES[value]
    parsed = parse(config)
    check_names(parsed)
    group, _, name = key.rpartition(".")
    got = getattr(getattr(parsed, group) if group else parsed, name)
    if isinstance(got, float) and not math.isfinite(got):
        raise Fault(f"{key} is {got}")
    json.dumps(to_dict(config) if not isinstance(config, dict) else config)


def attempt_build(case: tuple[str, Any], folder: Path) -> None:
    """Builds the setup of a debug run, up to its first step, with an odd value."""
    from rich.console import Console

    from lift_jax.training.setup import build

    key, value = case
    config = json.loads(json.dumps(CONFIG))
    group, _, name = key.rpartition(".")
    if isinstance(value, str):
        changed_config = settings.load("demo", "debug")
        override(changed_config, [(key, value)])
        config = to_dict(changed_config)
    else:
        (config[group] if group else config)[name] = ODD_VALUES[value]
    build(parse(config), Console(quiet=True))


# --- JSON ---

JSON = json.dumps(
    {"a": [1, 2.5, None, True, "x\\y"], "b": {"c": {"d": []}}, "e": "\u00e9"}
).encode()


def attempt_json(case: tuple[None, list[Any]], folder: Path) -> None:
    content = changed(JSON, case[1])
    found = parse_json(content, "the text", object)
    if found != json.loads(content.decode("utf-8-sig")):
        raise Fault(f"read as {found!r}")


# --- images ---


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    image = Image.fromarray(noise)
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(stream)
    else:
        image.save(stream, kind)
    return stream.getvalue()


IMAGES = {kind: encoded(kind) for kind in FORMATS}


def attempt_image(case: tuple[str, list[Any]], folder: Path) -> None:
    kind, done = case
    how = decode.Decoding(fast=len(done) % 2 == 0, exif=len(done) % 3 == 0)
    content = changed(IMAGES[kind], done)
    traits.find(content)
    picture = decode.open_image(content, "some name", how)
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8 or pixels.shape != (picture.height, picture.width, 3):
        raise Fault(f"{pixels.dtype} of shape {pixels.shape}")


# --- lists and tables ---

PATHS = [f"dir {i % 3}/{i}.jpg" for i in range(12)]
TEXTS = {
    "list": (".txt", "".join(f"{path} {i % 3}\n" for i, path in enumerate(PATHS))),
    "csv": (".csv", "path,label\n" + "".join(f"{p},{i % 3}\n" for i, p in enumerate(PATHS))),
    "jsonl": (
        ".jsonl",
        "".join(json.dumps({"path": p, "label": i % 3}) + "\n" for i, p in enumerate(PATHS)),
    ),
}


def attempt_list(case: tuple[str, list[Any]], folder: Path) -> None:
    kind, done = case
    end, text = TEXTS[kind]
    content = changed(text.encode(), done)
    (folder / f"train{end}").write_bytes(content)
    (folder / f"test{end}").write_text(text)
    for path in PATHS:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    config = settings.load("folder", "debug")
    config.data.update(
        name="list" if kind == "list" else "table", root=str(folder),
        train_list=f"train{end}", test_list=f"test{end}",
    )  # fmt: skip
    data = datasets.load(parse(config).data, 0)
    rows = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [line for line in rows if line.strip()]
    if kind == "csv":
        lines = [row for row in csv.reader(io.StringIO(content.decode("utf-8-sig"))) if any(row)]
    if len(data.train) != len(lines) - (kind == "csv"):
        raise Fault(f"{len(data.train)} images of {len(lines)} lines")


# --- weights ---

WEIGHTS = (
    "clip_openai.safetensors", "timm_vit.safetensors", "torch/clip_vit.pt", "torch/clip_rn.pth",
    "torch/hf_bin/pytorch_model.bin", "open_clip/open_clip_config.json", "siglip_hf/config.json",
    "clip_hf/config.json", "hf_vit/config.json", "dinov2_hf/config.json",
)  # fmt: skip


def attempt_weights(case: tuple[str, list[Any]], folder: Path) -> None:
    name, done = case
    whole = GOLDEN / name
    alone = whole.parent in (GOLDEN, GOLDEN / "torch")
    place = folder / "model"
    if alone:
        place.mkdir()
    else:
        shutil.copytree(whole.parent, place)
    (place / whole.name).write_bytes(changed(whole.read_bytes(), done))
    source = open_source(place / whole.name if alone else place)
    conversion.read_sizes(source, conversion.format_of(source))


def draw_pickle(rng: random.Random) -> tuple[list[str], list[Any]]:
    names = [rng.choice(CALLS) for _ in range(rng.randint(1, 3))]
    return names, changes(rng) if rng.random() < 0.7 else []


CALLS = (
    "os.system", "builtins.eval", "builtins.exec", "subprocess.call", "posix.system",
    "torch._utils._rebuild_tensor_v2", "collections.OrderedDict", "builtins.getattr",
    "importlib.import_module", "runpy.run_path", "shutil.rmtree", "builtins.open",
)  # fmt: skip


def attempt_pickle(case: tuple[list[str], list[Any]], folder: Path) -> None:
    """A file of PyTorch whose pickle calls functions; those that can would leave the canary."""
    import zipfile

    names, done = case
    canary = folder.parent / "canary"
    program = b"\x80\x02"
    for name in names:
        module, _, function = name.rpartition(".")
        code = f"touch {canary}"
        if function in ("eval", "exec"):
            code = f"__import__('os').system({code!r})"
        argument = b"X" + len(code).to_bytes(4, "little") + code.encode()
        program += b"c" + module.encode() + b"\n" + function.encode() + b"\n" + argument + b"\x85R"
    path = folder / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", changed(program + b".", done))
        archive.writestr("archive/version", "3\n")
    torch_archive.read(path)


# --- names ---


def draw_name(rng: random.Random) -> tuple[None, list[str]]:
    letters = "".join(NASTY)
    names = [
        rng.choice(NASTY) if rng.random() < 0.5
        else "".join(rng.choice(letters) for _ in range(rng.randint(1, 12)))
        for _ in range(rng.randint(1, 5))
    ]  # fmt: skip
    return None, names


def attempt_name(case: tuple[None, list[str]], folder: Path) -> None:
    from lift_jax.output.plain import markdown_cell
    from lift_jax.output.terminal import Terminal

    names = case[1]
    write_csv(folder / "a.csv", ["name", *names], [[name, *names] for name in names])
    if read_csv(folder / "a.csv") != (["name", *names], [[name, *names] for name in names]):
        raise Fault("names came back changed from CSV")
    stream = io.StringIO()
    Terminal(file=stream, width=10_000).print(*names)
    shown = stream.getvalue()
    if any(ord(c) < 32 and c != "\n" or c in "\x7f\u202e\u2028" for c in shown):
        raise Fault(f"the terminal gets {shown!r}")
    for name in names:
        if "\n" in markdown_cell(name) or "<" in markdown_cell(name):
            raise Fault("a cell of Markdown is not one cell")


# --- indexes of shards ---

PLAIN = (
    5,
    -1,
    0.5,
    None,
    True,
    "",
    "..",
    "/",
    "a/b",
    "../x",
    "x" * 300,
    [],
    {},
    [1, "a"],
    {"a": 1},
    *NASTY,
)


def draw_index(rng: random.Random) -> tuple[tuple[str, Any], list[Any]]:
    key = rng.choice(("weight_map", "metadata", "a", "", "visual.conv1.weight"))
    return (key, rng.choice(PLAIN)), changes(rng) if rng.random() < 0.5 else []


def attempt_index(case: tuple[tuple[str, Any], list[Any]], folder: Path) -> None:
    """A folder whose index names files that are not there is never opened."""
    (key, value), done = case
    index: dict[str, Any] = {"metadata": {}, "weight_map": {"a": "b.safetensors"}}
    inner = index if key in index else index["weight_map"]
    inner[key] = value
    content = changed(json.dumps(index).encode(), done)
    (folder / "model.safetensors.index.json").write_bytes(content)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    source = open_source(folder)
    raise Fault(f"opened {source.where} without its shards")


KINDS = {
    "settings": Kind(draw_setting, attempt_setting),
    "json": Kind(lambda rng: (None, changes(rng)), attempt_json, fewer),
    "images": Kind(lambda rng: (rng.choice(list(IMAGES)), changes(rng)), attempt_image, fewer),
    "lists": Kind(lambda rng: (rng.choice(list(TEXTS)), changes(rng, 2)), attempt_list, fewer),
    "weights": Kind(lambda rng: (rng.choice(WEIGHTS), changes(rng)), attempt_weights, fewer),
    "pickles": Kind(draw_pickle, attempt_pickle, fewer),
    "names": Kind(draw_name, attempt_name, fewer),
    "indexes": Kind(draw_index, attempt_index, fewer),
    "builds": Kind(draw_setting, attempt_build, limit=30),
}
