"""Tests of class names: what prompts say for them, and which names are one class."""

from dataclasses import replace

import pytest

from lift_jax.data.names import same, words
from lift_jax.data.names.meaning import meaning
from lift_jax.data.types import Dataset
from lift_jax.models.text import TextConfig
from lift_jax.settings.groups.head import HeadSettings

CLIP = TextConfig(vocab=49_408, context=77, width=8, layers=1, heads=1, mlp=8)
SIGLIP2 = replace(CLIP, vocab=256_000)
VULPES = "00123_Animalia_Chordata_Mammalia_Carnivora_Canidae_Vulpes_vulpes"
BOREALIS = "07453_Plantae_Tracheophyta_Magnoliopsida_Asterales_Asteraceae_Inula_uva-ursi"
CRANES = "n02012849 crane, wader\nn03126707 crane, machine\nn01440764 tench, Tinca tinca"
EUROSAT = "AnnualCrop Forest HerbaceousVegetation Highway SeaLake River"

TAKEN = [
    (["001.Black_footed_Albatross", "002.Laysan_Albatross"],
     ["Black_footed_Albatross", "Laysan_Albatross"]),
    (["101.ak47", "214.american-flag"], ["ak47", "american-flag"]),
    (["1-cat", "2-dog", "3-fox"], ["cat", "dog", "fox"]),
    (["(0) cat", "(1) dog"], ["cat", "dog"]),
    (["0: tench", "1: goldfish"], ["tench", "goldfish"]),
    (["0,tench", "1,goldfish"], ["tench", "goldfish"]),
    (["Class 1 - cat", "Class 2 - dog"], ["cat", "dog"]),
    (["00012_cat", "00700_dog"], ["cat", "dog"]),
    (["cat 0", "dog 1"], ["cat", "dog"]),
    (["dog_2", "cat_1"], ["dog", "cat"]),
    (["n02085620-Chihuahua", "n02085782-Japanese_spaniel"], ["Chihuahua", "Japanese_spaniel"]),
    (["n01440764 tench", "n01443537 goldfish, Carassius auratus"], ["tench", "goldfish"]),
    (CRANES.split("\n"), ["crane, wader", "crane, machine", "tench"]),
    (["tench (n01440764)", "goldfish (n01443537)"], ["tench", "goldfish"]),
    ([VULPES, BOREALIS], ["Vulpes vulpes", "Inula uva-ursi"]),
    (["airplane_cabin airplane_cabin", "airport airport"], ["airplane_cabin", "airport"]),
    (["/a/airfield", "/b/bakery/shop"], ["airfield", "bakery shop"]),
    (EUROSAT.split(), "Annual Crop,Forest,Herbaceous Vegetation,Highway,Sea Lake,River".split(",")),
    (["polar-bear", "red-fox"], ["polar bear", "red fox"]),
    (["red.fox", "arctic.hare"], ["red fox", "arctic hare"]),
    (["red+fox", "arctic+hare"], ["red fox", "arctic hare"]),
    ([f"{i:03}.bird {chr(97 + i % 26)}{i}" for i in range(39)] + ["owl"],
     [f"bird {chr(97 + i % 26)}{i}" for i in range(39)] + ["owl"]),  # nearly all
]  # fmt: skip
KEPT = [
    "red_fox,hare",
    "7 up,fanta,sprite",
    "10 euro,20 euro,50 euro",
    "1 euro,2 euro",
    "2_clubs,3_clubs,2_hearts",
    "Boeing 707,Boeing 727",
    "707-320,727-200,737-200",
    "A320,A330,A340",
    "Acura RL Sedan 2012,Audi A4 2011",
    "3.5mm jack,6.3mm jack",
    "12 monkeys,13 ghosts",
    "polar-bear,lion",
    "St. Bernard,Afghan hound",
    "Bison bison,Vulpes vulpes",
    "Adidas,McDonalds,YouTube,Nike",
    "iPhone,iPad",
    "Cat,Dog,Fox",
    "cat 2,cat 10",
    "tench, Tinca tinca;goldfish, Carassius auratus",
    "Apple___scab,Tomato___healthy",
    "001.cat,dog,fox",
    'n01440764,";n01440765,x',
]


@pytest.mark.parametrize(("names", "spoken"), TAKEN, ids=lambda each: each[0])
def test_what_prompts_say(names, spoken):
    found = words.read(names)
    assert list(found.names) == spoken and found.changes and not found.codes


@pytest.mark.parametrize("names", KEPT)
def test_names_that_stay_as_they_are(names):
    listed = tuple(names.split(";" if ";" in names else ","))
    assert words.read(listed) == words.Wording(listed)


