"""Tests of the formats huggingface and adapters, and of what all formats say about a run."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import yaml
from flax import nnx
from support.commands import run_command
from support.exported import CLASSES, predicted, saved, test_view
from support.local_hub import REPOSITORY, TOKEN, running
from support.nasty_names import NASTY

import lift_jax
from lift_jax.evaluation.forward import normalise
from lift_jax.export import card, deployed, licences
from lift_jax.export.formats import huggingface_folder
from lift_jax.export.formats.adapters_folder import without_paths
from lift_jax.models import tree
from lift_jax.models.heads import HEADS
from lift_jax.runs import restored
from lift_jax.runs.weights.export import read_tuned
from lift_jax.runs.weights.merge import merge_run
from lift_jax.training.checkpoint import alone
from lift_jax.weights.files.source import read_safetensors

slow = pytest.mark.slow  # whole runs
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="session")
def exported(runs, tmp_path_factory):
    """Returns a function from a name of a run and a format to the folder, which is made once."""
    made = {}

    def export(name, kind):
        if (name, kind) not in made:
            folder = made[name, kind] = tmp_path_factory.mktemp("exported") / "folder"
            run_command("export", f"--run={runs(name)}", f"--format={kind}", f"--to={folder}")
        return made[name, kind]

    return export


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        run_command(*arguments)
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


# --- huggingface ---


@slow
@pytest.mark.parametrize("name", ["lora+ssf", "projections"])
def test_the_merged_run_is_read_back(name, runs, exported, tmp_path):
    folder, paths = exported(name, "huggingface"), saved(tmp_path, (50, 37), (33, 90))
    views = np.stack([test_view(path) for path in paths])
    found = huggingface_folder.load(folder)(views)
    np.testing.assert_allclose(found, predicted(runs(name), paths), rtol=0, atol=1e-5)
    again, (merged, _) = (
        lift_jax.load_backbone(folder),
        merge_run(runs(name), restored.load(runs(name), exact=True)),
    )
    leaves = tree.flatten(merged)[1]
    assert leaves.keys() == tree.flatten(again)[1].keys()
    for path, leaf in tree.flatten(again)[1].items():
        np.testing.assert_array_equal(leaf[...], leaves[path][...])
    images = normalise(jnp.asarray(views), merged.config.vision)
    np.testing.assert_allclose(
        nnx.jit(again.visual)(images), nnx.jit(merged.visual)(images), rtol=0, atol=1e-6
    )


@slow
def test_the_folder_says_how_it_is_used(exported):
    folder = exported("lora+ssf", "huggingface")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "classifier.json", "classifier.safetensors", "classify.py", "config.json",
        "golden.json", "golden.png", "model.safetensors", "preprocessor_config.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    images = json.loads((folder / "preprocessor_config.json").read_text())
    assert images["size"] == {"shortest_edge": 36} and images["resample"] == 3  # bicubic
    assert images["crop_size"] == {"height": 32, "width": 32}
    about = json.loads((folder / "classifier.json").read_text())
    assert about["class_names"] == CLASSES and about["embedding"] == "unit"
    assert "logits = x @ weight.T + bias" in about["classifier"]
    script = (folder / "classify.py").read_text()
    compile(script, "classify.py", "exec")
    assert "x = model.vision_model(pixels).pooler_output" in script
    assert not [name for name in CLASSES if name in script]


@slow
@pytest.mark.parametrize("name, words", [
    ("adaptformer", "adaptformer cannot be merged into the weights of the backbone"),
    ("resnet", "transformers has no class for this backbone"),
])  # fmt: skip
def test_runs_that_transformers_cannot_hold(name, words, runs, tmp_path, capsys, monkeypatch):
    given = [f"--run={runs(name)}", f"--to={tmp_path / 'out'}", "--format=huggingface"]
    loads, load = [], restored.load
    monkeypatch.setattr(restored, "load", lambda *a, **k: loads.append(a) or load(*a, **k))
    said = refused(capsys, "export", *given)
    assert len(loads) == 1  # a large backbone takes seconds
    assert words in said and "onnx, stablehlo and adapters take every run" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_a_matrix_and_a_bias(kind):
    rng = np.random.default_rng(0)
    head = HEADS[kind](jnp.asarray(rng.normal(size=(5, 12)), jnp.float32))
    if kind == "linear":
        head.bias[...] = jnp.arange(5.0)
    found = huggingface_folder.affine(head, 12)
    x = rng.normal(size=(3, 12)).astype(np.float32)
    embedded = {
        "unit": x / np.linalg.norm(x, axis=1, keepdims=True),
        "plain": x,
        "layernorm": (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True),
    }[huggingface_folder.EMBEDDINGS[kind]]
    logits = embedded @ found["weight"].T + found["bias"]
    np.testing.assert_allclose(logits, head.classify(head.embed(x)), rtol=0, atol=2e-5)


# --- adapters ---


@slow
@pytest.mark.parametrize("name", ["adaptformer", "calibrated", "projections", "resnet"])
def test_adapters_stand_in_for_the_run(name, runs, exported, tmp_path):
    folder, paths = exported(name, "adapters"), saved(tmp_path, (50, 37), (33, 90))
    np.testing.assert_array_equal(predicted(folder, paths), predicted(runs(name), paths))
    found, expected = read_tuned(folder), read_tuned(runs(name))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], leaf) for path, leaf in expected.items())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
    run_command("predict", f"--run={folder}", *paths, f"--to={tmp_path / 'named.csv'}")
    assert (tmp_path / "named.csv").read_text().count("\n") == 3


@slow
def test_adapters_are_exported_again(exported, tmp_path):
    folder = exported("calibrated", "adapters")
    run_command("export", f"--run={folder}", "--format=adapters", f"--to={tmp_path / 'again'}")
    for name in ("adapters.safetensors", "config.json", "calibration.json", "golden.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert "The run was not tested." in (tmp_path / "again" / "README.md").read_text()


@slow
def test_the_file_alone_describes_the_run(exported, tmp_path, capsys):
    shutil.copy(exported("adaptformer", "adapters") / alone.NAME, tmp_path)
    lift_jax.Predictor(tmp_path)
    assert "The settings are taken from the checkpoint" in " ".join(capsys.readouterr().err.split())
    _, _, about = read_safetensors(tmp_path / alone.NAME)
    assert json.loads(about["class_names"]) == CLASSES
    assert about["backbone"] == "debug" and len(about["backbone_fingerprint"]) == 64
    assert len(json.loads(about["counts"])) == 7 and float(about["temperature"]) == 1
    assert about["licence_of_weights"] == "unknown"


def change_a_weight(folder):
    path = folder / alone.NAME
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(folder):
    path = folder / alone.NAME
    path.write_bytes(path.read_bytes()[:-1])


def another_backbone(folder):
    about = json.loads((folder / "config.json").read_text())
    about["model"]["backbone"] = "demo"
    (folder / "config.json").write_text(json.dumps(about))


@slow
@pytest.mark.parametrize("damage, words", [
    (change_a_weight, "adapters.safetensors is not what lift_jax wrote: its checksum differs"),
    (cut, "adapters.safetensors as safetensors"),
    (another_backbone, "The backbone demo has other weights than that of"),
])  # fmt: skip
def test_other_adapters_are_refused(damage, words, exported, tmp_path, capsys):
    folder = shutil.copytree(exported("adaptformer", "adapters"), tmp_path / "folder")
    damage(folder)
    assert words in refused(capsys, "predict", f"--run={folder}", *saved(tmp_path, (50, 37)))


def test_paths_of_this_machine_stay_here():
    about = {
        "label": "LIFT+", "data": {"name": "folder", "root": "/home/anna/photos", "val_list": ""},
        "model": {"backbone": "/home/anna/clip", "tuned": "gs://anna/before.safetensors"},
        "head": {"descriptors": "~/phrases.json"}, "data_summary": {"class_names": ["/a/b"]},
    }  # fmt: skip
    cleaned = without_paths(about)
    assert cleaned["data"] == {"name": "folder", "root": "photos", "val_list": ""}
    assert cleaned["model"] == {"backbone": "/home/anna/clip", "tuned": "before.safetensors"}
    assert cleaned["head"] == {"descriptors": "phrases.json"}
    assert cleaned["data_summary"] == {"class_names": ["/a/b"]}
    assert about["data"]["root"] == "/home/anna/photos"


# --- all formats ---


def about_of(folder, kind):
    """Returns what the file of a format says about the run."""
    if kind == "onnx":
        return {p.key: p.value for p in onnx.load(folder / "model.onnx").metadata_props}
    if kind == "adapters":
        return read_safetensors(folder / alone.NAME)[2]
    name = {"stablehlo": "model.json", "huggingface": "classifier.json"}[kind]
    return json.loads((folder / name).read_text())


def head_of(card_text):
    """Returns the YAML at the head of a model card."""
    _, head, _ = card_text.split("---\n", 2)
    return yaml.safe_load(head)


LIBRARIES = {
    "onnx": "onnx", "stablehlo": "lift_jax", "huggingface": "transformers", "adapters": "lift_jax",
}  # fmt: skip


@slow
@pytest.mark.parametrize("kind", LIBRARIES)
def test_every_format_has_a_licence_and_a_card(kind, exported):
    folder = exported("lora+ssf", kind)
    assert about_of(folder, kind)["licence_of_weights"] == "unknown"
    text = (folder / "README.md").read_text()
    head = head_of(text)
    assert head["library_name"] == LIBRARIES[kind] and head["license"] == "unknown"
    assert head["metrics"] == ["accuracy"] and {"lora", "ssf", "la", "jax"} <= {*head["tags"]}
    assert head["model-index"][0]["results"][0]["dataset"]["name"] == "fake"
    assert "Licence of the backbone's weights: unknown." in text
    assert "| Sampling | natural: each image once an epoch |" in text
    assert "| LIFT+ | " in text and "| all | 7 | " in text and "| 6 | grey |" in text


@slow
@pytest.mark.parametrize("kind", LIBRARIES)
def test_every_format_is_pushed(kind, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = tmp_path / "folder"
    with running(monkeypatch, tmp_path / "cache") as hub:
        hub.commits.clear()
        run_command(
            "export", f"--run={runs('lora+ssf')}", f"--format={kind}", f"--to={folder}",
            f"--push={REPOSITORY}",
        )  # fmt: skip
        expected = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert hub.commits[hub.pushed] == expected
        assert hub.cards == [expected["README.md"].decode()] * 2
        assert (
            f"Pushed to http://127.0.0.1:{hub.server_port}/{REPOSITORY}." in capsys.readouterr().out
        )
        if kind == "huggingface":
            again = lift_jax.load_backbone(REPOSITORY)
            assert again.fingerprint == lift_jax.load_backbone(folder).fingerprint


def test_a_card_of_damaged_results_says_so(tmp_path, capsys):
    assert card.tested_run(tmp_path) is None and not capsys.readouterr().err  # is not tested
    (tmp_path / "metrics.json").write_text("{")
    assert card.tested_run(tmp_path) is None
    said = capsys.readouterr().err
    assert said.startswith("Warning: README.md shows no results of the run. ") and "json" in said


@slow
def test_names_in_a_card_are_text(runs, tmp_path):
    classifier = deployed.load(runs("vpt"))
    names = [*NASTY, "x\n# y", "---", "| a | b |"]
    about = classifier.about | {"class_names": names, "title": "<b>*x*</b>", "backbone": "[a](b)"}
    card.write(dataclasses.replace(classifier, about=about), tmp_path, "onnx")
    text = (tmp_path / "README.md").read_text()
    assert head_of(text)["model-index"][0]["name"] == "<b>*x*</b>"
    body = text.split("---\n", 2)[2]
    assert "<b>" not in body and "<script" not in body and "[a](b)" not in body
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert sum(row.startswith(f"| {i} |") for i, row in enumerate(rows[-len(names) :])) == len(
        names
    )
    assert "# y" not in body.splitlines()


@pytest.mark.parametrize("backbone, licence, head, base", [
    ("clip_vit_b16", "MIT", {"license": "mit"}, "openai/clip-vit-base-patch16"),
    ("openai/clip-vit-base-patch16", "MIT", {"license": "mit"}, "openai/clip-vit-base-patch16"),
    ("clip_vit_b16@main", "MIT", {"license": "mit"}, "openai/clip-vit-base-patch16"),
    ("demo", "Apache-2.0", {"license": "apache-2.0"}, None),
    ("dinov3_b16", "DINOv3 License, gated", {"license": "other", "license_name": "dinov3-license"},
     "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    ("anna/birds", "unknown", {"license": "unknown"}, "anna/birds"),
    ("/weights/clip.pt", "unknown", {"license": "unknown"}, None),
])  # fmt: skip
def test_the_licence_follows_from_the_backbone(backbone, licence, head, base):
    assert licences.licence(backbone) == licence
    assert licences.on_the_hub(licence) == head and card.on_hub(backbone) == base


def test_every_licence_has_a_name_on_the_hub():
    for licence in (*licences.LICENCES, licences.UNKNOWN):
        assert licences.on_the_hub(licence)["license"]
