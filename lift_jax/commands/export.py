"""Exports a run: its tuned weights with the names of the authors' code, or the classifier whole.

  lift-jax export --run=runs/photos --to=tuned.safetensors
  lift-jax export --run=runs/photos --to=tuned.safetensors --layout=lift
  lift-jax export --run=runs/photos --to=red_fox --format=onnx
  lift-jax export --run=runs/photos --to=red_fox --format=onnx --input_size=480x640
  lift-jax export --run=runs/photos --to=red_fox --format=stablehlo

It takes the newest checkpoint of the run folder (with checkpoint.best the best), and needs neither
data nor accelerator.

onnx and stablehlo make a folder with the model and a golden image with its probabilities. The model
takes uint8 images [batch, resolution, resolution, 3], the test view, and gives `logits` and
`probabilities`. With --input_size it takes images of that size and resizes them itself. The file is
loaded again and compared with the run before the folder is there. The folder of onnx also holds
classify.py, which needs onnxruntime, numpy and Pillow alone.

safetensors, the default, needs no backbone. The setting model.tuned reads the file. For the
authors' code, where torch is installed:

  checkpoint = {"tuner": {}, "head": {}}
  for name, tensor in safetensors.torch.load_file("tuned.safetensors").items():
      key, _, name = name.partition(".")
      checkpoint[key][name] = tensor
  torch.save(checkpoint, "checkpoint.pth.tar")
"""

import argparse

from lift_jax.commands import shared
from lift_jax.errors import UserError
from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument("--run", required=True, metavar="W", help="run folder")
    parser.add_argument(
        "--to", required=True, metavar="PLACE",
        help="file to write (.safetensors); with --format=onnx or stablehlo a folder to make",
    )  # fmt: skip
    parser.add_argument(
        "--format", default="safetensors",
        help="safetensors (default), the tuned weights; onnx or stablehlo, the whole classifier",
    )  # fmt: skip
    parser.add_argument(
        "--layout", help="names of lift_plus (default) or lift, with --format=safetensors"
    )
    parser.add_argument(
        "--input_size", default="", metavar="HxW",
        help="height and width of images that all have one size (--format=onnx or stablehlo)",
    )  # fmt: skip
    shared.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    import jax

    from lift_jax.export import write
    from lift_jax.output.terminal import Terminal
    from lift_jax.runs.export import export
    from lift_jax.runs.remote import local_copy
    from lift_jax.weights import authors

    shared.quiet_libraries()
    jax.config.update("jax_platforms", "cpu")
    tuned_only = flags.format == write.NAMES[0]
    for option in ("input_size",) if tuned_only else ("layout",):
        if getattr(flags, option):
            raise UserError(f"--{option} has no meaning with --format={flags.format}. Remove it.")
    shared.define_tuners(flags.config)
    with local_copy(flags.run, Terminal(stderr=True), writes=False) as run:
        if not tuned_only:
            difference = write.write(run, flags.to, flags.format, flags.input_size)
            say(
                f"Written: {flags.to}. Loaded again, it gives the probabilities of the run; the "
                f"largest difference is {difference:.1e}."
            )
            return
        path = export(run, flags.to, flags.layout or "lift_plus")
    found = authors.describe(path)
    say(f"{path}: {found.tuned}; {found.classes} classes; names of {found.layout}")
