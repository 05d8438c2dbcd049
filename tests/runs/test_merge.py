"""Tests of merged runs: a backbone without tuners gives the logits of the tuned model."""

import importlib
import json
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
from rich.console import Console
from safetensors import safe_open
from support.commands import run_command
from support.paths import TESTS
from support.runs import train_and_test

import lift_jax
from lift_jax.commands.line import options
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.heads import HEADS
from lift_jax.runs.weights import export, merge
from lift_jax.settings import parse
from lift_jax.training.setup import build
from lift_jax.tuners import attach

pytestmark = pytest.mark.slow  # whole runs, or many compilations


def config_of(**changes):
    config = importlib.import_module("configs.demo").get_config("debug")
    config.test.tte = False
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def logits_of(run, config, images):
    """Returns the logits of the tuned model, as `train` tests it."""
    setup = build(parse(config), Console(quiet=True))
    model = tree.merge(setup.graph, export.read_tuned(run) | setup.frozen)
    return np.asarray(jax.jit(model)(images))


@pytest.mark.parametrize("changes", [
    {"tuner__name": "lora+ssf+bitfit+ln", "tuner__parts": "attn+mlp+ln", "tuner__partial": 1},
    {"tuner__name": "aft+lora_mlp", "tuner__ratio": 0.1, "head__kind": "linear"},
    {"tuner__name": "full", "train__lr": 0.001},
    {"tuner__name": "none"},
], ids=str)  # fmt: skip
def test_a_merged_run_gives_its_logits(changes, tmp_path, capsys):
    config = config_of(**changes)
    train_and_test(config, tmp_path / "run")
    run_command("merge", f"--run={tmp_path / 'run'}", f"--to={tmp_path / 'merged'}")
    assert f"Use it with :backbone={tmp_path / 'merged'}" in capsys.readouterr().out
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    expected = logits_of(tmp_path / "run", config, images)

    backbone = lift_jax.load_backbone(tmp_path / "merged")
    untuned = lift_jax.load_backbone("debug")
    assert tree.flatten(backbone)[1].keys() == tree.flatten(untuned)[1].keys()
    file = tmp_path / "merged" / merge.HEAD
    with safe_open(file, "numpy") as opened:
        told = opened.metadata()
    assert len(json.loads(told["class_names"])) == expected.shape[1]
    scale = {"scale": float(told["scale"])} if told["kind"] == "cosine" else {}
    weights = safetensors.numpy.load_file(file)
    head = HEADS[told["kind"]](weights["weight"], **scale)
    if "bias" in weights:
        head.bias[...] = weights["bias"]
    features = backbone.encode_image(images)
    np.testing.assert_allclose(head.classify(head.embed(features)), expected, rtol=1e-4, atol=1e-4)
    same = np.allclose(features, untuned.encode_image(images), atol=1e-4)
    assert same == (changes["tuner__name"] == "none")


def test_merged_texts_are_the_zero_shot_classifier(tmp_path):
    """The merged backbone with its tokenizer is a zero-shot classifier equal to the tuned one."""
    changes = {"tuner__name": "proj+lora", "text_tuner__name": "ssf", "train__lr": 0.1}
    found = train_and_test(config_of(**changes), tmp_path / "run")
    merge.write(tmp_path / "run", tmp_path / "merged")
    assert not (tmp_path / "merged" / merge.HEAD).exists()
    config = config_of(model__backbone=str(tmp_path / "merged"))
    zero = train_and_test(config, tmp_path / "zero", "zero_shot")["zero_shot"]
    assert zero == found["test"] and zero != found["zero_shot"]


def test_what_cannot_be_merged(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for name, words in {
        "adaptformer+lora": "adaptformer cannot be .* lora_mlp, ssf, bitfit, ln, bn, full can",
        "coop": "tuned coop, which cannot be merged",
    }.items():
        run = tmp_path / name
        train_and_test(config_of(tuner__name=name), run)
        with pytest.raises(SystemExit):
            run_command("merge", f"--run={run}", f"--to={tmp_path / 'merged'}")
        assert re.search(words, " ".join(capsys.readouterr().err.split()))
    with pytest.raises(UserError, match="there exists .--to"):
        merge.write(run, tmp_path / "there")
    with pytest.raises(UserError, match="expected a run folder"):
        merge.write(tmp_path / "no", tmp_path / "merged")
    saved = run / "checkpoints/2/about/metadata"
    about, kept = json.loads((run / "config.json").read_text()), saved.read_text()
    sums = {"checksums": json.loads(kept)["checksums"]}
    del sums["checksums"]["about"]  # as of an earlier version
    about["data_summary"]["backbone_fingerprint"] = "another"
    about["tuner"]["name"] = "none"
    (run / "config.json").write_text(json.dumps(about))
    saved.write_text(json.dumps(about | sums))
    with pytest.raises(UserError, match="debug has other weights than that of"):
        merge.write(run, tmp_path / "merged")
    del about["tuner"]["parts"]
    (run / "config.json").write_text(json.dumps(about))
    saved.write_text(json.dumps(about | sums))
    with pytest.raises(UserError, match="config.json lacks the setting 'parts'"):
        merge.write(run, tmp_path / "merged")
    (run / "config.json").write_text("{")
    saved.write_text(json.dumps(sums))
    with pytest.raises(UserError, match="config.json is not JSON"):
        merge.write(run, tmp_path / "merged")
    saved.write_text(kept)  # which holds the settings, too
    with pytest.raises(UserError, match="tuned coop, which cannot be merged"):
        merge.write(run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_tuner_of_the_runs_own_config_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(attach.TUNERS, "doubler", None)  # removes the tuner after the test
    own = TESTS / "support" / "doubler.py"
    options.define_tuners(str(own))
    config, run = config_of(tuner__name="doubler"), tmp_path / "run"
    train_and_test(config, run)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)
    expected = logits_of(run, config, images)
    del attach.TUNERS["doubler"]  # as in a new process
    arguments = [f"--run={run}", f"--to={tmp_path / 'merged'}"]
    with pytest.raises(SystemExit):
        run_command("merge", *arguments)
    said = " ".join(capsys.readouterr().err.split())
    assert "'doubler'" in said and "--config=FILE.py" in said
    run_command("merge", *arguments, f"--config={own}:debug")
    head = HEADS["cosine"](
        safetensors.numpy.load_file(tmp_path / "merged" / merge.HEAD)["weight"], scale=25.0
    )
    features = lift_jax.load_backbone(tmp_path / "merged").encode_image(images)
    np.testing.assert_allclose(head.classify(head.embed(features)), expected, rtol=1e-4, atol=1e-4)
    for file, words in (("no.py", "no.py"), ("own.txt", "must end in .py")):
        with pytest.raises(SystemExit):
            run_command("merge", *arguments, f"--config={tmp_path}/{file}")
        assert words in " ".join(capsys.readouterr().err.split())
