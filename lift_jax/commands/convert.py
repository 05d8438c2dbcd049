"""Copies pre-trained weights into one folder, for machines without the source.

  lift-jax convert clip_vit_b16 weights/clip
  lift-jax train --config=folder:backbone=weights/clip --workdir=runs/photos

DEST becomes a folder with backbone.safetensors and the tokenizer files.
"""

import argparse
from pathlib import Path

from lift_jax.errors import UserError

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "source", metavar="SOURCE", help="backbone: a name, folder, file or owner/repository"
    )
    parser.add_argument("dest", metavar="DEST", help="folder to write")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="precision of the file (default: as in the source)"
    )
    parser.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="image size (default: that of the pre-training)",
    )
    for name, like in (("mean", "0.485,0.456,0.406"), ("std", "0.229,0.224,0.225")):
        parser.add_argument(
            f"--{name}", default="", metavar="R,G,B",
            help=f"{name} of the images, like {like} (default: as the weights say)",
        )  # fmt: skip
    bare = parser.add_argument_group("for a bare state dict, which lacks these values")
    bare.add_argument("--heads", type=int, metavar="N", help="attention heads of the image tower")
    bare.add_argument(
        "--text_heads", type=int, metavar="N", help="attention heads of the text tower"
    )
    bare.add_argument("--eps", type=float, help="epsilon of the LayerNorms")
    bare.add_argument(
        "--activation", help="activation of the MLPs: quick_gelu, gelu, gelu_tanh or silu"
    )


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    from flax import nnx

    from lift_jax.errors import unknown
    from lift_jax.models.blocks.layers import ACTIVATIONS
    from lift_jax.output.terminal import Terminal
    from lift_jax.settings.values import three_numbers
    from lift_jax.tuners.parameters import Parameter, parameter_table
    from lift_jax.weights import conversion, save
    from lift_jax.weights.native import NAME

    if flags.activation and flags.activation not in ACTIVATIONS:
        raise unknown("activation (--activation)", flags.activation, ACTIVATIONS)
    names = ("resolution", "heads", "text_heads", "eps", "activation")
    sizes = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    sizes |= {
        key: numbers
        for key in ("mean", "std")
        if (numbers := three_numbers(f"--{key}", getattr(flags, key)))
    }
    if (file := Path(flags.dest) / NAME).exists():
        raise UserError(f"{file} exists (DEST). Remove it, or give another folder.")
    config = save.convert(flags.source, flags.dest, flags.dtype, **sizes)
    console = Terminal(soft_wrap=True)
    leaves = conversion.abstract(config)
    listed = [
        Parameter(p, v.shape, "frozen") for p, v in leaves.items() if isinstance(v, nnx.Param)
    ]
    console.print(parameter_table(listed))
    for note in config.notes:
        console.print(note)
    console.print(f"{config.vision}\n{config.text or 'no text tower'}")
    console.print(f"Written: {flags.dest}. Use it with :backbone={flags.dest}")
