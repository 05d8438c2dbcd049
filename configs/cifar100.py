"""CIFAR-100-LT, imbalance ratio 100 (10,847 training and 10,000 test images of 32x32).

    python -m lift_jax.main --config=configs/cifar100.py --workdir=runs/cifar

The official binary archive (169 MB) is downloaded once into ~/.cache/lift_jax. Without a network,
put cifar-100-binary.tar.gz into a folder, packed or unpacked, and give --config.data.root=FOLDER.
Other imbalance ratios: --config.data.imbalance=50 or 10, and 1 for all of CIFAR-100. CIFAR-10:
--config.data.name=cifar10.

Published top-1 with CLIP ViT-B/16, in percent:
    LIFT, IR 100 / 50 / 10     81.7 / 83.1 / 84.9   leaderboard mirrors, with TTE or not unknown
    LIFT without TTE, IR 100   81.3                 re-run by the authors of LT-Soups
We found no published accuracy of LIFT+.
"""

from lift_jax import settings


def get_config(argument: str | None = None):
    c = settings.start(argument)
    c.data.name = "cifar100"
    c.data.imbalance = 100.0
    return settings.finish(c, argument)
