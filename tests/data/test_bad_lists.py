"""Tests of mutated lists, tables and JSON: the images and labels of the file, or an error."""

import csv
import io
import json
import re
from collections import Counter

import numpy as np
import pytest
from support.small_sets import draw, load, message

from lift_jax.data.sources import labelled_paths
from lift_jax.errors import UserError

MANY, CLASSES = 24, 4
LABEL = {f"dir {i % 3}/{i}.jpg": i % CLASSES for i in range(MANY)}
TRAIN = [path for i, path in enumerate(LABEL) if i % 3]
TEST = [path for i, path in enumerate(LABEL) if not i % 3]


def as_list(paths):
    return "".join(f"{path} {LABEL[path]}\n" for path in paths).encode()


def as_csv(paths):
    return ("path,label\n" + "".join(f"{path},{LABEL[path]}\r\n" for path in paths)).encode()


def as_jsonl(paths):
    return "".join(json.dumps({"path": p, "label": LABEL[p]}) + "\n" for p in paths).encode()


def as_inat(paths):
    return json.dumps(
        {
            "images": [{"id": i, "file_name": path} for i, path in enumerate(paths)],
            "annotations": [
                {"image_id": i, "category_id": LABEL[path]} for i, path in enumerate(paths)
            ],
            "categories": [{"id": c, "name": f"class {c}"} for c in range(CLASSES)],
        }
    ).encode()


# kind: the data set's name, the end of its files, their content
KINDS = {
    "list": ("list", ".txt", as_list),
    "csv": ("table", ".csv", as_csv),
    "jsonl": ("table", ".jsonl", as_jsonl),
    "inat": ("inaturalist", ".json", as_inat),
}


def parse(kind, content):
    """Reads a file without the code under test: [(path, label or name)], or raises."""
    text = content.decode("utf-8-sig")
    if kind == "list":
        lines = [line.strip() for line in re.split("\r\n|\r|\n", text)]
        words = [re.match(r"(.*\S)[ \t]+(\d+)$", line) for line in lines if line]
        return [(m[1], int(m[2])) for m in words]
    if kind == "csv":
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if "".join(row).strip()]
        head = [name.strip().lower() for name in rows[0]]
        path, label = head.index("path"), head.index("label")
        return [(row[path].strip(), int(row[label])) for row in rows[1:]]
    if kind == "jsonl":
        lines = [json.loads(line) for line in re.split("\r\n|\r|\n", text) if line.strip()]
        return [(line["path"], int(line["label"])) for line in lines]
    whole = json.loads(text)
    names = {c["id"]: c["name"] for c in whole["categories"]}
    files = {image["id"]: image["file_name"] for image in whole["images"]}
    return [(files[a["image_id"]], names[a["category_id"]]) for a in whole["annotations"]]


def mutate(content, rng):
    """Changes, removes, doubles or moves a few bytes or lines."""
    body = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        kind, at = rng.integers(0, 7), int(rng.integers(0, max(1, len(body))))
        end = at + int(rng.integers(1, 12))
        if kind == 0:
            body[at:end] = b""
        elif kind == 1:
            body[at:at] = body[at:end]
        elif kind == 2:
            body[at:at] = bytes(rng.choice(list(b' \t\r\n,"{}[]:0123456789-ex\\\xff\x00\xe9'), 1))
        elif kind == 3:
            body[at : at + 1] = bytes(rng.integers(0, 256, 1).tolist())
        elif kind == 4:
            body = body.replace(b"\n", b"\r\n")
        elif kind == 5:
            lines = body.split(b"\n")
            body = bytearray(b"\n".join(lines[i] for i in rng.permutation(len(lines))))
        else:
            digits = [i for i, byte in enumerate(body) if chr(byte).isdigit()]
            if digits:
                body[digits[at % len(digits)]] = ord("0") + int(rng.integers(0, 10))
    return bytes(body)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("bad")
    for path in LABEL:
        (home / path).parent.mkdir(exist_ok=True)
        (home / path).touch()
    return home


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_pair_paths_and_labels_rightly_or_say_what_is_wrong(home, kind, monkeypatch):
    monkeypatch.setattr(
        labelled_paths, "missing_files", lambda *_: []
    )  # it would find most mutations
    name, end, write = KINDS[kind]
    rng, outcomes = np.random.default_rng(list(kind.encode())), Counter()
    files = {f"{part}_list": f"{part}_{kind}{end}" for part in ("train", "test")}
    (home / files["test_list"]).write_bytes(write(TEST))
    for _ in range(125):
        content = mutate(write(TRAIN), rng)
        (home / files["train_list"]).write_bytes(content)
        try:
            data = load(name, root=home, **files)
        except UserError as error:
            str(error).encode()  # it can be printed
            outcomes["error"] += 1
            continue
        outcomes["read"] += 1
        found = [
            (path, data.class_names[c] if kind == "inat" else c)
            for path, c in zip(data.train.images.paths, data.train.labels.tolist(), strict=True)
        ]
        assert found == parse(kind, content)
    assert outcomes["error"] > 20 and outcomes["read"] > 5, outcomes


def test_a_path_with_two_labels_in_two_lists(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "train.txt").write_text("a.png 0\nb.png 1\n")
    (tmp_path / "test.txt").write_text("b.png 1\n\na.png 1\n")
    draw(tmp_path / "b.png")
    lists = dict(root=tmp_path, train_list="train.txt", test_list="test.txt")
    said = message(lambda: load("list", **lists))
    assert "test.txt, line 3" in said and "train.txt, line 1" in said and "'a.png'" in said


def test_missing_files_are_named_with_their_line(tmp_path):
    for i in range(4):
        draw(tmp_path / f"{i}.png")
    lists = dict(root=tmp_path, train_list="list.txt", test_list="test.txt")
    (tmp_path / "test.txt").write_text("0.png 0\n")
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(7)))
    (said,) = load("list", **lists).notes
    assert "Warning" in said and "list.txt, line 5: there is no file" in said and "(3 of 7" in said
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(8)))
    assert "which is" in message(lambda: load("list", **lists))


@pytest.mark.parametrize("other", ["./a.png", "sub/../a.png", "sub//../a.png"])
def test_a_path_with_two_labels_written_in_two_ways(tmp_path, other):
    draw(tmp_path / "a.png")
    draw(tmp_path / "sub" / "b.png")
    (tmp_path / "list.txt").write_text(f"a.png 0\nsub/b.png 1\n{other} 1\n")
    lists = dict(root=tmp_path, train_list="list.txt", test_list="list.txt")
    said = message(lambda: load("list", **lists))
    assert "list.txt, line 3" in said and "list.txt, line 1" in said and repr(other) in said


@pytest.mark.parametrize(
    "names, told",
    [
        ("red fox\nred_fox\n", "'red fox' and 'red_fox' of the labels 0, 1"),
        ("missile\nfox\nmissile\n", "'missile' of the labels 0, 2"),
    ],
)
def test_names_that_two_classes_share_are_told(names, told, tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png 0\n")
    (tmp_path / "names.txt").write_text(names)
    lists = dict(train_list="list.txt", test_list="list.txt", class_names="names.txt")
    (said,) = load("list", root=tmp_path, **lists).notes
    assert told in said


def test_a_label_of_thousands_of_digits(tmp_path):
    draw(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png " + "9" * 5000)
    lists = dict(root=tmp_path, train_list="list.txt", test_list="list.txt")
    assert "too large" in message(lambda: load("list", **lists))
