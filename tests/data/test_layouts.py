"""Tests of the meaning of folders: layouts of public data sets, and what is said of each.

A layout is written as a shell writes it: "train/{cat,dog}/{1,2}.jpg" are four files.
"""

import re
from itertools import product

import pytest
from support.small_sets import all_names, load, message

from lift_jax.data.sources.layouts import split_words


def files(layout):
    """Returns the paths of a layout."""
    for pattern in layout.split():
        parts = re.split(r"\{(.*?)\}", pattern)
        choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
        yield from map("".join, product(*choices))


def make(root, layout):
    for path in files(layout):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


# name, files, classes, folders of (training, validation, test) images, words of the notes
UNDERSTOOD = [
    ("plain", "{cat,dog}/{1,2}.jpg", "cat dog", ". - .", ""),
    ("plain splits", "{train,val,test}/{cat,dog}/{1,2}.jpg", "cat dog", "train val test", ""),
    (
        "Intel Image Classification",
        "seg_train/seg_train/{sea,street}/{1,2}.jpg seg_test/seg_test/{sea,street}/3.jpg "
        "seg_pred/seg_pred/4.jpg",
        "sea street", "seg_train/seg_train - seg_test/seg_test",
        "training from seg_train/seg_train, test from seg_test/seg_test; Not used in ROOT: "
        "seg_pred/",
    ),
    (
        "Roboflow, folders",
        "{train,valid,test}/{cat,dog}/1.jpg README.roboflow.txt data.yaml",
        "cat dog", "train valid test", "validation from valid; Not used in ROOT: data.yaml",
    ),
    (
        "ImageNet",
        "ILSVRC/Data/CLS-LOC/train/{n01440764,n01443537}/{1,2}.JPEG "
        "ILSVRC/Data/CLS-LOC/{val,test}/ILSVRC2012_00000001.JPEG "
        "ILSVRC/Annotations/CLS-LOC/train/n01440764/1.xml ILSVRC/ImageSets/CLS-LOC/train.txt",
        "n01440764 n01443537", "ILSVRC/Data/CLS-LOC/train - ILSVRC/Data/CLS-LOC/train",
        "ILSVRC/Data/CLS-LOC/test, ROOT/ILSVRC/Data/CLS-LOC/val. A share; Annotations/, ImageSets/",
    ),
    (
        "CUB-200-2011",
        "CUB_200_2011/images/{001.Black_footed_Albatross,002.Laysan_Albatross}/{1,2}.jpg "
        "CUB_200_2011/{images,train_test_split}.txt CUB_200_2011/attributes/certainties.txt",
        "001.Black_footed_Albatross 002.Laysan_Albatross",
        "CUB_200_2011/images - CUB_200_2011/images",
        "classes are the folders in ROOT/CUB_200_2011/images; attributes/, images.txt, "
        "train_test_split.txt",
    ),
    (
        "iNaturalist 2021",
        "{train,val}/{00123_Animalia_Vulpes_vulpes,00124_Animalia_Vulpes_zerda}/1.jpg train.json",
        "00123_Animalia_Vulpes_vulpes 00124_Animalia_Vulpes_zerda", "train - val",
        "test from val; train.json",
    ),
    (
        "PlantNet-300K",
        "plantnet_300K/images/{train,val,test}/{1355868,1355920}/1.jpg "
        "plantnet_300K/plantnet300K_metadata.json",
        "1355868 1355920",
        "plantnet_300K/images/train plantnet_300K/images/val plantnet_300K/images/test",
        "training from plantnet_300K/images/train; metadata.json",
    ),
    ("EuroSAT", "2750/{AnnualCrop,Forest}/{1,2}.jpg", "AnnualCrop Forest", "2750 - 2750",
     "classes are the folders in ROOT/2750"),
    (
        "Food-101",
        "food-101/images/{apple_pie,baklava}/{1,2}.jpg food-101/meta/{train,test}.txt",
        "apple_pie baklava", "food-101/images - food-101/images",
        "Not used in ROOT/food-101: meta/",
    ),
    (
        "Caltech-101",
        "caltech-101/101_ObjectCategories/{accordion,anchor,BACKGROUND_Google}/{1,2}.jpg "
        "caltech-101/Annotations/accordion/1.mat",
        "accordion anchor BACKGROUND_Google",
        "caltech-101/101_ObjectCategories - caltech-101/101_ObjectCategories",
        "like the others: BACKGROUND_Google; Annotations/",
    ),
    (
        "Stanford Dogs",
        "Images/{n02085620-Chihuahua,n02085782-Japanese_spaniel}/{1,2}.jpg "
        "Annotation/n02085620-Chihuahua/n02085620_10074 train_list.mat",
        "n02085620-Chihuahua n02085782-Japanese_spaniel", "Images - Images",
        "Annotation/, train_list.mat",
    ),
    ("DTD", "dtd/images/{banded,blotchy}/{1,2}.jpg dtd/labels/train1.txt dtd/imdb/imdb.mat",
     "banded blotchy", "dtd/images - dtd/images", "imdb/, labels/"),
    (
        "Tiny ImageNet",
        "train/{n01443537,n01629819}/images/{1,2}.JPEG train/n01443537/n01443537_boxes.txt "
        "{val,test}/images/val_0.JPEG val/val_annotations.txt wnids.txt",
        "n01443537 n01629819", "train - train",
        "no class folder with images is in it: ROOT/test, ROOT/val; wnids.txt; as images: 1 .txt",
    ),
    (
        "Chest X-Ray",
        "chest_xray/{train,val,test}/{NORMAL,PNEUMONIA}/{1,2}.jpeg "
        "__MACOSX/chest_xray/train/NORMAL/._1.jpeg chest_xray/chest_xray/train/NORMAL/1.jpeg",
        "NORMAL PNEUMONIA", "chest_xray/train chest_xray/val chest_xray/test",
        "Not used in ROOT/chest_xray: chest_xray/",
    ),
    ("GTSRB", "Train/{0,1,10,2}/{1,2}.png Test/00000.png Meta/0.png {Meta,Test,Train}.csv",
     "0 1 2 10", "Train - Train", "ROOT/Test. A share; Meta/, Meta.csv, Test.csv, Train.csv"),
    ("Cats and Dogs", "{training_set/training_set,test_set/test_set}/{cats,dogs}/{1,2}.jpg",
     "cats dogs", "training_set/training_set - test_set/test_set", "test_set/test_set"),
    ("ASL alphabet", "asl_alphabet_train/asl_alphabet_train/{A,B}/{1,2}.jpg "
     "asl_alphabet_test/asl_alphabet_test/A_test.jpg", "A B",
     "asl_alphabet_train/asl_alphabet_train - asl_alphabet_train/asl_alphabet_train",
     "asl_alphabet_test. A share"),
    # other names of splits
    *((f"{a} and {b}", f"{a}/{{cat,dog}}/{{1,2}}.jpg {b}/{{cat,dog}}/3.jpg", "cat dog",
       f"{a} - {b}", f"training from {a}, test from {b}")
      for a, b in (("Training", "Testing"), ("Train", "Test"), ("TRAIN", "TEST"), ("trn", "tst"),
                   ("train", "valid"), ("train", "validation"), ("train", "dev"), ("Train", "Eval"),
                   ("train_images", "test_images"), ("train2017", "val2017"),
                   ("01_train", "02_test"), ("train.1", "test.1"), ("TrainSet", "TestSet"),
                   ("train", "hold-out"), ("train", "holdout"),
                   ("dataset_train", "dataset_validation"), ("trainset", "testset"),
                   ("animals10-train", "animals10-test"), ("TrainingImages", "TestingImages"),
                   ("Train_Set", "Validate_Set"), ("train_and_val", "tests"))
      ),
    ("two wrappers", "a/b/{train,test}/{cat,dog}/{1,2}.jpg", "cat dog", "a/b/train - a/b/test",
     "training from a/b/train"),
    ("a wrapper in each", "{train,test}/images/{cat,dog}/{1,2}.jpg train/labels/1.txt", "cat dog",
     "train/images - test/images", "Not used in ROOT/train: labels/"),
    # folders that only sound like splits
    ("vehicles", "{train,bus,car}/{1,2}.jpg", "bus car train", ". - .",
     "'train' is taken as a class"),
    ("valid and invalid", "{valid,invalid}/{1,2}.jpg", "invalid valid", ". - .",
     "'valid' is taken as a class"),
    ("words in class names", "{bullet_train,test_tube,train_station}/{1,2}.jpg ",
     "bullet_train test_tube train_station", ". - .", ""),
    ("a deep class among such", "{airfield,beach}/{1,2}.jpg train_station/{platform,hall}/1.jpg",
     "airfield beach train_station", ". - .", ""),
    ("valid and invalid by kind", "valid/{new,old}/{1,2}.jpg invalid/{torn,wet}/{1,2}.jpg",
     "invalid valid", ". - .", "'valid' is taken as a class; first level"),
    # what lies beside
    (
        "beside the splits",
        "{train,test}/{cat,dog}/{1,2}.jpg {unlabeled,pred}/5.jpg test2/{cat,dog}/1.jpg "
        "labels.csv loose.jpg train/_classes.csv",
        "cat dog", "train - test",
        "ROOT: pred/, test2/, unlabeled/, 1 image directly in it (first: loose.jpg), labels.csv; "
        "ROOT/train: _classes.csv",
    ),
    ("a copy beside the training images", "{train,cropped,old/train}/{cat,dog}/{1,2}.jpg",
     "cat dog", "train - train", "Not used in ROOT: cropped/, old/"),
    ("no classes beside", "train/{cat,dog}/{1,2}.jpg {seg_pred,docs_2,old}/1.jpg", "cat dog",
     "train - train", "Not used in ROOT: docs_2/, old/, seg_pred/"),
    ("an unlabelled folder", "train/{cat,dog}/{1,2}.jpg unlabeled/{1,2}.jpg", "cat dog",
     "train - train", "Not used in ROOT: unlabeled/"),
    ("a test folder of unknown", "train/{cat,dog}/{1,2}.jpg test/unknown/1.jpg", "cat dog",
     "train - train", "ROOT/test. A share"),
    ("an empty test folder", "train/{cat,dog}/{1,2}.jpg test/readme.md", "cat dog",
     "train - train", "ROOT/test. A share"),
    ("a flat test with a validation", "{train,val}/{cat,dog}/{1,2}.jpg test/1.jpg", "cat dog",
     "train - val", "in it: ROOT/test.; test from val"),
    ("loose images beside classes", "{cat,dog}/{1,2}.jpg {3,4}.jpg", "cat dog", ". - .",
     "2 images directly in it (first: 3.jpg)"),
    ("face masks", "{mask,no_mask}/{1,2}.jpg", "mask no_mask", ". - .", ""),
    ("numbered classes", "class_{1,2,10}/{1,2}.jpg", "class_1 class_2 class_10", ". - .", ""),
    ("blood cells", "images/{TRAIN,TEST,TEST_SIMPLE}/{EOSINOPHIL,MONOCYTE}/1.jpeg",
     "EOSINOPHIL MONOCYTE", "images/TRAIN - images/TEST", "Not used in ROOT/images: TEST_SIMPLE/"),
    ("Fruits-360", "fruits-360/{Training,Test}/{Apple,Pear}/1.jpg "
     "fruits-360/test-multiple_fruits/1.jpg", "Apple Pear",
     "fruits-360/Training - fruits-360/Test", "test-multiple_fruits/"),
    # levels
    ("years below classes", "{cat,dog}/{2020,2021}/{1,2}.jpg", "cat dog", ". - .", ""),
    ("one folder in each class", "{cat,dog}/images/{1,2}.jpg", "cat dog", ". - .", ""),
    ("some images below", "{cat,dog}/{1,2}.jpg cat/more/{old,new}/3.jpg", "cat dog", ". - .", ""),
    ("kinds of kinds", "animals/{cat,dog}/{1,2}.jpg plants/{rose,oak}/{1,2}.jpg",
     "animals plants", ". - .", "2 folders of the first level (animals, plants). The 4 folders"),
]  # fmt: skip


