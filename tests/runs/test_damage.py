"""A finished run folder with one thing in it damaged: the right result, or one line of error."""

import os
import shutil

import numpy as np
import pytest
from support.runs import train_and_test

import lift_jax
from configs import demo
from lift_jax.errors import UserError
from lift_jax.reports import report
from lift_jax.runs.kept import kept_file, result_files

pytestmark = [
    pytest.mark.slow,  # whole runs, or many compilations
    pytest.mark.filterwarnings("ignore"),  # orbax leaves tasks behind where it finds damage
]

IMAGE = (np.arange(32 * 32 * 3) % 255).astype(np.uint8).reshape(32, 32, 3)
DAMAGES = ("cut", "unreadable")  # python -m tests.attack draws all kinds
RESULTS = ("test", "test_tte", "zero_shot", "steps", "tuned_params")


def config_of(best=False):
    config = demo.get_config("debug")
    config.train.epochs, config.checkpoint.every_steps, config.checkpoint.keep = 2, 1, 2
    if best:
        config.data.val_share, config.checkpoint.best = 0.2, True
    return config


def finished_run(workdir, best=False):
    found = train_and_test(config_of(best), workdir)
    report.write(workdir)
    return workdir, found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def best_run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("best"), best=True)


def damage(path, how, other):
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[:middle])
    elif how == "flip":
        flipped = bytes([content[middle] ^ 1]) if content else b"?"
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
    elif how == "other":
        shutil.copyfile(other, path)
    elif how == "unreadable":
        path.unlink()
        path.symlink_to(path)  # root reads whatever has no permissions, but nobody reads this
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()


def files_of(workdir):
    """Returns all files of a run, of its checkpoints those of the newest that are read."""
    newest = str(max(int(path.name) for path in (workdir / "checkpoints").iterdir()))
    names = [path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file()]
    read = [n for n in names if n.parts[0] != "checkpoints" or n.parts[1] == newest]
    return sorted(n for n in read if "ocdbt.process_0" not in n.parts or n.parts[-2] != "d")


def continued(workdir, best=False):
    """Runs the run's command again; returns what counts of its results."""
    found = train_and_test(config_of(best), workdir)
    report.write(workdir)
    return {key: found[key] for key in RESULTS}


def in_a_line(call):
    """Returns what a function returns, None for a UserError, which has a line for a message."""
    try:
        return call()
    except UserError as error:
        assert str(error).strip()
        return None


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("best", [False, True], ids=["newest", "best"])
def test_a_run_survives_damage_to_any_of_its_files(request, tmp_path, how, best):
    """The run's command mends it, and predict and report mend nothing and crash on nothing."""
    first, found = request.getfixturevalue("best_run" if best else "run")
    wanted = {key: found[key] for key in RESULTS}
    predicted = lift_jax.Predictor(first).predict(IMAGE)
    files = files_of(first)
    assert len(files) > 15
    if best:
        files = [name for name in files if "metrics" in name.parts]
        assert files
    for number, name in enumerate(files):
        workdir = shutil.copytree(first, tmp_path / str(number))
        other = first / ("config.json" if name.name == "metrics.json" else "metrics.json")
        damage(workdir / name, how, other)
        if name.name == "config.json":
            assert lift_jax.Predictor(workdir).predict(IMAGE) == predicted  # from the checkpoint
        elif "checkpoints" in name.parts:
            in_a_line(lambda workdir=workdir: lift_jax.Predictor(workdir).predict(IMAGE))
        else:
            in_a_line(lambda workdir=workdir: report.write(workdir))
        if not name.name.startswith("report"):
            assert continued(workdir, best) == wanted, name
            assert not result_files.changed_files(workdir)
        shutil.rmtree(workdir)


def test_a_digit_of_the_results_that_flipped_is_seen(run, tmp_path, capsys):
    first, found = run
    for name in (result_files.METRICS, result_files.PER_CLASS):
        workdir = shutil.copytree(first, tmp_path / name)
        text = (workdir / name).read_text()
        place = text.index(".") + 1
        digit = "3" if text[place] != "3" else "4"
        (workdir / name).write_text(text[:place] + digit + text[place + 1 :])
        report.write(workdir)
        assert f"{name} is not what the run wrote" in capsys.readouterr().err
        assert continued(workdir) == {key: found[key] for key in RESULTS}
        assert "is not what the run wrote" in " ".join(capsys.readouterr().out.split())
        assert (workdir / name).read_text() == text


@pytest.mark.parametrize("name", kept_file.NAMES)
def test_a_kept_file_of_another_test_is_not_shown(run, tmp_path, capsys, name):
    """It may come from another run, or from a test that was killed before its results."""
    first, found = run
    workdir = shutil.copytree(first, tmp_path / "run")
    kept = kept_file.read(workdir / name)
    assert kept is not None
    arrays, about = kept
    kept_file.write(workdir / name, arrays, about | {"of": "another test"})
    assert result_files.changed_files(workdir) == [name]
    page = report.write(workdir).read_text()
    assert f"{name} is not what the run wrote" in capsys.readouterr().err
    assert page != (first / "report.html").read_text()
    said = {"predictions": "keeps no answers", "features": "is not of the run"}
    assert said.get(name.removesuffix(".safetensors"), "") in page
    assert continued(workdir) == {key: found[key] for key in RESULTS}
    assert (workdir / name).read_bytes() == (first / name).read_bytes()
    (workdir / name).unlink()  # to save space
    assert not result_files.changed_files(workdir)


def test_a_broken_score_leaves_the_others_in_use(best_run, tmp_path, capsys):
    first, found = best_run
    steps = sorted(int(path.name) for path in (first / "checkpoints").iterdir())
    for text in ("", "{}", '{"score": "x"}'):
        workdir = shutil.copytree(first, tmp_path / str(len(text)))
        file = workdir / "checkpoints" / str(steps[-1]) / "metrics" / "metrics"
        file.write_text(text)
        lift_jax.Predictor(workdir).predict(IMAGE)
        assert "metrics is damaged, so that checkpoint counts as" in capsys.readouterr().err
        assert file.exists()  # predict changes nothing
        continued(workdir, best=True)
        aside = f"damaged_checkpoint_{steps[-1]}_metrics"
        assert (workdir / aside).is_dir()
        said = "".join(capsys.readouterr().out.split())
        assert "countsasnotvalidated" in said and aside in said


def test_checkpoints_that_were_exchanged_are_seen(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "w")
    folders = sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    folders[0].rename(workdir / "aside")
    folders[1].rename(folders[0])
    (workdir / "aside").rename(folders[1])
    with pytest.raises(UserError, match="(?s)4: it holds step 3.*3: it holds step 4"):
        train_and_test(config_of(), workdir)
    with pytest.raises(UserError, match="it holds step 3"):
        lift_jax.Predictor(workdir)


def test_a_file_where_the_checkpoints_belong(run, tmp_path):
    workdir = shutil.copytree(run[0], tmp_path / "w")
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").touch()
    with pytest.raises(
        UserError, match="checkpoints is a file; expected the folder of the checkpoints"
    ):
        train_and_test(config_of(), workdir)
    with pytest.raises(
        UserError, match="checkpoints is a file; expected the folder of checkpoints"
    ):
        lift_jax.Predictor(workdir)


def test_a_run_of_an_earlier_version_has_no_checksums(run, tmp_path, capsys):
    workdir = shutil.copytree(run[0], tmp_path / "w")
    os.unlink(workdir / result_files.SUMS)
    train_and_test(config_of(), workdir)
    assert "is finished" in " ".join(capsys.readouterr().out.split())
