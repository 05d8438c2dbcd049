"""The command line: `lift-jax COMMAND`, or `python -m lift_jax COMMAND`.

Each command is a module here with `add_arguments` and `run`. It imports the rest of the package
only when it runs, so that --help is quick. `train` is `lift_jax/main.py`.
"""

COMMANDS = {
    "train": "train a classifier on a data set, continue a run, or run a sweep",
    "data": "check a data set before training, or prepare it for fast reading",
    "predict": "classify new images with a run's classifier",
    "app": "try a run in the browser: drop images on a page that this machine serves",
    "calibrate": "calibrate a run's probabilities, unknown images and sets on the validation split",
    "report": "write the report of a run again, or compare several runs",
    "export": "write a run's classifier for other programs, or its tuned weights",
    "merge": "merge a run's tuned weights into its backbone",
    "soup": "average the tuned weights of several runs",
    "convert": "copy pre-trained weights into one folder, for machines without the source",
    "bench": "time a training step or the reading of images, or describe this system",
    "settings": "list all settings, or explain some",
}
