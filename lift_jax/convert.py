"""Converts weights once, for machines without the source: `python -m lift_jax.convert SOURCE DEST`.

SOURCE is whatever `load_backbone` takes; DEST becomes a folder with backbone.safetensors and the
tokenizer files, to be given as backbone: --config=configs/folder.py:backbone=DEST.
"""

from collections.abc import Sequence
from pathlib import Path

from flax import nnx
from rich.console import Console

from lift_jax import command, log, weights
from lift_jax.errors import UserError
from lift_jax.models.layers import ACTIVATIONS
from lift_jax.weights.native import DTYPES, NAME


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = command.parser("convert", __doc__)
    parser.add_argument("source", metavar="SOURCE", help="a name, a folder, a file, owner/name")
    parser.add_argument("dest", metavar="DEST", help="the folder to write")
    parser.add_argument("--dtype", choices=DTYPES, help="store so; as in the source by default")
    parser.add_argument("--resolution", type=int, help="pixels, if not the pre-training's")
    for tower in ("heads", "text_heads"):
        parser.add_argument(f"--{tower}", type=int, help="where a bare state dict does not say")
    parser.add_argument("--eps", type=float, help="of the LayerNorms, likewise")
    parser.add_argument("--activation", choices=ACTIVATIONS, help="of the MLPs, likewise")
    flags = vars(parser.parse_args(arguments))
    source, dest, dtype = (flags.pop(key) for key in ("source", "dest", "dtype"))
    sizes = {key: value for key, value in flags.items() if value is not None}
    with command.told():
        if (file := Path(dest) / NAME).exists():
            raise UserError(f"{file} exists (DEST). Remove it, or give another folder.")
        config = weights.convert(source, dest, dtype, **sizes)
    console = Console(soft_wrap=True)
    leaves = weights.abstract(config)
    listed = [
        log.Parameter(p, v.shape, "frozen") for p, v in leaves.items() if isinstance(v, nnx.Param)
    ]
    console.print(log.parameter_table(listed))
    for note in config.notes:
        console.print(note, markup=False)
    console.print(f"{config.vision}\n{config.text or 'no text tower'}", markup=False)
    console.print(f"Written: {dest}. Use it with :backbone={dest}", markup=False)


if __name__ == "__main__":
    main()
