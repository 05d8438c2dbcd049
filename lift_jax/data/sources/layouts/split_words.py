"""The names by which people call folders of training, validation and test images."""

import re
from dataclasses import dataclass

WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tests", "tst", "holdout", "heldout"),
}
# Words that also name classes: a train among vehicles; valid and invalid; training and match.
ALSO_CLASSES = ("train", "training", "valid", "dev", "eval")
# Words beside them that tell nothing apart: train_images, TestSet, dataset_train.
PLAIN = ("set", "sets", "data", "dataset", "split", "image", "images", "img", "imgs", "jpg")
PLAIN += ("photos", "pictures", "folder", "the", "my", "and")
DATE = re.compile(r"(19|20)[0-9]{2}([-_. ]?[0-9]{2}){0,2}")
SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}


@dataclass(frozen=True)
class Reading:
    """A folder's name, read as that of a split.

    Attributes:
        split: "train", "val" or "test".
        rest: the other words of the name ("seg" of seg_train), without those of `PLAIN`.
        word: the name in small letters if it is nothing but one of `WORDS`, else "".
    """

    split: str
    rest: tuple[str, ...]
    word: str


def read(name: str) -> Reading | None:
    """Returns the split that a folder's name speaks of, or None.

    The word may stand in any case among other words, which "_", "-", ".", spaces, digits or a
    capital letter set off: 01_train, train2017, TrainSet, seg_test, hold-out.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    apart = re.sub(r"\b(hold|held)[\W_]*out\b", "holdout", apart.replace("_", " "))
    words = [_without_plain(word) for word in re.split(r"[\W\d_]+", apart) if word]
    splits = {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    if splits == {"train", "val"}:
        splits = {"train"}  # train_val2018
    if len(splits) != 1:
        return None
    rest = tuple(word for word in words if word not in SPLIT_OF and word not in PLAIN)
    return Reading(splits.pop(), rest, name.casefold() if name.casefold() in SPLIT_OF else "")


def _without_plain(word: str) -> str:
    """Returns "train" for "trainset", "traindata" and the like, and other words as they are."""
    for plain in PLAIN:
        if word.removesuffix(plain) in SPLIT_OF:
            return word.removesuffix(plain)
    return word


def is_date(name: str) -> bool:
    """Returns True for a year, month or day, as 2021, 2021-07 or 20210731."""
    return bool(DATE.fullmatch(name))
