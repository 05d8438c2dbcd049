"""Tests of what an export refuses before it reads weights, and of its parts that need no run."""

import re
import sys

import numpy as np
import pytest
from support.commands import run_command
from support.paths import ROOT

from lift_jax.data.images import views
from lift_jax.errors import UserError
from lift_jax.export import pillow_resize
from lift_jax.export.licences import LICENCES, UNKNOWN, licence
from lift_jax.export.write import parse_size
from lift_jax.weights.names.hub import NAMES


def refused(capsys, *arguments):
    """Returns the line of a command that must end with status 2."""
    with pytest.raises(SystemExit) as ended:
        run_command("export", *arguments)
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments, words", [
    (["--format=onx"], "Unknown format (--format) 'onx'. Did you mean 'onnx'? Known: "
     "adapters, huggingface, onnx, safetensors, stablehlo."),
    (["--format=stable_hlo"], "Did you mean 'stablehlo'?"),
    (["--format=onnx", "--input_size=50by37"], "expected HEIGHTxWIDTH in pixels"),
    (["--format=onnx", "--input_size=0x37"], "expected HEIGHTxWIDTH in pixels"),
    (["--format=onnx", "--layout=lift"], "--layout has no meaning with --format=onnx"),
    (["--format=adapters", "--input_size=50x37"], "--input_size has no meaning with --format=adap"),
    (["--format=huggingface", "--layout=lift"], "--layout has no meaning with --format=huggingfac"),
    (["--input_size=50x37"], "--input_size has no meaning with --format=safetensors"),
    (["--format=onnx", "--to={}/model.onnx"], "--format=onnx writes a folder"),
    (["--format=onnx", "--to={}/there"], "there exists (--to)"),
    (["--format=onnx", "--to={}/there/file/out"], "Cannot write in the folder"),
    (["--format=onnx", "--run={}/no"], "expected a run folder (--run), found none"),
    (["--format=stablehlo", "--run={}/there"], "holds no checkpoint"),
])  # fmt: skip
def test_refusals(arguments, words, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    given = [f"--run={tmp_path / 'there'}", f"--to={tmp_path / 'out'}"]
    given += [argument.format(tmp_path) for argument in arguments]  # the last one counts
    assert words in refused(capsys, *given)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("missing", ["jax2onnx", "onnx", "onnxruntime"])
def test_a_missing_library_is_one_line(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    said = refused(capsys, f"--run={tmp_path}", f"--to={tmp_path / 'out'}", "--format=onnx")
    assert "ONNX export needs jax2onnx, onnx and onnxruntime" in said and missing in said
    assert "pip install 'lift_jax[export]'" in said


@pytest.mark.parametrize(
    "text, size", [("", None), ("480x640", (480, 640)), ("1x99999", (1, 99999))]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("height, width", [
    (50, 37), (37, 50), (36, 36), (36, 90), (90, 36), (20, 20), (7, 31), (600, 33), (111, 640),
])  # fmt: skip
def test_the_products_give_pillows_pixels(height, width, interpolation):
    view = views.TestTransform(32, interpolation)
    shown = pillow_resize.test_view(height, width, view)
    rng = np.random.default_rng(1)
    edges = rng.integers(0, 2, (height, width, 3), np.uint8) * np.uint8(255)  # sums out of 0..255
    grey = rng.integers(0, 256, (height, width, 3), np.uint8)
    for image in (edges, grey):
        np.testing.assert_array_equal(shown(image[None])[0], view(image))


def test_another_way_of_resizing_is_refused(monkeypatch):
    monkeypatch.setattr(pillow_resize, "BITS", 8)
    with pytest.raises(UserError, match="Export without --input_size"):
        pillow_resize.test_view(50, 37, views.TestTransform(32))


def test_licences_are_those_of_the_documentation():
    page = (ROOT / "docs" / "backbones.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `[^`]+` \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    assert {name: licence(name) for name, _ in rows} == dict(rows)
    assert set(NAMES) | {"demo"} == {name for names in LICENCES.values() for name in names}
    assert licence("clip_vit_b16@main") == "MIT"
    assert licence("owner/repository") == licence("/some/folder") == UNKNOWN
