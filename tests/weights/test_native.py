"""Tests of converted copies: cached, exact, rebuilt if damaged, and never half-written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fullsize
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from support.commands import run_command
from support.paths import GOLDEN, ROOT

import lift_jax
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.weights import load, native, rename, save
from lift_jax.weights.names import hub

pytestmark = pytest.mark.slow  # whole runs, or many compilations

# one source of every format
SOURCES = (
    "clip_hf", "torch/hf_sharded", "torch/hf_bin", "clip_openai.safetensors", "torch/clip_vit.pt",
    "torch/clip_rn.pth", "open_clip", "siglip_hf", "siglip2", "hf_vit", "dinov2_hf", "dinov3",
    "timm/timm_vit", "timm/timm_resnet",
)  # fmt: skip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Makes an empty cache; returns the folder of its converted copies."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lift_jax" / "weights"


def leaves(backbone) -> dict[str, np.ndarray]:
    _, found = tree.flatten(backbone)
    return {path: np.asarray(leaf[...]) for path, leaf in found.items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def copy_of(source: str, folder: Path) -> tuple[Path, Path]:
    """Copies a golden source; returns (the copy, its largest file)."""
    path = GOLDEN / source
    if path.is_file():
        return (copied := Path(shutil.copyfile(path, folder / path.name))), copied
    copied = Path(shutil.copytree(path, folder / path.name))
    return copied, max(copied.iterdir(), key=lambda file: file.stat().st_size)


@pytest.mark.parametrize("source", SOURCES)
def test_the_second_load_takes_the_copy(source, cache, monkeypatch):
    first = lift_jax.load_backbone(GOLDEN / source)
    assert len(files(cache)) == 1
    monkeypatch.setattr(rename, "to_ours", None)  # would fail if it were called
    again = lift_jax.load_backbone(GOLDEN / source)
    assert again.config == first.config and again.fingerprint == first.fingerprint
    assert same(leaves(first), leaves(again))


@pytest.mark.parametrize("content", ["truncated", "empty", "html", "pickle"])
@pytest.mark.parametrize("source", SOURCES)
def test_files_that_are_something_else(source, content, cache, tmp_path):
    path, file = copy_of(source, tmp_path)
    canary = tmp_path / "canary"
    whole = file.read_bytes()
    file.write_bytes({
        "truncated": whole[: len(whole) * 2 // 3],
        "empty": b"",
        "html": b"<!DOCTYPE html><html><body>Not found</body></html>",
        # os.system("touch canary"), as a pickle of protocol 0
        "pickle": b"cposix\nsystem\n(S'touch " + os.fsencode(canary) + b"'\ntR.",
    }[content])  # fmt: skip
    with pytest.raises(UserError, match=file.name.partition("-")[0]):
        lift_jax.load_backbone(path)
    assert not files(cache) and not canary.exists()


def test_a_nan_leaves_nothing_in_the_cache(cache, tmp_path):
    path, file = copy_of("hf_vit", tmp_path)
    arrays = safetensors.numpy.load_file(file)
    name = next(name for name in arrays if name.endswith("layernorm.weight"))
    arrays[name] = np.full_like(arrays[name], np.nan)
    safetensors.numpy.save_file(arrays, file)
    with pytest.raises(UserError, match=f"not finite  {name}"):
        lift_jax.load_backbone(path)
    assert not files(cache)


def test_a_changed_source_is_converted_anew(cache, tmp_path):
    path, file = copy_of("hf_vit", tmp_path)
    before = leaves(lift_jax.load_backbone(path))
    arrays = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({name: array * 2 for name, array in arrays.items()}, file)
    after = leaves(lift_jax.load_backbone(path))
    assert all(np.array_equal(2 * before[name], after[name]) for name in before)
    assert len(files(cache)) == 1  # the old copy is gone


def test_sizes_have_copies_of_their_own(cache):
    assert lift_jax.load_backbone(GOLDEN / "hf_vit").config.vision.resolution == 32
    assert lift_jax.load_backbone(GOLDEN / "hf_vit", resolution=48).config.vision.resolution == 48
    assert lift_jax.load_backbone(GOLDEN / "hf_vit").config.vision.resolution == 32
    assert len(files(cache)) == 2
    with pytest.raises(
        UserError, match=r"resolution \(model.resolution\) is 50; it must be a multiple of 8"
    ):
        lift_jax.load_backbone(GOLDEN / "hf_vit", resolution=50)


@pytest.mark.parametrize("damage", ["value", "cut", "gone"])
def test_a_damaged_copy_is_made_again(damage, cache):
    expected = leaves(lift_jax.load_backbone(GOLDEN / "hf_vit"))
    file = cache / files(cache)[0]
    raw = bytearray(file.read_bytes())
    if damage == "value":
        raw[-2] ^= 1
    file.write_bytes(raw if damage == "value" else raw[:-100])
    if damage == "gone":
        file.unlink()
    assert same(leaves(lift_jax.load_backbone(GOLDEN / "hf_vit")), expected)
    assert native.describe(cache / files(cache)[0]) is not None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    warnings = []
    monkeypatch.setattr(load.logging, "warning", lambda text, *values: warnings.append(text))
    lift_jax.load_backbone(GOLDEN / "hf_vit")
    assert len(warnings) == 1 and "Cannot keep a converted copy" in warnings[0]


def test_stored_precision_does_not_change_the_fingerprint_but_the_model_does(cache, tmp_path):
    half = lift_jax.load_backbone(GOLDEN / "clip_hf")
    path, file = copy_of("clip_hf", tmp_path)
    arrays = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({n: a.astype(np.float32) for n, a in arrays.items()}, file)
    assert lift_jax.load_backbone(path).fingerprint == half.fingerprint
    config = json.loads((path / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (path / "config.json").write_text(json.dumps(config))
    assert lift_jax.load_backbone(path).fingerprint != half.fingerprint


def test_dtype_and_place(cache):
    for leaf in leaves(lift_jax.load_backbone(GOLDEN / "hf_vit", ml_dtypes.bfloat16)).values():
        assert leaf.dtype == ml_dtypes.bfloat16
    stored = {}

    def place(path: str, array: np.ndarray) -> jax.Array:
        stored[path] = array.dtype
        return jax.device_put(array)

    backbone = lift_jax.load_backbone(GOLDEN / "hf_vit", place=place)
    assert {path: leaf.dtype for path, leaf in leaves(backbone).items()} == stored
    assert set(stored.values()) == {np.dtype(np.float16)}  # the dtype in the source


@pytest.mark.parametrize("source", ["clip_hf", "torch/clip_rn.pth", "siglip2", "dinov3"])
def test_converted_for_another_machine(source, cache, tmp_path):
    expected = lift_jax.load_backbone(GOLDEN / source)
    save.convert(GOLDEN / source, tmp_path / "dest")
    cached = files(cache)
    found = lift_jax.load_backbone(tmp_path / "dest")
    assert found.config == expected.config and same(leaves(found), leaves(expected))
    assert files(cache) == cached  # no second copy
    with pytest.raises(UserError, match="converted already|is a converted backbone"):
        save.convert(tmp_path / "dest", tmp_path / "again")
    with pytest.raises(UserError, match="states all its sizes"):
        lift_jax.load_backbone(tmp_path / "dest", resolution=64)


def test_the_command(cache, tmp_path, capsys):
    tokenizer = shutil.copytree(hub.DEMO, tmp_path / "source") / "tokenizer.json"
    arguments = [str(tmp_path / "source"), str(tmp_path / "dest"), "--dtype", "bfloat16"]
    run_command("convert", *arguments, "--resolution", "48")
    said = capsys.readouterr().out
    assert "used at 48" in said and "backbone=" in said
    assert (tmp_path / "dest" / "tokenizer.json").read_bytes() == tokenizer.read_bytes()
    backbone = lift_jax.load_backbone(tmp_path / "dest")
    assert backbone.config.vision.resolution == 48
    assert lift_jax.load_tokenizer(tmp_path / "dest", 16)(["a"]).shape == (1, 16)
    stored = safetensors.safe_open(tmp_path / "dest" / native.NAME, framework="np")
    kinds = {path: stored.get_slice(path).get_dtype() for path in stored.keys()}  # noqa: SIM118
    assert set(kinds.values()) == {"BF16"}
    with pytest.raises(SystemExit):
        run_command("convert", *arguments)  # an existing file is kept
    assert "backbone.safetensors exists (DEST)" in "".join(capsys.readouterr().err.split("\n"))
    for wrong in (["clip_vit_b61", "x"], [*arguments, "--heads", "3"], [str(tmp_path), "x"]):
        with pytest.raises(SystemExit) as status:
            run_command("convert", *wrong)
        assert status.value.code == 2 and capsys.readouterr().err.startswith("error: ")


def test_a_folder_that_cannot_be_written(cache, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        save.convert(GOLDEN / "hf_vit", tmp_path / "file" / "dest")


@pytest.mark.parametrize("size", fullsize.SIZES)
def test_sizes_are_the_published(size):
    assert fullsize.parameters(fullsize.SIZES[size]) == fullsize.PARAMETERS[size]


def test_memory_of_loading_at_full_size(cache, tmp_path):
    """The first load converts, the second reads the copy.

    Separate processes write the weights and load them. This test has one size and layout; `python
    tests/fullsize.py FOLDER` measures all.
    """
    command = [sys.executable, str(ROOT / "tests" / "fullsize.py"), "--write"]
    source = subprocess.run(
        [*command, "b16", "hugging_face_bin", str(tmp_path)],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    for _ in range(2):
        found = fullsize.cost(Path(source))
        assert found["peak"] < fullsize.limit(found), found
