"""iNaturalist 2018: 437,513 training and 24,426 validation images of 8,142 species.

    python -m lift_jax.main --config=configs/inat.py --config.data.root=INAT \\
        --config.data.train_list=iNaturalist18_train.txt \\
        --config.data.test_list=iNaturalist18_val.txt \\
        --config.data.class_names=names.txt --workdir=runs/inat

The lists, made from the JSON files of the competition, have a line `path label` an image, the paths
relative to INAT; names.txt has a class a line.
Results are reported on the validation split, as in the papers.

Published top-1 with CLIP ViT-B/16, in percent:
    LIFT without TTE   79.1   re-run by the authors of LT-Soups
    LIFT               79.4   the public log of a run with a fork of the authors' code, 20 epochs
No accuracy of LIFT+ on it is public in what could be read.
"""

from configs import base
from lift_jax import config as config_lib


def get_config(argument: str | None = None):
    c = base.start(argument)
    c.data.name = "list"
    c.train.epochs = {"lift": 20, "lift_plus": 15}[config_lib.parse_argument(argument).method]
    c.checkpoint.every_steps = 1000
    return config_lib.finish(c, argument)
