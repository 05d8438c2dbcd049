"""Attacks on the files of a finished run."""

import contextlib
import io
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from tests.attack.commands import IMAGE, finished, trained
from tests.attack.engine import Fault, Kind

DAMAGES = ("empty", "cut", "flip", "folder", "other", "gone")


@cache
def predicted() -> Any:
    """Returns the prediction of the undamaged run for an image."""
    import lift_jax

    return lift_jax.Predictor(finished()[0]).predict(IMAGE)


def draw_damage(rng: random.Random) -> tuple[str, str, float]:
    workdir = finished()[0]
    names = sorted(str(p.relative_to(workdir)) for p in workdir.rglob("*") if p.is_file())
    return rng.choice(names), rng.choice(DAMAGES), rng.random()


def attempt_damage(case: tuple[str, str, float], folder: Path) -> None:
    """Prediction and report end right or in a line; the run's command gives the same results."""
    import lift_jax
    from lift_jax.errors import UserError
    from lift_jax.reports import report

    name, how, place = case
    first, wanted = finished()
    workdir = folder / "run"
    shutil.copytree(first, workdir)
    path = workdir / name
    content = path.read_bytes()
    at = int(place * len(content))
    if how == "flip" and content:
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif how == "cut":
        path.write_bytes(content[:at])
    elif how == "other":
        shutil.copy(workdir / "metrics.json", path.with_name("x"))
        path.with_name("x").rename(path)
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how != "gone":
            path.write_bytes(b"")
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, contextlib.suppress(UserError):
        found = lift_jax.Predictor(workdir).predict(IMAGE)
        if how != "other" and found != predicted() and "checkpoints" not in name:
            raise Fault("another prediction")
    with quiet, contextlib.suppress(UserError):
        report.write(workdir)
    if trained(workdir) != wanted:
        raise Fault("other results after the run was continued")


KINDS = {"damage": Kind(draw_damage, attempt_damage, share=2, limit=60)}
