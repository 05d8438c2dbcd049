"""Tests of weights and configs that are wrong in likely ways, and of the round trip."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.weights import load, rename
from lift_jax.weights.files.source import open_source
from lift_jax.weights.formats import huggingface, openai
from lift_jax.weights.load import save_backbone

Q = "vision_model.encoder.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path):
    """Copies the golden CLIP in Hugging Face's layout."""
    return Path(shutil.copytree(GOLDEN / "clip_hf", tmp_path / "clip"))


def edit(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    change(arrays)
    safetensors.numpy.save_file(arrays, path)


def broken(arrays, name, value):
    arrays[name] = arrays[name].copy()
    arrays[name].flat[3] = value


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: a.pop(Q), ["missing", Q]),
    (lambda a: a.update({Q + "x": a.pop(Q)}), ["missing", Q, "near", Q + "x", "unexpected"]),
    (lambda a: a.update(extra=np.ones(3)), ["unexpected", "extra"]),
    (lambda a: a.update({Q: a[Q][:, :-1].copy()}), ["wrong shape", Q, "(64, 64)", "(64, 63)"]),
    (lambda a: a.update({Q: a[Q][None]}), ["wrong shape", Q, "(1, 64, 64)"]),
    (lambda a: broken(a, Q, np.nan), ["not finite", Q]),
    (lambda a: (a.pop(Q), a.pop("logit_scale")), ["missing", Q, "logit_scale", "2 of"]),
])  # fmt: skip
def test_wrong_weights_are_named_all_together(folder, change, words):
    edit(folder, change)
    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(folder)
    for word in words:
        assert word in str(error.value)


def test_a_transposed_kernel_of_another_shape_is_named(folder):
    fc1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
    edit(folder, lambda a: a.update({fc1: np.ascontiguousarray(a[fc1].T)}))
    with pytest.raises(UserError, match=r"wrong shape .*fc1.*\(160, 64\), found \(64, 160\)"):
        lift_jax.load_backbone(folder)


def test_the_old_index_buffers_are_ignored(folder):
    edit(folder, lambda a: a.update({"text_model.embeddings.position_ids": np.arange(77)}))
    lift_jax.load_backbone(folder)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>Not found</html>", None])
def test_files_that_are_not_safetensors(folder, content):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(UserError, match=r"model\.safetensors as safetensors"):
        lift_jax.load_backbone(folder)


def change_config(folder: Path, change) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(("change", "words"), [
    (lambda c: c.update(model_type="bert"), "bert"),
    (lambda c: c["vision_config"].update(hidden_act="relu"), "relu"),
    (lambda c: c["text_config"].update(num_attention_heads=7), "7 heads"),
    (lambda c: c["vision_config"].update(num_hidden_layers=3), "layers.2"),
])  # fmt: skip
def test_wrong_configs(folder, change, words):
    change_config(folder, change)
    with pytest.raises(UserError, match=words):
        lift_jax.load_backbone(folder)


def test_a_config_that_is_not_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        lift_jax.load_backbone(folder)


@pytest.mark.slow
def test_gelu_is_read_from_the_config(folder, golden):
    images = golden("clip_openai")["images"]
    quick = lift_jax.load_backbone(folder).encode_image(images)
    change_config(folder, lambda c: c["vision_config"].update(hidden_act="gelu"))
    exact = lift_jax.load_backbone(folder).encode_image(images)
    assert 1e-3 < np.abs(quick - exact).max() < 1


def test_sizes_are_taken_where_the_source_does_not_say_them():
    with pytest.raises(UserError, match="states all its sizes"):
        lift_jax.load_backbone(GOLDEN / "clip_hf", heads=4)
    with pytest.raises(UserError, match="heads, text_heads, eps and activation alone"):
        lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", layers=4)
    with pytest.raises(UserError, match="not a multiple of heads=3"):
        lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=3)


def test_openai_naming_that_is_something_else(tmp_path):
    safetensors.numpy.save_file({"fc.weight": np.ones((2, 2))}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="not a supported model: its names begin fc.weight"):
        lift_jax.load_backbone(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="does not exist"):
        lift_jax.load_backbone(tmp_path / "none.safetensors")


def test_saved_and_loaded_again_is_the_same(tmp_path):
    clip = lift_jax.load_backbone(GOLDEN / "clip_hf")
    save_backbone(clip, tmp_path / "copy", np.float16)  # golden weights are exact in float16
    again = lift_jax.load_backbone(tmp_path / "copy")
    assert again.config == clip.config
    _, before = tree.flatten(clip)
    _, after = tree.flatten(again)
    for path, leaf in before.items():
        assert np.array_equal(leaf[...], after[path][...]), path
    names = safetensors.numpy.load_file(GOLDEN / "clip_hf" / "model.safetensors").keys()
    assert safetensors.numpy.load_file(tmp_path / "copy" / "model.safetensors").keys() == names