@pytest.mark.parametrize("layout, classes, folders, words", [
    pytest.param(*row[1:], id=row[0]) for row in UNDERSTOOD
])  # fmt: skip
def test_layouts_that_are_understood(tmp_path, layout, classes, folders, words):
    data = load("folder", root=make(tmp_path, layout))
    assert data.class_names == tuple(classes.split())
    splits = (data.train, data.val, data.test)
    for split, folder in zip(splits, folders.replace(" - ", "|-|").split("|"), strict=False):
        if folder == "-":
            assert split is None
        elif split is not None and " " not in folder:
            home = tmp_path / folder
            assert len(split) and all(name.startswith(f"{home}/") for name in all_names(split))
    notes = " ".join(data.notes).replace(str(tmp_path), "ROOT")
    for word in filter(None, words.split("; ")):
        assert word in notes
    assert words or not data.notes


# name, files, words of the error
ASKED = [
    ("dogs-vs-cats", "train/{cat,dog}.{0,1}.jpg test1/1.jpg sampleSubmission.csv",
     "test1, train; images directly; data.name=table"),
    ("Roboflow, flat", "{train,valid,test}/{1.jpg,_classes.csv}", "images directly"),
    ("Places365", "data_256/{a/airfield,a/alley,b/beach}/{1,2}.jpg",
     "a, b only divide the 3 folders below them, as a/airfield"),
    ("SUN397", "SUN397/{a/abbey,a/airport,b/badlands}/{1,2}.jpg SUN397/ClassName.txt",
     "as a/abbey"),
    ("Herbarium", "{train,test}_images/{000,001}/{00,01}/1.jpg train_metadata.json", "as 000/00"),
    ("iWildCam", "train/{1,2}.jpg test/3.jpg iwildcam2022_train_annotations.json",
     "images directly; data.name=table"),
    ("Oxford Pets", "images/{Abyssinian_1,beagle_1}.jpg annotations/list.txt",
     "one class directory, 'images'; data.name=table"),
    ("Oxford Pets, trimaps", "images/Abyssinian_1.jpg annotations/trimaps/Abyssinian_1.png",
     "'annotations' does not name a class"),
    ("Flowers-102", "jpg/image_0000{1,2}.jpg imagelabels.mat", "one class directory, 'jpg'"),
    ("flat", "{1,2}.jpg labels.csv", "no class directories; data.name=table"),
    ("YOLO", "images/{train,val}/1.jpg labels/{train,val}/1.txt", "train, val; images directly"),
    ("VOC", "{JPEGImages,SegmentationClass}/1.png Annotations/1.xml", "'JPEGImages' does not"),
    ("one class by years", "cats/{2020,2021-07}/1.jpg", "one class directory, 'cats'"),
    ("one class to train", "train/cat/{2020,2021}/{1,2}.jpg", "one class directory, 'cat'"),
    ("labeled and not", "labeled/{cat,dog}/1.jpg unlabeled/2.jpg", "'labeled' does not name"),
    ("masks", "{image,mask}/{1,2}.png", "'image' does not name a class"),
    ("NIH", "images_0{01,02,10}/images/1.png Data_Entry_2017.csv", "images_001, images_002"),
    ("HAM10000", "HAM10000_images_part_{1,2}/1.jpg HAM10000_metadata.csv", "numbered parts"),
    ("Stanford Cars", "cars_train/cars_train/1.jpg cars_test/cars_test/2.jpg",
     "one class directory, 'cars_train'"),
    ("splits in a split", "train/{train,test}/1.jpg", "test, train, are named as splits"),
    ("a split and a class in a name", "{train,test}_{cat,dog}/{1,2}.jpg", "images directly"),
    # what could be either
    ("A and B", "{A,B}/{cat,dog}/{1,2}.jpg", "the folders A, B hold folders of the same names"),
    ("A, B and C", "{A,B,C}/{cat,dog,fox}/{1,2}.jpg", "A, B, C; cat, dog, fox"),
    ("nearly the same", "A/{cat,dog,fox}/{1,2}.jpg B/{cat,dog}/{1,2,3,4,5}.jpg B/6.jpg",
     "same names"),
    ("the same in other cases", "A/{cat,Big_dog}/{1,2}.jpg B/{Cat,big__dog}/{1,2}.jpg",
     "Big_dog, cat"),
    ("the same in wrappers", "{A,B}/images/{cat,dog}/{1,2}.jpg", "A, B; cat, dog"),
    ("folds", "fold_{1,2,3,4,5}/{cat,dog}/1.jpg", "fold_1, fold_2; cat, dog"),
    ("folds with splits", "fold{1,2}/{train,test}/{cat,dog}/1.jpg", "lie below"),
    ("samples beside", "dataset/{cat,dog}/1.jpg samples/2.jpg", "'dataset' does not"),
    ("samples beside splits", "animals/{train,test}/{cat,dog}/1.jpg samples/2.jpg", "lie below"),
    ("no training by name", "images/{cat,dog}/1.jpg images_test/{cat,dog}/1.jpg",
     "images_test; beside it: images"),
    ("valid beside its training", "data/{cat,dog}/1.jpg valid/{cat,dog}/1.jpg", "beside it: data"),
    ("train among kinds", "train/{steam,electric}/1.jpg bus/{city,school}/1.jpg", "'train'; bus"),
    ("domains", "{art,photo,sketch,toon}/{a1,a2,a3,a4,a5}/1.jpg", "art, photo, sketch, toon"),
    ("reverse", "{cat,dog}/{train,test}/{1,2}.jpg", "splits (test, train) lie below"),
    ("MVTec", "{bottle,cable,nut}/{train/good,test/broken,ground_truth/broken}/1.png",
     "lie below the folders bottle, cable, nut"),
    ("two for training", "{train_1,train_2,test}/{cat,dog}/1.jpg", "training images: train_1"),
    ("two for validation", "{train,dev,eval}/{cat,dog}/1.jpg", "validation images: dev, eval"),
    ("no training", "{test,val}/{cat,dog}/1.jpg", "test, val, the names of a split"),
    ("test among classes", "{cat,dog,test}/{1,2}.jpg", "test, the name of a split; cat, dog"),
    ("train and test flat among classes", "{bus,car,train,test}/{1,2}.jpg", "images directly"),
    ("a class of classes", "train/{steam,electric}/1.jpg {bus,car}/1.jpg", "'train'; bus, car"),
]  # fmt: skip


@pytest.mark.parametrize("layout, words", [pytest.param(*row[1:], id=row[0]) for row in ASKED])
def test_layouts_that_are_not(tmp_path, layout, words):
    said = message(lambda: load("folder", root=make(tmp_path, layout)))
    for word in words.split("; "):
        assert word in said
    assert "\n" not in said and str(tmp_path) in said


@pytest.mark.parametrize("name, split, rest", [
    ("Validation", "val", ()), ("imagenet_val", "val", ("imagenet",)), ("Test-Set", "test", ()),
    ("TRAINING DATA", "train", ()), ("hold_out", "test", ()), ("train_val2018", "train", ()),
    ("03.dev", "val", ()), ("TestImages", "test", ()), ("held-out", "test", ()),
])  # fmt: skip
def test_names_of_splits(name, split, rest):
    read = split_words.read(name)
    assert (read.split, read.rest) == (split, rest)


@pytest.mark.parametrize("name", ["cat", "trainer", "strain", "contest", "train_test", "devil",
                                  "latest", "invalid", "valley", "2017", "retrain"])  # fmt: skip
def test_names_of_no_split(name):
    assert split_words.read(name) is None
