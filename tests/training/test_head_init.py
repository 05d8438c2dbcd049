"""Tests of the head's start: the authors' numbers, answers by hand, and whole setups."""

import importlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from rich.console import Console
from support.paths import GOLDEN
from support.runs import train_and_test

import lift_jax
from configs import base
from lift_jax.data import class_prompts
from lift_jax.data.sources.in_memory.digits import DIGITS
from lift_jax.data.types import ArrayImages, Split
from lift_jax.errors import UserError
from lift_jax.evaluation import forward
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.models.heads import l2_normalise
from lift_jax.models.vit.config import VisionConfig
from lift_jax.parallel import mesh
from lift_jax.settings.parse import parse
from lift_jax.training import setup
from lift_jax.training.start import backbone as start_backbone
from lift_jax.training.start import head_init
from lift_jax.training.texts import encode
from lift_jax.weights import tokenizer
from lift_jax.weights.load import load_tokenizer

SILENT = Console(quiet=True)


def split(features, labels, size=7):
    """Returns features in batches, as `image_features` yields them."""
    return [(features[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size)]


def config_of(**changes):
    config = importlib.import_module("configs.demo").get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def head_of(console=SILENT, **changes) -> np.ndarray:
    tuned = setup.build(parse(config_of(**changes)), console).tuned
    return np.asarray(tuned["head/weight"])


# -- from images


def test_heads_by_the_authors_numbers(golden):
    given = golden("heads")
    pairs = split(given["init_features"], given["init_labels"])
    start = jnp.zeros((10, 128))
    means = head_init.head_from_class_means(pairs, start)
    np.testing.assert_allclose(means, given["class_mean_weight"], rtol=1e-5, atol=1e-6)
    probe = head_init.head_from_linear_probe(pairs, start, SILENT)
    # theirs stops at scikit-learn's tolerance; that of 1e-9 is as far from it
    np.testing.assert_allclose(probe, given["linear_probing_weight"], atol=5e-3)
    np.testing.assert_allclose(probe, given["linear_probing_weight_converged"], atol=5e-3)
    np.testing.assert_allclose(np.linalg.norm(probe, axis=1), 1, rtol=1e-6)


def test_semantic_head_by_the_authors_numbers(golden):
    clip = lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2)
    given = golden("heads")
    texts = l2_normalise(jnp.asarray(given["semantic_text_features"]) @ clip.text_proj[...])
    found = head_init.head_from_texts(texts, clip.image_proj[...])
    np.testing.assert_allclose(found, given["semantic_weight"], rtol=1e-5, atol=1e-6)


