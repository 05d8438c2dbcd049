"""Names are data: whatever the system allows in a path is taken literally."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from support.paths import ROOT

from lift_jax.commands.line import dispatch
from lift_jax.errors import DiskError
from lift_jax.storage import cache, names
from lift_jax.training import checkpoint, optimizer, state

LEGAL = [
    "exp[1]", "a{b}", "a*", "a?", "%s%d%", "~", "~nobody", "#1", "$HOME", "it's", '"said"',
    "two words", "-dash", "n" * 200, "naïve", "数", "new\nline", "dot.", "space ", " space",
    "back\\slash", "gs:", "a|b;c&d", "<b>", "[/b]", "ocdbt.process_0", ".hidden",
]  # fmt: skip


def made_state(step):
    tuned = {"visual/a": jnp.full((3, 2), step, jnp.float32)}
    made = state.create_state(tuned, optimizer.sgd(lambda step: 0.1, 0.9, 0.0))
    return state.State(jnp.int32(step), made.tuned, made.opt)


def save(workdir, *steps):
    with checkpoint.open_manager(workdir, 3) as manager:
        for step in steps:
            checkpoint.save(manager, made_state(step), {"seed": 7})
        checkpoint.wait(manager)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", LEGAL)
def test_checkpoints_lie_below_any_name(tmp_path, name, inside):
    workdir = tmp_path / name / "run" if inside else tmp_path / name
    workdir.mkdir(parents=True)
    save(workdir, 1, 2)
    assert sorted(path.name for path in workdir.rglob("manifest.ocdbt")) == 4 * ["manifest.ocdbt"]
    with checkpoint.open_manager(workdir, 3) as manager:
        assert checkpoint.read_about(manager) == {"seed": 7}
        found = checkpoint.restore(manager, made_state(0), Console())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(made_state(2)), strict=True):
        assert np.array_equal(a, b)
    found = checkpoint.read_tuned(workdir, pytest.fail)
    assert found is not None
    tuned, about = found
    assert np.array_equal(tuned["visual/a"], np.full((3, 2), 2)) and about == {"seed": 7}


def test_a_name_that_is_not_plain_gets_a_link_that_goes_again(tmp_path):
    odd = tmp_path / "exp[1]"
    odd.mkdir()
    with names.plain_name(odd) as plain:
        assert names.is_plain(plain) and plain.samefile(odd)
        (plain / "file").touch()
    assert not os.path.lexists(plain) and (odd / "file").exists()
    with names.plain_name(tmp_path) as plain:
        assert plain == tmp_path
    assert not names.is_plain(Path("/s3/bucket")) and names.is_plain(Path("/s3x/bucket"))


HOLDS = """
import pathlib, sys, time
from lift_jax.storage import cache, names
with names.plain_name(pathlib.Path(sys.argv[1])) as plain:
    print(plain, flush=True)
    time.sleep(100)
"""


def test_the_link_of_a_killed_process_goes_with_the_next_command(tmp_path, monkeypatch):
    odd = tmp_path / "exp[1]"
    odd.mkdir()
    (odd / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(odd)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        link = Path(process.stdout.readline().strip())
        cache.remove_leftovers()
        assert link.samefile(odd)
        process.kill()
    assert link.samefile(odd)
    with pytest.raises(SystemExit):
        dispatch.main(["settings", "train.lr", "--no_such_option"])
    assert link.samefile(odd)  # a mistake does nothing
    dispatch.main(["settings", "train.lr"])
    assert not link.parent.exists() and list(link.parent.parent.iterdir()) == []
    assert (odd / "file").exists()


@pytest.mark.parametrize("typed, expected", [
    ("~/a", "HOME/a"), ("~nobody[1]/a", "CWD/~nobody[1]/a"), ("./~", "CWD/~"), ("a~", "a~"),
])  # fmt: skip
def test_a_tilde_is_a_home_only_where_there_is_one(typed, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    wanted = expected.replace("HOME", str(tmp_path / "home")).replace("CWD", str(tmp_path))
    once = names.expand_user(typed)
    assert str(once) == wanted and names.expand_user(once) == once


# -- a save counts once it has been read back


def lose_the_manifest(monkeypatch):
    """Lets orbax pass over the step that it passes over in a folder named exp[1]."""
    from orbax.checkpoint._src.serialization import ocdbt_utils

    async def skip(*_, **__):
        return None

    monkeypatch.setattr(ocdbt_utils, "merge_ocdbt_per_process_files", skip)


@pytest.mark.filterwarnings("ignore")
def test_a_save_without_weights_is_an_error(tmp_path, monkeypatch):
    lose_the_manifest(monkeypatch)
    with pytest.raises(DiskError, match="Cannot save a checkpoint in .*checkpoints: "):
        save(tmp_path, 1)


@pytest.mark.filterwarnings("ignore")
def test_the_next_save_finds_it_too(tmp_path, monkeypatch):
    lose_the_manifest(monkeypatch)
    with checkpoint.open_manager(tmp_path, 3) as manager:
        checkpoint.save(manager, made_state(1), {})
        with pytest.raises(DiskError, match="Cannot save a checkpoint"):
            checkpoint.save(manager, made_state(2), {})


@pytest.mark.filterwarnings("ignore")
def test_a_save_that_was_not_made_is_an_error(tmp_path):
    """Where there is a checkpoint of the step already, orbax saves nothing and says nothing."""
    save(tmp_path, 1)
    with checkpoint.open_manager(tmp_path, 3) as manager:
        other = made_state(1)
        other.tuned["visual/a"] = other.tuned["visual/a"] + 1
        with pytest.raises(DiskError, match="does not hold what was saved|already exists"):
            checkpoint.save(manager, other, {})
            checkpoint.wait(manager)
