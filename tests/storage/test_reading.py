"""Files from outside: each broken one is one line that names it, and none takes long."""

import json
import os
import socket
from pathlib import Path

import pytest

from lift_jax.data.images import decode
from lift_jax.errors import UserError
from lift_jax.storage import reading
from lift_jax.storage.reading import open_regular, parse_json, read_bytes, read_json

BROKEN = {
    "deep list": (b"[" * 200_000, "100 deep"),
    "deep objects": (b'{"a":' * 200_000, "100 deep"),
    "deep and closed": (b"[" * 101 + b"]" * 101, "100 deep"),
    "unclosed string": (b'["' + b'\\"[' * 200_000, "not JSON"),
    "long number": (b'{"a": ' + b"7" * 5000 + b"}", "64 bits"),
    "number of 65 bits": (b'{"a": 18446744073709551616}', "64 bits"),
    "number beyond floats": (b'{"a": 1e999}', "not finite"),
    "NaN": (b'{"a": NaN}', "not finite"),
    "infinity": (b'{"a": -Infinity}', "not finite"),
    "key twice": (b'{"a": 1, "b": 2, "a": 3}', "'a' is there twice"),
    "half a character": (b'{"a": "\\ud800"}', "half a character"),
    "not UTF-8": (b'{"a": "\xff"}', "byte 7 is 0xff"),
    "HTML": (b"<html>", "not JSON"),
    "cut short": (b'{"a": [1, 2', "not JSON"),
    "empty": (b"", "not JSON"),
    "a list": (b"[1]", "expected a JSON object"),
    "null": (b"null", "expected a JSON object"),
    "a number": (b"5", "expected a JSON object"),
    "text": (b'"{}"', "expected a JSON object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_json_is_one_line(tmp_path, name):
    content, says = BROKEN[name]
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(file, remedy="Get it again.")
    message = str(caught.value)
    assert message.startswith(str(file)) and says in message and message.endswith("Get it again.")
    assert "\n" not in message and len(message) < 300 + len(str(file))


def test_plain_json_is_read(tmp_path):
    file = tmp_path / "a.json"
    value = {"a": [1, -2.5, True, None], "[[[" * 200: "]}" * 9, "\U0001f600": 2**64 - 1}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        for mark in (b"", b"\xef\xbb\xbf"):
            file.write_bytes(mark + text.encode())
            assert read_json(file) == value
    assert parse_json("[" * 100 + "]" * 100, "it", list)
    assert parse_json("null", "it", object) is None


def test_brackets_count_across_chunks(monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 7)
    with pytest.raises(UserError, match="100 deep"):
        parse_json("[" * 101 + "]" * 101, "it")
    assert parse_json("[" + "[], " * 500 + "[]]", "it", list)


def test_what_is_no_readable_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(UserError, match="Cannot read"):
        read_json(tmp_path / "a\0b.json")
    with pytest.raises(UserError, match="expected a regular file, found a folder"):
        read_json(tmp_path)


def test_a_large_file_is_not_read(tmp_path):
    file = tmp_path / "spaces.json"
    with open(file, "wb") as sparse:
        sparse.truncate(10**9)
    with pytest.raises(UserError, match="has 1.0 GB; expected at most 64.0 MB"):
        read_json(file)


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
