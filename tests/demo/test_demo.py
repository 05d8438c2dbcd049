"""Tests of the demo's glyphs, captions and pretraining, and of the tiny CLIP that is embedded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from PIL import Image

from lift_jax import load_backbone, load_tokenizer
from lift_jax.demo import captions, glyphs, pretrain
from lift_jax.models.backbone import Backbone, BackboneConfig
from lift_jax.weights.names.hub import DEMO

pytestmark = pytest.mark.slow  # whole runs, or many compilations


def test_rendering_is_a_function_of_the_seed():
    labels = np.arange(len(glyphs.CHARACTERS), dtype=np.int32)
    first, again, other = (glyphs.render(np.random.default_rng(s), labels) for s in (3, 3, 5))
    assert first.shape == (len(labels), 32, 32) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 10


def test_every_character_is_visible_and_most_are_bright_on_dark():
    labels = np.tile(np.arange(len(glyphs.CHARACTERS), dtype=np.int32), 5)
    images = glyphs.render(np.random.default_rng(0), labels).astype(int)
    contrast = images.max((1, 2)) - images.min((1, 2))
    assert (contrast > 40).mean() > 0.98
    edges = np.median(images[:, [0, -1]].reshape(len(images), -1), 1)
    assert 0.7 < (edges < 128).mean() < 0.98


def test_half_of_the_labels_are_digits():
    labels = glyphs.draw_labels(np.random.default_rng(0), 9973)
    assert abs((labels < 10).mean() - 0.5) < 0.02
    assert set(labels) == set(range(len(glyphs.CHARACTERS)))


def test_cells_average_by_hand():
    weights = glyphs.cells(np.array([10.0]), np.array([5.0]), np.array([2]))
    expected = np.zeros((2, glyphs.CANVAS))
    expected[0, 10:13] = 0.4, 0.4, 0.2
    expected[1, 12:15] = 0.2, 0.4, 0.4
    np.testing.assert_allclose(weights[0, :2], expected, atol=1e-6)


def test_enlargement_is_pillows_bicubic():
    low = np.random.default_rng(0).random((8, 8), np.float32)
    matrix = glyphs.enlargements()[glyphs.CELLS.index(8), :, :8]
    expected = Image.fromarray(low).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(matrix @ low @ matrix.T, np.asarray(expected), atol=1e-5)


def test_captions_name_one_character_each():
    owners = {}
    for character in glyphs.CHARACTERS:
        assert captions.captions(character)[0] == captions.PHOTO.format(
            captions.names(character)[0]
        )
        for caption in captions.captions(character):
            assert owners.setdefault(caption, character) == character
    assert captions.captions("3")[0] == "a photo of a three."


@pytest.mark.parametrize(
    "text", ["a photo of a seven.", "Naïve 字 \U0001f600", "letter q", "x" * 9]
)
def test_tokenizer_round_trip(text):
    tokenizer = captions.train_tokenizer()
    encoding = tokenizer.encode(text)
    assert encoding.tokens[0] == captions.START and encoding.tokens[-1] == captions.END
    assert encoding.ids[-1] == tokenizer.get_vocab_size() - 1 == max(encoding.ids)
    assert tokenizer.decode(encoding.ids).strip() == text.lower()


def test_captions_fit_the_context():
    tokenizer = captions.train_tokenizer()
    texts = [text for character in glyphs.CHARACTERS for text in captions.captions(character)]
    assert max(len(e.ids) for e in tokenizer.encode_batch(texts)) <= captions.CONTEXT


def test_contrastive_shares_the_target_between_equal_labels():
    logits = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [3.0, 1.0, 0.0]])

    def cross_entropy(z):
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        return -(log_p[0, [0, 2]].mean() + log_p[1, 1] + log_p[2, [0, 2]].mean()) / 3

    z = np.asarray(logits)
    expected = (cross_entropy(z) + cross_entropy(z.T)) / 2
    loss = pretrain.contrastive(logits, jnp.array([7, 2, 7]))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_few_steps_write_a_folder_that_loads(tmp_path, monkeypatch):
    def shallow(vocab: int) -> BackboneConfig:  # one layer a tower compiles in a third of the time
        config = full(vocab)
        towers = (dataclasses.replace(tower, layers=1) for tower in (config.vision, config.text))
        return BackboneConfig(*towers, config.embed)

    full = pretrain.model_config
    monkeypatch.setattr(pretrain, "model_config", shallow)
    folder = tmp_path / "clip"
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam is not strict: float ** int32
        pretrain.pretrain(folder, steps=3, seed=1, size=7)
    clip = load_backbone(folder)
    start = Backbone(clip.config, rngs=nnx.Rngs(1))
    assert not np.allclose(start.image_proj[...], clip.image_proj[...], atol=1e-3)
    tokens = load_tokenizer(folder, clip.config.text.context)(["a photo of a six."])
    assert np.isfinite(clip.encode_text(tokens, project=True)).all()
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float16)}


def test_the_embedded_folder_is_what_pretraining_writes():
    clip = load_backbone("demo")
    tokenizer = captions.train_tokenizer()
    assert clip.config == pretrain.model_config(tokenizer.get_vocab_size())
    assert (DEMO / "tokenizer.json").read_text() == tokenizer.to_str(pretty=True)
    assert (DEMO / "model.safetensors").stat().st_size < 3e6


def test_the_embedded_clip_reads_rendered_digits():
    assert pretrain.accuracy(load_backbone("demo"), pretrain.caption_table(DEMO), 500) > 80


def test_unknown_words_are_only_cut(caplog):
    tokenize = load_tokenizer("demo", captions.CONTEXT)
    tokens = tokenize(["a photo of a Pneumonoultramicroscopic 字.", ""])
    assert tokens.shape == (2, captions.CONTEXT)
    features = load_backbone("demo").encode_text(tokens, project=True)
    assert np.isfinite(features).all()
