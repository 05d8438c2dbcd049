"""The whole of a run, from a config to a folder of results, in reading order."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from lift_jax import (
    checkpoint,
    cost,
    distributed,
    features,
    folder,
    log,
    losses,
    results,
    steps,
    stopping,
)
from lift_jax import config as config_lib
from lift_jax import mesh as mesh_lib
from lift_jax import state as state_lib
from lift_jax.build import Setup, build
from lift_jax.data import augment, bad, loader
from lift_jax.errors import UserError
from lift_jax.models import tree

LAG = 2  # steps that the device may be ahead of the log, so that reading a loss waits for nothing


def run(config: ConfigDict, workdir: str | Path, mode: str = "train") -> dict:
    """Trains (or continues) and tests; returns what metrics.json holds.

    `mode` 'evaluate' tests the newest checkpoint of `workdir`, 'zero_shot' the untuned CLIP. Raises
    UserError for anything in the config, the data, the weights or the folder that the user can
    mend.
    """
    config_lib.validate(config)
    workdir = folder.open_workdir(workdir)
    console = Console(quiet=jax.process_index() != 0)
    with (
        log.on_disk(workdir),
        # of float32 products alone (head, loss, float32 runs): by default GPUs and TPUs round them
        jax.default_matmul_precision("highest"),
        checkpoint.open_manager(workdir, config.checkpoint.keep, config.checkpoint.best) as manager,
    ):
        saved = checkpoint.describe(manager)
        if mode == "evaluate" and saved is None and not config.model.tuned:
            raise UserError(
                f"{workdir} holds no checkpoint to evaluate. Train first (--mode=train), or give "
                "model.tuned the file of one."
            )
        if mode == "zero_shot" and saved is not None:
            raise UserError(
                f"{workdir} holds a trained run, whose results already have a zero-shot part and "
                "would be overwritten. Give another --workdir."
            )
        if saved is not None:  # before anything slow
            folder.check_config(saved, config, workdir)
        best = config.checkpoint.best
        setup = build(config, console, fresh=saved is None and mode != "zero_shot")
        if mode == "zero_shot":
            if setup.zero_shot is None:
                raise UserError(
                    f"{config.model.backbone} has no text tower, and so no zero-shot classifier."
                )
            return results.test(config, setup, None, workdir, console)

        state = state_lib.create(setup.tuned, setup.optimizer)
        state = jax.device_put(state, state_lib.shardings(state, setup.mesh))
        if saved is not None:
            folder.check_content(saved, results.describe(config, setup), workdir)
            state = checkpoint.restore(manager, state, console, best and mode == "evaluate")
        done, total = int(state.step), setup.steps_per_epoch * config.train.epochs
        if mode == "train":
            finished = distributed.of_first(lambda: folder.stored_metrics(workdir, config))
            if done == total and finished:
                console.print(f"{workdir} is finished, all {total} steps are done. Its results:")
                results.show(finished, config, console)
                return finished
            if 0 < done < total:
                console.print(f"Continuing {workdir} after step {done} of {total}.")
            if done < total:
                state = train(config, setup, state, manager, workdir, console)
            if best:
                state = checkpoint.restore(manager, state, console, best=True)
                console.print(f"Tested is the checkpoint of step {int(state.step)}, the best.")
        return results.test(config, setup, state, workdir, console)


def train(
    config: ConfigDict,
    setup: Setup,
    state: state_lib.State,
    manager: checkpoint.Manager,
    workdir: Path,
    console: Console,
) -> state_lib.State:
    """The loop, from the state's step to the last; saves on the way and at the end."""
    c, mesh = config, setup.mesh
    first = jax.process_index() == 0
    loss_fn = losses.make(c.loss.name, setup.data.counts, **config_lib.loss_options(c))
    n, per_epoch = len(setup.data.train), setup.steps_per_epoch
    start, total = int(state.step), per_epoch * c.train.epochs
    rates = [float(np.asarray(setup.rate(e * per_epoch))) for e in range(c.train.epochs)]
    transform = augment.TrainTransform(
        res=setup.vision.resolution, kind=c.train.augment, interpolation=c.train.interpolation,
        mda=c.train.mda, min_area=c.train.min_area, flip=c.train.flip, epochs=c.train.epochs,
    )  # fmt: skip
    reading = features.Reading(setup.data.train, transform, 0, c.data.workers)
    if c.train.augment == "none" and not c.train.flip:
        view = augment.TestTransform(setup.vision.resolution, c.train.interpolation)
        visual = tree.merge(setup.graph, state.tuned | setup.frozen).visual
        kept = setup.cache.read(visual, state.tuned, setup.data.train, view)
        reading = kept if kept.start else reading
    reader = loader.train_batches(
        reading.split, reading.view, seed=c.seed, epochs=c.train.epochs, batch=c.train.batch,
        start_step=start, process=jax.process_index(), processes=jax.process_count(),
        workers=reading.workers,
    )  # fmt: skip
    train_step = steps.make_train_step(
        setup.graph, setup.vision, loss_fn, setup.optimizer, mesh, c.train.accum, reading.start,
        c.train.remat,
    )  # fmt: skip

    about = results.describe(config, setup)
    folder.write_config(workdir, about)
    cadence = checkpoint.Cadence(c.checkpoint.every_steps, c.checkpoint.every_minutes, start)
    score = results.validator(config, setup, console) if c.checkpoint.best else None
    if start == 0:
        bad.record(setup.data, workdir, jax.process_index(), console, anew=("train", "val", "test"))

    def done(loss: jax.Array) -> tuple[float, float]:
        """The loss, and when the device had it."""
        return float(loss), time.monotonic()

    with (
        closing(reader) as batches,
        log.RunLog(workdir, active=first) as run_log,
        log.Progress(total, c.train.epochs, start, active=first, console=console) as progress,
        stopping.Watch() as watch,
        ThreadPoolExecutor(1) as observer,
    ):
        seconds = run_log.resume(start)
        # steps whose loss is not yet read, and from when to when their batch was waited for
        ahead: deque[tuple[int, Future[tuple[float, float]], float, float]] = deque()
        recent = np.zeros(3)  # images, seconds and seconds without a batch, fading out
        clock = time.monotonic()  # when the device was done with the step before

        def report() -> None:
            nonlocal seconds, clock, recent
            step, observed, asked, came = ahead.popleft()
            value, now = observed.result()  # waits until the device has done the step
            waited = max(0.0, came - max(asked, clock))  # and the device had nothing to do
            elapsed, clock = now - clock, now
            seconds += elapsed
            epoch, place = divmod(step - 1, per_epoch)
            images = min(c.train.batch, n - place * c.train.batch)
            # the first step holds the compilation: it fades at once, the others over 20 steps
            recent = recent * (0.95 if step > start + 2 else 0.0) + (images, elapsed, waited)
            if not np.isfinite(value):
                raise diverged(manager, f"The loss of step {step} (epoch {epoch + 1}) is {value}")
            record = log.Step(
                step=step, epoch=epoch, loss=value, lr=rates[epoch], seconds=seconds,
                images_per_second=recent[0] / recent[1], wait=min(1.0, recent[2] / recent[1]),
            )  # fmt: skip
            run_log.write(record)
            progress.update(record)

        for step in range(start + 1, total + 1):
            asked = time.monotonic()
            rows = next(batches)
            came = time.monotonic()
            batch = mesh_lib.put_batch(mesh, rows)
            if step == start + 1:
                told = cost.compile_step(train_step, state, setup.frozen, batch, console)
                train_step = told.step
            state, loss = train_step(state, setup.frozen, batch)
            ahead.append((step, observer.submit(done, loss), asked, came))
            if len(ahead) > LAG:
                report()
            stop, ends = watch.asked(step), score is not None and step % per_epoch == 0
            if cadence.due(step) or step == total or stop or ends:
                while ahead:  # a checkpoint is saved only after all losses up to it are good
                    report()
                if not steps.all_finite(state.tuned):
                    raise diverged(manager, f"Weights are not finite after step {step}")
                validated = score(state) if score is not None and ends else None
                if validated is not None:
                    progress.tell(f"Validation after epoch {step // per_epoch}: {validated:.2f} %")
                checkpoint.save(manager, state, about, validated)
                bad.record(setup.data, workdir, jax.process_index(), console)
            if stop and step < total:
                checkpoint.wait(manager)
                console.print(
                    f"Stopped after step {step} of {total}, which is saved. Run the same command "
                    "to continue."
                )
                raise SystemExit(stopping.STOPPED)
        checkpoint.wait(manager)
    return state


def diverged(manager: checkpoint.Manager, what: str) -> UserError:
    """The error of a run whose numbers are no longer finite."""
    return UserError(
        f"{what}. Training stopped; the last good checkpoint is {checkpoint.last(manager)}. Lower "
        "train.lr, or set model.precision=float32, and give another --workdir."
    )
