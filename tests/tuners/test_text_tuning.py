"""Tests of the head on tuned texts: golden numbers, start, memory, whole runs, mistakes."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from support import author_leaves
from support.paths import GOLDEN
from support.runs import train_and_test

import lift_jax
from configs import base, demo
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig, Classifier
from lift_jax.models.text import TextConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.parallel import mesh
from lift_jax.settings import parse
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.training import losses, setup, state
from lift_jax.training.classifier import check_names, make_zero_shot_head
from lift_jax.training.optimizer import schedule, sgd
from lift_jax.training.step import make_train_step
from lift_jax.training.text_classifier import example_of
from lift_jax.tuners import attach, prompt_learning, rules
from lift_jax.tuners.prompt_learning import PHOTO, TunedTextHead
from lift_jax.weights import native
from lift_jax.weights.authors import read, write
from lift_jax.weights.load import DEBUG

pytestmark = pytest.mark.slow  # whole runs, or many compilations


def clip():
    return lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2)


def split(backbone, head, names=(), text_names=(), partial=0, text_partial=0):
    """Returns graph, tuned and frozen leaves of the classifier, as `setup.build` splits it."""
    depths = len(backbone.visual.blocks), len(backbone.text.blocks)
    in_images = rules.trainable(names, depths[0], partial)
    in_texts = rules.trainable(text_names, depths[1], text_partial, prefix="text")
    return state.split_trainable(
        Classifier(backbone.visual, head),
        lambda path, leaf: in_images(path, leaf) or in_texts(path[1:], leaf),
    )


# -- the authors' numbers

# case -> arguments of the head, settings of the text tower's tuners (test_tuners.py has more cases
# of these), and settings of the image tower's tuners
CASES = {
    "text_clip_adapter": ({"adapter": 4}, {}, {}),
    "text_proj_tuning": ({"proj": True}, {}, {}),
    "text_coop_front": ({"coop": (4, "front")}, {}, {}),
    "text_coop_middle": ({"coop": (3, "middle")}, {}, {}),
    "text_coop_end": ({"coop": (4, "end")}, {}, {}),
    "text_lora": ({}, {"name": "lora", "dim": 2}, {}),
    "text_image_and_text_adaptformer": (
        {}, {"name": "adaptformer", "dim": 2, "partial": 1},
        {"name": "adaptformer", "dim": 2, "partial": 1},
    ),
}  # fmt: skip


def build(case, tokens, devices=1):
    """Returns the classifier of a case: (graph, tuned, frozen)."""
    of_head, of_text, of_image = (dict(options) for options in CASES[case])
    backbone, rngs = clip(), nnx.Rngs(0)
    if coop := of_head.pop("coop", None):
        of_head["word_positions"] = prompt_learning.learned_template(*coop)[1]
        of_head["context"] = prompt_learning.random_context(coop[0], 64, rngs.params())
    head = TunedTextHead(backbone, tokens, devices=devices, rngs=rngs, **of_head)
    parts = {}
    towers = ("text_", backbone.text, of_text), ("", backbone.visual, of_image)
    for prefix, tower, options in towers:
        names = attach.parse_names(options.pop("name", "none"))
        attach.attach(tower, names, 10, TunerSettings(**options), rngs=rngs)
        parts |= {f"{prefix}names": names, f"{prefix}partial": options.get("partial", 0)}
    return split(backbone, head, **parts)


def differentiate(graph, tuned, frozen, golden):
    """Returns logits, loss and gradients on the golden batch."""
    data, expected = golden("clip_openai"), golden("tuners")
    loss = losses.make("la", expected["cls_num_list"])

    def forward(tuned, frozen):
        logits = tree.merge(graph, tuned | frozen)(jnp.asarray(data["images"]))
        return loss(logits, jnp.asarray(expected["labels"])), logits

    (value, logits), grads = jax.jit(jax.value_and_grad(forward, has_aux=True))(tuned, frozen)
    return logits, value, grads


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients_are_the_authors(golden, case):
    expected = golden("tuners")
    graph, tuned, frozen = build(case, golden("clip_openai")["tokens"])
    theirs = author_leaves.leaves(expected, f"{case}/param/", tuned)
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in tuned.items()}
    logits, value, grads = differentiate(graph, theirs, frozen, golden)
    np.testing.assert_allclose(logits, expected[f"{case}/logits"], rtol=1e-4, atol=4e-6)
    np.testing.assert_allclose(value, expected[f"{case}/loss"], rtol=1e-4)
    whole = author_leaves.leaves(expected, f"{case}/grad/", tuned)
    for path, grad in whole.items():
        np.testing.assert_allclose(grads[path], grad, rtol=1e-4, atol=1e-6, err_msg=path)
    for path in grads.keys() - whole.keys():  # larger leaves: every 13th entry
        name = path.removeprefix("head/")
        found = np.asarray(grads[path])
        stored = expected[f"{case}/gradsub/{name}"]
        np.testing.assert_allclose(found.reshape(-1)[::13], stored, rtol=1e-4, atol=1e-6)
        norm = np.linalg.norm(found.astype(np.float64))
        np.testing.assert_allclose(norm, expected[f"{case}/gradnorm/{name}"], rtol=1e-4)
    held = [key for key in expected if key.startswith((f"{case}/grad/", f"{case}/gradsub/"))]
    assert len(held) == len(grads)


def test_coop_from_the_words_of_the_photo_prompt_is_the_authors(golden):
    expected, data = golden("tuners"), golden("clip_openai")
    backbone = clip()
    assert PHOTO[1] == tuple(expected["coop_photo/ctx_loc"])
    context = prompt_learning.context_of(
        backbone.text, expected["coop_photo/init_tokens"], PHOTO[1]
    )
    assert np.array_equal(context, expected["coop_photo/ctx"])
    head = TunedTextHead(
        backbone, data["tokens"], context=context, word_positions=PHOTO[1], rngs=nnx.Rngs(0)
    )  # fmt: skip
    logits = Classifier(backbone.visual, head)(jnp.asarray(data["images"]))
    np.testing.assert_allclose(logits, expected["coop_photo/logits"], rtol=1e-4, atol=4e-6)


@pytest.mark.parametrize(("tokens", "place", "text", "positions"), [
    (4, "end", "a a a a {}.", (0, 1, 2, 3)),
    (4, "front", "{} a a a a.", (-5, -4, -3, -2)),
    (3, "middle", "a {} a a.", (0, -3, -2)),
    (1, "middle", "{} a.", (-2,)),
])  # fmt: skip
def test_prompts_by_hand(tokens, place, text, positions):
    assert prompt_learning.learned_template(tokens, place) == (text, positions)


def test_positions_by_hand():
    tokens = jnp.array([[598, 7, 7, 3, 5, 599, 0], [598, 7, 3, 4, 5, 6, 599]])
    found = prompt_learning.context_positions(clip().text, tokens, (0, -3, -2, -1))
    assert found.tolist() == [[1, 2, 3, 4], [1, 3, 4, 5]]


# -- what holds for every method


@pytest.mark.parametrize(("source", "options", "names"), [
    ("clip_openai.safetensors", {"adapter": 3}, ("lora",)),
    ("clip_openai.safetensors", {"proj": True}, ("adapter", "adaptformer", "lora_mlp")),
    ("siglip_hf", {"proj": True, "adapter": 5}, ("lora",)),
    ("clip_rn.safetensors", {"proj": True, "adapter": 5}, ("adaptformer",)),
])  # fmt: skip
def test_it_starts_as_zero_shot(source, options, names):
    sizes = {"siglip_hf": {}, "clip_rn.safetensors": {"text_heads": 1}}
    backbone = lift_jax.load_backbone(
        GOLDEN / source, **sizes.get(source, {"heads": 2, "text_heads": 2})
    )
    rng, text = np.random.default_rng(0), backbone.config.text
    tokens = rng.integers(2, text.vocab - 2, (5, text.context))
    tokens[:, -1] = text.vocab - 1
    features = rng.normal(size=(3, backbone.visual.width)).astype(np.float32)
    texts = jax.jit(lambda rows: backbone.encode_text(rows, project=True))(tokens)
    zero = make_zero_shot_head(backbone, texts)
    head = TunedTextHead(backbone, tokens, rngs=nnx.Rngs(0), **options)
    attach.attach(backbone.text, names, 5, TunerSettings(dim=2), rngs=nnx.Rngs(1))
    _, tuned, _ = split(backbone, head, text_names=names)
    projections = (backbone.image_proj is not None) + (backbone.text_proj is not None)
    blocks = sum("blocks" in path for path in tuned)
    per_block = {"lora": 4, "lora_mlp": 4, "adapter": 6, "adaptformer": 7}
    assert blocks == len(backbone.text.blocks) * sum(per_block[name] for name in names)
    expected = projections * ("proj" in options) + 12 * ("adapter" in options)
    assert len(tuned) - blocks == expected
    found = jax.jit(lambda x: head.classify(head.embed(x)))(features)
    np.testing.assert_allclose(found, zero.classify(zero.embed(features)), rtol=1e-5, atol=1e-4)


def test_the_words_of_the_prompt_itself_change_nothing(golden):
    """CoOp that starts from the photo prompt, on that prompt, is zero-shot."""
    backbone = clip()
    tokens = np.zeros((3, 77), np.int32)
    for row, name in zip(tokens, [(9,), (11, 12), (13, 14, 15)], strict=True):
        words = (598, 1, 2, 3, 4, *name, 5, 599)
        row[: len(words)] = words
    context = prompt_learning.context_of(backbone.text, tokens[1], PHOTO[1])
    head = TunedTextHead(
        backbone, tokens, context=context, word_positions=PHOTO[1], rngs=nnx.Rngs(0)
    )
    expected = jax.jit(backbone.text)(tokens)
    np.testing.assert_allclose(jax.jit(head.encode)(), expected, rtol=1e-5, atol=1e-5)
    head.context[...] = -head.context[...]
    assert np.abs(jax.jit(head.encode)() - expected).max() > 0.01


def test_chunks_and_devices_change_nothing(golden, monkeypatch):
    """Ten texts at once, in chunks of 3, and in chunks of 1 on 8 devices give the same features."""
    tokens = golden("clip_openai")["tokens"]
    devices, pull = mesh.make_mesh(4, 2), np.random.default_rng(0).normal(size=(10, 64))
    found = []
    for chunk, share, rows in ((8192, 1, (10, 1)), (3 * 77, 1, (3, 4)), (77, 8, (8, 2))):
        monkeypatch.setattr(prompt_learning, "CHUNK", chunk)
        backbone = clip()
        attach.attach(backbone.text, ("lora",), 10, TunerSettings(dim=2), rngs=nnx.Rngs(0))
        context = prompt_learning.random_context(2, 64, jax.random.key(0))
        head = TunedTextHead(
            backbone, tokens, context=context, word_positions=(0, -2), devices=share,
            rngs=nnx.Rngs(0),
        )  # fmt: skip
        graph, tuned, frozen = split(backbone, head, text_names=("lora",))
        assert frozen["head/tokens"].shape[:2] == rows
        if share > 1:
            placed = jax.device_put(frozen["head/tokens"], mesh.batch_sharding(devices))
            frozen = jax.device_put(frozen, mesh.replicated(devices)) | {"head/tokens": placed}
            tuned = jax.device_put(tuned, mesh.replicated(devices))

        def total(tuned, frozen, graph=graph):
            features = tree.merge(graph, tuned | frozen).head.encode()
            return (features * pull.astype(np.float32)).sum(), features

        found.append(jax.jit(jax.grad(total, has_aux=True))(tuned, frozen))
    for grads, features in found[1:]:
        np.testing.assert_allclose(features, found[0][1], rtol=1e-5, atol=1e-5)
        for path, grad in grads.items():
            np.testing.assert_allclose(grad, found[0][0][path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_for_tests_the_texts_are_encoded_once(golden):
    data = golden("clip_openai")
    graph, tuned, frozen = build("text_coop_end", data["tokens"])
    everywhere = mesh.replicated(mesh.make_mesh())
    held, leaves = prompt_learning.encode_texts_once(graph, tuned | frozen, everywhere)
    assert leaves["head/features"].shape == (10, 64)
    assert not [path for path in leaves if path.startswith(("head/text/", "head/context"))]
    features = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)

    def logits(graph, leaves):
        head = tree.merge(graph, leaves).head
        return jax.jit(lambda x: head.classify(head.embed(x)))(features)

    expected = logits(graph, tuned | frozen)
    np.testing.assert_allclose(logits(held, leaves), expected, rtol=1e-5, atol=1e-4)
    same = prompt_learning.encode_texts_once(held, leaves, everywhere)  # nothing is left to encode
    np.testing.assert_array_equal(same[1]["head/features"], leaves["head/features"])


def test_a_checkpoint_of_the_authors_names_comes_back(golden, tmp_path):
    for case in CASES:
        if "image_and" in case:
            continue
        _, tuned, _ = build(case, golden("clip_openai")["tokens"])
        write(tmp_path / "tuned.safetensors", tuned)
        found = read(
            tmp_path / "tuned.safetensors", {path: leaf.shape for path, leaf in tuned.items()}
        )
        assert found.keys() == tuned.keys()
        for path, leaf in tuned.items():
            np.testing.assert_array_equal(found[path], leaf)


# -- memory


def test_coop_with_8142_classes_fits_into_12_gb():
    """XLA estimates less for a step of CLIP ViT-B/16 at batch size 32, with texts of 77 tokens."""
    config = BackboneConfig(
        vision=VisionConfig(resolution=224, patch=16, width=768, layers=12, heads=12, mlp=3072),
        text=TextConfig(vocab=49408, context=77, width=512, layers=12, heads=8, mlp=2048),
        embed=512,
    )
    classes, batch = 8142, 32

    def model():
        backbone = Backbone(config, rngs=nnx.Rngs(0))
        tokens, context = jnp.zeros((classes, 77), jnp.int32), jnp.zeros((4, 512))
        head = TunedTextHead(
            backbone, tokens, context=context, word_positions=range(4), rngs=nnx.Rngs(0)
        )
        return Classifier(backbone.visual, head)

    graph, leaves = tree.flatten(nnx.eval_shape(model))
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    tuned = {"head/context": shapes.pop("head/context")}
    optimizer = sgd(schedule(0.002, 50, 1), 0.9, 5e-4)
    current = jax.eval_shape(lambda tuned: state.create_state(tuned, optimizer), tuned)
    one = jax.make_mesh((1, 1), ("data", "model"), devices=jax.devices()[:1])
    loss = losses.make("la", np.ones(classes))
    step = make_train_step(graph, config.vision, loss, optimizer, one)
    rows = {
        "image": jax.ShapeDtypeStruct((batch, 224, 224, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((batch,), bool),
    }
    found = step.lower(current, shapes, rows).compile().memory_analysis()
    arguments = found.argument_size_in_bytes
    assert arguments > 4 * 124_000_000  # all weights in float32
    total = found.temp_size_in_bytes + arguments + found.output_size_in_bytes
    assert total < 12e9, f"{total / 1e9:.1f} GB"


# -- whole runs


def config_of(**changes):
    config = demo.get_config("debug")
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def losses_of(workdir):
    return [json.loads(line)["loss"] for line in (workdir / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("changes", "tuned"), [
    ({"tuner__name": "coop"}, 4 * 32),
    ({"tuner__name": "none", "text_tuner__name": "lora"}, 2 * 2 * 2 * 4 * 32),
], ids=str)  # fmt: skip
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(changes, tuned, tmp_path, capsys):
    config = config_of(**changes, train__epochs=2)
    straight, other = tmp_path / "straight", tmp_path / "other"
    found = train_and_test(config, straight)
    assert (found["tuned_params"], found["head_params"]) == (tuned, 0)
    assert found["zero_shot"] is not None and found["steps"] == 4
    shutil.copytree(straight, other)
    shutil.rmtree(other / "checkpoints" / "4")
    (other / "metrics.json").unlink()
    again = train_and_test(config, other)
    assert "Continuing" in capsys.readouterr().out
    assert losses_of(other) == losses_of(straight)
    for row in ("zero_shot", "test", "test_tte"):
        assert again[row] == found[row]


@pytest.mark.parametrize("changes", [
    {"tuner__name": "coop", "coop__init": "photo", "model__precision": "bfloat16",
     "mesh__strategy": "fsdp", "mesh__model": 2},
    {"tuner__name": "adaptformer+proj+clip_adapter", "text_tuner__name": "vpt_deep+bitfit",
     "model__precision": "float16"},
    {"head__kind": "text", "train__accum": 4, "test__tte": False},
], ids=str)  # fmt: skip
def test_options_run(changes, tmp_path):
    found = train_and_test(config_of(**changes), tmp_path)
    assert found["steps"] == 2 and found["test"]["images"] == 31


@pytest.mark.parametrize(("changes", "kind"), [
    ({}, "cosine"), ({"tuner.name": "coop"}, "text"), ({"tuner.name": "lora+proj"}, "text"),
    ({"text_tuner.name": "lora"}, "text"), ({"head.kind": "linear"}, "linear"),
])  # fmt: skip
def test_tuned_texts_imply_the_head(changes, kind):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    settings = parse(config)
    assert settings.head.kind == kind
    check_names(settings)


@pytest.mark.parametrize(("changes", "message"), [
    ({"tuner.name": "coop", "head.kind": "cosine"}, "head.kind is 'cosine', a classifier.*coop"),
    ({"text_tuner.name": "ssf", "head.kind": "linear"}, "'linear', a classifier .* ssf"),
    ({"head.kind": "text", "tuner.name": "none"}, "nothing would be trained"),
    ({"tuner.name": "proj", "head.init": "class_mean"}, "head.init is 'class_mean'"),
    ({"tuner.name": "proj", "head.scale": 30.0}, "head.scale is 30.0, but head.kind is 'text'"),
    ({"tuner.name": "proj", "head.prompt": "ensemble"}, "takes one text a class"),
    ({"text_tuner.name": "bn"}, "belongs to ResNets"),
    ({"text_tuner.name": "loar"}, r"text_tuner.name.*lora"),
    ({"text_tuner.name": "aft", "text_tuner.ratio": 2.0}, r"text_tuner.ratio is 2.0.*\[0, 1\]"),
    ({"text_tuner.name": "ssf", "text_tuner.parts": "atn"}, "text_tuner.parts.*'attn'"),
    ({"tuner.name": "cop"}, "coop"),
    ({"head.kind": "txt"}, "text"),
    ({"tuner.name": "coop", "coop.init": "foto"}, "photo"),
    ({"tuner.name": "coop", "coop.place": "before"}, "front"),
    ({"tuner.name": "coop", "coop.tokens": 0}, "coop.tokens is 0"),
])  # fmt: skip
def test_mistakes_are_one_message(changes, message):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        check_names(parse(config))


def test_a_run_goes_on_with_its_own_text_tower_alone():
    """The fingerprint covers the text tower if the texts are tuned."""
    checksums = {"visual/stem": "1", "text/tokens": "2", "text_proj": "3"}
    own, others = (
        [native.fingerprint(DEBUG, changed, texts) for texts in (False, True)]
        for changed in (checksums, checksums | {"text/tokens": "4"})
    )
    assert own[0] == others[0] and own[1] != others[1] and own[0] != own[1]
    console = Console(quiet=True)
    with_texts, without = (
        setup.build(parse(config_of(head__kind=kind)), console) for kind in ("text", "cosine")
    )
    assert with_texts.fingerprint.startswith(without.fingerprint)
    assert len(with_texts.fingerprint) == 2 * len(without.fingerprint)


@pytest.mark.parametrize(("changes", "message"), [
    ({"text_tuner__name": "lora", "text_tuner__partial": 9}, "^text_tuner.partial is 9.* 2 blocks"),
    ({"text_tuner__name": "ln", "text_tuner__layers": "7"}, "^text_tuner.layers is '7'"),
    ({"text_tuner__name": "aft", "text_tuner__parts": "ln"}, "^text_tuner.parts is 'ln': aft"),
    ({"tuner__name": "coop", "coop__tokens": 13}, "coop.tokens is 13.*16 tokens: give at most 12"),
])  # fmt: skip
def test_mistakes_that_the_backbone_shows(changes, message):
    with pytest.raises(UserError, match=message):
        setup.build(parse(config_of(**changes)), Console(quiet=True))


def test_without_a_text_tower_there_are_no_texts(tmp_path):
    config = config_of(model__backbone=str(GOLDEN / "hf_vit"), tuner__name="coop")
    with pytest.raises(UserError, match="no text tower"):
        train_and_test(config, tmp_path)


def test_a_word_must_be_a_token():
    """A tokenizer with two tokens a word is an error."""

    def tokenizer(texts):
        row = np.zeros((1, 77), np.int32)
        words = texts[0].rstrip(".").split()
        row[0, : 2 * len(words) + 3] = (598, *(3,) * (2 * len(words)), 5, 599)
        return row

    with pytest.raises(UserError, match="one token for each word"):
        example_of(tokenizer, *prompt_learning.learned_template(4, "end"), clip().text)
    with pytest.raises(UserError, match="like CLIP's"):
        siglip = lift_jax.load_backbone(GOLDEN / "siglip_hf")
        example_of(tokenizer, *prompt_learning.learned_template(4, "end"), siglip.text)
