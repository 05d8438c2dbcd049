"""Merges the tuned weights of a run into its backbone, which then costs no more than untuned.

  lift-jax merge --run=runs/photos --to=merged
  lift-jax train --config=folder:backbone=merged --workdir=runs/more

It merges the newest checkpoint of the run folder, and needs no data and no accelerator. lora,
lora_mlp, ssf, aft, bitfit, ln, bn and full can be merged; adapters and prompts cannot. FOLDER is a
backbone like those of `lift-jax convert`. It also holds the classifier, head.safetensors: its
weights, and in the metadata its kind, its scale and the class names. If the run tuned texts,
FOLDER's own zero-shot classifier is the tuned classifier.
"""

import argparse

from lift_jax.commands.line import libraries, options
from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    options.add_run(parser)
    parser.add_argument("--to", required=True, metavar="FOLDER", help="folder to write")
    options.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    import jax

    from lift_jax.runs.pushed import folder_of
    from lift_jax.runs.weights import merge

    libraries.quiet_libraries()
    jax.config.update("jax_platforms", "cpu")
    options.define_tuners(flags.config)
    merge.write(folder_of(flags.run), flags.to)
    say(f"Written: {flags.to}. Use it with :backbone={flags.to}")
