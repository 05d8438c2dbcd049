"""Tests of texts that share their first tokens: which do, and that their features are the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from support.towers import filled, run

from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig
from lift_jax.models.heads import l2_normalise
from lift_jax.models.text import TextConfig, TextTransformer
from lift_jax.models.vit.config import VisionConfig
from lift_jax.parallel import mesh
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.training.texts import encode, groups, prefixes
from lift_jax.tuners.attach import attach

COLUMNS, SILENT = 12, Console(quiet=True)
CLIP = TextConfig(64, COLUMNS, 16, 3, 2, 32, eot=63)


def make(text=CLIP):
    projections = () if text.pool == "last" else ("image", "text")
    sizes = BackboneConfig(VisionConfig(8, 8, 16, 1, 2, 16), text, 16, projections)
    found = Backbone(sizes, rngs=nnx.Rngs(0))
    found.text = filled(lambda: TextTransformer(text, rngs=nnx.Rngs(0)))
    return found


def rows_of(texts):
    """Returns rows of start token 62, letters, end token 63 ("."), and padding."""
    codes = [[63 if c == "." else ord(c) - ord("a") + 1 for c in text] for text in texts]
    rows = [[62, *row, *([] if 63 in row else [63])] for row in codes]
    return np.array([row + [0] * (COLUMNS - len(row)) for row in rows], np.int32)


def prefixes_of(texts):
    """Returns the letters of the prefix of each text, start token included."""
    rows = rows_of(texts)
    found = {}
    for batch in groups.batches(rows, 1 + (rows == 63).argmax(1), 4):
        for part in batch.parts:
            for i, text in enumerate(part.texts):
                n = batch.lengths[part.prefixes[i]]
                prefix = batch.tokens[part.prefixes[i], :n]
                rest = part.tokens[i, : part.ends[i] + 1]
                whole = [*prefix, *rest]
                assert whole == rows[text, : len(whole)].tolist() and rest[-1] == 63
                found[int(text)] = texts[text][: n - 1] if n else None
    assert sorted(found) == list(range(len(texts)))
    return [found[i] for i in range(len(texts))]


@pytest.mark.parametrize(("texts", "prefixes"), [
    (["ab", "ac"], [None] * 2),  # two texts save no more than their prefix costs
    (["ab", "ac", "ad"], ["a"] * 3),
    # three that leave a shorter prefix to others save 3 x 2 tokens, no more than twice 3; four do
    (["abx", "aby", "abz", "e", "f"], [""] * 5),
    (["abx", "aby", "abz", "abw", "e", "f"], ["ab"] * 4 + [""] * 2),
    # the last token of a text is in no prefix, though the text is the start of others
    (["ab", "abc", "abcd", "abce", "abcf", "abcg"], ["ab"] * 6),
    (["ab", *(f"abc{c}" for c in "defghijkl")], ["ab", *["abc"] * 9]),
    # what is behind the end token is not read
    ([f"ab{c}.{c}{c}" for c in "uvwxyz"], ["ab"] * 6),
])  # fmt: skip
def test_prefixes_by_hand(texts, prefixes, monkeypatch):
    monkeypatch.setattr(groups, "KEY", 0)
    assert prefixes_of(texts) == prefixes


def test_one_long_prefix_among_many_short_ones_is_cut():
    """Every text attends to as many columns as the longest prefix has."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    short, long = [f"a{c}{d}" for c in letters for d in letters], [f"bcdefghi{c}" for c in "uvwxyz"]
    found = prefixes_of(short + long)
    assert {len(each) for each in found[: len(short)]} == {2}
    assert {len(each) for each in found[len(short) :]} == {2}


@pytest.mark.parametrize(("lengths", "widths"), [
    ([5] * 10, [5]), ([3, 4, 5, 6] * 9, [6]),  # few texts: a second program costs more than padding
    ([3] * 5000 + [9] * 5000, [3, 9]), ([3] * 5000 + [4] * 50 + [9] * 5000, [3, 9]),
])  # fmt: skip
def test_widths_weigh_padding_against_compilation(lengths, widths):
    assert groups._widths(np.array(lengths)) == widths