@pytest.mark.parametrize(
    "names",
    ["0,1,12", "001,002", "n01440764,n01443537", "class 0,class 1", "label_3,label_12", "\uff11,2",
     "#1,#2", "1.5,2.5", "-1,+1", "Class-1,Class-2", "id 7,id 9", "c0,c1,c2", "person 2,Person 1",
     "s01,s02,s03,s04,s05,s06,s07,s08,s09,s10"],
)  # fmt: skip
def test_codes_are_no_names(names):
    assert words.read(names.split(",")).are_codes


def test_codes_among_names_are_told():
    data = Dataset(None, None, ("fox", "hare", "n01440764"))  # type: ignore[arg-type]
    found = meaning(data, True, HeadSettings())
    assert found.texts[2] == ["a photo of a n01440764."]
    assert "1 of 3 class names are numbers or ids, as 'n01440764'" in found.notes[1]


@pytest.mark.parametrize(
    ("names", "foreign"),
    [("Füchse,Käuze,hare", True), ("红狐,猫", True), ("лиса,заяц", True), ("café,hare,owl", False)],
)
def test_names_with_letters_beyond_english(names, foreign):
    data = Dataset(None, None, tuple(names.split(",")))  # type: ignore[arg-type]
    told = meaning(data, True, HeadSettings()).lines(CLIP)
    assert any("not English" in line for line in told) == foreign
    assert len(meaning(data, True, HeadSettings()).lines(SIGLIP2)) == 1  # prompts alone
    assert meaning(data, True, HeadSettings()).lines(None) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"), ("Red Fox", "red fox"), ("red fox", "red_fox"),
        ("red fox", "red\u00a0fox"), ("red fox", "red  fox "), ("red fox", "re\u00add fox"),
        ("red fox", "red\u200b fox"), ("fox", "\uff46\uff4f\uff58"), ("stra\u00dfe", "STRASSE"),
        ("fish", "\ufb01sh"), ("fox", "fox\ufe0f"), ("fox", "\u200ffox"),
        ("\u1e9b\u0323", "\u1e69"),
    ],
)  # fmt: skip
def test_names_that_look_alike_are_one(one, other):
    assert same.key(one) == same.key(other)
    assert same.alike(["owl", one, other]) == (one, other)
    written = same.pair(one, other)
    if not (one + other).isascii():
        assert ascii(one) in written and ascii(other) in written


@pytest.mark.parametrize(("one", "other"), [("cafe", "café"), ("t-shirt", "t shirt"), ("o", "0")])
def test_names_that_differ(one, other):
    assert same.alike([one, other]) is None


def test_three_prompts_are_shown():
    data = Dataset(None, None, ("red_fox", "hare", "owl", "n"))  # type: ignore[arg-type]
    (line,) = meaning(data, True, HeadSettings()).lines(CLIP)
    assert line == "Prompts: 'a photo of a red fox.', 'a photo of a owl.', 'a photo of a n.'"
    (line,) = meaning(data, True, HeadSettings(prompt="ensemble")).lines(CLIP)
    assert line.startswith("Prompts: ") and line.endswith("(the first of 80 a class)")


def test_cleaned_names_are_told_and_can_be_kept():
    data = Dataset(None, None, ("001.red_fox", "002.hare"))  # type: ignore[arg-type]
    found = meaning(data, True, HeadSettings())
    assert found.texts == [["a photo of a red fox."], ["a photo of a hare."]]
    assert "'001.red_fox' -> 'red fox' (number in front left out)" in found.notes[1]
    kept = meaning(data, False, HeadSettings())
    assert kept.texts[0] == ["a photo of a 001.red fox."] and len(kept.notes) == 1


def test_codes_and_made_up_names_give_no_texts(tmp_path):
    for names, named, word in ((("0", "1"), True, "'0', '1'"), (("a", "b"), False, "no class")):
        data = Dataset(None, None, names, named=named)  # type: ignore[arg-type]
        found = meaning(data, True, HeadSettings())
        assert found.texts == [] and word in found.no_names
        assert len(found.notes) == 1 and "data.class_names=FILE" in found.notes[0]
        assert meaning(data, False, HeadSettings()).texts == [[f"a photo of a {n}."] for n in names]
    (tmp_path / "d.json").write_text('{"0": ["a tench"], "1": ["a shark"]}')
    head = HeadSettings(prompt="descriptor", descriptors=str(tmp_path / "d.json"))
    data = Dataset(None, None, ("0", "1"))  # type: ignore[arg-type]
    assert meaning(data, True, head).texts == [["a tench"], ["a shark"]]
