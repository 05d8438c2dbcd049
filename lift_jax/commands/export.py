"""Exports the classifier of a run, or its tuned weights, also to the Hugging Face hub.

  lift-jax export --run=runs/photos --to=tuned.safetensors
  lift-jax export --run=runs/photos --to=tuned.safetensors --layout=lift
  lift-jax export --run=runs/photos --to=red_fox --format=onnx
  lift-jax export --run=runs/photos --to=red_fox --format=onnx --input_size=480x640
  lift-jax export --run=runs/photos --to=red_fox --format=stablehlo
  lift-jax export --run=runs/photos --to=red_fox --format=huggingface
  lift-jax export --run=runs/photos --to=red_fox --format=adapters --push=anna/red_fox

It exports the newest checkpoint of the run folder (with checkpoint.best the best one), and needs
no data and no accelerator.

Every format except safetensors is a folder with a golden image, its probabilities and a model card
(README.md). The command loads the export again and compares it with the run before it writes the
folder. --push uploads the folder to the Hugging Face hub (or HF_ENDPOINT), with the token of
`hf auth login` or HF_TOKEN. A new repository is private.

onnx and stablehlo: the whole classifier as one model. Its input is the test view, uint8 images
[batch, resolution, resolution, 3]; its outputs are `logits` and `probabilities`. With --input_size
it takes images of that size and resizes them itself. onnx comes with a script that needs only
onnxruntime, numpy and Pillow.

huggingface: the merged backbone as `transformers` loads it, the classifier, and a script that uses
both. The run's tuners must be ones that can be merged, and the backbone must not be a ResNet.

adapters: the tuned weights without the backbone, a few MB. The folder replaces the run folder:
`lift-jax predict --run=FOLDER`, or --run=anna/red_fox if it was pushed.

safetensors (default): the tuned weights in one file, which the setting model.tuned reads. To use
it in the authors' code, where torch is installed:

  checkpoint = {"tuner": {}, "head": {}}
  for name, tensor in safetensors.torch.load_file("tuned.safetensors").items():
      key, _, name = name.partition(".")
      checkpoint[key][name] = tensor
  torch.save(checkpoint, "checkpoint.pth.tar")
"""

import argparse

from lift_jax.commands.line import libraries, options
from lift_jax.errors import UserError
from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    options.add_run(parser)
    parser.add_argument(
        "--to", required=True, metavar="PLACE",
        help="file to write (.safetensors); for other formats, the folder to write",
    )  # fmt: skip
    parser.add_argument(
        "--format", default="safetensors",
        help="tuned weights: safetensors (default) or adapters; whole classifier: onnx, stablehlo "
        "or huggingface",
    )  # fmt: skip
    parser.add_argument(
        "--layout", help="for safetensors: names of the weights, lift_plus (default) or lift"
    )
    parser.add_argument(
        "--input_size", default="", metavar="HxW",
        help="for onnx and stablehlo: height and width of the input images, if all are equal",
    )  # fmt: skip
    parser.add_argument(
        "--push", default="", metavar="OWNER/NAME", help="also upload the folder to the hub"
    )
    options.add_tuner_file(parser)


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    import jax

    from lift_jax.export import push, write
    from lift_jax.output.terminal import Terminal
    from lift_jax.runs.pushed import folder_of
    from lift_jax.runs.remote import local_copy
    from lift_jax.runs.weights.export import export
    from lift_jax.storage.names import expand_user
    from lift_jax.weights import authors

    libraries.quiet_libraries()
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
    options.define_tuners(flags.config)
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
