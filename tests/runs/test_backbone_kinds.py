"""Tests of every kind of backbone in a whole run of the demo, with and without a text tower."""

import importlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console
from support.paths import GOLDEN
from support.runs import train_and_test

import lift_jax
from lift_jax.data.types import Split
from lift_jax.errors import UserError
from lift_jax.evaluation import forward
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.models import tree
from lift_jax.models.heads import l2_normalise
from lift_jax.parallel import mesh
from lift_jax.runs import restored
from lift_jax.training.start import head_init
from lift_jax.weights.names.hub import DEMO

pytestmark = pytest.mark.slow  # whole runs, or many compilations


def run(backbone: Path | str, workdir: Path, mode: str = "train", **changes) -> dict:
    config = importlib.import_module("configs.demo").get_config(f"backbone={backbone}")
    config.update_from_flattened_dict({"train.epochs": 1, "test.tte": False} | changes)
    return train_and_test(config, workdir, mode)


@pytest.fixture(scope="module")
def with_tokenizer(tmp_path_factory):
    """Makes the golden CLIP with the demo's tokenizer, whose end token is the largest id."""
    folder = Path(shutil.copytree(GOLDEN / "clip_hf", tmp_path_factory.mktemp("clip") / "clip"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DEMO / name, folder / name)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def optimised():
    """Compiles as a user's run does, if running unoptimised would take longer than that."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.parametrize("kind", ["hf_vit", "dinov2_registers", "dinov3", "timm/timm_vit"])
def test_backbones_without_a_text_tower(kind, tmp_path):
    found = run(GOLDEN / kind, tmp_path)
    assert found["zero_shot"] is None and found["test"]["overall"] > 15  # chance is 10
    assert found["head_params"] == 10 * lift_jax.load_backbone(GOLDEN / kind).config.vision.width


@pytest.mark.parametrize("kind", ["torch/clip_rn.pth", "siglip2", "open_clip"])
def test_a_missing_tokenizer_is_told_and_class_means_are_taken(kind, tmp_path, capsys):
    found = run(GOLDEN / kind, tmp_path)
    assert "no tokenizer" in capsys.readouterr().out
    assert found["zero_shot"] is None and found["test"]["overall"] > 15
    with pytest.raises(UserError, match="no tokenizer"):
        run(GOLDEN / kind, tmp_path / "text", **{"head.init": "text"})


def test_a_backbone_with_a_text_tower(with_tokenizer, tmp_path):
    found = run(with_tokenizer, tmp_path, **{"head.init": "text"})
    assert found["zero_shot"]["images"] == 300 and found["test"]["overall"] > 15


def test_a_resnet_says_that_it_has_no_place_for_adapters(tmp_path, capsys, optimised):
    backbone = lift_jax.load_backbone(GOLDEN / "timm" / "timm_resnet")
    found = run(GOLDEN / "timm" / "timm_resnet", tmp_path)
    assert found["zero_shot"] is None and found["test"]["overall"] > 15
    assert found["head_params"] == 10 * backbone.config.vision.width
    assert "its classifier alone is tuned" in " ".join(capsys.readouterr().out.split())
    assert found["tuned_params"] == 0
    _, leaves = tree.flatten(backbone)
    sizes = {path: leaf[...].size for path, leaf in leaves.items()}
    statistics = [size for path, size in sizes.items() if path.endswith(("/mean", "/var"))]
    assert found["frozen_params"] == sum(sizes.values()) - sum(statistics) > 0


def test_another_resolution_is_told_and_used(tmp_path, capsys):
    run(GOLDEN / "hf_vit", tmp_path, **{"model.resolution": 48})
    said = " ".join(capsys.readouterr().out.split())
    assert "used at 48 (6 x 6): position embeddings interpolated" in said


def test_a_finished_run_needs_no_class_means_again(tmp_path, monkeypatch):
    first = run(GOLDEN / "hf_vit", tmp_path)
    monkeypatch.setattr(head_init, "head_from_class_means", None)  # would fail if it were called
    assert run(GOLDEN / "hf_vit", tmp_path, "evaluate")["test"] == first["test"]


def test_without_a_text_tower_there_is_no_zero_shot_and_no_text(tmp_path):
    with pytest.raises(UserError, match="no zero-shot"):
        run(GOLDEN / "hf_vit", tmp_path, "zero_shot")
    with pytest.raises(UserError, match="no text tower"):
        run(GOLDEN / "hf_vit", tmp_path, **{"head.init": "text"})
    backbone = lift_jax.load_backbone(GOLDEN / "hf_vit")
    with pytest.raises(UserError, match="no text tower"):
        backbone.encode_text(np.zeros((1, 4), np.int32))
    with pytest.raises(UserError, match="no text tower"):
        backbone.encode_image(np.zeros((1, 32, 32, 3), np.float32), project=True)


def test_class_means_by_the_authors_numbers(golden):
    given = golden("heads")
    features, labels = given["init_features"], given["init_labels"]
    means = np.stack([features[labels == c].mean(0) for c in range(10)])
    found = l2_normalise(jnp.asarray(means))
    np.testing.assert_allclose(found, given["class_mean_weight"], rtol=1e-5, atol=1e-6)


def test_class_means_of_images():
    """At most head.shots whole images of each class count; a class without images keeps its row."""
    images = np.random.default_rng(0).integers(0, 256, (7, 40, 32, 3), np.uint8)
    labels = np.array([0, 2, 0, 0, 2, 0, 3])
    backbone = lift_jax.load_backbone(GOLDEN / "hf_vit")
    start = head_init.unit_row_head(4, 32, jax.random.key(1))
    cache = Cache(0.0, "", mesh.make_mesh(), 8, 0, Console(quiet=True))
    seen = head_init.image_features(
        backbone.visual, Split(Pictures(images), labels), shots=2, seed=5, interpolation="bicubic",
        cache=cache,
    )  # fmt: skip
    found = head_init.head_from_class_means(seen, start)
    chosen = head_init.sample_per_class(labels, 2, seed=5)
    crops = forward.normalise(jnp.asarray(images[chosen, 4:36]), backbone.config.vision)
    features = np.asarray(backbone.encode_image(crops))
    for c in (0, 2, 3):
        mean = features[labels[chosen] == c].mean(0)
        np.testing.assert_allclose(found[c], mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)
    assert np.array_equal(found[1], start[1])


class Pictures:
    def __init__(self, images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.images[i]

    def name(self, i: int) -> str:
        return str(i)

    def take(self, rows: np.ndarray) -> "Pictures":
        return Pictures(self.images[rows])


def test_at_most_so_many_of_each_class():
    labels = np.repeat([2, 0, 5], [7, 3, 120])
    chosen = head_init.sample_per_class(labels, 5, seed=0)
    assert np.bincount(labels[chosen], minlength=6).tolist() == [3, 0, 5, 0, 0, 5]
    assert (np.diff(chosen) > 0).all()
    assert not np.array_equal(chosen, head_init.sample_per_class(labels, 5, seed=1))


@pytest.fixture
def bare(tmp_path):
    """Returns a bare ViT whose name says that it is MAE's."""
    tensors = safetensors.numpy.load_file(GOLDEN / "timm/timm_vit/model.safetensors")
    tensors = {name: t for name, t in tensors.items() if not name.startswith("head.")}
    safetensors.numpy.save_file(tensors, tmp_path / "mae.safetensors", {"config": '{"heads": 4}'})
    return tmp_path / "mae.safetensors"


def test_the_normalisation_of_a_bare_vit_is_told_and_given(bare, tmp_path, capsys):
    def said():
        return " ".join(capsys.readouterr().out.split())

    run(bare, tmp_path / "a")
    line = "Taken: mean 0.485,0.456,0.406 and std 0.229,0.224,0.225 (ImageNet's), because its name"
    assert said().count(line) == 1
    given = {"model.mean": "0.1,0.2,0.3", "model.std": "0.4,0.5,0.6"}
    run(bare, tmp_path / "b", **given)
    assert "normalised by mean 0.1,0.2,0.3 and std 0.4,0.5,0.6, as given." in said()
    assert restored.load(tmp_path / "b").backbone.config.vision.mean == (0.1, 0.2, 0.3)


def test_a_run_from_before_the_families_keeps_its_normalisation(bare, tmp_path):
    run(bare, tmp_path / "a", **{"model.mean": "0.5,0.5,0.5", "model.std": "0.5,0.5,0.5"})
    file = tmp_path / "a" / "config.json"
    about = json.loads(file.read_text())
    del about["model"]["mean"], about["model"]["std"]
    file.write_text(json.dumps(about))
    assert restored.load(tmp_path / "a").backbone.config.vision.mean == (0.5, 0.5, 0.5)
