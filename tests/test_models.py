"""The towers, AdaptFormer and heads against the golden numbers, and by hand."""

import json
from pathlib import Path

import authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lift_jax
from lift_jax import losses, state
from lift_jax.errors import UserError
from lift_jax.models import tree, tuners
from lift_jax.models.blocks import Block
from lift_jax.models.clip import Classifier
from lift_jax.models.heads import CosineHead, ZeroShotHead
from lift_jax.models.layers import attention
from lift_jax.models.tuners import Tuner
from lift_jax.models.vit import VisionConfig, VisionTransformer

GOLDEN = Path(__file__).parent / "golden"


def close(found, expected, rtol=1e-5):
    """Within rtol of the largest expected magnitude: what float32 can hold of a sum."""
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.fixture(scope="module")
def clip():
    return lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2)


def test_hugging_face_towers(golden):
    clip = lift_jax.load_backbone(GOLDEN / "clip_hf")
    expected, images = golden("clip_hf"), golden("clip_openai")["images"]
    close(clip.encode_image(images), expected["image_pooled"])
    close(clip.encode_image(images, project=True), expected["image_features"])
    ids = expected["input_ids"]
    close(clip.encode_text(ids), expected["text_pooled"])
    close(clip.encode_text(ids, project=True), expected["text_features"])


