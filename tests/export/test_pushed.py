"""Tests of runs on a hub: what export pushes, other commands take by its name."""

import huggingface_hub.constants as constants
import numpy as np
import pytest
from support.commands import run_command
from support.exported import predicted, saved
from support.local_hub import NEW, OLD, REPOSITORY, TOKEN, running

import lift_jax
from lift_jax.app.answerer import Answerer
from lift_jax.errors import UserError
from lift_jax.runs.pushed import folder_of
from lift_jax.training.checkpoint import alone

# of huggingface_hub's own requests
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
RUN = {"config.json": b"{}", alone.NAME: b"weights", "README.md": b"#", "golden.png": b"png"}


@pytest.fixture
def local_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)  # where no folder has the owner's name
    with running(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.mark.slow
def test_a_pushed_run_answers_as_the_run_does(local_hub, runs, tmp_path, monkeypatch):
    local_hub.commits.clear()
    run, paths = runs("calibrated"), saved(tmp_path, (50, 37), (33, 90))
    to = ("--format=adapters", f"--to={tmp_path / 'folder'}", f"--push={REPOSITORY}")
    run_command("export", f"--run={run}", *to)
    np.testing.assert_array_equal(predicted(REPOSITORY, paths), predicted(run, paths))
    assert local_hub.names() == {"config.json", "calibration.json", alone.NAME}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # from here on by the cache
    run_command("predict", f"--run={REPOSITORY}", *paths, "--unknown", "--to=named.csv")
    run_command("predict", f"--run={run}", *paths, "--unknown", "--to=expected.csv")
    assert (tmp_path / "named.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()
    run_command("export", f"--run={REPOSITORY}", "--format=adapters", "--to=again")
    assert (tmp_path / "again" / alone.NAME).read_bytes() == local_hub.commits[local_hub.pushed][
        alone.NAME
    ]
    assert Answerer(REPOSITORY).about()["calibrated"]


def test_revisions(local_hub):
    local_hub.commits |= {NEW: RUN, OLD: RUN | {alone.NAME: b"old"}}
    for name, content in ((REPOSITORY, b"weights"), (f"{REPOSITORY}@v1", b"old")):
        folder = folder_of(name)
        assert (folder / alone.NAME).read_bytes() == content  # type: ignore[operator]
    assert local_hub.names() == {"config.json", alone.NAME}


def test_paths_are_not_looked_for_on_the_hub(local_hub, tmp_path):
    local_hub.down = True
    owner, name = REPOSITORY.split("/")
    (tmp_path / owner).mkdir()
    for run in (REPOSITORY, f"{owner}/mistyped", f"./{REPOSITORY}", f"gs://{REPOSITORY}", name):
        assert folder_of(run) == run
    assert not local_hub.sent
    with pytest.raises(UserError, match=f"{REPOSITORY}: expected a run folder"):
        lift_jax.Predictor(REPOSITORY)


@pytest.mark.parametrize("files, name, words", [
    ({"config.json": b"{}", "model.onnx": b""}, REPOSITORY,
     "holds no run: expected adapters.safetensors and config.json; found config.json, model.onnx"),
    ({}, REPOSITORY, "found nothing. Push one: lift-jax export --format=adapters"),
    (RUN, "someone/else", "^There is no folder someone/else here, and the run someone/else cannot"),
    (RUN, f"{REPOSITORY}@v9", "no branch, tag or commit 'v9'"),
    (RUN, f"{REPOSITORY}@v1", r"the run .*@v1 cannot[\s\S]*lists a file that it does not have"),
])  # fmt: skip
def test_what_is_no_run_on_the_hub(files, name, words, local_hub):
    local_hub.commits |= {NEW: files, OLD: RUN}
    if name.endswith("v1"):
        local_hub.refusal = (404, "EntryNotFound")
    with pytest.raises(UserError, match=words):
        folder_of(name)


def test_a_run_that_the_cache_lacks_without_a_network(local_hub, monkeypatch):
    local_hub.commits[NEW] = RUN
    (folder_of(REPOSITORY) / alone.NAME).unlink()  # type: ignore[operator]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    words = rf"^There is no folder {REPOSITORY} here, [\s\S]*The hub is out of reach"
    with pytest.raises(UserError, match=words):
        folder_of(REPOSITORY)
