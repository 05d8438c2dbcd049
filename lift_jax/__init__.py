"""lift_jax: LIFT and LIFT+ long-tailed recognition in JAX.

    backbone = lift_jax.load_backbone("clip_vit_b16")
    loss = lift_jax.losses.make("la", counts)
    predictor = lift_jax.Predictor("runs/demo")

Names are imported when they are first used, so that processes that only decode images start
without JAX.
"""

import atexit
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lift_jax.runs.predictor import Predictor
    from lift_jax.training import losses
    from lift_jax.weights.load import load_backbone, load_tokenizer

__version__ = "0.2.0"
__all__ = ["Predictor", "load_backbone", "load_tokenizer", "losses"]

WHERE = {
    "Predictor": "lift_jax.runs.predictor",
    "load_backbone": "lift_jax.weights.load",
    "load_tokenizer": "lift_jax.weights.load",
}


def __getattr__(name: str):
    if name in WHERE:
        return getattr(importlib.import_module(WHERE[name]), name)
    if name == "losses":
        return importlib.import_module("lift_jax.training.losses")
    raise AttributeError(f"module 'lift_jax' has no attribute {name!r}")


# `python -m lift_jax.NAME` imports this package first, while argv[0] is "-m"
RUNNABLE = ("lift_jax", "lift_jax.__main__", "lift_jax.main", "lift_jax.demo.pretrain")
PROGRAMS = ("lift-jax", "lift_jax/__main__.py", "lift_jax/main.py")  # also argv[0] of their workers
_program = sys.argv[0] if sys.argv else ""
_module = ""
if _program == "-m" and "-m" in sys.orig_argv:
    _module = sys.orig_argv[sys.orig_argv.index("-m") + 1]
if _module.partition(".")[0] == "lift_jax" or _program.replace("\\", "/").endswith(PROGRAMS):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # until the import is done
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from lift_jax.commands.line import ending

    ending.handle_interrupts()
    atexit.register(ending.skip_teardown)
if _module.partition(".")[0] == "lift_jax" and _module not in RUNNABLE:
    from lift_jax.commands.line.dispatch import redirect

    redirect(_module, sys.orig_argv)
