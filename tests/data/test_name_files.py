"""Tests of files of class names: keys, orders, and messages of mistakes."""

import re

import pytest
from support.small_sets import draw, load, message

from lift_jax.data.names import files, words

WORDNET = ("n01440764", "n01443537", "n01484850")
SYNSETS = "n01484850 great white shark, shark\nn01440764 tench, Tinca tinca\nn01443537 goldfish\n"
COUNT = tuple(str(i) for i in range(1, 12))  # in natural order
ENGLISH = "one two three four five six seven eight nine ten eleven".split()
BY_STRING = [ENGLISH[int(c) - 1] for c in sorted(COUNT)]

BY_LABEL = [
    ("tench\ngoldfish\nshark", "tench goldfish shark"),
    ("0: tench\n1: goldfish\n2: shark", "tench goldfish shark"),
    ("2 shark\n0 tench\n1 goldfish", "tench goldfish shark"),
    ("0,tench\n2,shark\n1,goldfish", "tench goldfish shark"),
    ("label,name\n0,tench\n1,goldfish\n2,shark", "tench goldfish shark"),
    ('0,"tench"\n1,"goldfish"\n2,"shark"', "tench goldfish shark"),
    ("{0: 'tench',\n 1: 'goldfish',\n 2: 'shark'}", "tench goldfish shark"),
    ('"0": "tench",\n"1": "goldfish",\n"2": "shark"', "tench goldfish shark"),
    ("1\ttench\n2\tgoldfish\n3\tshark", "tench goldfish shark"),
    ("tench 0\nshark 2\ngoldfish 1", "tench goldfish shark"),
    ("n01440764 tench\nn01443537 goldfish\nn01484850 shark, fish", "tench goldfish shark"),
    ("0 n01440764 tench\n1 n01443537 goldfish\n2 n01484850 shark", "tench goldfish shark"),
    ("cat cat\ndog dog", "cat dog"),
    ("cat\n7up\ndog", "cat 7up dog"),
]
BY_FOLDER = [
    (WORDNET, SYNSETS, ["tench", "goldfish", "great white shark"]),
    (WORDNET, SYNSETS + "\nn09999999 unused", ["tench", "goldfish", "great white shark"]),
    (("n01-a b", "n02-c"), "n02-c,dog\nn01-a b,cat\n", ["cat", "dog"]),
    (("n02085620-Chihuahua", "n02098413-Lhasa"), "n02098413 lhasa\nn02085620 chihuahua",
     ["chihuahua", "lhasa"]),
    (("hare", "owl", "red fox"), "red fox\nowl\nhare", ["hare", "owl", "red fox"]),
    (("hare", "owl", "red_fox"), "owl 0\nhare 1\nred fox 2", ["hare", "owl", "red fox"]),
    (("bat", "crane"), "crane crane bird\nbat bat animal", ["bat animal", "crane bird"]),
    (("bat", "crane"), "crane bird\nbat animal", ["bat animal", "crane bird"]),
    (("bat", "crane"), "crane: bird\nbat: animal", ["animal", "bird"]),
    (("001.Owl", "002.Hare"), "1 001.Owl\n2 002.Hare", ["001.Owl", "002.Hare"]),
    (WORDNET[:2], '{"n01443537": "goldfish",\n"n01440764": "tench, fish"}', ["tench", "goldfish"]),
    (("caf\u00e9", "tea"), "tea,Tee\ncafe\u0301,Kaffee", ["Kaffee", "Tee"]),
    (COUNT, "\n".join(f"{c} {ENGLISH[int(c) - 1]}" for c in sorted(COUNT)), ENGLISH),
]  # fmt: skip
WRONG = [
    (WORDNET, "n01440764 tench\nn01443537 a\nn01443537 b", ["missing: 'n01484850'",
                                                           "twice: 'n01443537'"]),
    (WORDNET, "n01440764 tench\nn01443537 a\nn0148485 b", ["no directory: 'n0148485 b'"]),
    (COUNT, "\n".join(f"{i} {name}" for i, name in enumerate(ENGLISH)),
     ["missing: '11'", "no directory: '0 one'"]),
    (WORDNET, "0: a\n1: b\n1: c", ["from 0 to 2", "missing: '2'", "twice: '1'"]),
    (WORDNET, "0 a\n1 b\n3 c", ["missing: '2'"]),
    (WORDNET, "a\nb", ["2 names", "3 class directories"]),
    (WORDNET, "a\n\nb\nc", ["blank line"]),
]  # fmt: skip


def written(folder, text):
    (folder / "names.txt").write_text(text)
    return folder / "names.txt"


@pytest.mark.parametrize(("text", "names"), BY_LABEL)
def test_names_by_label(tmp_path, text, names):
    assert files.read(written(tmp_path, text), True).names == names.split()
    plain = [line.strip() for line in text.split("\n")]
    assert files.read(written(tmp_path, text), False).names == plain


@pytest.mark.parametrize(("folders", "text", "names"), BY_FOLDER)
def test_names_by_folder(tmp_path, folders, text, names):
    found = files.read_for_folders(written(tmp_path, text), folders, True)
    assert found.names == names
    assert "matched by directory" in found.notes[0] and repr(folders[0]) in found.notes[0]


