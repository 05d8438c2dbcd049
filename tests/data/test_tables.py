"""Tests of CSV, TSV and JSONL: the columns that are read, and the message of a wrong row."""

import json

import numpy as np
import pytest
from support.small_sets import all_names, draw, load, message


@pytest.fixture
def table(tmp_path):
    """Returns a loader of tables {name: text or rows}, the first of which is to train on."""
    for i in range(6):
        draw(tmp_path / f"{i}.png")
    draw(tmp_path / "a, b.png")

    def write(files, **options):
        for name, text in files.items():
            if not isinstance(text, str):
                text = "".join(json.dumps(row) + "\n" for row in text)
            (tmp_path / name).write_bytes(text.encode())
        options = {"root": tmp_path, "train_list": next(iter(files))} | options
        return load("table", **options)

    return write


def told(data, split):
    part = getattr(data, split)
    return [
        (path.rsplit("/", 1)[1], data.class_names[c])
        for path, c in zip(all_names(part), part.labels, strict=True)
    ]


def test_a_table_with_classes_and_splits(table):
    text = (
        "\ufeffid, Path ,class,SPLIT\r\n1,0.png,cat 10,train\r\n\r\n"
        '2,"a, b.png",cat 2,Train\r\n3,1.png,cat 2,validation\r\n4,2.png,cat 10,test\r\n'
    )
    data = table({"all.csv": text})
    assert data.class_names == ("cat 2", "cat 10")  # natural order
    assert told(data, "train") == [("0.png", "cat 10"), ("a, b.png", "cat 2")]
    assert told(data, "val") == [("1.png", "cat 2")]
    assert told(data, "test") == [("2.png", "cat 10")]


def test_tables_of_labels_a_split_each(table, tmp_path):
    files = {
        "train.tsv": "label\tpath\n1\ta, b.png\n0\t0.png\n",
        "test.csv": "path,label\n2.png,1\n",
        "val.jsonl": [{"path": "3.png", "label": 0, "time": 7}, {"label": "1", "path": "4.png"}],
    }
    lists = dict(test_list="test.csv", val_list="val.jsonl")
    data = table(files, **lists)
    assert told(data, "train") == [("a, b.png", "class 1"), ("0.png", "class 0")]
    assert told(data, "val") == [("3.png", "class 0"), ("4.png", "class 1")]
    (tmp_path / "names.txt").write_text("dog\nfox\nhare\n")
    data = table(files, **lists, class_names="names.txt")
    assert told(data, "test") == [("2.png", "fox")] and data.counts.tolist() == [1, 1, 0]


def test_without_a_test_split_a_share_is_held_out(table):
    rows = [{"path": f"{i}.png", "class": "ab"[i % 2]} for i in range(6)]
    data = table({"all.jsonl": rows}, test_share=0.34)
    assert np.bincount(data.test.labels).tolist() == [1, 1] and data.counts.tolist() == [2, 2]
    assert sorted(told(data, "train") + told(data, "test")) == [
        (row["path"], row["class"]) for row in rows
    ]
    assert "data.test_share" in message(lambda: table({"all.jsonl": rows}, test_share=0.0))


def test_labels_and_classes_together(table):
    text = "path,label,class\n0.png,1,zebra\n1.png,0,zoo\n2.png,1,zebra\n3.png,0,zoo\n"
    assert table({"t.csv": text}).class_names == ("zoo", "zebra")
    said = message(lambda: table({"t.csv": text.replace("1,zebra", "0,zebra", 1)}))
    assert "label 0" in said and "'zebra'" in said and "'zoo'" in said


