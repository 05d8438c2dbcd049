"""A hub on this machine: the routes of the Hugging Face hub for downloads and uploads."""

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants as constants

REPOSITORY, TOKEN = "someone/tiny-clip", "hf_secret"
OLD, NEW = "0" * 40, "1" * 40  # commits
CLIP = b'{"model_type": "clip"}'


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

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path, hub = self.path.partition("?")[0], self.server
        if hub.push_refusal and re.search(hub.push_refusal[0], path):
            return self.refuse(hub.push_refusal[1], "")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self.refuse(401, "")
        if path == f"/api/models/{REPOSITORY}/commit/main":
            return self.commit([json.loads(line) for line in body.splitlines()])
        given = json.loads(body)
        if path == "/api/validate-yaml":
            hub.cards.append(given["content"])
            return self.tell({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            hub.created.append(given)
            return self.tell({"url": f"{constants.ENDPOINT}/{REPOSITORY}"})
        if path == f"/api/models/{REPOSITORY}/preupload/main":
            modes = {f["path"]: hub.mode(f["path"]) for f in given["files"]}
            files = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for name, mode in modes.items()
            ]
            return self.tell({"files": files})
        if path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
            url = f"{constants.ENDPOINT}/large"
            return self.tell({"transfer": "basic", "objects": [
                {**each, "actions": {"upload": {"href": f"{url}/{each['oid']}"}}}
                for each in given["objects"]
            ]})  # fmt: skip
        return self.refuse(404, "RepoNotFound")

    def do_PUT(self):
        oid = self.path.removeprefix("/large/")
        self.server.large[oid] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"")

    def tell(self, value: object):
        self.answer(json.dumps(value).encode(), Content_Type="application/json")

    def commit(self, operations: list[dict]):
        files = {}
        for each in operations:
            value = each["value"]
            if each["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        oid = f"{len(self.server.commits):040x}"
        self.server.commits[oid] = self.server.commits.get(self.server.pushed, {}) | files
        self.server.branches["main"] = self.server.pushed = oid
        url = f"{constants.ENDPOINT}/{REPOSITORY}/commit/{oid}"
        self.tell({"success": True, "commitOid": oid, "commitUrl": url})

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
        self.created: list[dict] = []  # what was asked for by requests to make a repository
        self.cards: list[str] = []  # model cards that were to be checked
        self.large: dict[str, bytes] = {}  # files that went to the storage of large ones
        self.pushed = ""  # the commit of the last push
        self.push_refusal: tuple[str, int] | None = None  # pattern of a path, and a status

    def mode(self, name: str) -> str:
        """Returns how a file is to be uploaded."""
        return "lfs" if name.endswith(".safetensors") else "regular"

    def names(self) -> set[str]:
        return {name for name, _ in self.sent}


@contextlib.contextmanager
def running(monkeypatch, cache):
    """Runs a hub on this machine, with a repository of two commits, and an empty cache."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's retries
    server.commits[OLD] = {"config.json": CLIP, "pytorch_model.bin": b"old"}
    server.commits[NEW] = {"config.json": CLIP, "model.safetensors": b"new", "README.md": b"#"}
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
