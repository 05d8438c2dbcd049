"""The demo: long-tailed handwritten digits and a small CLIP, without any download.

    python -m lift_jax.main --config=configs/demo.py --workdir=runs/demo

Data: the 1,797 real 8x8 digits that scikit-learn includes. 30 images of each class are the test
split. The rest is cut to a long tail of imbalance 50, from 140 images of "zero" down to 3 of
"nine". Backbone: a CLIP for 32 pixels with 1 M parameters, pre-trained by this project on rendered
glyphs (`python -m lift_jax.demo.pretrain`). It has seen no image of the data set.

The README has the results of five seeds.
"""

from lift_jax import settings


def get_config(argument: str | None = None):
    c = settings.start(argument)
    c.data.name = "digits"
    c.data.imbalance = 50.0
    c.model.backbone = "demo"

    # A digit fills its 32 pixels: a crop of 8 % of the area would show a piece of a stroke, which
    # could be of any class. The margin of the five crops is in proportion (usually 24 of 224).
    c.train.min_area = 0.3
    c.train.flip = False  # a mirrored digit is not a digit
    c.test.expand = 4

    # Ten classes and four blocks give an automatic width of 1. Width 4 is 0.7 % of the weights.
    c.tuner.dim = 4

    # 393 images are only 4 batches of 128: smaller batches and more epochs give enough steps.
    c.train.batch = 32
    c.train.epochs = 40
    c.checkpoint.every_steps = 130  # ten epochs
    return settings.finish(c, argument)
