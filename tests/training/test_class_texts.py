"""Tests of the text features of classes: each text once, no longer than it is, and kept."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from lift_jax.models.backbone import Backbone, BackboneConfig
from lift_jax.models.heads import l2_normalise
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.storage.cache import cache_folder
from lift_jax.training.texts import encode, kept

SILENT = Console(quiet=True)
START, END = 62, 63
TOWERS = {
    "clip": TextConfig(64, 24, 16, 2, 2, 32),
    "clip, end token by id": TextConfig(64, 24, 16, 2, 2, 32, eot=END),
    "siglip": TextConfig(64, 24, 16, 2, 2, 32, pool="last", head=8),
}
TEXTS = [["a b c", "a", "a b c d e f g"], ["b", "a", "a"], ["a b c", "c c c c c c c c c c c c"]]


def make(kind, seed=0):
    text = TOWERS[kind]
    vision = VisionConfig(8, 8, 16, 1, 2, 16)
    projections = () if text.pool == "last" else ("image", "text")
    sizes = BackboneConfig(vision, text, 8 if text.pool == "last" else 12, projections)
    found = Backbone(sizes, rngs=nnx.Rngs(seed))
    found.text_fingerprint = f"weights {seed}"
    return found


def tokens_of(texts):
    """Returns rows of start token, letters, end token, and padding."""
    rows = [[START, *(ord(word) - ord("a") + 1 for word in text.split()), END] for text in texts]
    return np.array([row + [0] * (24 - len(row)) for row in rows], np.int32)


def plain(backbone, texts):
    """Returns the features of the classes the plain way: every text, with all its padding."""
    found = []
    for own in texts:
        rows = l2_normalise(backbone.encode_text(tokens_of(own), project=True))
        found.append(np.asarray(l2_normalise(rows.mean(0))))
    return np.stack(found)


def test_parts_by_hand():
    tokens = tokens_of(["a b c", "a", "a b c d e f g", "a", "b", "a b c"])
    first, inverse = encode.distinct(tokens)
    assert first.tolist() == [0, 1, 2, 4] and inverse.tolist() == [0, 1, 2, 1, 3, 0]
    parts = encode.by_length(np.array([5, 3, 9, 3]), 2)
    assert [each.tolist() for each in parts] == [[1, 3], [0, 2]]
    found = [(texts.tolist(), rows.tolist()) for texts, rows in encode.holders(parts, inverse)]
    assert found == [([1, 3, 4], [0, 0, 1]), ([0, 5, 2], [0, 0, 1])]
    assert encode.by_length(np.array([5, 3, 9, 3]), 99)[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("chunk", [256, 2])
@pytest.mark.parametrize("kind", TOWERS)
def test_they_are_those_of_every_text_with_all_its_padding(kind, chunk, monkeypatch):
    monkeypatch.setattr(encode, "CHUNK", chunk)
    backbone = make(kind)
    found = encode.class_texts(backbone, tokens_of, TEXTS, SILENT)
    np.testing.assert_allclose(found, plain(backbone, TEXTS), atol=1e-6)


@pytest.fixture
def many(monkeypatch, tmp_path):
    """Makes every number of texts count as many, and gives an empty cache folder."""
    monkeypatch.setattr(encode, "CHUNK", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def files():
    return sorted((cache_folder() / "texts").glob("*"))


def test_many_texts_are_encoded_once(many, monkeypatch):
    backbone, encoded = make("clip"), encode.encoded
    first = encode.class_texts(backbone, tokens_of, TEXTS, SILENT)
    (path,) = files()
    monkeypatch.setattr(encode, "encoded", None)  # would fail if it were called
    again = encode.class_texts(backbone, tokens_of, TEXTS, SILENT)
    assert again.dtype == jnp.float32
    np.testing.assert_array_equal(again, first)

    monkeypatch.setattr(encode, "encoded", encoded)
    content = path.read_bytes()
    for damaged in (content[:40], content[:-1] + bytes([content[-1] ^ 1]), b""):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(encode.class_texts(backbone, tokens_of, TEXTS, SILENT), first)
        assert path.read_bytes() == content


def test_the_file_is_named_after_all_that_the_features_depend_on(many, monkeypatch):
    backbone, sizes = make("clip"), np.array([1, 2])
    tokens = tokens_of(["a", "b", "c"])
    names = {kept.file_of(make("clip", seed), tokens, sizes) for seed in (0, 1)}
    names.add(kept.file_of(backbone, tokens[::-1], sizes))
    names.add(kept.file_of(backbone, tokens, sizes[::-1]))
    names.add(kept.file_of(make("clip, end token by id"), tokens, sizes))
    half = make("clip")
    half.text.tokens = nnx.Param(half.text.tokens[...].astype(jnp.bfloat16))
    names.add(kept.file_of(half, tokens, sizes))
    assert len(names) == 6 and None not in names
    backbone.text_fingerprint = ""
    assert kept.file_of(backbone, tokens, sizes) is None
    monkeypatch.setattr(kept.exchange, "count", lambda: 2)
    assert kept.file_of(make("clip"), tokens, sizes) is None


def test_few_texts_and_a_folder_that_cannot_be_written_keep_nothing(many, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    found = encode.class_texts(make("clip"), tokens_of, TEXTS, SILENT)
    np.testing.assert_allclose(found, plain(make("clip"), TEXTS), atol=1e-6)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(encode, "CHUNK", 256)
    encode.class_texts(make("clip"), tokens_of, TEXTS, SILENT)
    assert not files()