def test_class_means_by_hand():
    features = np.array([[3, 0], [3, 8], [0, -5]], np.float32)
    start = jnp.array([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    found = head_init.head_from_class_means(split(features, np.array([2, 2, 0]), 1), start)
    np.testing.assert_allclose(found, [[0, -1], [1, 0], [0.6, 0.8]], rtol=1e-6)
    assert np.array_equal(found[1], start[1])


def test_a_probe_by_hand():
    """With features on the axes, each class points along its own axis and against the others."""
    start = head_init.unit_row_head(4, 3, jax.random.key(0))
    axes = np.eye(3, dtype=np.float32)
    three = head_init.head_from_linear_probe(split(axes, np.array([3, 0, 1])), start, SILENT)
    by_hand = l2_normalise(jnp.asarray(np.eye(3) - 1 / 3))
    np.testing.assert_allclose(three[jnp.array([3, 0, 1])], by_hand, atol=1e-4)
    assert np.array_equal(three[2], start[2])  # no images of it

    # scikit-learn has one row of weights for two classes
    rows, labels = np.array([[-2, 0], [0, 0], [0, 0]], np.float32), np.array([2, 0, 0])
    two = head_init.head_from_linear_probe(split(rows, labels), start[:, :2], SILENT)
    np.testing.assert_allclose(two[jnp.array([2, 0])], [[-1, 0], [1, 0]], atol=1e-6)


def test_a_probe_weighs_classes_alike():
    """The lower class points straight down, although more images lie left than right."""
    rows = np.array([[-1, 1]] * 40 + [[1, 1]] * 2 + [[0, -1]] * 4, np.float32)
    labels = np.repeat([0, 1, 2], [40, 2, 4])
    order = np.random.default_rng(0).permutation(46)  # of the batches
    left, right, low = head_init.head_from_linear_probe(
        split(rows[order], labels[order]), jnp.zeros((3, 2)), SILENT
    )
    np.testing.assert_allclose(low, [0, -1], atol=1e-3)
    np.testing.assert_allclose(left * jnp.array([-1.0, 1.0]), right, atol=1e-3)


def test_a_probe_that_is_stopped_says_so(golden, monkeypatch, capsys):
    given = golden("heads")
    pairs = split(given["init_features"], given["init_labels"])
    monkeypatch.setattr(head_init, "PROBE_STEPS", 3)
    head_init.head_from_linear_probe(pairs, jnp.zeros((10, 128)), Console())
    assert "stopped after 3 steps" in capsys.readouterr().out


def test_a_probe_needs_two_classes():
    with pytest.raises(UserError, match="one class.*class_mean"):
        head_init.head_from_linear_probe(
            [(np.ones((3, 2)), np.zeros(3, int))], jnp.ones((2, 2)), SILENT
        )


class Colour(nnx.Module):
    """A tower whose feature is the mean colour of the normalised image."""

    config = VisionConfig(resolution=4, patch=2, width=3, layers=1, heads=1, mlp=3)
    width = 3
    blocks = ()

    def __call__(self, images):
        return images.mean((1, 2))


@pytest.mark.parametrize("shots", [1, 3, 0])
def test_features_of_so_many_images_a_class(shots):
    """At most `shots` images a class come, once each, on 8 devices in partly full batches."""
    colours = np.random.default_rng(0).integers(0, 256, (21, 3), np.uint8)
    pixels = np.broadcast_to(colours[:, None, None], (21, 6, 4, 3))
    images = ArrayImages(pixels, "", np.arange(21))
    labels = np.array([0] * 2 + [4] * 18 + [2])

    def seen(seed):
        pairs = head_init.image_features(
            Colour(), Split(images, labels), shots=shots, seed=seed, interpolation="bicubic",
            cache=Cache(0.0, "", mesh.make_mesh(), 8, 0, SILENT),
        )  # fmt: skip
        parts = list(pairs)
        return np.concatenate([f for f, _ in parts]), np.concatenate([y for _, y in parts])

    features, found = seen(seed=0)
    wanted = np.minimum(np.bincount(labels), shots or 21)
    assert np.array_equal(np.bincount(found), wanted)
    chosen = head_init.sample_per_class(labels, shots or 21, seed=0)
    assert np.array_equal(labels[chosen], found)
    by_hand = forward.normalise(jnp.asarray(colours[chosen]), Colour.config)
    np.testing.assert_allclose(features, by_hand, rtol=1e-5, atol=1e-5)
    assert np.array_equal(features, seen(seed=0)[0])
    assert np.array_equal(features, seen(seed=1)[0]) == (shots == 0)


@pytest.mark.slow
def test_what_a_build_asks_for(monkeypatch):
    asked = []

    def given(visual, split, **options):
        asked.append(options)
        yield np.eye(10, visual.width, dtype=np.float32), np.arange(10)

    monkeypatch.setattr(head_init, "image_features", given)
    found = head_of(head__init="class_mean", head__shots=3, seed=5, test__interpolation="bilinear")
    assert np.array_equal(found, np.eye(10, found.shape[1]))
    assert {"shots": 3, "seed": 5, "interpolation": "bilinear"}.items() <= asked[0].items()


@pytest.mark.slow
def test_no_slow_start_where_the_head_is_replaced(monkeypatch, tmp_path):
    monkeypatch.setattr(head_init, "image_features", None)  # would fail if it were called
    train_and_test(config_of(head__init="linear_probe"), tmp_path, "zero_shot")


# -- from texts


@pytest.fixture(scope="module")
def demo():
    backbone = lift_jax.load_backbone("demo")
    return backbone, load_tokenizer(
        "demo", backbone.config.text.context, backbone.config.text.vocab
    )


def test_texts_of_a_class():
    names = ("red_fox", "hare")
    assert class_prompts.texts(names, "a photo of a {}.") == [
        ["a photo of a red fox."],
        ["a photo of a hare."],
    ]
    assert class_prompts.texts(names, "classname") == [["red fox"], ["hare"]]
    foxes, hares = class_prompts.texts(names, "ensemble")
    assert len(foxes) == len(set(foxes)) == len(hares) == 80
    assert foxes[0] == "a bad photo of a red fox." and foxes[-1] == "a tattoo of the red fox."
    assert hares == [text.replace("red fox", "hare") for text in foxes]
    assert class_prompts.texts(["{}_{}"], "{} {}") == [["{} {} {} {}"]]


def test_a_class_is_the_mean_of_its_texts(demo, monkeypatch):
    """A class is the unit mean of unit text features, for any number of texts and chunk size."""
    backbone, tokenizer = demo
    texts = [["a zero", "the digit zero", "nothing"], ["one"], ["a two", "two"]]
    flat = [text for own in texts for text in own]
    rows = np.asarray(l2_normalise(backbone.encode_text(tokenizer(flat), project=True)))
    by_hand = np.stack([rows[:3].mean(0), rows[3], rows[4:].mean(0)])
    by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    for chunk in (256, 4):
        monkeypatch.setattr(encode, "CHUNK", chunk)
        monkeypatch.setattr(encode, "TOKENISED", chunk // 2)
        found = encode.class_texts(backbone, tokenizer, texts, SILENT)
        np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["siglip_hf", "torch/clip_rn.pth"])
def test_texts_of_towers_without_projections(source):
    sizes = {"text_heads": 2} if source.endswith("pth") else {}
    backbone = lift_jax.load_backbone(GOLDEN / source, **sizes)
    tokens = np.random.default_rng(0).integers(1, 50, (3, backbone.config.text.context), np.int32)
    found = encode.class_texts(backbone, lambda texts: tokens, [["a", "b"], ["c"]], SILENT)
    rows = l2_normalise(backbone.encode_text(tokens, project=True))
    by_hand = l2_normalise(jnp.stack([rows[:2].mean(0), rows[2]]))
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)


def described(path, digits, **changes):
    path.write_text(json.dumps(digits))
    return {"head__prompt": "descriptor", "head__descriptors": str(path)} | changes


def test_head_and_zero_shot_start_from_the_same_texts(demo, tmp_path):
    digits = {name: [f"the digit {name}", f"{name}, by hand"] for name in DIGITS}
    changes = described(tmp_path / "d.json", digits | {"ten": ["no class"]})
    made = setup.build(parse(config_of(**changes)), SILENT)
    backbone, tokenizer = demo
    texts = encode.class_texts(backbone, tokenizer, list(digits.values()), SILENT)
    assert made.zero_shot is not None
    np.testing.assert_allclose(made.zero_shot[1]["head/class_texts"], texts, rtol=1e-5, atol=1e-6)
    head = head_init.head_from_texts(texts, backbone.image_proj[...])
    np.testing.assert_allclose(made.tuned["head/weight"], head, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("content", "words"), [
    ("{", "not JSON"), ("[1]", "holds .1.; expected a JSON object"), ("\xff", "not text in UTF-8"),
    ('{"Hares": ["a"], "red fox": ["b"]}', "no phrases for 1 of 2 classes: 'hare'.*by 'Hares'"),
    ('{"hare": [], "red_fox": ["b"]}', "class 'hare'.*found '..'"),
    ('{"hare": ["a", 3], "red fox": ["b"]}', "class 'hare'.*found"),
    ('{"hare": "long ears", "red fox": ["b"]}', "class 'hare'.*found 'long ears'"),
    ('{"hare": ["a", " "], "red fox": ["b"]}', "class 'hare'.*found"),
])  # fmt: skip
def test_wrong_descriptors(content, words, tmp_path):
    path = tmp_path / "d.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=f"{re.escape(str(path))}.*{words}"):
        class_prompts.texts(["red_fox", "hare"], "descriptor", str(path))


def test_descriptors_are_read_before_anything_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(start_backbone, "load_backbone", None)  # would fail if it were called
    with pytest.raises(UserError, match="Cannot read .*no.json.*No such file"):
        head_of(head__prompt="descriptor", head__descriptors=str(tmp_path / "no.json"))


def test_descriptors_in_another_spelling_of_unicode(tmp_path):
    (tmp_path / "d.json").write_text('{"cafe\\u0301": ["a bar"], "Red Fox": ["red"]}')
    names = ["caf\u00e9", "red_fox"]
    found = class_prompts.texts(names, "descriptor", str(tmp_path / "d.json"))
    assert found == [["a bar"], ["red"]]


# -- without names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head__init": "text"}, "head.init is 'text'.*no class names.*data.class_names=FILE"),
        ({"tuner__name": "coop"}, "head.kind is 'text' .tuner.name='coop'.*no class names"),
        ({"text_tuner__name": "lora"}, "text_tuner.name='lora'.*no class names"),
    ],
)
def test_a_head_of_texts_needs_names_before_anything_slow(tmp_path, monkeypatch, changes, words):
    lists = image_lists(tmp_path) | {"data__class_names": ""}
    (tmp_path / "train_list").write_text("0.png 0\n1.png 1\n2.png 2\n")
    monkeypatch.setattr(start_backbone, "load_backbone", None)  # would fail if it were called
    with pytest.raises(UserError, match=words):
        head_of(**lists, **changes)


