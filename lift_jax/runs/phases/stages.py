"""The stages of LT-Soups in a run folder: each model a training that can be continued.

A finished model leaves its tuned leaves in a file, and a finished stage leaves what is joined so
far. So whatever is killed at any moment goes on from these files and from the checkpoints of the
model that was under way.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from lift_jax.errors import UserError
from lift_jax.models.tree import Tree
from lift_jax.parallel import processes
from lift_jax.parallel.mesh import put
from lift_jax.runs import log
from lift_jax.runs.phases import plan, training
from lift_jax.runs.phases.join import Leaves, join
from lift_jax.settings.schema import Settings
from lift_jax.training import checkpoint
from lift_jax.training.checkpoint import alone
from lift_jax.training.checkpoint.contents import leaves_to_host
from lift_jax.training.setup import Setup, on_subset

FOLDER = "soups"  # in the run folder
START, JOINED = "start", "joined"  # folders there: the common start, and the stages joined so far
STAGES = "stages"  # key of the number of stages that are joined


def about(workdir: Path) -> dict[str, Any] | None:
    """Returns the description of the run whose stages are under way in a folder, None if none are.

    All processes call it. Raises UserError, in all of them, if it cannot be read.
    """
    return processes.from_first(lambda: (_read(workdir / FOLDER / START) or (None, None))[1])


def seconds(workdir: Path) -> float:
    """Returns the training time of all models, by their logs."""
    logs = (log.read_log(path) for path in (workdir / FOLDER).glob(f"*/{log.LOG}"))
    return sum(records[-1].seconds for records in logs if records)


def tidy(workdir: Path) -> None:
    """Removes the weights of the stages, once the run has checkpoints of its own; logs stay."""
    if jax.process_index() == 0:
        for name in (START, JOINED):
            shutil.rmtree(workdir / FOLDER / name, ignore_errors=True)


def run(
    settings: Settings, setup: Setup, about: dict[str, Any], workdir: Path, console: Console
) -> Setup:
    """Runs the stages of a run, if it has any; returns its setup, which goes on from them.

    `about` is the JSON description of the run. Raises UserError as the training of any run.
    """
    if not settings.soups.models:
        return setup
    setup = replace(setup, tuned=Stages(settings, setup, about, workdir, console).run())
    console.print(f"LT-Soups: the classifier alone, {len(setup.data.train):,} images.")
    return setup


@dataclass(frozen=True)
class Stages:
    """The stages of a run.

    Attributes:
        settings: of the run.
        setup: of the run; its tuned leaves are the start of every model.
        about: description of the run, which tells it from others.
        workdir: the run folder.
        console: for messages.
    """

    settings: Settings
    setup: Setup
    about: dict[str, Any]
    workdir: Path
    console: Console

    def run(self) -> Tree:
        """Tunes all models and joins the stages; returns the joined leaves, placed on the mesh.

        What is finished in the folder is not done again.
        """
        stages = plan.stages(self.settings, self.setup.data.counts)
        for stage in stages:  # before the first of them
            self.prepare(plan.Model(stage, 1, 1))
        start, _ = self._kept(START) or self._keep(
            START, leaves_to_host(self.setup.tuned), self.about
        )
        joined, done = self._kept(JOINED) or (start, {STAGES: 0})
        for stage in stages:
            members = list(plan.models(stage, self.settings.soups.models))
            if stage.number > done[STAGES]:
                tuned = [self.tune(member, start) for member in members]
                joined = join(joined, start, tuned, self.settings.soups.join)
                self._keep(JOINED, joined, {STAGES: stage.number})
            for member in members:
                self._remove(member, alone.NAME)
        return self._placed(joined)

    def prepare(self, model: plan.Model) -> tuple[Settings, Setup]:
        """Returns settings and setup of the training of one model, without its start.

        Raises UserError, which names the stage, for a training of too many or too few steps.
        """
        data = model.stage.subset(self.setup.data)
        settings = model.settings(self.settings, len(data.train))
        try:
            return settings, on_subset(self.setup, data, settings.train)
        except UserError as e:
            raise UserError(
                f"LT-Soups, stage {model.stage.number} of {model.stage.of} ({model.stage.images}): "
                f"{e} A stage has at least soups.least_steps steps, which is "
                f"{self.settings.soups.least_steps:,}."
            ) from e

    def tune(self, model: plan.Model, start: Leaves) -> Leaves:
        """Returns the tuned leaves of one model, which are trained unless they are kept."""
        if kept := self._kept(model.folder):
            self._remove(model, checkpoint.FOLDER)
            return kept[0]
        settings, setup = self.prepare(model)
        steps, images = setup.steps_per_epoch * settings.train.epochs, len(setup.data.train)
        self.console.print(
            f"LT-Soups: {model.title}: {model.stage.images}, {images:,} in all, {steps:,} steps, "
            f"loss {settings.loss.name}."
        )
        folder = self.workdir / FOLDER / model.folder
        setup = replace(setup, tuned=self._placed(start))
        state = training.train_apart(settings, setup, self.about, folder, self.console)
        tuned = leaves_to_host(state.weights)
        self._keep(model.folder, tuned, {"model": model.title})
        self._remove(model, checkpoint.FOLDER)
        return tuned

    def _placed(self, leaves: Leaves) -> Tree:
        """Returns leaves on the mesh, as copies: training donates them."""
        return {p: put(leaf.copy(), self.setup.tuned[p].sharding) for p, leaf in leaves.items()}

    def _kept(self, name: str) -> tuple[Leaves, dict[str, Any]] | None:
        """Returns the leaves that are kept under a name and their description, None if none are."""
        found: list[tuple[Leaves, dict[str, Any]]] = []

        def read() -> dict[str, Any] | None:
            found.extend(filter(None, [_read(self.workdir / FOLDER / name)]))
            return found[0][1] if found else None

        about = processes.from_first(read)
        if about is None:
            return None
        paths = sorted(self.setup.tuned)
        like = [np.zeros(self.setup.tuned[p].shape, np.float32) for p in paths]
        arrays = processes.arrays_from_first(lambda: [found[0][0][p] for p in paths], like)
        return dict(zip(paths, arrays, strict=True)), about

    def _keep(
        self, name: str, leaves: Leaves, about: Mapping[str, Any]
    ) -> tuple[Leaves, Mapping[str, Any]]:
        """Writes leaves and their description under a name, and returns both."""
        if jax.process_index() == 0:
            alone.write(self.workdir / FOLDER / name, dict(leaves), about, {})
        return leaves, about

    def _remove(self, model: plan.Model, name: str) -> None:
        """Removes a file or folder of a model."""
        path = self.workdir / FOLDER / model.folder / name
        if jax.process_index() == 0 and path.is_dir():
            shutil.rmtree(path)
        elif jax.process_index() == 0:
            path.unlink(missing_ok=True)


def _read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Returns what `alone.read` does. Raises UserError, which says what to do, if it is damaged."""
    try:
        return alone.read(folder)
    except UserError as e:
        raise UserError(
            f"{folder / alone.NAME} is damaged, a file of the stages of LT-Soups. Delete {folder}, "
            "and run the same command to make it again."
        ) from e