@pytest.mark.parametrize(("folders", "text", "said"), WRONG)
def test_mistakes_in_files_of_names(tmp_path, folders, text, said):
    path = written(tmp_path, text)
    error = message(lambda: files.read_for_folders(path, folders, True))
    assert [word for word in ("names.txt", *said) if word not in error] == []


def test_an_order_that_could_be_another_is_told(tmp_path):
    path = written(tmp_path, "\n".join(BY_STRING))  # the order of `ls`, beside natural order
    for clean in (True, False):
        found = files.read_for_folders(path, COUNT, clean)
        assert found.names == BY_STRING
        assert "'2' before '10': '1' = 'one', '2' = 'ten', '3' = 'eleven'" in found.notes[0]
    path = written(tmp_path, "a\nb\nc")
    assert files.read_for_folders(path, ("x1", "x2", "x3"), True).notes == []  # one order


@pytest.mark.parametrize("odd", ["9" * 5000, "a " * 10**5, " 0" * 10**5, "x" * 10**6, "0: ''"])
def test_odd_lines_are_names_and_take_no_time(tmp_path, odd):
    path = written(tmp_path, f"{odd}\n1: b")
    assert files.read(path, True).names == [odd.strip(), "1: b"]
    assert files.read_for_folders(path, ("a", "c"), True).names == [odd.strip(), "1: b"]
    assert words.read([odd, "1: b"]).names == (odd, "1: b")


def test_numbers_that_count_from_1_are_told(tmp_path):
    (note,) = files.read(written(tmp_path, "1: tench\n2: shark"), True).notes
    assert "counted from 1: label 0 is 'tench', label 1 'shark'" in note
    assert files.read(written(tmp_path, "tench\nshark"), True).notes == []


def lists(folder, train, names=""):
    for i in range(4):
        draw(folder / f"{i}.png", (i, 0, 0))
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(train)
    options = dict(root=folder, train_list="train.txt", test_list="test.txt")
    return options | (dict(class_names=written(folder, names)) if names else {})


def test_labels_that_may_count_from_1(tmp_path):
    data = load("list", **lists(tmp_path, "0.png 1\n1.png 2\n", "cat\ndog\nfox"))
    assert "label 0, 'cat'. The labels are 1 to 2: if they count from 1" in data.notes[0]
    assert load("list", **lists(tmp_path, "0.png 1\n1.png 3\n", "a\nb\nc\nd")).notes == ()
    said = message(lambda: load("list", **lists(tmp_path, "0.png 1\n1.png 2\n", "cat\ndog")))
    assert "label 2 is out of range" in said and "The labels are 1 to 2" in said


def test_lists_and_tables_without_names(tmp_path):
    assert not load("list", **lists(tmp_path, "0.png 0\n1.png 1\n")).named
    assert load("list", **lists(tmp_path, "0.png 0\n1.png 1\n", "cat\ndog")).named
    head, rows = "path,label{}\n", ("0.png,0{}\n", "1.png,0{}\n", "2.png,1{}\n", "3.png,1{}\n")
    for ends in (("", "", ""), (",class", ",cat", ",dog")):
        text = [head.format(ends[0]), *(r.format(ends[1 + i // 2]) for i, r in enumerate(rows))]
        (tmp_path / "t.csv").write_text("".join(text))
        assert load("table", root=tmp_path, train_list="t.csv").named == bool(ends[0])


TABLE = 'path,class\n0.png,"{0}"\n1.png,"{0}"\n2.png,"{1}"\n3.png,"{2}"\n'


@pytest.mark.parametrize(
    ("one", "other"), [("Red Fox", "red fox"), ("caf\u00e9", "cafe\u0301"), ("a b", "a\u00a0b")]
)
def test_classes_of_a_table_that_look_alike(tmp_path, one, other):
    lists(tmp_path, "0.png 0\n")
    (tmp_path / "t.csv").write_text(TABLE.format("owl", one, other))
    said = message(lambda: load("table", root=tmp_path, train_list="t.csv"))
    assert re.search(r"t.csv, line 5: .*the first is in .*t.csv, line 4", said)
    assert ascii(other) in said and ascii(one) in said


def test_classes_of_a_table_by_keys_in_a_file(tmp_path):
    options = lists(tmp_path, "0.png 0\n", "n00000002 tench\nn00000003 x\nn00000001 fox") | {
        "test_list": ""
    }
    (tmp_path / "t.csv").write_text(TABLE.format("n00000001", "n00000002", "n00000002"))
    data = load("table", **(options | {"train_list": "t.csv"}))
    assert data.class_names == ("tench", "x", "fox")
    assert data.counts.tolist() == [1, 0, 1]


@pytest.mark.parametrize("other", ["cafe\u0301", "CAF\u00c9", "caf\u00e9\u200b"])
def test_folders_that_look_alike(tmp_path, other):
    for name in ("caf\u00e9", other, "tea"):
        draw(tmp_path / "one" / name / "a.png")
        draw(tmp_path / "two" / ("test" if name == other else "train") / name / "a.png")
    draw(tmp_path / "two" / "train" / "tea" / "a.png")
    for root in ("one", "two"):
        said = message(lambda root=root: load("folder", root=tmp_path / root))
        assert ascii(other) in said and ascii("caf\u00e9") in said
