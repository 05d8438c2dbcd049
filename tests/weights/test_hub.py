"""Tests of finding backbones by name: downloads, failures, and use without a network."""

import errno
import json
import re
import shutil
from pathlib import Path

import huggingface_hub.constants as constants
import numpy as np
import pytest
from support.local_hub import CLIP, NEW, OLD, REPOSITORY, running
from support.paths import GOLDEN

import lift_jax
from lift_jax.errors import UserError
from lift_jax.output.terminal import Terminal
from lift_jax.settings.groups.data import DataSettings
from lift_jax.training.start.backbone import warn_of_a_leak
from lift_jax.weights.names import hub, seen

TIMM = b'{"architecture": "vit_base_patch16_clip_224"}'


@pytest.fixture
def local_hub(monkeypatch, tmp_path):
    with running(monkeypatch, tmp_path / "cache") as server:
        yield server


def test_every_name_is_a_repository():
    for name, repository in hub.NAMES.items():
        assert re.fullmatch(r"[a-z0-9_]+", name) and re.fullmatch(r"\w+/[\w.-]+", repository)
    assert len(set(hub.NAMES.values())) == len(hub.NAMES)
    assert (hub.locate("demo") / "config.json").exists()


def test_files_and_folders(tmp_path, monkeypatch):
    (tmp_path / "weights.pt").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("weights.pt", str(tmp_path / "weights.pt"), "~/weights.pt"):
        assert hub.locate(name).read_bytes() == b""
    assert hub.locate("~") == tmp_path and hub.locate(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(("name", "words"), [
    ("clip_vit_l41", "Did you mean .*'clip_vit_l14'"),
    ("clip_vit_l41@main", "Did you mean .*'clip_vit_l14'"),
    ("", "Unknown backbone"),
    ("./absent", "absent does not exist"),
    ("/absent/folder", "folder does not exist"),
    ("absent/weights.pt", "weights.pt does not exist"),  # not the name of a repository
    ("absent.safetensors", "absent.safetensors does not exist"),
])  # fmt: skip
def test_names_of_nothing(name, words):
    with pytest.raises(UserError, match=words):
        hub.locate(name)


def test_a_download_fetches_what_is_read_and_keeps_it(local_hub):
    folder = hub.locate(REPOSITORY)
    assert local_hub.names() == {"config.json", "model.safetensors"}
    assert (folder / "config.json").read_bytes() == CLIP
    assert (folder / "model.safetensors").read_bytes() == b"new"
    local_hub.sent.clear()
    assert hub.locate(REPOSITORY) == folder and not local_hub.sent


SHARDS = {f"model-{i}-of-2.safetensors": bytes([i]) for i in (1, 2)}
WEIGHT_MAP = dict(zip("abc", [*SHARDS, min(SHARDS)], strict=True))
INDEX = {"model.safetensors.index.json": json.dumps({"weight_map": WEIGHT_MAP}).encode()}


@pytest.mark.parametrize(("config", "there", "chosen"), [
    (CLIP, "model.safetensors pytorch_model.bin", "model.safetensors"),
    (CLIP, "pytorch_model.bin flax_model.msgpack", "pytorch_model.bin"),
    (CLIP, f"{' '.join(INDEX | SHARDS)} pytorch_model.bin", " ".join(INDEX | SHARDS)),
    (CLIP, "model.safetensors open_clip_model.safetensors open_clip_config.json",
     "open_clip_config.json model.safetensors"),
    (None, "open_clip_model.safetensors open_clip_pytorch_model.bin open_clip_config.json",
     "open_clip_config.json open_clip_model.safetensors"),
    (None, "open_clip_pytorch_model.bin open_clip_config.json vocab.json merges.txt",
     "open_clip_config.json open_clip_pytorch_model.bin vocab.json merges.txt"),
    (TIMM, "model.safetensors open_clip_model.safetensors open_clip_config.json pytorch_model.bin",
     "open_clip_config.json open_clip_model.safetensors"),
    (TIMM, "model.safetensors pytorch_model.bin", "model.safetensors"),
])  # fmt: skip
def test_one_form_of_the_weights_is_chosen(local_hub, config, there, chosen):
    files = {name: (INDEX | SHARDS).get(name, name.encode()) for name in there.split()}
    files |= {"config.json": config} if config else {}
    local_hub.commits[NEW] = files | {"README.md": b"#"}
    folder = hub.locate(REPOSITORY)
    expected = {*chosen.split(), *(["config.json"] if config else [])}
    assert local_hub.names() == {path.name for path in folder.iterdir()} == expected


def test_a_repository_without_weights(local_hub):
    local_hub.commits[NEW] = {"config.json": CLIP, "model.onnx": b"", "tf_model.h5": b""}
    with pytest.raises(UserError, match=r"expected one of .*; found config\.json, model\.onnx, tf"):
        hub.locate(REPOSITORY)


@pytest.mark.parametrize(("revision", "body"), [
    ("v1", b"old"), (OLD, b"old"), ("main", b"new"), (NEW, b"new"), (None, b"new"),
])  # fmt: skip
def test_a_revision_is_pinned(local_hub, monkeypatch, revision, body):
    monkeypatch.setitem(hub.NAMES, "tiny", REPOSITORY)
    for name in (REPOSITORY, "tiny"):
        folder = hub.locate(f"{name}@{revision}" if revision else name)
        assert {path.read_bytes() for path in folder.iterdir()} == {CLIP, body}


def test_a_branch_that_moves_is_followed(local_hub):
    assert (hub.locate(REPOSITORY) / "model.safetensors").read_bytes() == b"new"
    local_hub.branches["main"] = OLD
    assert (hub.locate(REPOSITORY) / "pytorch_model.bin").read_bytes() == b"old"


@pytest.mark.parametrize(("name", "refusal", "words"), [
    ("someone/else", None, "There is no such repository. Check the name"),
    (f"{REPOSITORY}@v2", None, f"no branch, tag or commit 'v2'.*{REPOSITORY}/commits/main"),
    ("a--b/c", None, "expected owner/repository"),
    (REPOSITORY, (401, "GatedRepo"), f"Accept its licence at .*{REPOSITORY}, .*hf auth login"),
    (REPOSITORY, (403, "GatedRepo"), f"Accept its licence at .*{REPOSITORY}, .*hf auth login"),
    (REPOSITORY, (403, ""), "refuses your token: run `hf auth login`"),
    (REPOSITORY, (401, "RepoNotFound"), "a private repository needs `hf auth login`"),
    (REPOSITORY, (404, "EntryNotFound"), "config.json.*lists a file that it does not have"),
])  # fmt: skip
def test_refusals_say_what_to_do(local_hub, name, refusal, words):
    local_hub.refusal = refusal
    with pytest.raises(UserError) as error:
        hub.locate(name)
    assert name in str(error.value) and re.search(words, str(error.value), re.DOTALL)


ABOUT = {"id": REPOSITORY, "sha": NEW, "siblings": [{"rfilename": "config.json"}]}


@pytest.mark.parametrize("reply", [
    b"", b"[]", b"null", b"5", b'"a"', b"{}", b"<html>", b'{"sha": ', b"\xff", b"[" * 100_000,
    *(json.dumps(ABOUT | changed).encode() for changed in (
        {"siblings": 5}, {"siblings": [5]}, {"siblings": [{"rfilename": 5}]}, {"siblings": [{}]},
        {"siblings": "a"}, {"sha": 5}, {"sha": None}, {"siblings": None}, {"id": 5, "sha": []},
    )),
])  # fmt: skip
def test_replies_of_another_kind(local_hub, reply):
    local_hub.reply = reply
    with pytest.raises(UserError) as error:
        hub.locate(REPOSITORY)
    message = str(error.value)
    assert REPOSITORY in message and message.count("\n") < 2 and len(message) < 600


@pytest.mark.parametrize("config", [b"[]", b"null", b"<html>", b"[" * 100_000, b'{"a": NaN}'])
def test_a_config_of_another_kind(local_hub, config):
    local_hub.commits[NEW] = {"config.json": config, "model.safetensors": b"new"}
    with pytest.raises(UserError, match="config.json.*Get the file again"):
        hub.locate(REPOSITORY)


@pytest.mark.parametrize("shard", [5, None, "../a", "", ["a"], "a/b"])
def test_an_index_of_other_values(local_hub, shard):
    index = json.dumps({"weight_map": {"a": shard}}).encode()
    local_hub.commits[NEW] = {"config.json": CLIP, "model.safetensors.index.json": index}
    with pytest.raises(UserError, match="index.json.*(weight_map|outside its folder)"):
        hub.locate(REPOSITORY)


def test_without_a_network_the_cache_is_used(local_hub, monkeypatch):
    cached = {revision: hub.locate(f"{REPOSITORY}@{revision}") for revision in ("main", "v1")}
    local_hub.sent.clear()
    for attribute in ("down", "offline"):
        if attribute == "down":
            local_hub.down = True
        else:
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert hub.locate(REPOSITORY) == cached["main"]
        for revision, folder in cached.items():
            assert hub.locate(f"{REPOSITORY}@{revision}") == folder
        assert hub.locate(f"{REPOSITORY}@{OLD}") == cached["v1"]
        with pytest.raises(UserError, match="out of reach, and the cache .* not have all of it"):
            hub.locate(f"{REPOSITORY}@v2")
    assert not local_hub.sent


@pytest.mark.parametrize("lost", ["model-2-of-2.safetensors", *INDEX])
def test_an_incomplete_copy_is_not_used_without_a_network(local_hub, monkeypatch, lost):
    local_hub.commits[NEW] = {"config.json": CLIP} | INDEX | SHARDS
    (hub.locate(REPOSITORY) / lost).unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="Run it once with a network"):
        hub.locate(REPOSITORY)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert (hub.locate(REPOSITORY) / lost).exists()


