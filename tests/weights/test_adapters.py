"""Tests of adapters of peft: folded in they give peft's own features; others are refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from fullsize import save_torch
from support.local_hub import NEW, REPOSITORY, running
from support.paths import GOLDEN
from support.towers import close

import lift_jax
from lift_jax.errors import UserError
from lift_jax.weights import load, sources
from lift_jax.weights.names import hub
from lift_jax.weights.save import convert

ADAPTERS = ("lora", "patterns", "tower")


def copied(tmp_path: Path, name: str = "lora", **config) -> Path:
    """Returns a copy of a golden adapter, whose base is named by its full path."""
    folder = Path(shutil.copytree(GOLDEN / "peft" / name, tmp_path / name))
    file = folder / "adapter_config.json"
    about = json.loads(file.read_text())
    about |= {"base_model_name_or_path": str(GOLDEN / "clip_hf")} | config
    file.write_text(json.dumps(about))
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "adapter_model.safetensors")


def save(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    plain = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
    safetensors.numpy.save_file(plain, folder / "adapter_model.safetensors")


def unit(features):
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def pooled(path: Path, golden) -> np.ndarray:
    return jax.jit(lift_jax.load_backbone(path).encode_image)(golden("clip_openai")["images"])


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_features_are_those_of_peft(golden, name):
    """The base is named by its place beside the adapter's folder."""
    backbone, expected = lift_jax.load_backbone(GOLDEN / "peft" / name), golden("peft")
    found = jax.jit(backbone.encode_image)(golden("clip_openai")["images"])
    close(found, expected[f"{name}_image_pooled"])
    if name != "tower":
        close(unit(found @ backbone.image_proj[...]), expected[f"{name}_image_features"])
        texts = jax.jit(backbone.encode_text)(golden("clip_hf")["input_ids"])
        close(unit(texts @ backbone.text_proj[...]), expected[f"{name}_text_features"])
    assert "is folded into" in str(backbone.config.notes)


