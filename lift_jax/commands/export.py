"""Exports a run: its tuned weights, or the classifier whole, and pushes it to the hub.

  lift-jax export --run=runs/photos --to=tuned.safetensors
  lift-jax export --run=runs/photos --to=tuned.safetensors --layout=lift
  lift-jax export --run=runs/photos --to=red_fox --format=onnx
  lift-jax export --run=runs/photos --to=red_fox --format=onnx --input_size=480x640
  lift-jax export --run=runs/photos --to=red_fox --format=stablehlo
  lift-jax export --run=runs/photos --to=red_fox --format=huggingface
  lift-jax export --run=runs/photos --to=red_fox --format=adapters --push=anna/red_fox

It takes the newest checkpoint of the run folder (with checkpoint.best the best), and needs neither
data nor accelerator.

All formats but safetensors make a folder with a golden image, its probabilities and a model card
(README.md). It is loaded again and compared with the run before it is there. --push uploads it to
the Hugging Face hub (or HF_ENDPOINT), to a private repository if there is none of that name; it
takes the token of `hf auth login` or HF_TOKEN.

onnx and stablehlo hold the classifier as one model of uint8 images [batch, resolution, resolution,
3], the test view, with `logits` and `probabilities`. With --input_size it takes images of that size
and resizes them itself. onnx has a script that needs onnxruntime, numpy and Pillow alone.

huggingface holds the merged backbone as `transformers` loads it, the classifier beside it, and a
script that uses both. It needs tuners that can be merged, and a backbone that is not a ResNet.

adapters holds the tuned weights without the backbone, in a few MB. It stands in for the run:
`lift-jax predict --run=FOLDER`, or --run=anna/red_fox where it was pushed.

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
    shared.add_run(parser)
    parser.add_argument(
        "--to", required=True, metavar="PLACE",
        help="file to write (.safetensors); with another --format a folder to make",
    )  # fmt: skip
    parser.add_argument(
        "--format", default="safetensors",
        help="safetensors (default) or adapters, the tuned weights; onnx, stablehlo or "
        "huggingface, the whole classifier",
    )  # fmt: skip
    parser.add_argument(
        "--layout", help="names of lift_plus (default) or lift, with --format=safetensors"
    )
    parser.add_argument(
        "--input_size", default="", metavar="HxW",
        help="height and width of images that all have one size (--format=onnx or stablehlo)",
    )  # fmt: skip
    parser.add_argument(
        "--push", default="", metavar="OWNER/NAME", help="also upload the folder to the hub"
    )
    shared.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    import jax

    from lift_jax.export import push, write
    from lift_jax.output.terminal import Terminal
    from lift_jax.runs.export import export
    from lift_jax.runs.pushed import folder_of
    from lift_jax.runs.remote import local_copy
    from lift_jax.storage.names import expand_user
    from lift_jax.weights import authors

    shared.quiet_libraries()
    jax.config.update("jax_platforms", "cpu")
    tuned_only = flags.format == write.NAMES[0]
    without = ["input_size", "push"] if tuned_only else ["layout"]
    if flags.format in write.OF_VIEWS:
        without.append("input_size")
    for option in without:
        if getattr(flags, option):
            raise UserError(f"--{option} has no meaning with --format={flags.format}. Remove it.")
    if flags.push:
        push.check(flags.push)
    shared.define_tuners(flags.config)
    with local_copy(str(folder_of(flags.run)), Terminal(stderr=True), writes=False) as run:
        if not tuned_only:
            difference = write.write(run, flags.to, flags.format, flags.input_size)
            say(
                f"Written: {flags.to}. Loaded again, it gives the probabilities of the run; the "
                f"largest difference is {difference:.1e}."
            )
            if flags.push:
                say(f"Pushed to {push.push(expand_user(flags.to), flags.push)}.")
            return
        path = export(run, flags.to, flags.layout or "lift_plus")
    found = authors.describe(path)
    say(f"{path}: {found.tuned}; {found.classes} classes; names of {found.layout}")