def test_a_hub_that_nothing_listens_on(monkeypatch, local_hub):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="out of reach"):
        hub.locate(REPOSITORY)


BODY = np.random.default_rng(0).bytes(50_000)


def test_a_broken_download_goes_on_where_it_stopped(local_hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    local_hub.commits[NEW]["model.safetensors"] = BODY
    local_hub.cuts = [20_000, 7_500]
    folder = hub.locate(REPOSITORY)
    assert (folder / "model.safetensors").read_bytes() == BODY
    ranges = [start for name, start in local_hub.sent if name == "model.safetensors"]
    assert ranges == [None, "bytes=20000-", "bytes=27000-"]  # in chunks of 1000


def test_a_download_that_stays_broken_leaves_nothing_behind(local_hub, tmp_path):
    local_hub.commits[NEW]["model.safetensors"] = BODY
    local_hub.cuts = [100] * 20
    with pytest.raises(UserError, match="Run it again: the files that came whole are kept"):
        hub.locate(REPOSITORY)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not any(path.name == "model.safetensors" for path in files)
    assert not any(path.read_bytes() == BODY[:100] for path in files)
    local_hub.cuts = []
    local_hub.sent.clear()
    assert (hub.locate(REPOSITORY) / "model.safetensors").read_bytes() == BODY
    assert local_hub.names() == {"model.safetensors"}  # config.json was kept


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_cache_that_cannot_be_written(local_hub, monkeypatch, code):
    def fail(*args, **kwargs):
        raise OSError(code, "cannot write")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    with pytest.raises(UserError, match="cannot write.*\n.*make room there, or set HF_HOME"):
        hub.locate(REPOSITORY)


@pytest.mark.slow
def test_a_backbone_from_the_hub(local_hub, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "converted"))
    local_hub.commits[NEW] = {path.name: path.read_bytes() for path in hub.DEMO.iterdir()}
    found, demo = lift_jax.load_backbone(REPOSITORY), lift_jax.load_backbone("demo")
    size = demo.config.vision.resolution
    images = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    assert np.array_equal(found.encode_image(images), demo.encode_image(images))
    rows = [lift_jax.load_tokenizer(name, 16)(["a photo of a 3."]) for name in (REPOSITORY, "demo")]
    assert np.array_equal(*rows)


