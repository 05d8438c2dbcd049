"""The command line: `lift-jax COMMAND`, or `python -m lift_jax COMMAND`.

Each command is a module here with `add_arguments` and `run`; it imports the rest of the package
when it runs, so that --help is quick. `train` is `lift_jax/main.py`.
"""

COMMANDS = {
    "train": "train a classifier on a data set, continue a run, or run a sweep",
    "data": "look at a data set before training, or prepare it for fast reading",
    "predict": "name new images by a run's classifier",
    "app": "try a run in the browser: drop images on a page of this machine",
    "calibrate": "measure on the validation split how far answers can be trusted",
    "report": "write a run's report again, or compare several runs",
    "export": "write a run's classifier as ONNX or StableHLO, or its tuned weights",
    "merge": "fold a run's tuned weights into its backbone",
    "soup": "average the tuned weights of several runs",
    "convert": "convert pre-trained weights once, for machines without the source",
    "bench": "measure a training step, the reading of images, or describe this system",
    "settings": "list the settings of a run, or explain one",
}
