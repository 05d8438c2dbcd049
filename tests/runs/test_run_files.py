"""The files of a run folder that somebody changed: one line names the file and the key."""

import json

import pytest
from PIL import Image

from configs import base
from lift_jax.errors import UserError
from lift_jax.evaluation.metrics import NAMES
from lift_jax.runs import finished_run, folder, log
from lift_jax.runs.kept import result_files
from lift_jax.runs.restored import read_settings
from lift_jax.settings.groups.data import DataSettings
from lift_jax.settings.parse import to_dict


@pytest.fixture
def run(tmp_path):
    """Returns a function that writes config.json and metrics.json with some of their keys changed.

    A key is dotted; `...` as its value takes it out.
    """
    summary = {"class_names": ["a", "b"], "backbone_fingerprint": "f"}
    about = to_dict(base.get_config()) | {"data_summary": summary}
    found = dict.fromkeys(finished_run.RESULTS) | dict.fromkeys(finished_run.FACTS, 1)
    found |= {"test": dict.fromkeys(NAMES, 50.0)}

    def write(config=None, metrics=None):
        contents = (result_files.CONFIG, about, config), (result_files.METRICS, found, metrics)
        for name, content, changed in contents:
            content = json.loads(json.dumps(content))
            for key, value in (changed or {}).items():
                *groups, last = key.split(".")
                inner = content
                for group in groups:
                    inner = inner[group]
                if value is ...:
                    del inner[last]
                else:
                    inner[last] = value
            (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return write


def test_a_whole_config_is_read(run):
    settings, names, fingerprint = read_settings(run(), {})
    assert (settings.tuner.dim, names, fingerprint) == (0, ("a", "b"), "f")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tuner.dim", "a"), ("tuner.dim", 10**19), ("tuner.dim", -1), ("tuner.dim", None),
        ("tuner", 5), ("tuner", ...), ("text_tuner", None), ("seed", ...), ("train.lr", [1]),
        ("data_summary.class_names", 5), ("data_summary.class_names", ["a", 5]),
        ("data_summary", []), ("data_summary", ...), ("data_summary.backbone_fingerprint", ...),
        ("data_summary.backbone_fingerprint", 5), ("label", 5), ("tuner.surprise", 1),
        ("data.name", {}), ("surprise", {}), ("model.backbone", "a" * 5000),
    ],
)  # fmt: skip
def test_config_of_a_run(run, key, value):
    with pytest.raises(UserError) as caught:
        read_settings(run({key: value}), {})
    message = str(caught.value)
    assert result_files.CONFIG in message and key.rpartition(".")[2] in message
    assert "\n" not in message and len(message) < 1500


@pytest.mark.parametrize(
    "changed, says",
    [
        (["calibration.json"], "calibration.json is not what the run wrote."),
        (
            ["metrics.json", "per_class.csv"],
            "metrics.json, per_class.csv are not what the run wrote.",
        ),
    ],
)
def test_one_changed_file_and_several(run, changed, says, monkeypatch):
    workdir, told = run(), []
    monkeypatch.setattr(finished_run, "load", lambda workdir: None)
    monkeypatch.setattr(folder, "changed_files", lambda workdir: changed)
    assert folder.stored_metrics(workdir, {}, told.append) is None
    assert told == [
        f"{workdir}: {says} The run is tested again, which writes all of its results again."
    ]


@pytest.mark.parametrize("content", ["[]", "null", "{", "", "[" * 200_000, '{"a": NaN}'])
def test_files_that_hold_no_object(run, content):
    workdir = run()
    for name in (result_files.CONFIG, result_files.METRICS):
        run()
        (workdir / name).write_text(content)
        with pytest.raises(UserError, match=name) as caught:
            finished_run.load(workdir)
        assert "\n" not in str(caught.value)
        assert folder.stored_metrics(workdir, {}, lambda line: None) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("test", 5), ("test.overall", "a"), ("test.few", [1]), ("test.overall", ...),
        ("steps", "a"), ("tuned_params", {}), ("seconds", ...), ("test", None),
        ("tuned_params", None), ("seconds", None), ("steps", True),
    ],
)  # fmt: skip
def test_metrics_of_a_run(run, key, value):
    with pytest.raises(
        UserError, match=rf"{result_files.METRICS}: .*({key.rpartition('.')[2]}|one result)"
    ):
        finished_run.load(run(metrics={key: value}))


def test_a_log_of_other_values(tmp_path):
    whole = {"step": 1, "epoch": 0, "loss": 1.0, "lr": 0.1, "images_per_second": 1, "wait": 0}
    whole["seconds"] = 2.5
    for changed in ({"step": "a"}, {"step": 1.5}, {"loss": None}, {"loss": [1]}, {"epoch": True}):
        lines = json.dumps(whole | changed), json.dumps(whole)
        (tmp_path / log.LOG).write_text("\n".join(lines))
        with pytest.raises(UserError, match="line 1 is not a training step"):
            log.read_log(tmp_path / log.LOG)


@pytest.mark.parametrize("splits", [(), ("train",), ("train", "test")], ids=str)
def test_a_run_does_not_lie_among_the_classes_of_its_data(splits, tmp_path):
    """The figures of its report would be images of a class, of which the next run is made."""
    root = tmp_path / "photos"
    for place in (root / split for split in splits or ("",)):
        for name in ("fox", "hare"):
            (place / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (9, 9)).save(place / name / f"{i}.png")
    data = DataSettings(name="folder", root=str(root))
    held = "test" in splits  # then other folders beside the splits are not used
    inside = [root / split / name for split in splits for name in ("runs", "fox/run")]
    for workdir in [*inside, *([] if held else [root, root / "runs", root / "fox" / "run"])]:
        with pytest.raises(
            UserError, match=r"\(--workdir\) lies in .*photos.*Give a folder beside"
        ):
            folder.open_workdir(workdir, data)
    assert not (root / "runs").exists()
    for workdir in [tmp_path / "photos_run", tmp_path, *[root / "runs"] * held]:
        folder.open_workdir(workdir, data)
    folder.open_workdir(root / "runs", DataSettings(name="list", root=str(root)))
    empty = DataSettings(name="folder", root=str(tmp_path / "none"))  # which is said later
    folder.open_workdir(tmp_path / "none" / "runs", empty)
