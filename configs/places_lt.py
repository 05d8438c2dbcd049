"""Places-LT: 62,500 training, 7,300 validation and 36,500 test images of 365 classes.

    python -m lift_jax.main --config=configs/places_lt.py --config.data.root=PLACES \\
        --config.data.train_list=Places_LT_train.txt --config.data.test_list=Places_LT_test.txt \\
        --config.data.class_names=names.txt --workdir=runs/places_lt

The lists are those of Liu et al. (OLTR, CVPR 2019), which define the data set and are not included
here. They have one line `path label` for each image, with paths relative to PLACES. names.txt has
one class name a line. --config.data.val_list=Places_LT_val.txt adds the validation split, for
choosing settings. The run says whether the numbers of images and classes are those above.
Results are reported on the test split.

Published top-1 with CLIP ViT-B/16, in percent:
    LIFT with TTE      52.2   second-hand, quoted by RetFormer
    LIFT without TTE   51.5   many 51.3, medium 52.2, few 50.5: second-hand, quoted by RetFormer
    LIFT, ViT-L/14     53.7   leaderboard mirrors; whether with TTE is not said
We found no published accuracy of LIFT+.
"""

from lift_jax import settings


def get_config(argument: str | None = None):
    c = settings.start(argument)
    c.data.name = "list"
    c.data.expected = "62500/7300/36500/365"
    return settings.finish(c, argument)
