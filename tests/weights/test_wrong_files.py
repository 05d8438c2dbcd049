"""Tests of files that are no weights, or wrong ones: one line says what is wrong, nothing loads."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from support.paths import GOLDEN

import lift_jax
from lift_jax.errors import UserError

CLIP = "clip_openai.safetensors"
QKV = "visual.transformer.resblocks.0.attn.in_proj_weight"


class Code:
    """An object whose pickle would make a file "executed" in the working folder."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def compressed(path: Path, size: int) -> None:
    """Writes an archive that is small and holds `size` zeros where torch has its pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(size))


def two(path: Path) -> None:
    path.mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(GOLDEN / CLIP, path / name)


MADE = {
    "cut short": ("a.safetensors", lambda p: p.write_bytes((GOLDEN / CLIP).read_bytes()[:-1]),
                  "incomplete metadata"),
    "cut short, PyTorch's": (
        "a.pt", lambda p: p.write_bytes((GOLDEN / "torch" / "clip_vit.pt").read_bytes()[:-1]),
        "It may be damaged or cut short",
    ),
    "longer": ("a.safetensors", lambda p: p.write_bytes((GOLDEN / CLIP).read_bytes() + b"x"),
               "not fully covered"),
    "empty": ("a.pt", lambda p: p.write_bytes(b""), "it is empty"),
    "code": ("a.pt", lambda p: p.write_bytes(pickle.dumps(Code())), "nothing was executed"),
    "old code": ("a.bin", lambda p: p.write_bytes(pickle.dumps(Code(), 0)), "Cannot read"),
    "bomb": ("a.pt", lambda p: compressed(p, 10**8), "'a/data.pkl' is compressed"),
    "page": ("a.pt", lambda p: p.write_text("\n<html>404</html>"), "it is an HTML page"),
    "two": ("a", two, "found a.safetensors, b.safetensors. Give the file itself"),
    "folder": ("a", lambda p: (p / "model.safetensors").mkdir(parents=True), "it is a folder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MADE)
def test_no_weights_at_all(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    name, make, words = MADE[kind]
    make(tmp_path / name)
    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(tmp_path / name)
    assert str(tmp_path / name) in str(error.value) and words in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "executed").exists()


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.bool_])
def test_whole_numbers_are_no_weights(tmp_path, dtype):
    stored = safetensors.numpy.load_file(GOLDEN / CLIP)
    stored[QKV] = stored[QKV].astype(dtype)
    safetensors.numpy.save_file(stored, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"not floats  {QKV}: it holds {np.dtype(dtype).name}\n"):
        lift_jax.load_backbone(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_floats_of_any_width_are_weights(tmp_path, dtype):
    stored = safetensors.numpy.load_file(GOLDEN / CLIP)
    stored[QKV] = stored[QKV].astype(dtype)
    safetensors.numpy.save_file(stored, tmp_path / "a.safetensors")
    lift_jax.load_backbone(tmp_path / "a.safetensors")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_number_that_is_not_finite(tmp_path, value):
    stored = safetensors.numpy.load_file(GOLDEN / CLIP)
    stored[QKV][3, 5] = value
    safetensors.numpy.save_file(stored, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"not finite  {QKV}: it holds NaN or infinity"):
        lift_jax.load_backbone(tmp_path / "a.safetensors")


@pytest.mark.parametrize("source", [CLIP, "clip_hf", "siglip_hf", "open_clip_pe"])
def test_a_text_tower_alone(tmp_path, source):
    folder = tmp_path / "model"
    if source == CLIP:
        folder.mkdir()
        shutil.copy(GOLDEN / CLIP, folder)
    else:
        shutil.copytree(GOLDEN / source, folder)
    file = next(folder.glob("*.safetensors"))
    stored = safetensors.numpy.load_file(file)
    texts = {name: array for name, array in stored.items() if not name.startswith("vis")}
    safetensors.numpy.save_file(texts, file)
    with pytest.raises(UserError, match="holds a text tower alone .*Give the whole model") as error:
        lift_jax.load_backbone(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("weights", "config"), [
    ("siglip_hf", "clip_hf"), ("dinov2_hf", "clip_hf"), ("clip_hf", "siglip_hf"),
    ("clip_hf", "hf_vit"), ("dinov3", "dinov2_hf"), ("dinov2_hf", "dinov3"),
    ("clip_hf", "metaclip2"), ("hf_vit", "timm/timm_vit"), ("timm/timm_vit", "dinov2_hf"),
    ("timm/timm_pe", "timm/timm_clip"), ("timm/timm_clip", "timm/timm_pe"),
    ("timm/timm_siglip", "timm/timm_pe"), ("timm/timm_pe", "timm/timm_siglip"),
    ("timm/timm_pe", "timm/timm_pe_gigantic"), ("timm/timm_pe_gigantic", "timm/timm_pe"),
])  # fmt: skip
def test_the_config_of_another_model(tmp_path, weights, config):
    shutil.copy(GOLDEN / weights / "model.safetensors", tmp_path)
    shutil.copy(GOLDEN / config / "config.json", tmp_path)
    with pytest.raises(UserError) as error:
        lift_jax.load_backbone(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(error.value)
