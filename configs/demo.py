"""The demo: handwritten digits, long-tailed, and a small CLIP, both inside the packages.

    python -m lift_jax.main --config=configs/demo.py --workdir=runs/demo

Data: the 1,797 real 8x8 digits that ship with scikit-learn; 30 images a class are the test split,
the rest is made long-tailed at imbalance 50 (140 images of "zero" down to 3 of "nine").
Backbone: a CLIP of 32 pixels and 1 M parameters, trained by this project on rendered glyphs
(`python -m lift_jax.demo.pretrain`); it has seen no image of the data set.

The README has the numbers of five seeds.
"""

from lift_jax import settings


def get_config(argument: str | None = None):
    c = settings.start(argument)
    c.data.name = "digits"
    c.data.imbalance = 50.0
    c.model.backbone = "demo"

    # A digit fills its 32 pixels: a crop of 8 % of the area would show a piece of one stroke that
    # belongs to no class, and five crops need a margin in proportion (24 of 224 pixels there).
    c.train.min_area = 0.3
    c.train.flip = False  # a mirrored digit is no digit
    c.test.expand = 4

    # Ten classes and four blocks give an automatic width of 1; 4 is still 0.7 % of the weights.
    c.tuner.dim = 4

    # 390 images are 4 batches of 128 an epoch: smaller batches and more epochs give enough steps.
    c.train.batch = 32
    c.train.epochs = 40
    c.checkpoint.every_steps = 130  # ten epochs
    return settings.finish(c, argument)
