"""Folds what a run tuned into its backbone, which then costs what the untuned one does.

  lift-jax merge --run=runs/photos --to=merged
  lift-jax train --config=folder:backbone=merged --workdir=runs/more

It takes the newest checkpoint of the run folder, and needs neither data nor accelerator. lora,
lora_mlp, ssf, aft, bitfit, ln, bn and full can be merged; adapters and prompts cannot. FOLDER is a
backbone like those of `lift-jax convert`. Beside it lies the classifier, head.safetensors: its
weights, and in the metadata its kind, its scale and the class names. Where texts were tuned
instead, FOLDER's own zero-shot classifier is the tuned one.
"""

import argparse

from lift_jax.commands import shared
from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    shared.add_run(parser)
    parser.add_argument("--to", required=True, metavar="FOLDER", help="folder to write")
    shared.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    import jax

    from lift_jax.runs import merge
    from lift_jax.runs.pushed import folder_of

    shared.quiet_libraries()
    jax.config.update("jax_platforms", "cpu")
    shared.define_tuners(flags.config)
    merge.write(folder_of(flags.run), flags.to)
    say(f"Written: {flags.to}. Use it with :backbone={flags.to}")
