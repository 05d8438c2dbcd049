"""Tests of exported classifiers: without this package they give the probabilities of the run."""

import importlib
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from support.commands import run_command
from support.exported import CLASSES, RUNS, noise, predicted, saved, test_view

import lift_jax
from lift_jax.export.formats import onnx_file
from lift_jax.runs.weights.export import export as export_tuned

pytestmark = pytest.mark.slow  # whole runs, or many compilations

# Stands before a program that must not need JAX or this package.
WITHOUT_JAX = (
    "import sys; sys.modules.update(dict.fromkeys(['jax', 'jaxlib', 'flax', 'lift_jax']));"
)


@pytest.fixture(scope="module")
def onnx_folder(runs, tmp_path_factory):
    """Returns the folder of the adaptformer run in ONNX, with the test view outside."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    run_command("export", f"--run={runs('adaptformer')}", "--format=onnx", f"--to={folder}")
    return folder


def onnx_outputs(folder, images):
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(["logits", "probabilities"], {"images": images})


@pytest.mark.parametrize("name", RUNS)
def test_onnxruntime_gives_the_probabilities_of_the_run(name, runs, tmp_path, capsys):
    folder, paths = tmp_path / "exported", saved(tmp_path, (50, 37), (33, 90), (32, 32))
    run_command("export", f"--run={runs(name)}", "--format=onnx", f"--to={folder}")
    assert "the largest difference is" in capsys.readouterr().out
    res = {"resnet": 224}.get(name, 32)  # the resolution of its backbone
    views, expected = (
        np.stack([test_view(path, res) for path in paths]),
        predicted(runs(name), paths),
    )
    logits, found = onnx_outputs(folder, views)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(onnx_outputs(folder, views[:1])[1], expected[:1], rtol=0, atol=1e-5)
    about = {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
    powers = np.exp(logits / float(about["temperature"]))
    np.testing.assert_allclose(found, powers / powers.sum(1, keepdims=True), rtol=0, atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.01  # the images differ for the classifier


@pytest.mark.parametrize("kind", ["onnx", "stablehlo"])
@pytest.mark.parametrize("name", ["vpt", "resnet"])
def test_images_of_one_size_are_resized_inside(name, kind, runs, tmp_path):
    folder, paths = tmp_path / "exported", saved(tmp_path, *[(50, 37)] * 3)
    run_command(
        "export", f"--run={runs(name)}", f"--format={kind}", f"--to={folder}", "--input_size=50x37"
    )
    images, expected = (
        np.stack([np.asarray(Image.open(path)) for path in paths]),
        predicted(runs(name), paths),
    )
    for rows in (slice(0, 3), slice(1, 2)):
        if kind == "onnx":
            found = onnx_outputs(folder, images[rows])[1]
        else:
            found = importlib.import_module("lift_jax.export.formats.stablehlo_file").load(folder)(
                images[rows]
            )
        np.testing.assert_allclose(found, expected[rows], rtol=0, atol=1e-5)
    with Image.open(folder / "golden.png") as image:
        assert image.size == (37, 50)


def test_the_metadata_says_how_to_use_it(onnx_folder):
    model = onnx.load(onnx_folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", 32, 32, 3], "logits": ["batch", 7], "probabilities": ["batch", 7],
    }  # fmt: skip
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about.pop("class_names")) == CLASSES
    assert json.loads(about.pop("mean")) == pytest.approx([0.4815, 0.4578, 0.4082], abs=1e-4)
    assert json.loads(about.pop("std")) == pytest.approx([0.2686, 0.2613, 0.2758], abs=1e-4)
    assert about == {
        "title": "fake · debug · adaptformer · la",
        "backbone": "debug",
        "licence_of_weights": "unknown",
        "lift_jax": lift_jax.__version__,
        "temperature": "1.0",
        "resolution": "32",
        "input": "uint8 RGB images [batch of any size, 32, 32, 3]",
        "resize": "before the model: short side to 36 pixels by Pillow's bicubic, then the centre "
        "of 32",
        "resize_inside": "false",
        "short_side": "36",
        "filter": "bicubic",
        "exif": "false",
    }


def classify(folder, image):
    """Runs the exported script in a process without JAX and this package."""
    code = (
        f"{WITHOUT_JAX} import runpy; sys.argv[1:] = [{str(image)!r}]; "
        f"runpy.run_path({str(folder / 'classify.py')!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)


def transparent(path):
    Image.fromarray(np.dstack([noise(40, 60), noise(40, 60, 1)[..., 0]])).save(path)


def palette(path):
    Image.fromarray(noise(40, 60)).quantize(16).save(path)


def grey(path):
    Image.fromarray(noise(40, 60)[..., 0]).save(path)


@pytest.mark.parametrize("make", [transparent, palette, grey])
def test_the_script_needs_no_jax_and_names_the_image(make, onnx_folder, runs, tmp_path):
    make(image := tmp_path / "image.png")
    done = classify(onnx_folder, image)
    assert done.returncode == 0, done.stderr
    expected = predicted(runs("adaptformer"), [image])[0]
    lines = [
        re.fullmatch(r" *([\d.]+) %  (\w+)", line).groups() for line in done.stdout.splitlines()
    ]
    order = np.argsort(-expected, kind="stable")[:5]
    assert [name for _, name in lines] == [CLASSES[i] for i in order]
    shares = [float(share) for share, _ in lines]
    np.testing.assert_allclose(shares, 100 * expected[order], rtol=0, atol=0.0051)


def test_the_script_refuses_images_of_16_bits(onnx_folder, tmp_path):
    Image.fromarray(noise(40, 60)[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    done = classify(onnx_folder, tmp_path / "deep.png")
    assert done.returncode == 1 and "expected 8 bits a colour" in done.stderr


def test_the_golden_image_has_the_golden_probabilities(onnx_folder):
    golden = json.loads((onnx_folder / "golden.json").read_text())
    found = onnx_outputs(onnx_folder, test_view(onnx_folder / golden["image"])[None])[1]
    np.testing.assert_allclose(found, [golden["probabilities"]], rtol=0, atol=golden["limit"])


def test_stablehlo_needs_jax_alone(runs, tmp_path):
    folder, paths = tmp_path / "exported", saved(tmp_path, (50, 37), (33, 90), (32, 32))
    run_command("export", f"--run={runs('vpt')}", "--format=stablehlo", f"--to={folder}")
    np.save(tmp_path / "views.npy", np.stack([test_view(path) for path in paths]))
    code = f"""import sys; sys.modules.update(dict.fromkeys(['lift_jax', 'flax']))
