"""Classifies new images with the classifier of a run.

  lift-jax predict --run=runs/photos new_photos
  lift-jax predict --run=runs/photos a.jpg 'im1*.jpg' --top_k=3 --to=named.csv
  lift-jax predict --run=runs/photos new_photos --unknown --sets=0.9 --to=named.jsonl
  lift-jax predict --run=runs/photos new_photos --unknown --sort-into=sorted
  lift-jax predict --run=anna/red_fox new_photos
  find new_photos -name '*.jpg' | lift-jax predict --run=runs/photos -

anna/red_fox is a run on the Hugging Face hub, as `lift-jax export --format=adapters --push` makes.

Each image gets its most likely classes and their probabilities: the softmax of the logits, which
with the default loss treats all classes as equally frequent. If the run has a calibration.json
(`lift-jax calibrate`), the probabilities are calibrated. In Python:

  lift_jax.Predictor("runs/photos").predict(["a.jpg", "b.jpg"], top_k=5)
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lift_jax.commands.line import libraries, options, parsing
from lift_jax.errors import UserError

if TYPE_CHECKING:
    from lift_jax.runs.answers.answering import Prediction
    from lift_jax.runs.answers.sorting import Sorter

Named = tuple[str, "Prediction"]
STDIN = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image, folder of images, or pattern (im*.jpg); - reads names from standard input, "
        "one a line",
    )  # fmt: skip
    options.add_run(parser)
    parser.add_argument(
        "--top_k", type=int, default=5, metavar="K", help="number of classes for each image (5)"
    )
    parser.add_argument(
        "--unknown", nargs="?", const="", type=share, metavar="KEEP",
        help='answer "unknown" for images of no class; KEEP is the share of correct answers to '
        "keep (default: that of calibration.json)",
    )  # fmt: skip
    parser.add_argument(
        "--sets", nargs="?", const="", type=share, metavar="COVERAGE",
        help="also give each image a set of classes; COVERAGE is the share of sets that contain "
        "the true class (default: that of calibration.json)",
    )  # fmt: skip
    parser.add_argument(
        "--probabilities", choices=["top", "all"], default="top",
        help="what --to writes: the probabilities of the --top_k classes (top) or of all (all)",
    )  # fmt: skip
    parser.add_argument(
        "--tte", action=argparse.BooleanOptionalAction,
        help="average several crops of each image (default: as in the run's config)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="batch size (64)")
    parser.add_argument(
        "--to", metavar="FILE", help="also write the answers: a table (.csv) or lines (.jsonl)"
    )
    parser.add_argument(
        "--sort-into", metavar="DIR", help="also copy each image into a folder of its class in DIR"
    )
    parser.add_argument("--link", action="store_true", help="link the images instead of copying")
    options.add_tuner_file(parser)


def share(text: str) -> bool | float:
    """Returns the share that an option asks for; True for the default."""
    return parsing.number(text) if text else True


def run(flags: argparse.Namespace) -> None:
    """Runs the command. Raises UserError at the end if some images could not be read."""
    from lift_jax.data.sources.image_files import not_taken
    from lift_jax.output.terminal import Terminal, track
    from lift_jax.runs.answers import output, sorting
    from lift_jax.runs.answers.given import gather
    from lift_jax.runs.predictor import Predictor
    from lift_jax.storage.disk import make_place
    from lift_jax.storage.names import expand_user

    check(flags)
    libraries.quiet_libraries()
    libraries.use_compile_cache()
    console = Terminal()
    options.define_tuners(flags.config)
    listed = with_standard_input(flags.images)
    given, others = gather(listed)
    to = make_place(expand_user(flags.to), "--to") if flags.to else None
    into = expand_user(flags.sort_into) if flags.sort_into else None
    if into:
        sorting.check_apart(into, listed)
    predictor = Predictor(flags.run, tte=flags.tte, batch=flags.batch)
    classes = predictor.class_names
    unknown, sets, every = bool(flags.unknown), bool(flags.sets), flags.probabilities == "all"
    answers = predictor.stream(
        given, flags.top_k, skip=True, unknown=flags.unknown, sets=flags.sets,
        all_probabilities=every,
    )  # fmt: skip
    sorter = sorting.Sorter(into, classes, unknown, flags.link) if into else None
    summary = Summary(sorter)
    progress = Terminal(stderr=True)
    hidden = not progress.is_terminal or len(given) <= flags.batch
    answers = track(answers, "Classifying", len(given), console=progress, disable=hidden)
    names = [str(image) for image in given]
    passing = summary.watch(zip(names, answers, strict=True))
    if to:
        ranks = min(flags.top_k, len(classes))
        columns = output.Columns(ranks, unknown, sets, classes if every else ())
        output.write(to, passing, columns)
    else:
        for _ in passing:
            pass
    output.show(names, summary.first, console)
    if said := not_taken(others):
        console.print(said)
    if to:
        console.print(f"Written: {to}")
    if into:
        console.print(f"Sorted: {summary.sorted:,} images into {into}")
    if bad := summary.bad:
        lines = "\n  ".join(bad[:5] + ["..."] * (len(bad) > 5))
        raise UserError(f"{len(bad)} of {len(names)} images could not be read:\n  {lines}")


class Summary:
    """A summary of the answers, made while they pass on their way into a file.

    Attributes:
        first: the first answers, which are shown.
        bad: why images could not be read.
        sorted: number of images that were sorted into folders.
    """

    def __init__(self, sorter: "Sorter | None"):
        self.first: list[Prediction] = []
        self.bad: list[str] = []
        self.sorted = 0
        self._sorter = sorter

    def watch(self, answers: Iterable[Named]) -> Iterator[Named]:
        """Yields the answers unchanged, and sorts the images on the way."""
        from lift_jax.runs.answers import output

        for name, one in answers:
            if len(self.first) < output.SHOWN:
                self.first.append(one)
            if one.error:
                self.bad.append(one.error)
            elif self._sorter and self._sorter.sort(Path(name), one):
                self.sorted += 1
            yield name, one


def check(flags: argparse.Namespace) -> None:
    """Raises UserError for options that do not go together, and for a file of no known form."""
    from lift_jax.runs.answers.output import check_ending

    if flags.link and not flags.sort_into:
        raise UserError("--link is for --sort-into=DIR, which sorts images into folders.")
    if flags.to:
        check_ending(Path(flags.to))
    if flags.probabilities == "all" and not flags.to:
        raise UserError("--probabilities=all writes a file: give --to=FILE.csv or FILE.jsonl.")


def with_standard_input(images: list[str]) -> list[str]:
    """Returns the images, with "-" replaced by the lines of standard input.

    Raises UserError if those hold no name.
    """
    if STDIN not in images:
        return images
    lines = sys.stdin.buffer.read().splitlines()
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        raise UserError("Standard input (-) holds no name of an image; expected one a line.")
    at = images.index(STDIN)
    return images[:at] + names + [image for image in images[at + 1 :] if image != STDIN]
