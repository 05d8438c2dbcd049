"""iNaturalist 2018: 437,513 training and 24,426 validation images of 8,142 species.

    python -m lift_jax.main --config=configs/inat.py --config.data.root=INAT --workdir=runs/inat

INAT holds the JSON files of the competition, train2018.json and val2018.json, the categories.json
with the names, which was published later, and the images below train_val2018/. For another level of
the taxonomy: --config.data.level=genus. For 2019 and 2021 set --config.data.train_list and
test_list (train2021.json, val2021.json), --config.data.expected= (which has the counts of 2018),
and, if the JSON has the names, --config.data.class_names=. Results are reported on the validation
split, as in the papers.

Published top-1 with CLIP ViT-B/16, in percent:
    LIFT without TTE   79.1   re-run by the authors of LT-Soups
    LIFT               79.4   the public log of a run with a fork of the authors' code, 20 epochs
We found no published accuracy of LIFT+.
"""

from lift_jax import settings


def get_config(argument: str | None = None):
    c = settings.start(argument)
    c.data.name = "inaturalist"
    c.data.train_list = "train2018.json"
    c.data.test_list = "val2018.json"
    c.data.class_names = "categories.json"
    c.data.expected = "437513//24426/8142"
    c.train.epochs = 20 if c.label == "LIFT" else 15
    c.checkpoint.every_steps = 1000
    return settings.finish(c, argument)
