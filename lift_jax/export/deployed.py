"""The classifier of a run as one function of uint8 images, loaded and ready to be exported."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Float, UInt8

from lift_jax.data.images import cuts, decode, views
from lift_jax.errors import UserError
from lift_jax.evaluation.forward import make_predict
from lift_jax.export import description, pillow_resize
from lift_jax.models import tree
from lift_jax.runs import restored
from lift_jax.runs.answers.calibration_file import view_of
from lift_jax.runs.restored import RestoredRun
from lift_jax.storage.names import expand_user
from lift_jax.tuners import prompt_learning

Images = UInt8[Array, "b h w 3"]
Outputs = tuple[Float[Array, "b c"], Float[Array, "b c"]]  # logits and probabilities


@dataclass(frozen=True)
class Deployed:
    """The classifier of a run, in float32.

    Attributes:
        run: the folder of the run.
        found: the run as it was restored.
        size: height and width of the images that `function` takes.
        function: from images to (logits, probabilities). It resizes images of `size` if that was
            asked for; otherwise it takes views.
        of_views: from views to (logits, probabilities).
        view: the test view.
        how: how images are decoded.
        about: what the use of the classifier needs to know, as plain data.
        weight_bytes: size of the weights.
    """

    run: Path
    found: RestoredRun
    size: tuple[int, int]
    function: Callable[[Images], Outputs]
    of_views: Callable[[Images], Outputs]
    view: views.TestTransform
    how: decode.Decoding
    about: dict[str, Any]
    weight_bytes: int


def load(run: str | Path, input_size: tuple[int, int] | None = None) -> Deployed:
    """Returns the classifier of a run folder, with one crop an image.

    With `input_size` (height, width) the function takes whole images of this size. Otherwise it
    takes the test view, at the resolution of the run. Raises UserError as `restored.load` does, for
    a damaged calibration.json, and for a size that cannot be resized.
    """
    run = expand_user(run)
    found = restored.load(run, exact=True)
    s, vision = found.settings, found.backbone.config.vision
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    graph, leaves = tree.split(found.classifier)
    graph, leaves = prompt_learning.encode_texts_once(graph, leaves, device)
    predict = make_predict(graph, vision)
    calibrated = view_of(run, found.weights, len(found.class_names), crops=False)
    temperature = description.temperature_of(calibrated)

    def of_views(images: Images) -> Outputs:
        logits = predict(leaves, {"image": images})
        return logits, jax.nn.softmax(logits / temperature)

    view = views.TestTransform(vision.resolution, s.test.interpolation)
    how = decode.Decoding(s.data.decode == "fast", s.data.exif)
    function, size = of_views, (vision.resolution, vision.resolution)
    if input_size is not None:
        function, size = of_images(make_resize(input_size, view), of_views), input_size
    about = description.describe(found, view, how, input_size, calibrated)
    weight_bytes = sum(leaf.nbytes for leaf in leaves.values())
    return Deployed(run, found, size, function, of_views, view, how, about, weight_bytes)


def of_images(
    resize: Callable[[Images], Images], of_views: Callable[[Images], Outputs]
) -> Callable[[Images], Outputs]:
    """Returns the function of images that are resized to views first."""
    return lambda images: of_views(resize(images))


def make_resize(size: tuple[int, int], view: views.TestTransform) -> Callable[[Images], Images]:
    """Returns the function from images of a size to their views. Raises UserError as `load`."""
    height, width = size
    if height * width > decode.MAX_PIXELS:
        raise UserError(
            f"--input_size={height}x{width} has more than {decode.MAX_PIXELS:,} pixels."
        )
    resized = view.cuts(height, width)[0].size
    if max(resized) > cuts.STRIP * min(resized):
        raise UserError(
            f"--input_size={height}x{width}: one side is more than {cuts.STRIP} times the other."
        )
    return pillow_resize.test_view(height, width, view)
