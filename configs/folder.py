"""Your own images: a folder with a sub-folder a class, named as the class is called.

    python -m lift_jax.main --config=configs/folder.py --config.data.root=DIR --workdir=runs/mine

DIR/cat/1.jpg, DIR/dog/2.png, ...: a fifth of each class is held out for the test (by the seed). Or
DIR/train/cat/1.jpg and DIR/test/cat/2.jpg, where you have a split; DIR/val/ beside both, or
--config.data.val_share=0.1, is to choose settings on. The names of the folders become the prompts
"a photo of a {name}." that the classifier starts from ("_" is read as a space); where they are
codes, --config.data.class_names=FILE has a line `FOLDER name` for each.

No published numbers: the data is yours.
"""

from lift_jax import settings


def get_config(argument: str | None = None):
    c = settings.start(argument)
    c.data.name = "folder"
    c.checkpoint.every_steps = 100
    return settings.finish(c, argument)
