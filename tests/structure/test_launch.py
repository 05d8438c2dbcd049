"""Tests of the launch scripts: clean shell, valid YAML, and the commands that they would run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.paths import ROOT

from lift_jax import main
from lift_jax.commands.line import parsing
from lift_jax.parallel import signals

LAUNCH = ROOT / "launch"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")  # its wheel puts it there
SCRIPTS = ["local.sh", "slurm.sbatch", "tpu_vm.sh"]
RUN = ["--config=configs/demo.py", "--config.head.prompt=a photo of a {}.", "--workdir=runs/demo"]

FAKE = """#!/bin/bash
{{ printf "%s" "$(basename "$0")"; printf "\\t%s" "$@"; echo; }} >> {calls}
[ "$(basename "$0")" != srun ] || exit "${{SRUN_STATUS:-0}}"
"""


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Puts fake srun, scontrol, gcloud and python3 on PATH; returns a function to list calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol", "gcloud", "python3"):
        path = folder / name
        path.write_text(FAKE.format(calls=tmp_path / "calls"))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("PYTHON", raising=False)

    def calls():
        path = tmp_path / "calls"
        return [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []

    return calls


def launch(script, *arguments, **environment):
    return subprocess.run(
        [LAUNCH / script, *arguments], capture_output=True, text=True, timeout=60,
        env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run([SHELLCHECK, LAUNCH / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_how(script):
    done = launch(script, "--help")
    assert done.returncode == 0
    assert f"launch/{script}" in done.stdout and "Needs:" in done.stdout
    assert "set -" not in done.stdout


def test_local(recorded):
    dry = launch("local.sh", "--dry-run", "--gpus=0,1", *RUN)
    assert dry.returncode == 0 and recorded() == []
    assert shlex.split(dry.stdout) == [
        "CUDA_VISIBLE_DEVICES=0,1", "python3", "-m", "lift_jax.main", *RUN
    ]  # fmt: skip
    assert launch("local.sh", *RUN).returncode == 0
    assert recorded() == [["python3", "-m", "lift_jax.main", *RUN]]


def test_slurm(recorded, tmp_path):
    dry = launch("slurm.sbatch", "--dry-run", *RUN)
    assert dry.returncode == 0 and recorded() == []
    assert shlex.split(dry.stdout.splitlines()[0])[0] == "srun"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to("/bin/true")
    job = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "77"}
    srun = ["srun", "--kill-on-bad-exit=1", ".venv/bin/python", "-m", "lift_jax.main", *RUN]
    assert launch("slurm.sbatch", *RUN, **job).returncode == 0
    assert recorded() == [srun]  # finished: not queued again
    assert launch("slurm.sbatch", *RUN, **job, SRUN_STATUS="1").returncode == 1
    assert recorded() == [srun] * 2  # failed: neither
    again = launch("slurm.sbatch", *RUN, **job, SRUN_STATUS=str(signals.STOPPED))
    assert again.returncode == signals.STOPPED
    assert recorded() == [srun] * 3 + [["scontrol", "requeue", "77"]]


def test_slurm_without_an_environment(recorded, tmp_path):
    done = launch("slurm.sbatch", *RUN, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2 and "no .venv/bin/python" in done.stderr
    assert recorded() == []


TPU = {"TPU": "my-pod", "ZONE": "europe-west4-b", "PROJECT": "mine"}
WHERE = ["--zone=europe-west4-b", "--project=mine"]


def test_tpu_create_setup_delete(recorded):
    assert launch("tpu_vm.sh", "create", "--type=v5litepod-16", "--spot", **TPU).returncode == 0
    assert launch("tpu_vm.sh", "setup", **TPU).returncode == 0
    assert launch("tpu_vm.sh", "delete", **TPU).returncode == 0
    vm = ["gcloud", "compute", "tpus", "tpu-vm"]
    create, copy, *install, delete = recorded()
    assert create == [*vm, "create", "my-pod", "--accelerator-type=v5litepod-16",
                      "--version=v2-alpha-tpuv5-lite", "--spot", *WHERE]  # fmt: skip
    assert copy[4] == "scp" and copy[5].endswith("lift_jax.tar.gz")
    assert copy[6:] == ["my-pod:lift_jax.tar.gz", "--worker=all", *WHERE]
    assert "requirements.txt" in str(install) and "jax[tpu]" in str(install)
    assert delete == [*vm, "delete", "my-pod", *WHERE]


@pytest.mark.parametrize(("statuses", "runs"), [([0], 1), ([75, 75, 0], 3), ([2], 1), ([1, 0], 2)])
def test_tpu_start_runs_until_it_is_finished(recorded, tmp_path, statuses, runs):
    """The script for the workers restarts a program that exits as told, until it is finished."""
    dry = launch("tpu_vm.sh", "start", "--dry-run", *RUN, **TPU)
    assert recorded() == []
    gcloud = shlex.split(dry.stdout)
    assert gcloud[:7] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "my-pod", "--worker=all"]
    remote = gcloud[7].removeprefix("--command=")

    (tmp_path / "lift_jax" / ".venv" / "bin").mkdir(parents=True)
    program = tmp_path / "lift_jax" / ".venv" / "bin" / "python"
    program.write_text(
        '#!/bin/bash\nprintf "%s\\t" "$@" >> called; echo >> called\n'
        f"set -- {' '.join(map(str, statuses))}; shift $(($(wc -l < called) - 1)); exit $1\n"
    )
    tmux = tmp_path / "bin" / "tmux"  # runs the command of a new session at once
    tmux.write_text('#!/bin/bash\neval "${@: -1}"\n')
    sleep = tmp_path / "bin" / "sleep"
    sleep.write_text("#!/bin/bash\n")
    for path in (program, tmux, sleep):
        path.chmod(0o755)
    done = subprocess.run(["bash", "-c", remote], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "lift_jax" / "called").read_text().splitlines()
    assert [line.split("\t")[:-1] for line in called] == [["-m", "lift_jax.main", *RUN]] * runs
    said = (tmp_path / "lift_jax" / "train.log").read_text()
    assert said.endswith(f"exit status {statuses[-1]}\n")


@pytest.mark.parametrize(("arguments", "environment", "words"), [
    (["start"], TPU, "start needs the arguments"),
    (["create"], TPU, "create needs --type="),
    (["strat"], TPU, "unknown action 'strat'"),
    (["logs"], {}, "set TPU to the name"),
])  # fmt: skip
def test_tpu_mistakes(recorded, arguments, environment, words):
    done = launch("tpu_vm.sh", *arguments, **environment)
    assert done.returncode == 2 and words in done.stderr
    assert recorded() == []


def test_jobsets():
    """Counts, the name of the first pod and the status that is no failure fit together."""
    sets = list(yaml.safe_load_all((LAUNCH / "gke_jobset.yaml").read_text()))
    assert [one["metadata"]["labels"]["variant"] for one in sets] == ["tpu", "gpu"]
    for one in sets:
        assert (one["apiVersion"], one["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        (job,) = one["spec"]["replicatedJobs"]
        spec = job["template"]["spec"]
        assert spec["parallelism"] == spec["completions"]
        (rule,) = spec["podFailurePolicy"]["rules"]
        assert rule["onExitCodes"] == {"operator": "In", "values": [signals.STOPPED]}
        pod = spec["template"]["spec"]
        assert pod["restartPolicy"] == "Never"  # a pod failure policy asks for it
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        parser = parsing.Parser()
        main.add_arguments(parser)
        options = parser.options()
        flags = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
        assert flags["workdir"].startswith("/data/")
        for name in flags.keys() - {"config"}:
            assert f"--{name}" in options
        if "coordinator" in flags:
            name = one["metadata"]["name"]
            assert flags["coordinator"].startswith(f"{name}-{job['name']}-0-0.{name}:")
            assert int(flags["process_count"]) == spec["completions"]
    # v5e: four chips a host
    spec = sets[0]["spec"]["replicatedJobs"][0]["template"]["spec"]
    selector = spec["template"]["spec"]["nodeSelector"]
    rows, columns = map(int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
    limits = spec["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert rows * columns == spec["completions"] * limits["google.com/tpu"]


def test_skypilot():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [signals.STOPPED]
    for part in ("setup", "run"):
        done = subprocess.run(["bash", "-n", "-c", task[part]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    flags = set(
        re.findall(r"--(coordinator|process_id|process_count|config|workdir)=", task["run"])
    )
    assert flags == {"coordinator", "process_id", "process_count", "config", "workdir"}


def test_dockerfile():
    """Every file that it copies exists, and it takes each target that it names."""
    text = (LAUNCH / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (\S+)", text, re.MULTILINE):
        assert (LAUNCH.parent / source).exists(), source
    assert set(re.findall(r"^ +(\w+)\) ", text, re.MULTILINE)) == {"cpu", "cuda", "tpu"}
    assert 'ENTRYPOINT ["python", "-m", "lift_jax.main"]' in text
