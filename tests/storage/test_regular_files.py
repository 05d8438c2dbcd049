"""Tests of storage/reading.py: only regular files are read, and nothing waits for a writer."""

import os
import socket
from pathlib import Path

import pytest

from lift_jax.data.images import decode
from lift_jax.errors import UserError
from lift_jax.storage.reading import open_regular, read_bytes


def test_a_regular_file_and_a_link_to_it_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "a") as file:
        assert file.read() == b"content"
    assert read_bytes(tmp_path / "link", 7) == b"content"


def test_other_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "link.jpg").symlink_to("fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, kind in (("fifo.jpg", "a FIFO"), ("link.jpg", "a FIFO"), ("folder.jpg", "a folder")):
        with pytest.raises(UserError, match=f"{name}: expected a regular file, found {kind}"):
            open_regular(tmp_path / name)
        with pytest.raises(UserError, match=name):
            decode.read_image(tmp_path / name)
    with pytest.raises(UserError, match="/dev/zero: expected a regular file, found a character"):
        read_bytes(Path("/dev/zero"), 10)


def test_a_socket_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        with pytest.raises((UserError, OSError)):
            open_regular("socket.png")


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(UserError, match="has 1.0 TB; expected at most 1.0 MB"):
        read_bytes(tmp_path / "sparse", 1_000_000)
