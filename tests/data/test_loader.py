"""Tests of the order of batches: equal for any number of workers and processes, from any step."""

import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.paths import ROOT

from lift_jax.data import loader
from lift_jax.data.batches import ahead
from lift_jax.data.batches.order import steps_per_epoch
from lift_jax.data.images.views import FiveCrop, TestTransform, TrainTransform
from lift_jax.data.types import ArrayImages, Dataset, FileImages, Split
from lift_jax.errors import UserError
from lift_jax.parallel import entry
from lift_jax.runs.kept import unreadable

RES = 4
N = 37  # prime: a partial last batch for every batch size
EPOCHS = 3
BATCH = 8
STEPS = 5  # an epoch has 4 full batches and 5 images


@pytest.fixture(scope="module")
def split():
    """Returns a split of noise in which the label of image i is i."""
    pixels = np.random.default_rng(0).integers(0, 256, (N, 11, 13, 3), np.uint8)
    return Split(ArrayImages(pixels, "noise", np.arange(N)), np.arange(N))


def transform(kind="mda", flip=True, epochs=EPOCHS):
    return TrainTransform(RES, kind, "bicubic", "linear", 0.08, flip, epochs)


def train(split, **options):
    options = dict(seed=0, epochs=EPOCHS, batch=BATCH) | options
    return list(loader.train_batches(split, transform(), **options))


@pytest.fixture(scope="module")
def whole(split):
    return train(split)


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert one.keys() == two.keys()
        for key in one:
            assert type(one[key]) is np.ndarray
            assert one[key].dtype == two[key].dtype
            np.testing.assert_array_equal(one[key], two[key])


def seen(batches):
    return np.concatenate([batch["label"][batch["mask"]] for batch in batches]).tolist()


@pytest.mark.parametrize(
    ("n", "batch", "steps"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (37, 8, 5), (115_846, 128, 906)]
)
def test_steps_per_epoch(n, batch, steps):
    assert steps_per_epoch(n, batch) == steps


def test_shapes_types_and_masks_never_change_but_in_number(whole):
    assert len(whole) == EPOCHS * STEPS
    for step, batch in enumerate(whole):
        assert batch["image"].shape == (BATCH, RES, RES, 3) and batch["image"].dtype == np.uint8
        assert batch["label"].shape == (BATCH,) and batch["label"].dtype == np.int32
        assert batch["mask"].shape == (BATCH,) and batch["mask"].dtype == np.bool_
        real = 5 if step % STEPS == STEPS - 1 else BATCH
        assert batch["mask"].tolist() == [True] * real + [False] * (BATCH - real)
        assert not batch["image"][~batch["mask"]].any()
        assert not batch["label"][~batch["mask"]].any()


def test_every_example_once_an_epoch_in_another_order(whole):
    epochs = [seen(whole[e * STEPS : (e + 1) * STEPS]) for e in range(EPOCHS)]
    for labels in epochs:
        assert sorted(labels) == list(range(N))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(N))


def test_views_differ_from_epoch_to_epoch(whole):
    views = [
        batch["image"][list(batch["label"]).index(7)]
        for batch in whole
        if 7 in batch["label"][batch["mask"]]
    ]
    assert len(views) == EPOCHS
    assert not np.array_equal(views[0], views[1]) and not np.array_equal(views[1], views[2])


def test_views_are_drawn_from_seed_epoch_and_index_alone(split, whole):
    for step in (0, STEPS, 3 * STEPS - 1):
        batch, epoch = whole[step], step // STEPS
        for image, i in zip(batch["image"], batch["label"][batch["mask"]], strict=False):
            rng = np.random.default_rng((0, epoch, int(i)))
            np.testing.assert_array_equal(image, transform()(split.images[i], rng, epoch))


def test_the_seed_changes_order_and_views(split, whole):
    assert_same(train(split, seed=0), whole)
    other = train(split, seed=1)
    assert seen(other[:STEPS]) != seen(whole[:STEPS])
    assert sorted(seen(other[:STEPS])) == list(range(N))


@pytest.mark.parametrize("start", [1, STEPS - 1, STEPS, 2 * STEPS + 3, EPOCHS * STEPS])
def test_starting_late_equals_skipping(split, whole, start):
    assert_same(train(split, start_step=start), whole[start:])


