"""The export of a run to a folder: written, reloaded and compared before it is there."""

import re
from pathlib import Path

from lift_jax.errors import UserError, shown, unknown
from lift_jax.export import card, deployed, golden
from lift_jax.export.formats import (
    adapters_folder,
    huggingface_folder,
    onnx_file,
    stablehlo_file,
)
from lift_jax.storage import atomic, disk
from lift_jax.storage.names import expand_user

FORMATS = {
    "onnx": onnx_file.write,
    "stablehlo": stablehlo_file.write,
    "huggingface": huggingface_folder.write,
    "adapters": adapters_folder.write,
}
NAMES = ("safetensors", *FORMATS)  # of --format; the first is the tuned weights alone
OF_VIEWS = ("huggingface", "adapters")  # take test views alone
FILES = (".safetensors", ".onnx", ".stablehlo")


def write(run: str | Path, to: str | Path, kind: str, input_size: str = "") -> float:
    """Writes the classifier of a run to a new folder, in a format of `FORMATS`.

    Args:
        run: the run folder.
        to: the folder to make.
        kind: the format.
        input_size: HEIGHTxWIDTH of the images, which are then resized by the model itself; "" for
            the test view.

    Returns the largest difference of a probability between the file and the run. Raises UserError
    for an unknown format, a library that is missing, a folder that exists or cannot be written, a
    size that makes no sense, as `deployed.load` does, and as `golden.write` does.
    """
    if kind not in FORMATS:
        raise unknown("format (--format)", kind, NAMES)
    if kind == "onnx":
        onnx_file.check_installed()
    size, to = parse_size(input_size), expand_user(to)
    if to.suffix in FILES:
        raise UserError(f"--to is {to}; --format={kind} writes a folder. Give the name of one.")
    if to.exists():
        raise UserError(f"{to} exists (--to). Remove it, or give another name.")
    disk.make_place(to, "--to")
    classifier = deployed.load(run, size)
    with atomic.new_folder(to) as folder:
        difference = golden.write(classifier, folder, FORMATS[kind](classifier, folder))
        card.write(classifier, folder, kind)
        return difference


def parse_size(text: str) -> tuple[int, int] | None:
    """Returns (height, width) of "HEIGHTxWIDTH", None of "". Raises UserError for other texts."""
    if not text:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not found:
        raise UserError(
            f"--input_size is {shown(text)}; expected HEIGHTxWIDTH in pixels, such as 480x640."
        )
    return int(found[1]), int(found[2])
