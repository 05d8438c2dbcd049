"""Tests of finding backbones by name: downloads, failures, and use without a network."""

import errno
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants as constants
import numpy as np
import pytest

import lift_jax
from lift_jax.errors import UserError
from lift_jax.weights import hub

REPOSITORY = "someone/tiny-clip"
OLD, NEW = "0" * 40, "1" * 40  # commits
CLIP = b'{"model_type": "clip"}'
TIMM = b'{"architecture": "vit_base_patch16_clip_224"}'


class Routes(BaseHTTPRequestHandler):
    """Answers on the routes of the Hugging Face hub that a download uses."""

    server: "Hub"

    def log_message(self, format, *args):
        pass

    def answer(self, body: bytes, status: int = 200, cut: int | None = None, **headers: str):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])

    def refuse(self, status: int, code: str):
        self.answer(b'{"error": "refused"}', status, X_Error_Code=code)

    def do_GET(self):
        path = self.path.partition("?")[0]
        if self.server.down:
            return self.answer(b"", 503)
        if match := re.fullmatch(rf"/api/models/{REPOSITORY}(?:/revision/(.*))?", path):
            return self.look_up(match[1] or "main")
        if match := re.fullmatch(rf"/{REPOSITORY}/resolve/([0-9a-f]+)/(.*)", path):
            return self.file(match[1], match[2])
        return self.refuse(404, "RepoNotFound")

    do_HEAD = do_GET

    def look_up(self, revision: str):
        commit = self.server.branches.get(revision, revision)
        if commit not in self.server.commits:
            return self.refuse(404, "RevisionNotFound")
        if self.server.reply is not None:
            return self.answer(self.server.reply, Content_Type="application/json")
        siblings = [{"rfilename": name} for name in self.server.commits[commit]]
        info = {"id": REPOSITORY, "sha": commit, "siblings": siblings}
        return self.answer(json.dumps(info).encode(), Content_Type="application/json")

    def file(self, commit: str, name: str):
        if self.server.refusal:
            return self.refuse(*self.server.refusal)
        if name not in self.server.commits[commit]:
            return self.refuse(404, "EntryNotFound")
        body = self.server.commits[commit][name]
        headers = {
            "X_Repo_Commit": commit,
            "X_Linked_Size": str(len(body)),
            "X_Linked_ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "Accept_Ranges": "bytes",
        }
        if self.command == "HEAD":
            return self.answer(body, **headers)
        start = self.headers["Range"]
        self.server.sent.append((name, start))
        cut = self.server.cuts.pop(0) if self.server.cuts and name == self.server.fragile else None
        if start is None:
            return self.answer(body, cut=cut, **headers)
        first = int(re.fullmatch(r"bytes=(\d+)-", start)[1])  # type: ignore[index]
        headers["Content_Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        return self.answer(body[first:], 206, cut, **headers)


class Hub(ThreadingHTTPServer):
    """A hub with one repository."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Routes)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.branches = {"main": NEW, "v1": OLD}
        self.refusal: tuple[int, str] | None = None  # status and code of the answer to every file
        self.reply: bytes | None = None  # what is said about the repository, instead of the truth
        self.down = False
        self.fragile = "model.safetensors"
        self.cuts: list[int] = []  # lengths in bytes after which the next answers break
        self.sent: list[tuple[str, str | None]] = []  # (file, requested range)

    def names(self) -> set[str]:
        return {name for name, _ in self.sent}


@pytest.fixture
def local_hub(monkeypatch, tmp_path):
    """Starts a hub on this machine, with a repository of two commits and an empty cache."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's retries
    server.commits[OLD] = {"config.json": CLIP, "pytorch_model.bin": b"old"}
    server.commits[NEW] = {"config.json": CLIP, "model.safetensors": b"new", "README.md": b"#"}
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


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
    ("someone/else", None, "no such repository, nor a folder someone/else here"),
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
        with pytest.raises(UserError, match="out of reach and the cache .* not have all of it"):
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
