"""The command: `python -m lift_jax.main --config=configs/demo.py --workdir=runs/demo`.

Run it again to continue where it stopped. `--mode=evaluate` tests the newest checkpoint of the
folder, `--mode=zero_shot` the backbone alone. `--seeds=5` runs it with five seeds, `--sweep=NAME`
the runs of a table of configs/sweeps.py; both continue as well.
"""

import os
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict
from rich.console import Console

from lift_jax import command, config_flag, distributed, remote, report, sweep, train
from lift_jax.errors import DiskError, UserError, fail, unknown
from lift_jax.together import together

WORKDIR = flags.DEFINE_string("workdir", None, "The run folder: checkpoints, logs, results.")
MODE = flags.DEFINE_string("mode", "train", "train, evaluate or zero_shot.")
SWEEP = flags.DEFINE_string("sweep", "", "Run the cells of a table of configs/sweeps.py.")
PART = flags.DEFINE_string("sweep_cells", "", "i/n: of a sweep, the i-th of n parts alone.")
SEEDS = flags.DEFINE_integer("seeds", 1, "Runs, from the config's seed on: mean and deviation.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, of several.")
PROCESS_ID = flags.DEFINE_integer("process_id", -1, "Of this process, from 0.")
PROCESS_COUNT = flags.DEFINE_integer("process_count", 0, "Of all processes.")
MODES = ("train", "evaluate", "zero_shot")


def chosen_run() -> tuple[ConfigDict, str]:
    """Config and run folder of the flags. Raises UserError if one is absent or does not exist."""
    usage = (
        "Give a config and a run folder: python -m lift_jax.main --config=configs/demo.py "
        "--workdir=runs/demo"
    )
    config = config_flag.chosen_config(usage)
    if not WORKDIR.value:
        raise UserError(usage)
    return config, WORKDIR.value


def run_table(config: ConfigDict, workdir: str) -> None:
    """Runs a sweep or a seed study. Raises UserError for flags that do not go together."""
    from configs import sweeps  # beside the config file; imports what a single run does not need

    if MODE.value == "evaluate":
        raise UserError("--mode=evaluate is for a single run: leave --sweep and --seeds out.")
    if PART.value and not SWEEP.value:
        raise UserError("--sweep_cells chooses cells of a sweep: give --sweep as well.")
    path, _, argument = config_flag.config_filename().partition(":")
    file = Path(path).stem
    changes = sweeps.cells(SWEEP.value, config, file) if SWEEP.value else {"": {}}
    cells = sweep.settle(config, changes)
    title = " of ".join(filter(None, (SWEEP.value, f"{file}:{argument}" if argument else file)))
    sweep.run(
        cells, workdir, title=title, seeds=SEEDS.value, part=PART.value,
        mode="zero_shot" if SWEEP.value in sweeps.ZERO_SHOT else MODE.value,
        published={name: sweeps.published(c, file) for name, c in cells.items()},
        notes=sweeps.references(config, file),
    )  # fmt: skip


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise SystemExit(fail(f"unexpected arguments: {' '.join(argv[1:])}"))
    logging.set_verbosity(logging.FATAL)  # orbax's: what goes wrong there comes back as an error
    command.use_compile_cache()
    try:
        if MODE.value not in MODES:
            raise unknown("mode (--mode)", MODE.value, MODES)
        config, workdir = chosen_run()
        distributed.start(COORDINATOR.value, PROCESS_ID.value, PROCESS_COUNT.value)
        hosts = distributed.hosts()
        distributed.tell(hosts, Console(quiet=jax.process_index() != 0))
        first = Console(quiet=jax.process_index() != 0)
        with together(hosts, COORDINATOR.value), remote.worked_on(workdir, first) as workdir:
            if SWEEP.value or PART.value or SEEDS.value != 1:
                run_table(config, workdir)
                return
            train.run(config, workdir, MODE.value)
            if jax.process_index() == 0:
                print(f"Report: {report.write(workdir)}")
    except UserError as e:
        status = fail(e)
        if isinstance(e, DiskError) or jax.process_count() > 1:
            # else libraries tell of the same disk on their way out, or JAX waits for the others
            sys.stdout.flush()
            os._exit(status)
        raise SystemExit(status) from None
    except KeyboardInterrupt:
        print("\nStopped. Run the same command to continue from the last checkpoint.")
        raise SystemExit(130) from None


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse_flags)
