"""Your own images: one sub-folder for each class, named after the class.

    python -m lift_jax.main --config=configs/folder.py --config.data.root=DIR --workdir=runs/mine

With DIR/cat/1.jpg, DIR/dog/2.png, ..., a fifth of each class is drawn by the seed and held out as
test images. If you have a split of your own, use DIR/train/cat/1.jpg and DIR/test/cat/2.jpg. To
choose settings, add a validation split: DIR/val/ beside both, or --config.data.val_share=0.1.

The names of the folders become the prompts "a photo of a {name}." that the classifier starts from
("_" is read as a space). If they are codes, --config.data.class_names=FILE gives the names, with
one line `FOLDER name` for each class.
"""

from lift_jax import settings


def get_config(argument: str | None = None):
    c = settings.start(argument)
    c.data.name = "folder"
    c.checkpoint.every_steps = 100
    return settings.finish(c, argument)
