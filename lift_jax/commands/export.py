"""Gives a run's tuned weights the names of the authors' code.

  lift-jax export --run=runs/photos --to=tuned.safetensors
  lift-jax export --run=runs/photos --to=tuned.safetensors --layout=lift

It takes the newest checkpoint of the run folder (with checkpoint.best the best), and needs neither
data nor backbone nor accelerator. The setting model.tuned reads the file. For the authors' code,
where torch is installed:

  checkpoint = {"tuner": {}, "head": {}}
  for name, tensor in safetensors.torch.load_file("tuned.safetensors").items():
      key, _, name = name.partition(".")
      checkpoint[key][name] = tensor
  torch.save(checkpoint, "checkpoint.pth.tar")
"""

import argparse

from lift_jax.commands import shared
from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--run", required=True, metavar="W", help="run folder")
    parser.add_argument("--to", required=True, metavar="FILE", help="file to write (.safetensors)")
    parser.add_argument(
        "--layout", default="lift_plus", help="names of lift_plus (default) or lift"
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    import jax

    from lift_jax.output.terminal import Terminal
    from lift_jax.runs.export import export
    from lift_jax.runs.remote import local_copy
    from lift_jax.weights import authors

    shared.quiet_libraries()
    jax.config.update("jax_platforms", "cpu")
    with local_copy(flags.run, Terminal(stderr=True), writes=False) as run:
        path = export(run, flags.to, flags.layout)
    found = authors.describe(path)
    say(f"{path}: {found.tuned}; {found.classes} classes; names of {found.layout}")
