"""The whole of a run, from a config to a folder of results, in reading order."""

import json
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track

from lift_jax import adjust, checkpoint, features, folder, log, losses, metrics, steps, stopping
from lift_jax import config as config_lib
from lift_jax import mesh as mesh_lib
from lift_jax import state as state_lib
from lift_jax.build import Setup, build, some
from lift_jax.data import augment, bad, loader
from lift_jax.data.images import Dataset, Split
from lift_jax.errors import UserError
from lift_jax.evaluate import evaluate
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier
from lift_jax.models.prompting import encoded
from lift_jax.models.tree import Tree

# What may change while a run continues, for it does not change what is learned; a backbone or a
# data set at another place is recognised by its content.
FREE = (
    "checkpoint",
    "mesh",
    "test",
    "train.accum",
    "model.backbone",
    "data.workers",
    "data.features_gb",
    "data.root",
    "data.train_list",
    "data.test_list",
    "data.val_list",
    "data.class_names",
    "data.expected",
)
CONFIG, METRICS = "config.json", "metrics.json"
LAG = 2  # steps that the device may be ahead of the log, so that reading a loss waits for nothing
ROWS = folder.RESULTS


def run(config: ConfigDict, workdir: str | Path, mode: str = "train") -> dict:
    """Trains (or continues) and tests; returns what metrics.json holds.

    `mode` 'evaluate' tests the newest checkpoint of `workdir`, 'zero_shot' the untuned CLIP. Raises
    UserError for anything in the config, the data, the weights or the folder that the user can
    mend.
    """
    config_lib.validate(config)
    workdir = open_workdir(workdir)
    console = Console(quiet=jax.process_index() != 0)
    with (
        # of float32 products alone (head, loss, float32 runs): by default GPUs and TPUs round them
        jax.default_matmul_precision("highest"),
        checkpoint.open_manager(workdir, config.checkpoint.keep) as manager,
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
            check_config(saved, config, workdir)
        setup = build(config, console, fresh=saved is None and mode != "zero_shot")
        if mode == "zero_shot":
            if setup.zero_shot is None:
                raise UserError(
                    f"{config.model.backbone} has no text tower, and so no zero-shot classifier."
                )
            return test(config, setup, None, workdir, console)

        state = state_lib.create(setup.tuned, setup.optimizer)
        state = jax.device_put(state, mesh_lib.replicated(setup.mesh))
        if saved is not None:
            check_content(saved, describe(config, setup), workdir)
            state = checkpoint.restore(manager, state, console)
        done, total = int(state.step), setup.steps_per_epoch * config.train.epochs
        if mode == "train":
            if done == total and (finished := stored_metrics(workdir, config)):
                console.print(f"{workdir} is finished, all {total} steps are done. Its results:")
                show(finished, config, console)
                return finished
            if 0 < done < total:
                console.print(f"Continuing {workdir} after step {done} of {total}.")
            if done < total:
                state = train(config, setup, state, manager, workdir, console)
        return test(config, setup, state, workdir, console)


def train(
    config: ConfigDict,
    setup: Setup,
    state: state_lib.State,
    manager: ocp.CheckpointManager,
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
    batches = loader.train_batches(
        reading.split, reading.view, seed=c.seed, epochs=c.train.epochs, batch=c.train.batch,
        start_step=start, process=jax.process_index(), processes=jax.process_count(),
        workers=reading.workers,
    )  # fmt: skip
    train_step = steps.make_train_step(
        setup.graph, setup.vision, loss_fn, setup.optimizer, mesh, c.train.accum, reading.start
    )

    about = describe(config, setup)
    write_config(workdir, about)
    if start == 0:
        bad.record(setup.data, workdir, jax.process_index(), console, anew=("train", "val", "test"))

    def done(loss: jax.Array) -> tuple[float, float]:
        """The loss, and when the device had it."""
        return float(loss), time.monotonic()

    with (
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
            state, loss = train_step(state, setup.frozen, mesh_lib.put_batch(mesh, rows))
            ahead.append((step, observer.submit(done, loss), asked, came))
            if len(ahead) > LAG:
                report()
            stop = watch.asked(step)
            if step % c.checkpoint.every_steps == 0 or step == total or stop:
                while ahead:  # a checkpoint is saved only after all losses up to it are good
                    report()
                if not steps.all_finite(state.tuned):
                    raise diverged(manager, f"Weights are not finite after step {step}")
                checkpoint.save(manager, state, about)
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


def test(
    config: ConfigDict,
    setup: Setup,
    state: state_lib.State | None,
    workdir: Path,
    console: Console,
) -> dict:
    """Tests the zero-shot classifier, where there is one, and the tuned one, given a state.

    With test.adjust the tuned one also after post-hoc logit adjustment, whose strength is chosen on
    the validation split before the test split is read. Writes metrics.json and per_class.csv,
    prints the table, and returns what metrics.json holds.
    """
    c, data = config, setup.data
    trained = state is not None and (workdir / log.LOG).exists()
    steps_log = log.read_log(workdir / log.LOG) if trained else []  # a broken one is told first

    def read(reading: features.Reading, doing: str) -> Iterable[loader.Batch]:
        batches = loader.eval_batches(
            reading.split, reading.view, seed=c.seed, batch=c.test.batch,
            process=jax.process_index(), processes=jax.process_count(), workers=reading.workers,
        )  # fmt: skip
        return track(
            batches, doing, total=loader.steps_per_epoch(len(reading.split), c.test.batch),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip

    def counter(
        graph: nnx.GraphDef[Classifier], leaves: Tree, start: int, shifts: np.ndarray | None = None
    ):
        return partial(steps.make_count(graph, setup.vision, setup.mesh, shifts, start), leaves)

    def once(split: Split) -> features.Reading:
        """The split's plain views, as far up as all classifiers here have in common."""
        if state is not None:
            model, paths = tree.merge(setup.graph, state.tuned | setup.frozen), state.tuned
        else:
            assert setup.zero_shot is not None  # `run` has checked
            model, paths = tree.merge(*setup.zero_shot), {}
        view = augment.TestTransform(setup.vision.resolution, c.test.interpolation)
        return setup.cache.read(model.visual, paths, split, view)

    whole, crops, adjusted = {}, {}, None
    tuned, shifts = None, None
    if state is not None:
        tuned = encoded(setup.graph, state.tuned | setup.frozen, mesh_lib.replicated(setup.mesh))
        if c.test.adjust:
            assert data.val is not None  # `build` has checked
            val = once(data.val)
            trials = counter(*tuned, val.start, adjust.shifts(adjust.TAUS, data.counts))
            validated = evaluate(read(val, "Validating"), {"val": trials}, setup.mesh)
            tau, means = adjust.choose(validated["val"])
            console.print(
                f"Adjustment: tau {tau} is best on {len(data.val):,} validation images (mean over "
                f"the classes {means[str(tau)]:.2f} %; {means['0.0']:.2f} % without)."
            )
            adjusted = {"tau": tau, "val_mean": means}
            shifts = adjust.shifts((0.0, tau), data.counts)
    plain_views = once(data.test)
    if setup.zero_shot is not None:
        whole["zero_shot"] = counter(*setup.zero_shot, plain_views.start)
    if tuned is not None:
        whole["test"] = counter(*tuned, plain_views.start, shifts)
        if c.test.tte:
            crops["test_tte"] = counter(*tuned, 0, shifts)
    counts = evaluate(read(plain_views, "Testing"), whole, setup.mesh)
    if crops:
        views = augment.ensemble(
            c.test.crops, setup.vision.resolution, c.test.interpolation, expand=c.test.expand,
            views=c.test.views, min_area=c.train.min_area,
        )  # fmt: skip
        several = features.Reading(data.test, views, 0, c.data.workers)
        counts |= evaluate(read(several, "Testing"), crops, setup.mesh)
    if adjusted is not None:
        for row in {"test", "test_tte"} & counts.keys():
            both = counts[row]
            counts |= {row: adjust.part(both, 0), f"{row}_adjusted": adjust.part(both, 1)}

    found = {row: metrics.summarise(counts[row], data.group_counts) if row in counts else None
             for row in ROWS} | {"adjustment": adjusted}  # fmt: skip
    sizes = log.parameter_counts(setup.parameters)
    found |= {
        "tuned_params": sizes["tuned"], "head_params": sizes["head"],
        "frozen_params": sizes["frozen"], "steps": int(state.step) if state is not None else 0,
        "seconds": steps_log[-1].seconds if steps_log else 0.0,
        "images_per_second": steps_log[-1].images_per_second if steps_log else 0.0,
    }  # fmt: skip
    missing = metrics.absent(next(iter(counts.values())))
    if missing:
        console.print(
            f"Warning: classes without a test image ({len(missing)} of {len(data.class_names)}), "
            f"left out of the class means: {some([data.class_names[i] for i in missing])}",
            markup=False,
        )
    if jax.process_index() == 0:
        write_config(workdir, describe(config, setup))
        write_per_class(workdir, data, counts)
        log.write_json(workdir / METRICS, found)
    bad.record(data, workdir, jax.process_index(), console, anew=("test",))
    show(found, config, console)
    return found


def diverged(manager: ocp.CheckpointManager, what: str) -> UserError:
    """The error of a run whose numbers are no longer finite."""
    manager.wait_until_finished()
    last = manager.latest_step()
    kept = f"{manager.directory}/{last}" if last is not None else "none yet"
    return UserError(
        f"{what}. Training stopped; the last good checkpoint is {kept}. Lower train.lr, or set "
        "model.precision=float32, and give another --workdir."
    )


# -- the run folder


def open_workdir(workdir: str | Path) -> Path:
    """Makes the folder. Raises UserError if that fails."""
    path = Path(workdir).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"Cannot make the run folder {path} (--workdir): {e.strerror}.") from e
    return path


def describe(config: ConfigDict, setup: Setup) -> dict:
    """What a checkpoint belongs to, and what config.json says."""
    summary = {
        "class_names": list(setup.data.class_names),
        "counts": setup.data.counts.tolist(),
        "prepared": setup.data.prepared,
        "backbone_fingerprint": setup.fingerprint,
    }
    return {**plain(config), "data_summary": summary}


def plain(config: ConfigDict) -> dict:
    """The config as JSON gives it back."""
    return json.loads(config.to_json())


def write_config(workdir: Path, about: dict) -> None:
    if jax.process_index() == 0:
        log.write_json(workdir / CONFIG, about)


def check_config(saved: dict, config: ConfigDict, workdir: Path) -> None:
    """Raises UserError if the folder's run was made by another config."""
    saved = {key: value for key, value in saved.items() if key != "data_summary"}
    changed = [
        line
        for line in config_lib.differences(saved, plain(config))
        if not any(line.startswith((f"{key}:", f"{key}.")) for key in FREE)
    ]
    if changed:
        raise UserError(
            f"{workdir} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            "Give another --workdir, or set these back to continue that run."
        )


def check_content(saved: dict, about: dict, workdir: Path) -> None:
    """Raises UserError if classes, counts or backbone are not those of the folder's run."""
    kinds = {
        "class_names": "other classes",
        "counts": "other training images",
        "prepared": "training images prepared otherwise (data.prepared)",
        "backbone_fingerprint": "other backbone weights",
    }
    for key, kind in kinds.items():
        if saved["data_summary"][key] != about["data_summary"][key]:
            raise UserError(
                f"{workdir} holds a run with {kind} than the config gives now. Give another "
                "--workdir, or the data and the backbone that the run began with."
            )


def stored_metrics(workdir: Path, config: ConfigDict) -> dict | None:
    """The results in the folder, if they are those of the config's test section."""
    try:
        about = json.loads((workdir / CONFIG).read_text(encoding="utf-8"))
        found = json.loads((workdir / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # not tested yet, or a file that somebody changed: test again
    return found if about.get("test") == plain(config)["test"] and found.get("test") else None


def write_per_class(workdir: Path, data: Dataset, counts: dict[str, metrics.Counts]) -> None:
    """Writes per_class.csv: accuracies in percent, empty for classes without test images."""
    group = np.full(len(data.class_names), "", dtype=object)
    for name, members in metrics.groups(data.group_counts).items():
        group[members] = name
    accuracy = {row: metrics.class_accuracy(counts[row]) for row in ROWS if row in counts}
    header = folder.class_columns(accuracy)
    results = header[len(folder.CLASS_COLUMNS) :]
    images = next(iter(counts.values()))["total"]
    rows = (
        (c, name, data.counts[c], group[c], images[c])
        + tuple(float(accuracy[row][c]) if row in accuracy else None for row in results)
        for c, name in enumerate(data.class_names)
    )
    log.write_csv(workdir / "per_class.csv", header, rows)


def show(found: dict, config: ConfigDict, console: Console) -> None:
    """Prints the table of results."""
    tuner = config.tuner.name if found["tuned_params"] else "none"
    names = log.result_names(tuner, config.label, config.text_tuner.name)
    console.print(log.results_table({names[row]: found[row] for row in ROWS}))