def test_hugging_face_end_of_text(golden, tmp_path):
    expected = golden("clip_hf")
    clip = lift_jax.load_backbone(GOLDEN / "clip_hf")
    close(clip.encode_text(expected["input_ids_two_eot"]), expected["text_pooled_two_eot"])
    # OpenAI's own files say 2, which means "the largest id"
    config = json.loads((GOLDEN / "clip_hf" / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (GOLDEN / "clip_hf" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    clip = lift_jax.load_backbone(tmp_path)
    close(clip.encode_text(expected["input_ids"]), expected["text_pooled_eos2"])


def test_hugging_face_zero_shot_logits(golden):
    clip = lift_jax.load_backbone(GOLDEN / "clip_hf")
    expected, images = golden("clip_hf"), golden("clip_openai")["images"]
    texts = clip.encode_text(expected["input_ids"], project=True)
    head = ZeroShotHead(clip.image_proj[...], texts, clip.logit_scale[...])
    close(Classifier(clip.visual, head)(images), expected["logits_per_image"])


def test_openai_towers(golden, clip):
    expected = golden("clip_openai")
    close(clip.encode_image(expected["images"]), expected["image_features_pre"])
    close(clip.encode_image(expected["images"], project=True), expected["image_features"])
    close(clip.encode_text(expected["tokens"]), expected["text_features_pre"])
    close(clip.encode_text(expected["tokens"], project=True), expected["text_features"])


def test_wrong_image_sizes_and_long_texts_are_told(clip):
    with pytest.raises(ValueError, match=r"\[n, 32, 32, 3\], found \(2, 40, 32, 3\)"):
        clip.encode_image(np.zeros((2, 40, 32, 3), np.float32))
    with pytest.raises(ValueError, match="at most 77 tokens a text, found 78"):
        clip.encode_text(np.zeros((2, 78), np.int32))


def test_openai_heads_are_64_wide_unless_said(golden):
    expected = golden("clip_openai")
    clip = lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors")
    close(clip.encode_text(expected["tokens"], project=True), expected["text_features_heads_w64"])


@pytest.mark.parametrize("case", ["none", "adaptformer", "adaptformer_dim4_last2"])
def test_adaptformer_logits_loss_and_gradients(golden, clip, case):
    expected, inputs = golden("tuners"), golden("clip_openai")
    options = {"adaptformer_dim4_last2": {"dim": 4, "partial": 2}}.get(case, {})
    names = () if case == "none" else ("adaptformer",)
    visual = lift_jax.load_backbone(
        GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2
    ).visual
    tuners.attach(visual, names, 10, rngs=nnx.Rngs(0), **options)
    head = CosineHead(jnp.asarray(expected["classifier_weight"]))
    is_trainable = tuners.trainable(names, 3, options.get("partial", 0))
    graph, tuned, frozen = state.split(Classifier(visual, head), is_trainable)
    theirs = authors.leaves(expected, f"{case}/param/")
    theirs.setdefault("head/weight", expected["classifier_weight"])
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in tuned.items()}
    loss = losses.make("la", expected["cls_num_list"])

    def forward(tuned):
        logits = tree.merge(graph, tuned | frozen)(inputs["images"])
        return loss(logits, expected["labels"]), logits

    (value, logits), grads = jax.value_and_grad(forward, has_aux=True)(theirs)
    close(logits, expected[f"{case}/logits"])
    close(value, expected[f"{case}/loss"])
    for path, grad in authors.leaves(expected, f"{case}/grad/").items():
        np.testing.assert_allclose(grads[path], grad, rtol=1e-4, atol=1e-6, err_msg=path)
    sampled = np.asarray(grads["head/weight"]).reshape(-1)[::13]
    np.testing.assert_allclose(
        sampled, expected[f"{case}/gradsub/classifier.weight"], rtol=1e-4, atol=1e-6
    )


def test_automatic_sizes_equal_the_authors():
    cases = json.loads((GOLDEN / "adaptive_dim.json").read_text())["liftplus"]
    assert cases
    for case in cases:
        c, n = case["num_classes"], case["n_layers"]
        assert tuners.AdaptFormer.auto_dim(c, n) == case["adaptformer_dim"]
        assert tuners.AdaptFormer.auto_dim(c, 1) == case["last1"]["adaptformer_dim"]
        assert tuners.AdaptFormer.auto_dim(c, 2) == case["last2"]["adaptformer_dim"]


@pytest.mark.parametrize(
    ("width", "layers", "classes", "published"),
    [
        (768, 12, 100, 101_436), (768, 12, 365, 175_212),
        (768, 12, 1000, 617_868), (768, 12, 8142, 4_749_324),
        (1024, 24, 100, 172_104), (1024, 24, 365, 270_456),
        (1024, 24, 1000, 860_568), (1024, 24, 8142, 6_368_280),
    ],
)  # fmt: skip
def test_tuned_parameters_are_those_of_the_papers(width, layers, classes, published):
    config = VisionConfig(224, 16, width, layers, width // 64, 4 * width)

    def model():
        rngs = nnx.Rngs(0)
        visual = VisionTransformer(config, rngs=rngs)
        tuners.attach(visual, ("adaptformer",), classes, rngs=rngs)
        return Classifier(visual, CosineHead(jnp.zeros((classes, width))))

    _, leaves = tree.flatten(nnx.eval_shape(model))
    mask = state.trainable_mask(leaves, tuners.trainable(("adaptformer",), layers))
    sizes = {path: int(np.prod(leaves[path].shape)) for path, tuned in mask.items() if tuned}
    assert sizes.pop("head/weight") == classes * width
    assert sum(sizes.values()) == published


def test_semantic_head_and_cosine_logits(golden):
    expected = golden("heads")
    head = CosineHead(jnp.asarray(expected["weight"]), scale=25.0)
    close(head.classify(head.embed(expected["features"])), expected["out_CosineClassifier"])


def test_last_block_for_the_first_token_alone_is_exact():
    block = Block(26, 2, 53, "gelu", 1e-5, 1, rngs=nnx.Rngs(0))
    tuned = tuners.AdaptFormer(26, 3, nnx.initializers.normal(1.0), rngs=nnx.Rngs(1))
    tuned.up.kernel[...] = jax.random.normal(jax.random.key(2), (3, 26))
    block.hold({"adaptformer": tuned})
    x = jax.random.normal(jax.random.key(0), (5, 7, 26))
    whole, first = block(x), block(x, first_only=True)
    assert first.shape == (5, 1, 26)
    np.testing.assert_allclose(first, whole[:, :1], rtol=1e-5, atol=1e-6)


def test_attention_by_hand():
    # one head of width 1: weights softmax(q k) = (1/4, 3/4) for q = ln 3 and keys 0, 1
    q, k = jnp.full((1, 1, 1), np.log(3.0)), jnp.array([[[0.0], [1.0]]])
    out = attention(q, k, jnp.array([[[4.0], [8.0]]]), heads=1)
    np.testing.assert_allclose(out, [[[7.0]]], rtol=1e-6)
    masked = attention(q, k, jnp.array([[[4.0], [8.0]]]), heads=1, mask=jnp.array([[True, False]]))
    np.testing.assert_allclose(masked, [[[4.0]]], rtol=1e-6)


def test_bfloat16_stays_bfloat16_inside_and_float32_outside(clip, golden):
    images = golden("clip_openai")["images"]
    half = lift_jax.load_backbone(
        GOLDEN / "clip_openai.safetensors", jnp.bfloat16, heads=2, text_heads=2
    )
    assert half.visual(images).dtype == jnp.bfloat16
    features = half.encode_image(images)
    assert features.dtype == jnp.float32
    close(features, clip.encode_image(images), rtol=0.05)


class Doubler(Tuner):
    """A tuner from outside the package: doubles what every value projection gives."""

    def __init__(self, width, dim, init, *, rngs):
        self.factor = tuners.Tuned(jnp.full((), 2.0))

    def linear(self, name, y, out):
        return self.factor[...] * out if name == "v" else out


def test_a_tuner_from_outside_plugs_in(monkeypatch, golden):
    monkeypatch.setitem(tuners.TUNERS, "doubler", Doubler)
    images = golden("clip_openai")["images"]
    visual, doubled = (
        lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2).visual
        for _ in range(2)
    )
    tuners.attach(visual, tuners.parse_names("doubler+adaptformer"), 10, rngs=nnx.Rngs(0))
    for block in doubled.blocks:  # the same by hand
        block.v.kernel[...] *= 2
        block.v.bias[...] *= 2
    np.testing.assert_allclose(visual(images), doubled(images), rtol=1e-4, atol=1e-5)


def test_trainable_leaves_of_each_method():
    config = VisionConfig(16, 8, 12, 3, 2, 24)

    def chosen(names, partial):
        visual = VisionTransformer(config, rngs=nnx.Rngs(0))
        tuners.attach(visual, names, 7, rngs=nnx.Rngs(0), partial=partial)
        _, leaves = tree.flatten(Classifier(visual, CosineHead(jnp.ones((7, 12)))))
        mask = state.trainable_mask(leaves, tuners.trainable(names, 3, partial))
        return {"/".join(p.split("/")[:3]) for p, yes in mask.items() if yes}

    assert chosen((), 0) == {"head/weight"}
    assert chosen(("full",), 0) == {"head/weight", *(f"visual/blocks/{i}" for i in range(3))}
    assert chosen(("full",), 1) == {"head/weight", "visual/blocks/2"}
    assert chosen(("adaptformer",), 2) == {"head/weight", "visual/blocks/1", "visual/blocks/2"}


@pytest.mark.parametrize("text", ["adaptfromer", "adaptformer+adaptformer", "a,b", ""])
def test_wrong_tuner_names(text):
    with pytest.raises(UserError, match="adaptformer"):
        tuners.parse_names(text)


def test_partial_out_of_range():
    with pytest.raises(UserError, match="12 blocks"):
        tuners.layers(12, 13)