def test_the_file_of_an_adapter_and_a_copy_that_is_kept(golden, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, expected = copied(tmp_path), golden("peft")["lora_image_pooled"]
    close(pooled(folder / "adapter_model.safetensors", golden), expected)
    changed = {n: 2 * a if "lora_B" in n else a for n, a in weights(folder).items()}
    save(folder, changed)
    assert np.abs(pooled(folder, golden) - expected).max() > 0.1
    assert load.sizes(folder) == load.sizes(folder / "adapter_model.safetensors")


def test_an_adapter_of_pytorch_and_a_wrapped_model(golden, tmp_path):
    folder = copied(tmp_path)
    tensors = {
        name.replace("base_model.model.", "base_model.model.net.clip.").replace(
            "lora_A.weight", "lora_A.default.weight"
        ): np.array(tensor, order="C")
        for name, tensor in weights(folder).items()
    }
    (folder / "adapter_model.safetensors").unlink()
    save_torch(tensors, folder / "adapter_model.bin")
    close(pooled(folder, golden), golden("peft")["lora_image_pooled"])


def test_a_converted_copy_and_its_tokenizer(golden, tmp_path):
    base = Path(shutil.copytree(GOLDEN / "clip_hf", tmp_path / "base"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (hub.DEMO / name).exists():
            shutil.copy(hub.DEMO / name, base)
    folder = copied(tmp_path, base_model_name_or_path=str(base))
    convert(folder, tmp_path / "converted")
    close(pooled(tmp_path / "converted", golden), golden("peft")["lora_image_pooled"])
    ids = [lift_jax.load_tokenizer(path, 16)(["a cat"]) for path in (folder, base)]
    np.testing.assert_array_equal(*ids)
    assert (tmp_path / "converted" / "tokenizer.json").exists()


def test_a_base_and_an_adapter_from_the_hub(golden, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "converted"))
    with running(monkeypatch, tmp_path / "cache") as server:
        base = {path.name: path.read_bytes() for path in (GOLDEN / "clip_hf").iterdir()}
        server.commits[NEW] = base
        folder = copied(tmp_path, base_model_name_or_path=REPOSITORY)
        close(pooled(folder, golden), golden("peft")["lora_image_pooled"])
        shutil.rmtree(tmp_path / "cache")
        adapter = copied(tmp_path / "other")
        server.commits[NEW] = {path.name: path.read_bytes() for path in adapter.iterdir()}
        close(pooled(REPOSITORY, golden), golden("peft")["lora_image_pooled"])
        message = "(?s)is an adapter of nobody/none. There is no folder.*cannot be had.*Write"
        with pytest.raises(UserError, match=message):
            lift_jax.load_backbone(
                copied(tmp_path / "third", base_model_name_or_path="nobody/none")
            )


def test_openclips_attention_by_hand(tmp_path):
    """Queries, keys and values are one weight there, which peft names by the layer."""
    base = safetensors.numpy.load_file(GOLDEN / "clip_openai.safetensors")
    layer = "visual.transformer.resblocks.0.attn"
    width = len(base[f"{layer}.in_proj_weight"]) // 3
    a, b = np.full((1, width), 0.5, np.float32), np.full((3 * width, 1), 0.25, np.float32)
    save(tmp_path, {
        f"base_model.model.{layer}.lora_A.weight": a, f"base_model.model.{layer}.lora_B.weight": b,
        f"base_model.model.{layer}.base_layer.out_proj.lora_A.weight": a,
        f"base_model.model.{layer}.base_layer.out_proj.lora_B.weight": b[:width],
    })  # fmt: skip
    about = {"peft_type": "LORA", "r": 1, "lora_alpha": 4,
             "base_model_name_or_path": str(GOLDEN / "clip_openai.safetensors")}  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    found = sources.opened(tmp_path).tensors
    for name in ("in_proj_weight", "out_proj.weight"):
        np.testing.assert_allclose(
            found[f"{layer}.{name}"], base[f"{layer}.{name}"].astype(np.float32) + 4 * 0.125
        )
    same = set(found) - {f"{layer}.in_proj_weight", f"{layer}.out_proj.weight"}
    assert all(np.array_equal(found[name], base[name]) for name in same)


@pytest.mark.parametrize(("layer", "stored"), [
    ("vit.encoder.layer.0.attention.attention.query", "encoder.layer.0.attention.attention.query"),
    ("vit.layers.0.attention.q_proj", "encoder.layer.0.attention.attention.query"),
    ("layers.1.attention.o_proj", "encoder.layer.1.attention.output.dense"),
    ("layers.0.mlp.fc1", "encoder.layer.0.intermediate.dense"),
    ("model.vit.layers.1.mlp.fc2", "encoder.layer.1.output.dense"),
    ("encoder.layer.1.attention.v_proj", "encoder.layer.1.attention.attention.value"),
])  # fmt: skip
def test_layers_that_transformers_has_renamed(tmp_path, layer, stored):
    weight = safetensors.numpy.load_file(GOLDEN / "hf_vit" / "model.safetensors")
    weight = weight[f"vit.{stored}.weight"].astype(np.float32)
    folder = copied(tmp_path, base_model_name_or_path=str(GOLDEN / "hf_vit"), r=1, lora_alpha=2)
    save(folder, {
        f"base_model.model.{layer}.lora_A.weight": np.full((1, weight.shape[1]), 0.5, np.float32),
        f"base_model.model.{layer}.lora_B.weight": np.full((len(weight), 1), 0.25, np.float32),
        "base_model.model.classifier.weight": np.ones((5, 8), np.float32),
    })  # fmt: skip
    np.testing.assert_allclose(
        sources.opened(folder).tensors[f"vit.{stored}.weight"], weight + 0.25
    )


MERGE = r"merge it into its backbone with peft's merge_and_unload\(\), .* and give FOLDER"
REFUSED = [
    ({"use_dora": True}, f"with use_dora True; plain LoRA alone is folded in.*{MERGE}"),
    ({"peft_type": "IA3"}, f"an adapter of peft with 'IA3'; plain LoRA alone.*{MERGE}"),
    ({"peft_type": None}, f"an adapter of peft with None.*{MERGE}"),
    ({"init_lora_weights": "pissa"}, f"init_lora_weights 'pissa'.*{MERGE}"),
    ({"target_parameters": ["a"]}, f"target_parameters .*{MERGE}"),
    ({"something_of_the_future": 1}, f"something_of_the_future 1.*{MERGE}"),
    ({"r": 3}, r"adapter_config.json: the rank of .*q_proj is 3, but 2 is stored"),
    ({"r": None}, "r is None; expected a number"),
    ({"lora_alpha": "a"}, "lora_alpha is 'a'; expected a number"),
    ({"lora_alpha": 1e300}, "lora_alpha is 1e.300; expected a number"),
    ({"use_rslora": 1}, "use_rslora is 1; expected true or false"),
    ({"alpha_pattern": []}, r"alpha_pattern is \[\]; expected an object"),
    ({"alpha_pattern": {"q_proj": "a"}}, "alpha_pattern has 'a'; expected a number"),
    ({"alpha_pattern": {"(": 1}}, f"the pattern '.' of alpha_pattern is not supported.*{MERGE}"),
    ({"alpha_pattern": {"(a+)+b": 1}}, "of alpha_pattern is not supported .it repeats too much"),
    ({"base_model_name_or_path": None}, "base_model_name_or_path is None; expected the backbone"),
    ({"base_model_name_or_path": ""}, "base_model_name_or_path is ''; expected the backbone"),
    ({"base_model_name_or_path": "a/b/c"}, "is an adapter of a/b/c. .*does not exist.*Write anoth"),
    ({"base_model_name_or_path": str(GOLDEN / "siglip_hf")}, "changes layers that .*siglip_hf/mo"),
    ({"base_model_name_or_path": str(GOLDEN / "peft" / "tower")}, "which is another adapter"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "says"), REFUSED, ids=lambda value: str(value)[:40])
def test_other_adapters_are_refused_with_what_to_do(tmp_path, config, says):
    folder = copied(tmp_path, **config)
    with pytest.raises(UserError, match=says) as error:
        lift_jax.load_backbone(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_damaged_adapters(tmp_path):
    folder = copied(tmp_path)
    whole = weights(folder)
    name = next(name for name in whole if "lora_A" in name)
    save(folder, {n: t for n, t in whole.items() if n != name})
    with pytest.raises(UserError, match="is damaged: .* has no lora_A and lora_B"):
        lift_jax.load_backbone(folder)
    save(folder, whole | {name: np.ones((2, 5), np.float32)})
    with pytest.raises(UserError, match="changes layers that .* does not have in this shape"):
        lift_jax.load_backbone(folder)
    save(folder, whole | {name.replace("lora_A", "lora_magnitude_vector"): np.ones(2)})
    with pytest.raises(UserError, match=f"DoRA's magnitudes.*{MERGE}"):
        lift_jax.load_backbone(folder)
    save(folder, whole | {name: np.full_like(whole[name], np.nan)})
    with pytest.raises(UserError, match="not finite"):
        lift_jax.load_backbone(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="holds half an adapter of peft"):
        lift_jax.load_backbone(folder)


def test_a_base_that_is_not_here_is_not_downloaded_for_its_sizes(tmp_path):
    folder = copied(tmp_path, base_model_name_or_path=REPOSITORY)
    with pytest.raises(UserError, match=f"The backbone {REPOSITORY} is not on this machine"):
        load.sizes(folder)


def test_which_tower_an_adapter_changes(tmp_path):
    """With towers of one shape the class of its model says it; without that it is refused."""
    base = Path(shutil.copytree(GOLDEN / "clip_hf", tmp_path / "base"))
    layer = "encoder.layers.0.self_attn.q_proj"
    tensors = safetensors.numpy.load_file(base / "model.safetensors")
    weight = tensors[f"vision_model.{layer}.weight"]
    tensors[f"text_model.{layer}.weight"] = weight.copy()
    safetensors.numpy.save_file(tensors, base / "model.safetensors")
    for kind, tower in (("CLIPVisionModel", "vision_model"), ("CLIPTextModel", "text_model")):
        folder = copied(
            tmp_path / kind, "tower", base_model_name_or_path=str(base),
            auto_mapping={"base_model_class": kind},
        )  # fmt: skip
        one = {f"base_model.model.{layer}.lora_A.weight": np.ones((2, weight.shape[1])),
               f"base_model.model.{layer}.lora_B.weight": np.ones((len(weight), 2))}  # fmt: skip
        save(folder, one)
        found = sources.opened(folder).tensors[f"{tower}.{layer}.weight"]
        np.testing.assert_allclose(found, weight.astype(np.float32) + 3, rtol=1e-6)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_mapping": None}))
    with pytest.raises(
        UserError, match="fits several towers of .* may be text_model.* or vision_model"
    ):
        sources.opened(folder)
