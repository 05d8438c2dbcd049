"""Runs that are exported, and their answers for images, by which exported files are judged."""

import numpy as np
from PIL import Image
from support.paths import GOLDEN

import lift_jax

RUNS = {
    "adaptformer": {},
    "lora+ssf": {"tuner.name": "lora+ssf", "tuner.parts": "attn+mlp+ln"},
    "vpt": {"tuner.name": "vpt_deep"},
    "calibrated": {"data.val_share": 0.3},
    "projections": {"tuner.name": "proj"},
    "resnet": {"model.backbone": str(GOLDEN / "timm" / "timm_resnet"), "tuner.name": "ssf"},
}
CLASSES = ["red", "green", "blue", "yellow", "purple", "orange", "grey"]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def saved(folder, *sizes):
    """Writes an image of noise of each size as PNG, and returns the paths."""
    paths = [folder / f"{i}.png" for i in range(len(sizes))]
    for i, (size, path) in enumerate(zip(sizes, paths, strict=True)):
        Image.fromarray(noise(*size, seed=i)).save(path)
    return paths


def predicted(run, paths):
    """Returns Predictor's probabilities of all classes, in the order of the classes."""
    predictor = lift_jax.Predictor(run, tte=False)
    found = predictor.predict(paths, top_k=len(predictor.class_names))
    return np.array([
        [dict(zip(one.labels, one.probabilities, strict=True))[name] for name in CLASSES]
        for one in found
    ])  # fmt: skip


def test_view(path, res=32):
    """Returns the test view of an image file as documented, by Pillow alone."""
    image = Image.open(path)
    short = res + res // 7
    size = [int(short * side / min(image.size)) for side in image.size]
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - res) / 2) for side in size)
    return np.asarray(image.crop((left, top, left + res, top + res)))


test_view.__test__ = False
