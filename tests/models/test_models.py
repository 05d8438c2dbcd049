"""Tests of ViT, text towers and zero-shot head against golden numbers; attention by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.models.backbone import Classifier
from lift_jax.models.blocks.layers import attention, fused_attention, has_fused_attention
from lift_jax.models.heads import ZeroShotHead


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
    # the configs of OpenAI's models have the id 2, which stands for "the largest id"
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


@pytest.mark.slow
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


def test_openai_heads_are_64_wide_unless_said(golden, tmp_path):
    expected = golden("clip_openai")
    arrays = safetensors.numpy.load_file(GOLDEN / "clip_openai.safetensors")
    safetensors.numpy.save_file(arrays, tmp_path / "clip.safetensors")  # without metadata
    clip = lift_jax.load_backbone(tmp_path / "clip.safetensors")
    close(clip.encode_text(expected["tokens"], project=True), expected["text_features_heads_w64"])


def test_attention_by_hand():
    # one head of width 1; the weights are softmax(q k) = (1/4, 3/4) for q = ln 3 and keys 0, 1
    q, k = jnp.full((1, 1, 1), np.log(3.0)), jnp.array([[[0.0], [1.0]]])
    out = attention(q, k, jnp.array([[[4.0], [8.0]]]), heads=1)
    np.testing.assert_allclose(out, [[[7.0]]], rtol=1e-6)
    # causal: the first token attends to itself alone, the second one to both
    both = jnp.broadcast_to(q, (1, 2, 1))
    out = attention(both, k, jnp.array([[[4.0], [8.0]]]), heads=1, causal=True)
    np.testing.assert_allclose(out, [[[4.0], [7.0]]], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [6, 7])
def test_fused_attention_is_the_same_with_its_gradients(length, causal):
    """Runs XLA in float32, which tests the padding, and on a GPU cuDNN in bfloat16 as well."""
    q, k, v, g = jax.random.normal(jax.random.key(0), (4, 3, length, 16))

    def both(f, *args, **options):
        out, back = jax.vjp(lambda q, k, v: f(q, k, v, 2, causal, **options), *args)
        return out, *back(g.astype(out.dtype))

    expected = both(attention, q, k, v)
    for found, own in zip(
        both(fused_attention, q, k, v, implementation="xla"), expected, strict=True
    ):
        np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)
    if has_fused_attention():
        half = (x.astype(jnp.bfloat16) for x in (q, k, v))
        for found, own in zip(both(fused_attention, *half), expected, strict=True):
            error = np.linalg.norm(found.astype(jnp.float32) - own) / np.linalg.norm(own)
            assert error < 0.02


@pytest.mark.slow
def test_bfloat16_stays_bfloat16_inside_and_float32_outside(clip, golden):
    images = golden("clip_openai")["images"]
    half = lift_jax.load_backbone(
        GOLDEN / "clip_openai.safetensors", jnp.bfloat16, heads=2, text_heads=2
    )
    assert half.visual(images).dtype == jnp.bfloat16
    features = half.encode_image(images)
    assert features.dtype == jnp.float32
    close(features, clip.encode_image(images), rtol=0.05)