@pytest.mark.parametrize(("backbone", "data", "says"), [
    ("bioclip_b16", ["inaturalist"], "bioclip_b16 has seen iNaturalist 2021 in training: images"),
    ("imageomics/bioclip@main", ["folder", "/data/iNat2018"], "seen iNaturalist 2021 in training"),
    ("weights/BioCLIP.pt", ["list", "inat_train.txt"], "seen iNaturalist 2021 in training"),
    ("bioclip2_l14", ["tfds", "i_naturalist2021"], "seen photographs of iNaturalist in training"),
    ("imageomics/bioclip-2.5-vith14", ["INAT"], "perhaps iNaturalist 2021"),
    ("bioclip_b16", ["folder", "/data/flowers"], ""),
    ("bioclip_b16", ["folder", "/data/combinations/innate/minato"], ""),
    ("clip_vit_b16", ["inaturalist"], ""),
])  # fmt: skip
def test_what_a_backbone_has_seen(backbone, data, says):
    found = seen.warning(backbone, data)
    assert says in found if says else found == ""
    assert "\n" not in found


def test_what_a_backbone_has_seen_however_it_is_named(tmp_path, monkeypatch):
    """By its path, a link, its config, its place in the hub's cache, or an adapter's base."""
    stated = tmp_path / "stated"
    stated.mkdir()
    (stated / "config.json").write_text('{"_name_or_path": "imageomics/bioclip"}')
    snapshot = tmp_path / "models--imageomics--bioclip" / "snapshots" / NEW
    snapshot.mkdir(parents=True)
    weights = tmp_path / "bioclip" / "model.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"")
    (tmp_path / "linked").symlink_to(weights.parent)
    (tmp_path / "weights.safetensors").symlink_to(weights)
    for name in ("stated", "linked", "weights.safetensors", str(snapshot), str(weights)):
        adapter = Path(
            shutil.copytree(GOLDEN / "peft" / "lora", tmp_path / f"lora {Path(name).name}")
        )
        about = json.loads((adapter / "adapter_config.json").read_text())
        about["base_model_name_or_path"] = str(tmp_path / name)
        (adapter / "adapter_config.json").write_text(json.dumps(about))
        for given in (tmp_path / name, adapter, adapter / "adapter_model.safetensors"):
            found = seen.warning(str(given), ["inaturalist"])
            assert found.startswith(f"{str(given)} has seen iNaturalist 2021 in training")
            assert seen.warning(str(given), ["flowers"]) == ""
    monkeypatch.chdir(weights.parent)
    assert "has seen iNaturalist" in seen.warning(".", ["iNat2018"])
    assert "has seen iNaturalist" in seen.warning("model.pt", ["iNat2018"])
    for other in (GOLDEN / "peft" / "lora", GOLDEN / "clip_hf", GOLDEN / "timm_vit.safetensors"):
        assert seen.warning(str(other), ["inaturalist"]) == ""


def test_an_adapter_of_a_hub_name_has_seen_what_its_base_has(tmp_path):
    adapter = Path(shutil.copytree(GOLDEN / "peft" / "lora", tmp_path / "mine"))
    about = json.loads((adapter / "adapter_config.json").read_text())
    for base, says in (("imageomics/bioclip", "has seen iNaturalist 2021"),
                       ("imageomics/bioclip-2", "perhaps iNaturalist 2021")):  # fmt: skip
        about["base_model_name_or_path"] = base
        (adapter / "adapter_config.json").write_text(json.dumps(about))
        assert says in seen.warning(str(adapter), ["inaturalist"])


def test_a_leak_is_said_in_one_line(capsys):
    for root, lines in (("/data/iNat2018/train", 1), ("/data/flowers", 0)):
        settings = DataSettings(root=root)
        warn_of_a_leak("imageomics/bioclip", settings, Terminal(width=1000))
        out = capsys.readouterr().out
        assert out.count("\n") == lines and out.startswith("Warning: imageomics/bioclip" * lines)
