"""Tests of CIFAR's archives: their content, the long tails of the papers, and the download."""

import errno
import hashlib
import io
import os
import ssl
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from support.small_sets import load, message

from lift_jax.data.sources import cifar, download


def archive(kind, labels, tests=None):
    """Returns an archive in the layout of a kind, with random pixels."""
    rng = np.random.default_rng(0)

    def records(labels):
        body = rng.integers(0, 256, (len(labels), kind.label_bytes + 3072), np.uint8)
        body[:, kind.label_bytes - 1] = labels
        return body.tobytes()

    many = 10 if kind is cifar.CIFAR10 else 100
    tests = np.arange(many) if tests is None else tests
    parts = dict(
        zip(kind.train, map(records, np.array_split(labels, len(kind.train))), strict=True)
    )
    parts |= {kind.test: records(tests)}
    parts |= {kind.names: "".join(f"name_{c}\n" for c in range(many)).encode() + b"\n"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as tar:
        for name, content in parts.items():
            entry = tarfile.TarInfo(f"{kind.folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


# --- CIFAR-10 ---


@pytest.fixture(scope="module")
def ten():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 20))
    return labels, archive(cifar.CIFAR10, labels)


def test_cifar10_joins_its_five_batches(ten, tmp_path):
    labels, content = ten
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    data = load("cifar10", root=tmp_path)
    assert data.train.labels.tolist() == labels.tolist() and len(data.test) == 10
    assert data.class_names == tuple(f"name_{c}" for c in range(10)) and data.grouped_by is None
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (tmp_path / "cifar-10-binary.tar.gz").unlink()
    home = tmp_path / "unpacked/cifar-10-batches-bin"
    body = np.frombuffer((home / "data_batch_3.bin").read_bytes(), np.uint8).reshape(-1, 3073)
    for root in (home, home.parent):
        data = load("cifar10", root=root)
        image = data.train.images[87]  # the eighth of the third batch of 40
        assert image[:, :, 2].reshape(-1).tolist() == body[7, 1 + 2048 :].tolist()
        assert body[7, 0] == data.train.labels[87]
    (home / "data_batch_4.bin").unlink()
    assert "cifar-10-binary.tar.gz" in message(lambda: load("cifar10", root=home))


def test_cifar10_is_cut_as_in_the_literature(ten, tmp_path):
    labels, content = ten
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(content)
    data = load("cifar10", root=tmp_path, imbalance=10.0, seed=5)
    assert data.counts.tolist() == [int(20 * 0.1 ** (c / 9)) for c in range(10)]
    rng, rows = np.random.RandomState(0), []
    for c in range(10):
        of_class = np.flatnonzero(labels == c)
        rng.shuffle(of_class)
        rows += of_class[: data.counts[c]].tolist()
    assert data.train.images.rows.tolist() == rows


@pytest.mark.parametrize(("ratio", "total"), [(10, 20_431), (50, 13_996), (100, 12_406)])
def test_full_size_cifar10_counts(ratio, total):
    assert len(cifar.subset(np.repeat(np.arange(10), 5000), float(ratio))) == total


# --- download ---


class Answer(BaseHTTPRequestHandler):
    server: "Server"

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.server.asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.cut])


class Server(ThreadingHTTPServer):
    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.status, self.cut, self.asked = content, 200, None, 0


@pytest.fixture
def server(ten, tmp_path, monkeypatch):
    """Starts a server with the archive of CIFAR-10; the cache is empty."""
    server = Server(ten[1])
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz"
    digest = hashlib.md5(server.content).hexdigest()
    there = download.Archive(url, digest, len(server.content))
    monkeypatch.setattr(cifar, "CIFAR10", replace(cifar.CIFAR10, archive=there))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def kept(tmp_path):
    return [path.name for path in (tmp_path / "cache/lift_jax/data").glob("*")]


def test_an_empty_root_downloads_once(server, ten, tmp_path, capfd):
    assert load("cifar10").train.labels.tolist() == ten[0].tolist()
    assert kept(tmp_path) == ["cifar-10-binary.tar.gz"]
    assert "cifar-10-binary.tar.gz" in capfd.readouterr().err  # the bar
    load("cifar10")
    assert server.asked == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(cut=1000), ["broke after 1,000 of"]),
        (dict(status=404), ["Not Found"]),
        (dict(content=b"<html>moved</html>"), ["checksum", "expected"]),
    ],
)
def test_what_breaks_leaves_nothing_and_says_how_to_go_on(server, tmp_path, change, words):
    whole = vars(server).copy()
    vars(server).update(change)
    said = message(lambda: load("cifar10"))
    assert [w for w in [*words, "127.0.0.1", "data.root"] if w not in said] == []
    assert kept(tmp_path) == []
    vars(server).update({key: whole[key] for key in change})
    assert len(load("cifar10").train) == 200


def test_no_network_and_a_full_disk(server, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = message(lambda: load("cifar10"))
    assert "No space left" in said and "XDG_CACHE_HOME" in said and kept(tmp_path) == []
    closed = replace(cifar.CIFAR10.archive, url="http://127.0.0.1:9/cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar, "CIFAR10", replace(cifar.CIFAR10, archive=closed))
    said = message(lambda: load("cifar10"))
    assert "Cannot download" in said and "refused" in said and "with a network" in said


def test_a_broken_encryption_is_no_fault_of_the_disk(server, tmp_path, monkeypatch):
    def broken(archive, file):
        raise ssl.SSLError(1, "record layer failure")

    monkeypatch.setattr(download, "_download", broken)
    said = message(lambda: load("cifar10"))
    assert "Cannot download" in said and "record layer failure" in said and kept(tmp_path) == []


def test_the_official_archives():
    ten, hundred = cifar.CIFAR10.archive, cifar.CIFAR100.archive
    assert ten.url == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert hundred.url == "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
    assert ten.md5 == "c32a1d4ab5d03f1284b67883e8d87530"
    assert hundred.md5 == "03b5dce01913d631647c71ecec9e9cb8"