def test_starting_late_reads_nothing_of_what_came_before(split):
    class Counting:
        def __init__(self):
            self.read = []

        def __len__(self):
            return N

        def __getitem__(self, i):
            self.read.append(i)
            return split.images[i]

    images = Counting()
    train(Split(images, split.labels), start_step=EPOCHS * STEPS - 1)
    assert len(images.read) == 5


def test_a_longer_run_starts_in_the_same_order(split, whole):
    longer = train(split, epochs=EPOCHS + 4)
    assert seen(longer[: EPOCHS * STEPS]) == seen(whole)


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
@pytest.mark.parametrize("start", [0, STEPS + 2])
def test_processes_share_the_same_global_batches(split, whole, processes, start):
    shares = [
        train(split, process=p, processes=processes, start_step=start) for p in range(processes)
    ]
    joined = [
        # Process p holds the rows p, p + processes, ... of the global batch.
        {key: np.stack([part[key] for part in parts], 1).reshape(full[key].shape) for key in full}
        for *parts, full in zip(*shares, whole[start:], strict=True)
    ]
    assert_same(joined, whole[start:])


@pytest.mark.slow
def test_workers_change_nothing(split, whole):
    for workers in (1, 4):
        assert_same(train(split, workers=workers), whole)
    late = train(split, workers=2, start_step=2)  # 13 batches: one worker has more than the other
    assert_same(late, whole[2:])


@pytest.mark.slow
def test_more_workers_than_batches(split, whole):
    found = train(split, workers=5, start_step=EPOCHS * STEPS - 1)
    assert_same(found, whole[-1:])
    assert train(split, workers=2, start_step=EPOCHS * STEPS) == []


def test_no_epochs_no_batches(split):
    assert train(split, epochs=0) == []


@pytest.mark.parametrize("batch", [1, 36, 37, 38, 64])
def test_batches_of_any_size_hold_every_image_once(split, batch):
    batches = train(split, batch=batch, epochs=1)
    assert len(batches) == steps_per_epoch(N, batch)
    assert sorted(seen(batches)) == list(range(N))
    assert {b["image"].shape for b in batches} == {(batch, RES, RES, 3)}


# --- evaluation ---


@pytest.mark.parametrize("view", [TestTransform(RES), FiveCrop(RES, 2)], ids=["plain", "five"])
def test_evaluation_keeps_the_order(split, view):
    batches = list(loader.eval_batches(split, view, batch=BATCH))
    assert seen(batches) == list(range(N))
    assert sum(batch["mask"].sum() for batch in batches) == N
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    for i in (0, 13, N - 1):
        np.testing.assert_array_equal(images[i], view(split.images[i]))


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_every_process_evaluates_as_many_batches(split, processes):
    # 33 images of 37: with 8 processes, 7 have nothing but padding in the last batch.
    part = Split(ArrayImages(split.images.pixels[:33], "", np.arange(33)), np.arange(33))
    shares = [
        list(loader.eval_batches(part, TestTransform(RES), batch=8, process=p, processes=processes))
        for p in range(processes)
    ]
    assert {len(share) for share in shares} == {5}
    assert {b["image"].shape for share in shares for b in share} == {(8 // processes, RES, RES, 3)}
    assert sorted(label for share in shares for label in seen(share)) == list(range(33))


def test_images_of_many_sizes_are_batched():
    @dataclass(frozen=True)
    class Sizes:
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return Image.new("RGB", (1 + 7 * i, 30 - 5 * i), (i, i, i))

    batches = train(Split(Sizes(), np.arange(5)), epochs=1)
    assert sorted(batches[0]["image"][:5, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4]


# --- mistakes ---


@pytest.fixture
def damaged(tmp_path):
    names = [f"{i}.png" for i in range(12)]
    for name in names:
        Image.new("RGB", (5, 5)).save(tmp_path / name)
    (tmp_path / "9.png").write_bytes(b"no image")
    return Split(FileImages(str(tmp_path), names), np.zeros(12)), str(tmp_path / "9.png")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_at_its_batch(damaged, workers):
    split, path = damaged
    batches = loader.eval_batches(split, TestTransform(RES), batch=4, workers=workers)
    assert next(batches)["mask"].all() and next(batches)["mask"].all()
    with pytest.raises(UserError) as caught:
        next(batches)
    assert path in str(caught.value) and "no image in a known format" in str(caught.value)
    assert "Replace the file" in str(caught.value)
    batches.close()


def test_a_closed_iterator_gives_nothing_more(split):
    batches = loader.train_batches(split, transform(), seed=0, epochs=1000, batch=BATCH)
    next(batches)
    batches.close()
    assert list(batches) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(processes=3), ["8", "3 processes", "train.batch"]),
        (dict(batch=0), ["batch of 0"]),
        (dict(batch=-8), ["batch of -8"]),
        (dict(workers=-2), ["data.workers", "-2"]),
    ],
)
def test_mistakes_name_the_key(split, options, words):
    with pytest.raises(UserError) as caught:
        train(split, **options)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("options", [dict(process=1), dict(process=-1), dict(start_step=-1)])
