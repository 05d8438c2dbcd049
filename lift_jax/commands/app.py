"""Serves a page on this machine, to try a run in the browser.

  lift-jax app --run=runs/photos
  lift-jax app --run=runs/photos --port=0

Drop images on the page, choose files, or paste an image. For each image the page shows the most
likely classes with their probabilities and how rare they were in training, a set of classes that
contains the true one, "unknown" for an image of no known class, and the most similar training
images. Images stay in memory: nothing is written, and nothing leaves this machine. Ctrl-C stops it.

Programs can use it too: curl -F image=@a.jpg http://127.0.0.1:8000/api/predict
"""

import argparse

from lift_jax.commands.line import libraries, options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    options.add_run(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS",
        help="address to listen on (127.0.0.1, only this machine); 0.0.0.0 lets everybody in the "
        "network use the page, without a password",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="port (8000); 0 takes a free one"
    )
    parser.add_argument(
        "--tte", action=argparse.BooleanOptionalAction,
        help="average several crops of each image (default: as in the run's config)",
    )  # fmt: skip
    options.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command. Raises UserError if the page cannot be served or the run cannot be read."""
    from lift_jax.app import serving
    from lift_jax.app.limits import Limits

    serving.check_installed()
    sock = serving.listen(flags.host, flags.port)

    from lift_jax.app.answerer import Answerer
    from lift_jax.app.guard import is_loopback
    from lift_jax.app.web import application
    from lift_jax.output.lines import say
    from lift_jax.storage.atomic import warn
    from lift_jax.storage.names import expand_user

    libraries.quiet_libraries()
    libraries.use_compile_cache()
    options.define_tuners(flags.config)
    answerer = Answerer(flags.run, flags.tte)
    for note in answerer.notes:
        say(note)
    say("Warming up: the classifier is compiled for batches of 1 to 8 images.")
    answerer.warm_up()
    address = serving.url(sock, flags.host)
    if not is_loopback(flags.host):
        warn(f"Anybody in the network can use the page at {address}: it has no password.")
    title = expand_user(flags.run).name or flags.run
    app = application(answerer, title, flags.host, limits := Limits())
    serving.serve(app, sock, limits, lambda: say(f"Try {flags.run} at {address} (Ctrl-C ends)."))
