"""The settings of the data set: which images, what is held out or cut, how they are read."""

from dataclasses import dataclass

from lift_jax.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which images, what is held out or cut, and how they are read."""

    name: str = setting(
        "folder",
        "Data set: folder, list, table, inaturalist, tfds, cifar10, cifar100, digits or fake.",
    )
    root: str = setting(
        "",
        "Folder that holds the images. For cifar10 and cifar100, empty downloads them.",
        longest=4096,
        path=True,
    )
    train_list: str = setting(
        "",
        "Training images. For list: a text file of lines `path label`. For table: a .csv, .tsv or "
        ".jsonl file with the columns path, label or class, and optionally split. For inaturalist: "
        "the JSON of the competition. Paths are relative to data.root.",
        longest=4096,
        path=True,
    )
    test_list: str = setting(
        "", "Test images, in the form of data.train_list.", longest=4096, path=True
    )
    val_list: str = setting(
        "",
        "Validation images, in the form of data.train_list. Empty: no such file.",
        longest=4096,
        path=True,
    )
    class_names: str = setting(
        "",
        "Text file with one class name a line, in the order of the labels, or after a key: a label "
        "or the name of a folder. For inaturalist: "
        "categories.json, where the training JSON has numbers instead of names (2018).",
        longest=4096,
        path=True,
    )
    clean_names: bool = setting(
        True,
        "Leave numbers, WordNet ids and other keys beside class names out of the prompts, and read "
        "keys in data.class_names as no part of the names. Names that are numbers or ids alone, or "
        "that the data lacks, give no prompts. False: every name goes into its prompt as it is.",
        before=False,
    )
    level: str = setting(
        "species",
        "For inaturalist: kingdom, phylum, class, order, family, genus or species.",
    )
    tfds: str = setting(
        "",
        "For tfds: name, name:version or name/config:version of a data set that is prepared as "
        "array_record.",
    )
    test_share: float = setting(
        0.2,
        "For a folder or table without a test split: share of each class that is held out.",
        low=0,
        high=1,
    )
    val_share: float = setting(
        0.0,
        "Share of each class's training images that is held out for validation.",
        low=0,
        high=1,
        exclusive="high",
    )
    imbalance: float = setting(
        1.0,
        "Size of the largest class divided by the smallest, for cutting a long tail from any data "
        "set. 1 keeps all images.",
        low=1,
        high=10**9,
    )
    max_per_class: int = setting(
        0,
        "Largest number of training images of a class. The seed draws which, after validation "
        "images are held out; losses and groups of classes follow those that are left. 0: all.",
        low=0,
        high=10**9,
        before=0,
    )
    expected: str = setting(
        "",
        "Numbers of images and classes in the papers, as training/validation/test/classes. The run "
        "says if the data differ.",
    )
    features_gb: float = setting(
        8.0,
        "Gigabytes of activations to keep in the cache folder. Without augmentation, activations "
        "that enter the lowest tuned block are computed once and read instead of images. 0: none.",
        low=0,
        high=10**6,
    )
    decode: str = setting(
        "exact",
        "exact, or fast: decode JPEGs at reduced size and precision.",
        choices=("exact", "fast"),
    )
    prepared: str = setting(
        "",
        "Folder that `lift-jax data --prepare` wrote. Empty: the user's cache. none: not used.",
        longest=4096,
        path=True,
    )
    exif: bool = setting(False, "Turn images by their EXIF orientation. The papers do not.")
    on_bad_image: str = setting(
        "error",
        "error, or skip: list images that cannot be read and continue without them.",
        choices=("error", "skip"),
    )
    workers: int = setting(
        -1,
        "Worker processes that decode images. 0: threads. -1: one process for four CPUs if there "
        "are at least eight CPUs and 20,000 images to read, otherwise threads.",
        low=-1,
        high=4096,
    )
