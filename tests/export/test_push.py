"""Tests of the push to a hub: what is uploaded comes back as it was, and refusals are one line."""

import json

import huggingface_hub.constants as constants
import pytest
from support.commands import run_command
from support.local_hub import REPOSITORY, TOKEN, running
from support.paths import GOLDEN

import lift_jax
from lift_jax.errors import UserError
from lift_jax.export import push
from lift_jax.weights.names import hub

# of huggingface_hub's own requests
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def local_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running(monkeypatch, tmp_path / "cache") as server:
        server.commits.clear()
        yield server


@pytest.fixture
def folder(tmp_path):
    """Returns a folder as an export writes it, by name and content."""
    (made := tmp_path / "folder").mkdir()
    for name in ("config.json", "model.safetensors"):
        (made / name).write_bytes((GOLDEN / "clip_hf" / name).read_bytes())
    (made / "README.md").write_text("# A card\n")
    (made / "golden.png").write_bytes(bytes(range(256)))
    return made


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("large", [True, False], ids=["large files", "all in the commit"])
def test_what_is_pushed_is_read_back(large, local_hub, folder, monkeypatch):
    if not large:  # the client's other way of uploads, which is that of the real hub
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        monkeypatch.setattr(local_hub, "mode", lambda name: "regular")
    url = push.push(folder, REPOSITORY)
    assert url == f"{constants.ENDPOINT}/{REPOSITORY}"
    assert [each["visibility"] for each in local_hub.created] == ["private"]
    assert local_hub.commits[local_hub.pushed] == contents(folder)
    assert bool(local_hub.large) == large
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    got = hub.locate(REPOSITORY)
    assert contents(got) == {
        k: v for k, v in contents(folder).items() if k in ("config.json", "model.safetensors")
    }
    assert (
        lift_jax.load_backbone(REPOSITORY).fingerprint == lift_jax.load_backbone(folder).fingerprint
    )


def test_a_second_push_replaces_the_files(local_hub, folder):
    push.push(folder, REPOSITORY)
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    push.push(folder, REPOSITORY)
    assert local_hub.commits[local_hub.pushed] == contents(folder)


@pytest.mark.parametrize("refusal, words", [
    (("/api/repos/create", 401), "The hub does not know the token: run `hf auth login`"),
    (("/api/repos/create", 403), f"The token may not write to {REPOSITORY}"),
    (("/api/repos/create", 404), f"There is no owner of {REPOSITORY}"),
    (("/preupload/", 403), f"The token may not write to {REPOSITORY}"),
    (("/commit/", 403), f"The token may not write to {REPOSITORY}"),
    (("/objects/batch", 403), f"The token may not write to {REPOSITORY}"),
    (("/commit/", 500), "and try again"),
])  # fmt: skip
def test_refusals_are_one_line(refusal, words, local_hub, folder):
    local_hub.push_refusal = refusal
    before = contents(folder)
    with pytest.raises(UserError) as error:
        push.push(folder, REPOSITORY)
    message = str(error.value)
    assert words in message and "\n" not in message and len(message) < 700
    assert f"hf upload {REPOSITORY} {folder}" in message and contents(folder) == before


def test_a_token_that_the_hub_does_not_know(local_hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match="does not know the token"):
        push.push(folder, REPOSITORY)
    assert not local_hub.pushed


def test_no_network(local_hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"refused\. http://127.0.0.1:9 is out of reach"):
        push.push(folder, REPOSITORY)


@pytest.mark.parametrize("name", [
    "red_fox", "anna/red/fox", "anna/", "/fox", "anna/red fox", "anna/../fox", "anna/fox.git",
    "anna/a--b", "anna/füchse", "https://huggingface.co/anna/fox", "anna/fox@main", "-/" + "x" * 97,
])  # fmt: skip
def test_names_of_no_repository(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(SystemExit):
        run_command(
            "export", f"--run={tmp_path}", f"--to={tmp_path / 'out'}", "--format=onnx",
            f"--push={name}",
        )  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    assert "expected owner/name" in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("variables, arguments, words", [
    ({}, ["--format=onnx"], "needs a token of https://huggingface.co that may write"),
    ({"HF_TOKEN": TOKEN}, [], "--push has no meaning with --format=safetensors"),
])  # fmt: skip
def test_a_push_that_cannot_be(variables, arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(SystemExit):
        run_command(
            "export", f"--run={tmp_path}", f"--to={tmp_path / 'out'}", "--push=a/b", *arguments
        )
    assert words in " ".join(capsys.readouterr().err.split())


def test_without_a_network_by_request(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set. Unset it"):
        push.check("anna/fox")