def test_parts_of_one_array_come_together_again():
    theirs = safetensors.numpy.load_file(GOLDEN / "clip_openai.safetensors")
    clip = lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2)
    _, leaves = tree.flatten(clip)
    arrays = {path: np.asarray(leaf[...]) for path, leaf in leaves.items()}
    ours = rename.to_theirs(arrays, openai.table(open_source(GOLDEN / "clip_openai.safetensors")))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert np.array_equal(ours[name], array), name


def test_every_leaf_has_one_rule():
    with pytest.raises(ValueError, match="0 rules"):
        rename.their_name("visual/blocks/0/q/kernelx", huggingface.TABLE)


STATED = [
    ({"heads": "4"}, {"heads": 4, "text_heads": 1}, "By the metadata of .*: heads 4."),
    ({"vision_heads": "8", "transformer_heads": "2"}, {"heads": 8, "text_heads": 2},
     "text_heads 2"),
    ({"config": '{"heads": 4, "text_heads": 4, "eps": 1e-6, "activation": "gelu"}'},
     {"heads": 4, "text_heads": 4, "eps": 1e-6, "activation": "gelu"}, "activation gelu"),
    ({"vision_config": '{"num_attention_heads": 8, "hidden_act": "gelu_new"}'},
     {"heads": 8, "activation": "gelu_tanh"}, "heads 8, activation gelu_tanh"),
    ({"model_cfg": '{"quick_gelu": false, "text_cfg": {"heads": 2}}'},
     {"heads": 2, "text_heads": 2, "activation": "gelu"}, "text_heads 2, activation gelu"),
    # what cannot be right is not taken, and leaves the rule
    ({"heads": "5"}, {"heads": 2}, "state heads 5, which does not fit its weights and is not tak"),
    ({"heads": "128"}, {"heads": 2}, "state heads 128, which does not fit"),
    ({"heads": "many"}, {"heads": 2}, "state heads 'many', which does not fit"),
    ({"config": '{"heads": [4], "activation": {}}'}, {"heads": 2}, r"state heads \[4\], which"),
    ({"format": "pt", "vision_config": "{", "activation": "sin"}, {"activation": "quick_gelu"},
     "state activation 'sin'"),
    ({"format": "pt"}, {"heads": 2, "text_heads": 1}, "by OpenAI's rule: heads 2, text_heads 1"),
]  # fmt: skip


@pytest.mark.parametrize(("metadata", "sizes", "note"), STATED, ids=lambda value: str(value)[:40])
def test_heads_by_the_metadata_of_openais_naming(tmp_path, metadata, sizes, note):
    tensors = safetensors.numpy.load_file(GOLDEN / "clip_openai.safetensors")
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", metadata)
    config = load.sizes(tmp_path / "a.safetensors")
    found = {"heads": config.vision.heads, "text_heads": config.text.heads,
             "eps": config.vision.eps, "activation": config.vision.activation}  # fmt: skip
    assert {key: found[key] for key in sizes} == sizes
    assert re.search(note, " ".join(config.notes))
    given = lift_jax.load_backbone(tmp_path / "a.safetensors", heads=1).config.vision.heads
    assert given == 1


def test_heads_of_the_metadata_give_the_features(golden):
    """The golden CLIP states 2 heads for its texts, where OpenAI's rule says 1."""
    backbone, expected = lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors"), "text_features"
    texts = jax.jit(lambda ids: backbone.encode_text(ids, project=True))
    close(texts(golden("clip_openai")["tokens"]), golden("clip_openai")[expected])


def test_metaclip_2(golden, tmp_path):
    """CLIP's towers, with the end token 2 as it is stated, which in CLIP is a wrong value."""
    backbone, expected = lift_jax.load_backbone(GOLDEN / "metaclip2"), golden("metaclip2")
    close(jax.jit(backbone.encode_image)(golden("clip_openai")["images"]), expected["image_pooled"])
    texts = jax.jit(lambda ids: backbone.encode_text(ids, project=True))(expected["input_ids"])
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    close(texts, expected["text_features"])
    assert backbone.config.text.eot == 2
    save_backbone(backbone, tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["model_type"] == "metaclip_2" and load.sizes(tmp_path) == backbone.config
    alone = about["vision_config"] | {"model_type": "metaclip_2_vision_model"}
    (tmp_path / "config.json").write_text(json.dumps(alone))
    edit(tmp_path, lambda tensors: [
        tensors.pop(name) for name in list(tensors) if not name.startswith("vision_model.")
    ])  # fmt: skip
    found = lift_jax.load_backbone(tmp_path)
    assert found.text is None and found.config.vision == backbone.config.vision
