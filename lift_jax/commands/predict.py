"""Names new images by the classifier of a run.

  lift-jax predict --run=runs/photos new_photos
  lift-jax predict --run=runs/photos a.jpg 'im1*.jpg' --top_k=3 --to=named.csv

Each image gets its likeliest classes and their probabilities: the softmax of the logits, which with
the default loss treats all classes as equally frequent. In Python:

  lift_jax.Predictor("runs/photos").predict(["a.jpg", "b.jpg"], top_k=5)
"""

import argparse

from lift_jax.commands import shared
from lift_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image, folder of images, or pattern (im*.jpg)"
    )
    parser.add_argument("--run", required=True, metavar="W", help="run folder")
    parser.add_argument(
        "--top_k", type=int, default=5, metavar="K", help="number of classes for each image (5)"
    )
    parser.add_argument(
        "--tte", action=argparse.BooleanOptionalAction,
        help="average several crops of each image (default: as in the run's config)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="batch size (64)")
    parser.add_argument("--to", metavar="FILE.csv", help="also write the classes to this table")
    shared.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command. Raises UserError if images could not be read, after naming the others."""
    from lift_jax.data.sources.folder_index import not_taken
    from lift_jax.output.terminal import Terminal
    from lift_jax.runs.predictor import Predictor, gather, show, write
    from lift_jax.storage.disk import make_place
    from lift_jax.storage.names import expand_user

    shared.quiet_libraries()
    shared.use_compile_cache()
    console = Terminal()
    shared.define_tuners(flags.config)
    given, others = gather(flags.images)
    to = make_place(expand_user(flags.to), "--to") if flags.to else None
    predictor = Predictor(flags.run, tte=flags.tte, batch=flags.batch)
    found = predictor.predict(given, flags.top_k, skip=True)
    names = [str(image) for image in given]
    show(names, found, console)
    if said := not_taken(others):
        console.print(said)
    if to:
        write(to, names, found)
        console.print(f"Written: {to}")
    if bad := [one.error for one in found if one.error]:
        listed = "\n  ".join(bad[:5] + ["..."] * (len(bad) > 5))
        raise UserError(f"{len(bad)} of {len(found)} images could not be read:\n  {listed}")