@pytest.mark.slow
def test_without_names_the_head_starts_from_images(tmp_path):
    """The demo's text tower is not asked; given names that are codes are no names either."""
    lists = image_lists(tmp_path)
    (tmp_path / "train_list").write_text("0.png 0\n1.png 1\n2.png 2\n")
    means = head_of(**lists, head__init="class_mean")
    (tmp_path / "codes").write_text("n01440764\nn01443537\nn01484850\n")
    for names in ("", str(tmp_path / "codes")):
        changes = lists | {"data__class_names": names}
        made = setup.build(parse(config_of(**changes)), SILENT)
        assert made.zero_shot is None
        np.testing.assert_array_equal(np.asarray(made.tuned["head/weight"]), means)
        assert (
            setup.build(parse(config_of(**changes, data__clean_names=False)), SILENT).zero_shot
            is not None
        )


# -- which start it is


@pytest.mark.slow
def test_classes_without_images_start_from_their_texts(tmp_path):
    """If images start the head, classes without any start from their texts, and others do not."""
    lists = image_lists(tmp_path)
    text = head_of(**lists, head__init="text")
    for kind in ("class_mean", "linear_probe"):
        found = head_of(**lists, head__init=kind)
        np.testing.assert_allclose(found[1], text[1], rtol=1e-6)
        assert np.abs(found[0] - text[0]).max() > 0.01 < np.abs(found[2] - text[2]).max()
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def image_lists(folder: Path) -> dict[str, str]:
    """Makes lists with images of zero and two, and none of one."""
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    files = {
        "train_list": "0.png 0\n1.png 0\n2.png 2\n", "test_list": "3.png 0\n4.png 1\n5.png 2\n",
        "class_names": "zero\none\ntwo\n",
    }  # fmt: skip
    for key, lines in files.items():
        (folder / key).write_text(lines)
    paths = {f"data__{key}": str(folder / key) for key in files}
    return paths | {"data__name": "list", "data__root": str(folder), "data__imbalance": 1.0}