def test_impossible_places_are_refused(split, options):
    with pytest.raises(ValueError, match="start_step="):
        train(split, **options)


def test_little_shared_memory_is_said_beforehand(split, monkeypatch):
    nearly_full = SimpleNamespace(free=100)
    monkeypatch.setattr(ahead.shutil, "disk_usage", lambda path: nearly_full)
    with pytest.raises(UserError, match="data.workers=2.*shared memory.*data.workers=0"):
        train(split, workers=2)


def test_the_number_of_useful_workers(monkeypatch):
    """From 8 CPUs on, four CPUs get a worker; few views and users' scripts get threads alone."""
    main = SimpleNamespace(__spec__=None)  # as in the installed command, which is a script
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(entry, "_IS_COMMAND", False)
    entry.mark_as_command()
    monkeypatch.setattr(ahead.shutil, "disk_usage", lambda path: SimpleNamespace(free=50_000))
    monkeypatch.setattr(ahead, "SHARED", Path("/"))

    def sized(cpus, views=10**6, size=1):
        monkeypatch.setattr(ahead, "_cpus", lambda: cpus)
        return ahead.useful_workers(views, size)

    told = []
    monkeypatch.setattr(ahead.logging, "log_first_n", lambda level, text, *args: told.append(args))
    assert [sized(cpus) for cpus in (1, 4, 7, 8, 16, 96)] == [0, 0, 0, 2, 4, 24]
    assert sized(16, views=19_999) == 0 and not told
    assert sized(96, size=1000) == 12  # 50,000 bytes of shared memory, 4 batches each
    assert sized(96, size=10_000) == 0
    assert [args[-2:] for args in told] == [(12, 24), (0, 24)]
    monkeypatch.setattr(entry, "_IS_COMMAND", False)  # a user's own module or script
    assert sized(16) == 0


