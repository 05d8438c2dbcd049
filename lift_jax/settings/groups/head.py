"""The settings of the classifier: how it starts, and the prompts of the classes."""

from dataclasses import dataclass

from lift_jax.settings.setting import setting


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The classifier, how it starts, and the prompts of the classes."""

    kind: str = setting(
        "auto",
        "Classifier: cosine, linear, l2norm or layernorm. text: the text features of the classes, "
        "as in CLIP's zero-shot classifier. auto: text if a tuner changes the texts, otherwise "
        "cosine.",
    )
    scale: float = setting(
        25.0,
        "Scale (inverse temperature) of the cosine classifier's logits.",
        low=0,
        exclusive="low",
        high=10**6,
    )
    init: str = setting(
        "auto",
        "Start of the classifier. text: from the class names; class_mean or linear_probe: from "
        "training images; none: random. auto: text if the backbone has a text tower and the "
        "classes have names, otherwise class_mean.",
        choices=("auto", "text", "class_mean", "linear_probe", "none"),
    )
    shots: int = setting(
        100,
        "Largest number of images of each class for class_mean and linear_probe. 0: all.",
        low=0,
        by_method=True,
        high=10**9,
    )
    random: str = setting(
        "uniform",
        "Random start of a linear classifier with head.init=none: uniform (rows of unit length) "
        "or kaiming_normal.",
        choices=("uniform", "kaiming_normal"),
        by_method=True,
    )
    prompt: str = setting(
        "a photo of a {}.",
        "Prompt of a class: a template with {} for the name, classname (the name alone), ensemble "
        "(CLIP's 80 templates) or descriptor (head.descriptors).",
        longest=4096,
    )
    descriptors: str = setting(
        "",
        "For head.prompt=descriptor: a JSON file, {class name: [phrase, ...]}.",
        longest=4096,
        path=True,
    )
