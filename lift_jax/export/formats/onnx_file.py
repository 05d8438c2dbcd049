"""ONNX: one file that onnxruntime and many others run without JAX, and a script that uses it."""

import logging
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lift_jax.errors import UserError
from lift_jax.export import rendered
from lift_jax.export.deployed import Deployed
from lift_jax.export.description import as_texts
from lift_jax.export.formats.max_pool import over_height_and_width
from lift_jax.export.golden import Probabilities

MODEL, SCRIPT = "model.onnx", "classify.py"
ONE_FILE = 1_900_000_000  # bytes of weights; a protobuf file ends at 2^31
OPSET = 21  # of May 2024: onnxruntime 1.18 and newer
INPUT, OUTPUTS = "images", ("logits", "probabilities")


class Batch:
    """The shape and dtype of a batch of any size, in jax2onnx's form."""

    def __init__(self, size: tuple[int, int]):
        self.shape = ("batch", *size, 3)
        self.dtype = jnp.uint8


def check_installed() -> None:
    """Raises UserError if a library is missing that the export needs."""
    try:
        import jax2onnx  # noqa: F401
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as e:
        raise UserError(
            f"ONNX export needs jax2onnx, onnx and onnxruntime ({e}): pip install "
            "'lift_jax[export]', or in a checkout pip install -r requirements-export.txt."
        ) from e


def write(deployed: Deployed, folder: Path) -> Probabilities:
    """Writes the model and the script to a folder; returns the model, loaded from its file.

    Raises UserError if the export cannot express a layer.
    """
    import onnx
    from jax2onnx import to_onnx

    for library in ("jax2onnx", "onnx_ir"):  # they warn of parts that are not used here
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        model = to_onnx(
            deployed.function, [Batch(deployed.size)], model_name="lift_jax", opset=OPSET,
            input_names=[INPUT], output_names=list(OUTPUTS),
        )  # fmt: skip
    except Exception as e:  # jax2onnx raises exceptions of any type for layers it does not know
        raise UserError(
            f"jax2onnx cannot export this classifier ({type(e).__name__}: {e!s:.300}). "
            "--format=stablehlo needs no converter."
        ) from e
    over_height_and_width(model.graph)
    onnx.helper.set_model_props(model, as_texts(deployed.about))
    onnx.save_model(
        model, folder / MODEL, save_as_external_data=deployed.weight_bytes > ONE_FILE,
        location=f"{MODEL}.data",
    )  # fmt: skip
    onnx.checker.check_model(folder / MODEL, full_check=True)
    rendered.write_script(folder / SCRIPT, "classify_onnx.txt", deployed.about)
    return load(folder)


def load(folder: Path) -> Probabilities:
    """Returns the function from images to probabilities of an exported model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / MODEL, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([OUTPUTS[1]], {INPUT: images})[0])