@pytest.mark.slow
def test_batches_of_useful_workers(split, whole, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(ahead, "useful_workers", lambda *args: asked.append(args) or 2)
    assert_same(train(split, workers=-1), whole)
    assert asked == []  # nothing is decoded
    for i in range(N):
        Image.fromarray(split.images[i]).save(tmp_path / f"{i}.png")
    files = Split(FileImages(str(tmp_path), [f"{i}.png" for i in range(N)]), np.arange(N))
    assert_same(train(files, workers=-1), whole)
    assert asked == [(EPOCHS * STEPS * BATCH, BATCH * RES * RES * 3)]


READS = """
import multiprocessing, time
import numpy as np
from lift_jax.data import loader
from lift_jax.data.images.views import TestTransform
from lift_jax.data.types import ArrayImages, Split

if __name__ == "__main__":
    pixels = np.zeros((4000, 16, 16, 3), np.uint8)
    split = Split(ArrayImages(pixels, "zeros", np.arange(4000)), np.zeros(4000))
    batches = loader.eval_batches(split, TestTransform(16), batch=4, workers=2)
    next(batches), next(batches)  # of either worker: they are started one after the other
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(100)
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "reads.py").write_text(READS)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "reads.py")], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        workers = [Path(f"/proc/{pid}") for pid in process.stdout.readline().split()]
        assert len(workers) == 2 and all(worker.exists() for worker in workers)
        process.kill()
    begin = time.monotonic()
    while any(worker.exists() for worker in workers):
        assert time.monotonic() - begin < 30
        time.sleep(0.05)


@pytest.mark.slow
def test_a_run_that_stops_early_leaves_no_shared_memory(tmp_path):
    """Python prints no warning of leaked memory at the end of the process."""
    text = READS.replace("time.sleep(100)", "batches.close(); raise SystemExit(75)")
    (tmp_path / "reads.py").write_text(text)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "reads.py")], cwd=ROOT, text=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (75, "")


@pytest.mark.parametrize("size", [1, 10**6, 2**29, 2**40])
@pytest.mark.parametrize("readers", [1, 3, 64])
def test_reading_ahead_is_bounded(size, readers):
    options = ahead.read_options(size, readers)
    assert 1 <= options.num_threads <= options.prefetch_buffer_size
    assert options.prefetch_buffer_size <= max(2, ahead.MAX_BUFFER // (size * readers))


def test_user_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UserError("what to do")))
    assert type(error) is UserError and str(error) == "what to do"


# --- images that cannot be read ---


def damaged_folder(tmp_path, count=11, damaged=(2, 7, 10)):
    """Returns a split of image files, some of which are cut short."""
    for i in range(count):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{i}.png")
        if i in damaged:
            (tmp_path / f"{i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes()[:200])
    return FileImages(str(tmp_path), [f"{i}.png" for i in range(count)])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_masked_and_listed(tmp_path, workers):
    files = damaged_folder(tmp_path)
    labels = np.arange(11)
    split = Split(files, labels, skip=True)
    batches = list(loader.eval_batches(split, TestTransform(8), batch=4, workers=workers))
    assert all(batch.keys() == {"image", "label", "mask", "row"} for batch in batches)
    for key in ("label", "row"):
        seen = np.concatenate([batch[key][batch["mask"]] for batch in batches])
        assert seen.tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    bad = [files.name(i) for i in (2, 7, 10)]
    assert set(split.unreadable) == set(bad)
    for name, cause in split.unreadable.items():
        assert name in cause and "truncated" in cause

    transform = TrainTransform(8, "mda", "bicubic", "convex", 0.08, True, 3)
    split = Split(files, labels, skip=True)
    batches = loader.train_batches(split, transform, seed=0, epochs=3, batch=4, workers=workers)
    epochs = np.array([list(batch["label"][batch["mask"]]) for batch in batches], dtype=object)
    for epoch in epochs.reshape(3, 3):
        assert sorted(np.concatenate(epoch)) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert set(split.unreadable) == set(bad)


def test_a_part_of_a_split_skips_unreadable_images_as_the_whole_does(tmp_path):
    split = Split(damaged_folder(tmp_path), np.arange(11), skip=True)
    part = split.take(np.array([10, 3, 2]))
    batches = list(loader.eval_batches(part, TestTransform(8), batch=3))
    assert batches[0]["label"][batches[0]["mask"]].tolist() == [3]
    assert set(split.unreadable) == {split.images.name(2), split.images.name(10)}


def test_without_leave_a_bad_image_is_an_error(tmp_path):
    split = Split(damaged_folder(tmp_path), np.arange(11))
    with pytest.raises(UserError, match=r"2\.png.*truncated"):
        list(loader.eval_batches(split, TestTransform(8), batch=4))


def test_the_list_of_bad_images_outlives_stops_and_tests(tmp_path):
    def record(train=(), test=(), **options):
        splits = [
            Split(FileImages("/photos", [f"{i}.png" for i in range(5)]), np.zeros(5), skip=True)
            for _ in range(2)
        ]
        for split, found in zip(splits, (train, test), strict=True):
            split.unreadable.update({split.images.name(i): f"cause {i}, of {name}"
                              for i, name in enumerate("abcde") if i in found})  # fmt: skip
        console = Console(record=True, width=200)
        unreadable.record_unreadable(Dataset(*splits, ("a",)), tmp_path, 0, console, **options)
        return console.export_text()

    def listed():
        lines = (tmp_path / "bad_images.csv").read_text().splitlines()[1:]
        return [line.split(".png")[0].replace(",/photos/", " ") for line in lines]

    assert record() == "" and not (tmp_path / "bad_images.csv").exists()
    assert "images that could not be read and were skipped: 1 " in record(train=[3])
    assert record() == "" and listed() == ["train 3"]  # continued after a stop: nothing is new
    assert "skipped: 3 " in record(train=[1], test=[0], anew=["test"])
    assert listed() == ["train 3", "train 1", "test 0"]
    assert "skipped: 3 " in record(
        test=[2], anew=["test"]
    )  # tested again, after a file was replaced
    assert listed() == ["train 3", "train 1", "test 2"]
    assert record(anew=["train", "val", "test"]) == "" and listed() == []