def test_names_from_a_file(table, tmp_path):
    rows = [{"path": f"{i}.png", "class": "ab"[i % 2]} for i in range(6)]
    (tmp_path / "names.txt").write_text("b\nc\na\n")
    data = table({"t.jsonl": rows}, class_names="names.txt")
    assert data.class_names == ("b", "c", "a") and data.counts[1] == 0
    assert told(data, "train")[0][1] == "ab"[int(told(data, "train")[0][0][0]) % 2]
    (tmp_path / "names.txt").write_text("b\nc\n")
    said = message(lambda: table({"t.jsonl": rows}, class_names="names.txt"))
    assert "t.jsonl, line 1" in said and "'a'" in said and "names.txt lacks it" in said
    (tmp_path / "names.txt").write_text("a\nb\na\n")
    said = message(lambda: table({"t.jsonl": rows}, class_names="names.txt"))
    assert "'a' twice" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,class\n0.png\n", ["line 2", "expected 2 values", "found 1"]),
        ("path,class\na, b.png,x\n", ["line 2", "found 3", "quotes"]),
        ("path,path\n0.png,x\n", ["line 1", "'path'", "twice"]),
        ("file,species\n0.png,x\n", ["line 1", "found ['file', 'species']. Rename"]),
        ("path;class\n0.png;x\n", ["line 1: semicolons separate", "expected commas", ".tsv"]),
        ("path\tclass\n0.png\tx\n", ["line 1: tabs separate", "expected commas", ".tsv"]),
        ("folder\na\n", ["line 1", "found ['folder']. Rename"]),
        ("file,class\n0.png,x\n", ["line 1", "'path' and 'label' or 'class'", "'class'"]),
        ("path,class\n", ["no rows"]),
        ("\n", ["empty"]),
        ("path,class\n,x\n", ["line 2", "''"]),
        ('path,class\n"0.png,x\n', ["t.csv, line 2"]),
        ("path,label\n0.png,x\n", ["line 2", "'x'", "counts from 0"]),
        ("path,label\n0.png,9999999999\n", ["line 2", "too large"]),
        ("path,label\n0.png,0\n1.png,2\n", ["t.csv", "no image of class 1"]),
        ("path,class\n0.png,x\n1.png,x\n", ["two classes"]),
        ("path,class\n0.png,x\n0.png,y\n", ["line 3", "'0.png'", "'y'", "'x'", "line 2"]),
        ("path,class\n9.png,x\n0.png,y\n", ["line 2", "no file", "9.png", "data.root"]),
        ("path,class,split\n0.png,x,holdout\n", ["line 2", "'holdout'", "validation"]),
        ("path,class,split\n0.png,x,test\n", ["no row of the split 'train'"]),
        ("path,class,split\n0.png,x,train\n1.png,y,test\n", ["line 3", "'y'", "for training"]),
    ],
)
def test_mistakes_in_a_csv(table, text, words):
    said = message(lambda: table({"t.csv": text}))
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"path": "0.png"\n', ["line 1 is not JSON"]),
        ('["0.png", 1]\n', ["line 1", "a JSON object"]),
        ('{"path": "0.png", "label": 1.0}\n', ["line 1", "'label' is 1.0"]),
        ('{"path": "0.png", "label": true}\n', ["'label' is true"]),
        ('{"path": "\\ud800", "label": 1}\n', ["line 1", "half a character"]),
        ('{"path": "0.png", "label": -1}\n', ["'-1'"]),
        (
            '{"path": "0.png", "label": 0}\n{"path": "1.png", "class": "x"}\n',
            ["line 1", "'label' and others a 'class'"],
        ),
        ("[" * 100_000, ["not JSON"]),
    ],
)
def test_mistakes_in_lines_of_json(table, text, words):
    said = message(lambda: table({"t.jsonl": text}))
    assert [word for word in words if word not in said] == []


def test_commas_in_a_table_of_tabs(table):
    said = message(lambda: table({"t.tsv": "path,class\n0.png,x\n"}))
    assert "line 1: commas separate the columns, expected tabs" in said


def test_paths_of_windows(table, tmp_path):
    (tmp_path / "fox").mkdir()
    draw(tmp_path / "fox" / "a.png")
    said = message(lambda: table({"t.csv": "path,class\nfox\\a.png,x\n1.png,y\n"}))
    assert "line 2" in said and said.endswith("Write / between folders, not \\.")
    assert "data.root" in message(lambda: table({"t.csv": "path,class\nfox\\b.png,x\n1.png,y\n"}))


def test_a_folder_in_place_of_a_table(table, tmp_path):
    (tmp_path / "photos").mkdir()
    said = message(lambda: table({"t.csv": ""}, train_list="photos"))
    assert said == f"{tmp_path / 'photos'} is a directory. Set data.train_list to a text file."


def test_splits_are_said_once(table):
    rows = [{"path": f"{i}.png", "class": "ab"[i % 2], "split": "train"} for i in range(6)]
    said = message(lambda: table({"t.jsonl": rows, "u.jsonl": rows}, test_list="u.jsonl"))
    assert "column 'split'" in said and "data.train_list alone" in said
    assert "data.name=list" in message(lambda: table({"t.txt": "0.png 0\n"}))
