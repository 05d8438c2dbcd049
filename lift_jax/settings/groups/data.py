"""The settings of the data set: which images, what is held out or cut, how they are read."""

from dataclasses import dataclass

from lift_jax.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The images: their source, what is held out or cut, and how they are read."""

    name: str = setting(
        "folder",
        "Data source: folder, list, table, inaturalist, tfds, cifar10, cifar100, digits or fake.",
    )
    root: str = setting(
        "",
        "Folder that holds the images. For cifar10 and cifar100, an empty value downloads them.",
        longest=4096,
        path=True,
    )
    train_list: str = setting(
        "",
        "File that lists the training images. For list: a text file with lines `path label`. For "
        "table: a .csv, .tsv or .jsonl file with the columns path, label or class, and optionally "
        "split. For inaturalist: the JSON of the competition. Paths are relative to data.root.",
        longest=4096,
        path=True,
    )
    test_list: str = setting(
        "",
        "File that lists the test images, in the format of data.train_list.",
        longest=4096,
        path=True,
    )
    val_list: str = setting(
        "",
        "File that lists the validation images, in the format of data.train_list. Empty: none.",
        longest=4096,
        path=True,
    )
    class_names: str = setting(
        "",
        "Text file with one class name a line: in the order of the labels, or beside a label or "
        "folder name. For inaturalist 2018, whose JSON has no names: categories.json.",
        longest=4096,
        path=True,
    )
    clean_names: bool = setting(
        True,
        "Clean class names for prompts: leave out numbers, WordNet ids and other keys, in names "
        "and in data.class_names. Classes whose names are only numbers or ids get no prompt. "
        "False: every name goes into its prompt unchanged.",
        before=False,
    )
    level: str = setting(
        "species",
        "For inaturalist: the level of the taxonomy, which is kingdom, phylum, class, order, "
        "family, genus or species.",
    )
    tfds: str = setting(
        "",
        "For tfds: name, name:version or name/config:version of a data set that TFDS has prepared "
        "as array_record.",
    )
    test_share: float = setting(
        0.2,
        "For a folder or table without a test split: share of each class to hold out for testing.",
        low=0,
        high=1,
    )
    val_share: float = setting(
        0.0,
        "Share of each class's training images to hold out for validation.",
        low=0,
        high=1,
        exclusive="high",
    )
    imbalance: float = setting(
        1.0,
        "Imbalance ratio: training images are removed until the largest class has this many times "
        "the images of the smallest. 1: keep all.",
        low=1,
        high=10**9,
    )
    max_per_class: int = setting(
        0,
        "Largest number of training images of a class. The seed draws them, after validation "
        "images are held out. Losses and groups of classes count the images that are left. 0: "
        "keep all.",
        low=0,
        high=10**9,
        before=0,
    )
    expected: str = setting(
        "",
        "Expected numbers of images and classes, as training/validation/test/classes. The run "
        "says whether the data match.",
    )
    features_gb: float = setting(
        8.0,
        "Gigabytes of activations to keep in the cache folder. Without augmentation, the input of "
        "the lowest tuned block is computed once and then read instead of the images. 0: none.",
        low=0,
        high=10**6,
    )
    decode: str = setting(
        "exact",
        "exact: the pixels of Pillow. fast: nearly the same pixels; JPEGs much larger than the "
        "input are decoded at reduced size, which is faster. For other images it gains little.",
        choices=("exact", "fast"),
    )
    prepared: str = setting(
        "",
        "Folder that `lift-jax data --prepare` wrote. Empty: the one in the cache folder. none: "
        "do not use prepared images.",
        longest=4096,
        path=True,
    )
    exif: bool = setting(False, "Rotate images by their EXIF orientation. The papers do not.")
    on_bad_image: str = setting(
        "error",
        "What to do with an image that cannot be read. error: stop. skip: continue without it, "
        "and list it in bad_images.csv.",
        choices=("error", "skip"),
    )
    workers: int = setting(
        -1,
        "Number of worker processes that decode images. 0: threads only. -1: one process for four "
        "CPUs if there are at least eight CPUs and 20,000 images to read, otherwise threads.",
        low=-1,
        high=4096,
    )