def test_templates_are_encoded_once():
    letters = "abcdefghijklmnopqrst"
    rows = rows_of([f"{c}xyz{d}{e}" for c in "abcde" for d in letters for e in letters])
    found = groups.batches(rows, np.full(len(rows), 8), 256)
    tokens = sum(b.tokens.size + sum(p.tokens.size for p in b.parts) for b in found)
    assert tokens < 0.5 * 8 * len(rows)
    assert len({part.tokens.shape for batch in found for part in batch.parts}) == 1


WORDS = [a + b for a in "abcd" for b in "xyzw"]
ROWS = {
    "templates": rows_of([
        "a", "the", *(f"the{w}" for w in WORDS), *(f"an{w}{w}" for w in WORDS),  # of all lengths
        "theax", "b", "b",  # equal texts
        "abcdefghij", *(f"abcdefgh{w}" for w in WORDS),  # as long as the tower reads
        *(f"no{c}.{c}" for c in "cdef"), *(f"no.{c}" for c in "defg"),  # tokens behind the end
    ]),
    "nothing in common": np.random.default_rng(0).integers(1, 62, (9, COLUMNS), np.int32),
    "two texts": rows_of(["a", "b"]),
}  # fmt: skip
ROWS["nothing in common"][np.arange(9), [2, 11, 5, 0, 0, 0, 0, 9, 3]] = 63


@pytest.fixture
def steps(monkeypatch):
    """Makes two texts count as many, in parts of 4, and records which texts share prefixes."""
    seen, batches = [], groups.batches
    monkeypatch.setattr(encode, "CHUNK", 1)
    monkeypatch.setattr(groups, "PREFIX_TOKENS", 16)  # several batches

    def recorded(rows, lengths, size):
        seen.append(len(rows))
        return batches(rows, lengths, 4)

    monkeypatch.setattr(groups, "batches", recorded)
    return seen


def check(backbone, rows):
    """Asserts that the features of texts, each a class, are those that the tower gives."""
    found = encode.class_texts(backbone, lambda _: rows, [[""]] * len(rows), SILENT)
    plain = l2_normalise(run(backbone.text, rows) @ backbone.text_proj[...])
    np.testing.assert_allclose(found, plain, atol=1e-6)
    return plain


@pytest.mark.parametrize("case", ROWS)
def test_features_are_those_of_whole_texts(case, steps):
    plain = check(make(), ROWS[case])
    assert steps == [len({row.tobytes() for row in ROWS[case]})]
    if case == "templates":  # the tower tells texts apart
        assert np.ptp(np.asarray(plain), axis=0).max() > 0.1


def test_on_several_devices_by_the_rank_of_the_end_token_and_for_ends_alone(steps, monkeypatch):
    monkeypatch.setattr(prefixes, "END", 0)
    backbone, devices = make(replace(CLIP, eot=None)), mesh.make_mesh(2, 4)
    graph, leaves = tree.flatten(backbone.text)
    placed = {
        path: jax.device_put(leaf[...], mesh.frozen_sharding(devices, path, leaf.shape))
        for path, leaf in leaves.items()
    }
    assert not placed["blocks/0/q/kernel"].is_fully_replicated
    backbone.text = tree.merge(graph, placed)
    check(backbone, ROWS["templates"])
    assert steps


def test_other_towers_and_few_texts_take_the_plain_path(steps, monkeypatch):
    assert prefixes.applies(make().text)
    assert not prefixes.applies(make(replace(CLIP, pool="last", head=16)).text)
    for name in ("lora", "vpt_deep"):
        tuned = make().text
        attach(tuned, (name,), 3, TunerSettings(dim=2, prompts=2), rngs=nnx.Rngs(1))
        assert not prefixes.applies(tuned)
    check(make(), ROWS["two texts"][:1].repeat(9, axis=0))
    monkeypatch.setattr(encode, "CHUNK", 2)
    check(make(), ROWS["two texts"])
    assert not steps
