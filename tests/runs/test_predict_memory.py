"""Tests of what a prediction holds and sends: no more than was asked, for any number of images."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lift_jax import settings
from lift_jax.models.backbone import Classifier
from lift_jax.models.heads import CosineHead
from lift_jax.runs import predictor as module
from lift_jax.runs.answers.answering import Answering, Asked, outputs_of
from lift_jax.runs.answers.calibration_file import View
from lift_jax.runs.restored import RestoredRun
from lift_jax.weights.load import load_backbone

CLASSES, IMAGES, BATCH = 8142, 1024, 32
NAMES = tuple(f"species {i}" for i in range(CLASSES))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Makes the predictor of a small network with as many classes as iNaturalist 2018."""
    backbone, parsed = load_backbone("demo"), settings.parse(settings.load("demo", ""))
    weight = np.random.default_rng(0).standard_normal((CLASSES, backbone.visual.width), np.float32)
    model = Classifier(backbone.visual, CosineHead(jnp.asarray(weight)))
    with pytest.MonkeyPatch.context() as patch:
        run = RestoredRun(parsed, NAMES, backbone, model, 0)
        patch.setattr(module.restored, "load", lambda workdir: run)
        return module.Predictor(tmp_path_factory.mktemp("run"), tte=False, batch=BATCH)


def view(score="energy", means=None):
    few = np.zeros(1, np.float32)
    counts = np.ones(CLASSES, int)
    return View(2.0, score, 0.9, few, means, "pas", 0.5, 0.9, few, np.zeros(1, int), counts)


LIMITS, MEANS = np.ones(CLASSES), np.ones((CLASSES, 8), np.float16)


@pytest.mark.parametrize(
    ("answering", "expected", "size"),
    [
        (Answering(NAMES, 5), Asked(5), 5 * 8),
        (Answering(NAMES, 5, everything=True), Asked(5, probabilities=True), 40 + 4 * CLASSES),
        (Answering(NAMES[:3], 5), Asked(3), 3 * 8),
        (Answering(NAMES, 1, view()), Asked(1, logits=True), 8 + 4 * CLASSES),
        (
            Answering(NAMES, 1, view("cosine", MEANS), threshold=0.5, limits=LIMITS),
            Asked(1, probabilities=True, logits=True, embedded=True),
            8 + 8 * CLASSES + 4 * 8,
        ),
    ],
)
def test_no_more_is_sent_than_is_asked(answering, expected, size):
    assert answering.asked == expected
    shapes = jax.ShapeDtypeStruct((2, CLASSES), "float32"), jax.ShapeDtypeStruct((2, 8), "float32")
    sent = jax.eval_shape(lambda *given: outputs_of(*given, expected), *shapes)
    assert sum(each.size * each.dtype.itemsize for each in sent) == 2 * size


def test_equal_probabilities_keep_the_order_of_the_classes():
    logits = np.array([[1, 3, 2, 3, 3, 2], [0, 0, 0, 0, 0, 0]], np.float32)
    best, shares, *_ = outputs_of(jnp.asarray(logits), jnp.zeros((2, 1)), Asked(4))
    assert best.tolist() == [[1, 3, 4, 2], [0, 1, 2, 3]]
    np.testing.assert_array_equal(shares[0, :3], shares[0, 0])


def test_memory_does_not_grow_with_the_images(predictor):
    image, held = np.zeros((8, 8, 3), np.uint8), []
    tracemalloc.start()
    try:
        for i, one in enumerate(predictor.stream(image for _ in range(IMAGES))):
            assert len(one.labels) == 5
            if i % BATCH == BATCH - 1:
                on_devices = sum(each.nbytes for each in jax.live_arrays())
                held.append(tracemalloc.get_traced_memory()[0] + on_devices)
    finally:
        tracemalloc.stop()
    grown = max(held[len(held) // 2 :]) - max(held[: len(held) // 2])
    assert grown < 2**20  # all logits of the second half would be 16 MB


def test_a_batch_is_sent_before_the_last_one_is_fetched(predictor, monkeypatch):
    happened = []
    fetch, work = module._fetched, predictor._outputs

    def sending(*given, **options):
        happened.append("sent")
        return work(*given, **options)

    def fetching(*given):
        happened.append("fetched")
        return fetch(*given)

    monkeypatch.setattr(module, "_fetched", fetching)
    monkeypatch.setattr(predictor, "_outputs", sending)
    assert len(predictor.predict([np.zeros((8, 8, 3), np.uint8)] * 3 * BATCH)) == 3 * BATCH
    assert happened == ["sent", "sent", "fetched", "sent", "fetched", "fetched"]


def test_the_images_before_an_unreadable_one_are_answered(predictor):
    good, bad = np.zeros((8, 8, 3), np.uint8), np.zeros((3, 3))
    answers = predictor.stream([good] * BATCH + [bad])
    for _ in range(BATCH):
        assert next(answers).labels
    with pytest.raises(module.UserError, match=f"image {BATCH}"):
        next(answers)
