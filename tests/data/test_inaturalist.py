"""Tests of iNaturalist's JSON: the classes of each level, their order, images and labels."""

import json

import numpy as np
import pytest
from support.small_sets import all_names, draw, load, message

# id: kingdom, class, genus, name. The order of the names is not that of the ids; Oenanthe is a
# genus of plants and one of birds. "Zea" before "abies": as Python sorts.
TAXA = {
    7: ("Plantae", "Magnoliopsida", "Oenanthe", "Oenanthe crocata"),
    3: ("Animalia", "Aves", "Oenanthe", "Oenanthe deserti"),
    5: ("Animalia", "Aves", "Corvus", "Corvus corax"),
    0: ("Plantae", "Liliopsida", "Zea", "Zea mays"),
    1: ("Animalia", "Aves", "Corvus", "abies, not sorted by case"),
}
ORDER = ["Corvus corax", "Oenanthe crocata", "Oenanthe deserti", "Zea mays", TAXA[1][3]]


def categories(numbers=False):
    """Returns the categories as in 2019 and 2021, or with numbers for names as in 2018."""
    if numbers:
        return [{"id": i, "name": str(i), "supercategory": "Life"} for i in TAXA]
    levels = ("kingdom", "class", "genus", "name")
    return [{"id": i, **dict(zip(levels, names, strict=True))} for i, names in TAXA.items()]


def content(folder, of, numbers=False):
    """Returns images of the categories `of`, in another order than their annotations."""
    images = [
        {"id": 100 + i, "file_name": f"{folder}/{c}/{i}.jpg", "license": 1}
        for i, c in enumerate(of)
    ]
    annotations = [{"id": i, "image_id": 100 + i, "category_id": c} for i, c in enumerate(of)]
    return {
        "info": {"year": 2018},
        "images": images[::-1],
        "annotations": annotations,
        "categories": categories(numbers),
    }


@pytest.fixture
def inat(tmp_path):
    """Writes the files and returns a loader that takes changes of them."""

    def write(numbers=False, change=lambda files: None, **options):
        files = {
            "train2018.json": content("train_val", [7, 3, 3, 5, 0, 1], numbers),
            "val2018.json": content("val", [1, 7], numbers),
            "categories.json": categories(),
        }
        change(files)
        for name, value in files.items():
            (tmp_path / name).write_text(json.dumps(value))
        for path in ("7/0", "3/1", "3/2", "5/3", "0/4", "1/5"):
            draw(tmp_path / f"train_val/{path}.jpg")
        draw(tmp_path / "val/1/0.jpg")
        draw(tmp_path / "val/7/1.jpg")
        lists = dict(train_list="train2018.json", test_list="val2018.json")
        return load("inaturalist", root=tmp_path, **(lists | options))

    return write


def pairs(split, names):
    """Returns the category in each path with the class that it is given."""
    found = [
        (int(path.split("/")[-2]), names[c])
        for path, c in zip(all_names(split), split.labels, strict=True)
    ]
    assert len(found) == len(split)
    return found


@pytest.mark.parametrize("numbers", [False, True])
def test_species_are_sorted_by_name(inat, numbers):
    data = inat(numbers, class_names="categories.json" if numbers else "")
    assert list(data.class_names) == ORDER == sorted(names[3] for names in TAXA.values())
    for split in (data.train, data.test):
        for category, name in pairs(split, data.class_names):
            assert name == TAXA[category][3]
    assert data.counts.tolist() == [1, 1, 2, 1, 1] and len(data.test) == 2
    assert np.asarray(data.train.images[0]).shape == (7, 5, 3)


@pytest.mark.parametrize(
    ("level", "names"),
    [
        ("kingdom", ["Animalia", "Plantae"]),
        ("class", ["Aves", "Liliopsida", "Magnoliopsida"]),
        ("genus", ["Corvus", "Oenanthe", "Oenanthe", "Zea"]),
    ],
)
def test_higher_levels(inat, level, names):
    data = inat(level=level)
    assert list(data.class_names) == names
    column = ("kingdom", "class", "genus").index(level)
    for category, name in pairs(data.train, data.class_names):
        assert name == TAXA[category][column]
    if level == "genus":  # the bird comes first, by its kingdom; the two stay apart
        assert [int(data.train.labels[i]) for i in (0, 1)] == [2, 1]
        assert "'Oenanthe' of the labels 1, 2" in data.notes[0]


def test_numbers_for_names_need_categories_json(inat):
    said = message(lambda: inat(numbers=True))
    assert "numbers for names" in said and "categories.json" in said
    assert "no 'genus'" in message(lambda: inat(numbers=True, level="genus"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f["train2018.json"].pop("annotations"), ["no list 'annotations'", "test split"]),
        (lambda f: f["train2018.json"]["annotations"].pop(), ["1 of 6 images", "105"]),
        (
            lambda f: f["val2018.json"]["annotations"][1].update(image_id=100),
            ["val2018.json, annotation 1", "100", "second"],
        ),
        (lambda f: f["val2018.json"]["annotations"][0].update(image_id=9), ["no image 9"]),
        (lambda f: f["val2018.json"]["annotations"][0].update(category_id=9), ["no category 9"]),
        (lambda f: f["val2018.json"]["annotations"][0].update(category_id=None), ["category_id"]),
        (lambda f: f["val2018.json"]["images"].append({"id": 100}), ["image 100", "twice"]),
        (lambda f: f["val2018.json"]["images"][0].pop("file_name"), ["image 101", "file_name"]),
        (
            lambda f: [f[k]["categories"][2].pop("name") for k in list(f)[:2]],
            ["train2018.json", "category 5", "no 'name'"],
        ),
        (
            lambda f: f["train2018.json"]["categories"].append(categories()[0] | {"id": 99}),
            ["categories 7 and 99", "Oenanthe crocata"],
        ),
        (
            lambda f: f["val2018.json"]["categories"][0].update(name="Rosa"),
            ["category 7", "'Rosa'", "different data sets"],
        ),
        (lambda f: f.update({"val2018.json": [1, 2]}), ["val2018.json", "no list 'categories'"]),
    ],
)
def test_mistakes_in_the_json(inat, change, words):
    said = message(lambda: inat(change=change))
    assert [word for word in words if word not in said] == []


def test_what_is_not_json_and_unknown_levels(inat, tmp_path):
    inat()
    (tmp_path / "val2018.json").write_text("{")
    lists = dict(train_list="train2018.json", test_list="val2018.json")
    said = message(lambda: load("inaturalist", root=tmp_path, **lists))
    assert "val2018.json is not JSON" in said
    (tmp_path / "val2018.json").write_text("[" * 100_000)
    assert "not JSON" in message(lambda: load("inaturalist", root=tmp_path, **lists))
    assert "Did you mean 'genus'" in message(lambda: inat(level="genius"))
