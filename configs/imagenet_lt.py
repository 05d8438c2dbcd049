"""ImageNet-LT: 115,846 training, 20,000 validation and 50,000 test images of 1,000 classes.

    python -m lift_jax.main --config=configs/imagenet_lt.py --config.data.root=IMAGENET \\
        --config.data.train_list=ImageNet_LT_train.txt \\
        --config.data.test_list=ImageNet_LT_test.txt \\
        --config.data.class_names=names.txt --workdir=runs/imagenet_lt

The lists are those of Liu et al. (OLTR, CVPR 2019), which define the data set and are not included
here. They have one line `path label` for each image, with paths relative to IMAGENET. names.txt has
one class name a line. --config.data.val_list=ImageNet_LT_val.txt adds the validation split, for
choosing settings. The run says whether the numbers of images and classes are those above.
Results are reported on the test split.

Published top-1 with CLIP ViT-B/16, in percent:
    LIFT with TTE      78.3   many 81.3, medium 77.4, few 73.4: second-hand, quoted by RetFormer
    LIFT without TTE   77.0   re-run by the authors of LT-Soups
    LIFT, ViT-L/14     82.9   leaderboard mirrors; whether with TTE is not said
We found no published accuracy of LIFT+.
"""

from lift_jax import settings


def get_config(argument: str | None = None):
    c = settings.start(argument)
    c.data.name = "list"
    c.data.expected = "115846/20000/50000/1000"
    return settings.finish(c, argument)