import pathlib, numpy as np
from jax import export
folder = pathlib.Path({str(tmp_path)!r})
function = export.deserialize(bytearray((folder / 'exported/model.stablehlo').read_bytes()))
views = np.load(folder / 'views.npy')
found = [np.asarray(function.call(views[:n])[1]) for n in (1, 3)]
np.savez(folder / 'found.npz', *found)
"""
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    found, expected = np.load(tmp_path / "found.npz"), predicted(runs("vpt"), paths)
    np.testing.assert_allclose(found["arr_0"], expected[:1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["arr_1"], expected, rtol=0, atol=1e-6)
    about = json.loads((folder / "model.json").read_text())
    assert about["class_names"] == CLASSES and about["platforms"] == ["cpu", "cuda", "tpu"]
    assert "months, not years" in about["lifetime"] and about["short_side"] == 36
    assert b"lift_jax/" not in (folder / "model.stablehlo").read_bytes()  # no paths of this machine


def test_a_calibrated_run_is_exported_with_its_temperature_and_threshold(runs, tmp_path):
    run, folder = runs("calibrated"), tmp_path / "exported"
    temperature = json.loads((run / "calibration.json").read_text())["one_crop"]["temperature"]
    assert temperature != 1
    run_command("export", f"--run={run}", "--format=onnx", f"--to={folder}")
    logits, found = onnx_outputs(folder, noise(32, 32)[None])
    powers = np.exp((logits - logits.max()) / temperature)
    np.testing.assert_allclose(found, powers / powers.sum(), rtol=0, atol=1e-6)
    about = {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
    assert about["temperature"] == str(temperature)
    score = about.get("unknown_score", "cosine")
    assert score == "cosine" or float(about["unknown_below"]) and about["unknown_keep"] == "0.95"


def test_a_damaged_calibration_is_refused(runs, tmp_path, capsys):
    run = shutil.copytree(runs("calibrated"), tmp_path / "run")
    (run / "calibration.json").write_text('{"temperature": 2.5}')
    with pytest.raises(SystemExit):
        run_command("export", f"--run={run}", "--format=onnx", f"--to={tmp_path / 'exported'}")
    assert "calibration.json" in capsys.readouterr().err and not (tmp_path / "exported").exists()


def test_large_weights_lie_beside_the_model(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "ONE_FILE", 0)
    folder = tmp_path / "exported"
    run_command("export", f"--run={runs('adaptformer')}", "--format=onnx", f"--to={folder}")
    assert (folder / "model.onnx.data").stat().st_size > 50_000
    assert classify(folder, folder / "golden.png").returncode == 0


def test_the_default_is_the_tuned_weights_as_before(runs, tmp_path):
    run = runs("adaptformer")
    run_command("export", f"--run={run}", f"--to={tmp_path / 'a.safetensors'}")
    run_command(
        "export", f"--run={run}", f"--to={tmp_path / 'b.safetensors'}", "--format=safetensors"
    )
    expected = export_tuned(run, tmp_path / "c.safetensors").read_bytes()
    assert (tmp_path / "a.safetensors").read_bytes() == expected
    assert (tmp_path / "b.safetensors").read_bytes() == expected


def differing(probabilities):
    return probabilities + np.float32(1e-3)


def not_a_number(probabilities):
    return probabilities * np.float32("nan")


def failing(probabilities):
    raise RuntimeError("unsupported")


@pytest.mark.parametrize("fault, words", [
    (differing, "differs from that of the run by 1.0e-03 in a probability"),
    (not_a_number, "differs from that of the run by nan"),
    (failing, "does not run (RuntimeError: unsupported)"),
])  # fmt: skip
def test_a_file_that_differs_is_refused(fault, words, runs, tmp_path, monkeypatch, capsys):
    load = onnx_file.load

    def other(folder):
        exported = load(folder)
        return lambda images: fault(exported(images))

    monkeypatch.setattr(onnx_file, "load", other)
    run = runs("vpt")
    with pytest.raises(SystemExit) as ended:
        run_command("export", f"--run={run}", "--format=onnx", f"--to={tmp_path / 'out'}")
    assert ended.value.code == 2 and not list(tmp_path.iterdir())
    assert words in " ".join(capsys.readouterr().err.split())