@pytest.mark.slow
def test_random_starts():
    """Rows have unit length, but LIFT's linear head is Kaiming normal."""
    for kind, random in (("linear", "uniform"), ("cosine", "kaiming_normal")):
        rows = head_of(head__init="none", head__kind=kind, head__random=random)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    wide = np.asarray(head_init.kaiming_head(500, 200, jax.random.key(0)))
    assert abs(wide.std() - 0.1) < 1e-3 and abs(wide.mean()) < 1e-3  # sqrt(2 / 200)
    kaiming = head_of(head__init="none", head__kind="linear", head__random="kaiming_normal")
    assert np.linalg.norm(kaiming, axis=1).min() > 1.1
    lift = base.get_config("method=lift").head
    assert (lift.random, lift.shots) == ("kaiming_normal", 0)
    assert (base.get_config().head.random, base.get_config().head.shots) == ("uniform", 100)


@pytest.mark.slow
def test_a_run_from_an_ensemble_and_a_probe(tmp_path, capsys, monkeypatch):
    told = []
    monkeypatch.setattr(
        tokenizer.logging, "warning", lambda text, *values: told.append(text % values)
    )
    changes = {"head__prompt": "ensemble", "head__init": "linear_probe", "head__shots": 10}
    found = train_and_test(config_of(train__epochs=1, test__tte=False, **changes), tmp_path)
    assert found["test"]["overall"] > 75 and found["zero_shot"]["overall"] > 65
    out = " ".join(capsys.readouterr().out.split())
    assert "Encoding 800 texts of 10 classes." in out
    assert len(told) == 1  # the demo's tower has room for 16
    assert re.search(r"cut to .*'a .* zero.' and \d+ more$", told[0])
    assert "Head: starts from linear_probe of at most 10 images a class." in out


@pytest.mark.parametrize(("changes", "words"), [
    ({"head.prompt": "ensembel"}, "{}.*Did you mean 'ensemble'"),
    ({"head.prompt": "descriptor"}, "give head.descriptors"),
    ({"head.descriptors": "d.json"}, "descriptors belong to 'descriptor'"),
    ({"head.shots": -1}, "head.shots is -1; it must be at least 0"),
    ({"head.shots": 7, "head.init": "text"}, "shots belong to .*'class_mean' and 'linear_probe'"),
    ({"head.init": "linear_prob"}, "linear_probe"), ({"head.random": "normal"}, "kaiming_normal"),
])  # fmt: skip
def test_wrong_options(changes, words):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        parse(config)
