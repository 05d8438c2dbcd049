"""Trains a classifier, or continues a run, and tests it.

  lift-jax train --config=demo --workdir=runs/demo
  lift-jax train --config=folder --config.data.root=photos --workdir=runs/photos
  lift-jax train --config=inat:method=lift --config.train.epochs=10 --workdir=runs/inat
  lift-jax train --config=demo --sweep=losses --workdir=runs/losses

To continue an interrupted run, run the same command again. --mode=evaluate tests the newest
checkpoint of the run folder, --mode=zero_shot the untuned backbone. --seeds=5 trains with five
seeds, and --sweep=NAME runs all cells of a table of the papers; both continue in the same way.
"""

import argparse
import contextlib
import importlib
import sys
from collections.abc import Sequence
from functools import partial

from lift_jax.commands.line import ending, libraries, options, parsing
from lift_jax.errors import DiskError, UserError, fail, unknown
from lift_jax.output.lines import say
from lift_jax.settings.config_file import ConfigFile
from lift_jax.storage.disk import disk_errors

MODES = ("train", "evaluate", "zero_shot")
USAGE = "Give a config and a run folder: lift-jax train --config=demo --workdir=runs/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    options.add_config(parser)
    parser.add_argument(
        "--workdir",
        metavar="W",
        help="run folder: checkpoints, logs and results; may be an address",
    )
    parser.add_argument("--mode", default="train", help="train (default), evaluate or zero_shot")
    parser.add_argument("--sweep", default="", metavar="NAME", help="run the cells of a sweep")
    parser.add_argument(
        "--sweep_cells",
        default="",
        metavar="I/N",
        help="run every N-th cell of a sweep, from the I-th",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N",
        help="number of runs, with seeds counted up from the config's seed; tables show mean and "
        "standard deviation",
    )  # fmt: skip
    several = parser.add_argument_group("several processes")
    several.add_argument(
        "--coordinator", default="", metavar="HOST:PORT", help="address of process 0"
    )
    several.add_argument(
        "--process_id", type=int, default=-1, metavar="I", help="number of this process, from 0"
    )
    several.add_argument(
        "--process_count", type=int, default=0, metavar="N", help="total number of processes"
    )
    several.add_argument(
        "--connect_seconds", type=float, default=0, metavar="S",
        help="seconds that the processes wait for each other (60; 300 without --coordinator)",
    )  # fmt: skip


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    if flags.mode not in MODES:
        raise unknown("mode (--mode)", flags.mode, MODES)
    chosen = options.chosen_config(flags, f"--config is missing. {USAGE}")
    if not flags.workdir:
        raise UserError(f"--workdir is missing. {USAGE}")

    from lift_jax.parallel import exchange

    libraries.quiet_libraries()
    libraries.use_compile_cache()
    try:
        with disk_errors():
            run_here(chosen, flags)
    except UserError as e:
        status = fail(e)
        if isinstance(e, DiskError) or exchange.count() > 1:
            # otherwise libraries report the same disk again at exit, or JAX waits for the others
            ending.leave(status)
        raise SystemExit(status) from None
    except KeyboardInterrupt:
        ending.stop("Stopped. Run the same command to continue from the last checkpoint.")


def run_here(chosen: ConfigFile, flags: argparse.Namespace) -> None:
    """Connects the processes, opens the run folder and does what the flags ask for."""
    import jax

    from lift_jax.output.terminal import Terminal
    from lift_jax.parallel import processes, software
    from lift_jax.parallel.agreement import agree
    from lift_jax.parallel.failures import end_together
    from lift_jax.runs import remote
    from lift_jax.runs.train_and_test import train_and_test
    from lift_jax.settings.parse import parse

    processes.start(flags.coordinator, flags.process_id, flags.process_count, flags.connect_seconds)
    hosts = processes.all_hosts()
    with contextlib.ExitStack() as stack:
        stack.enter_context(end_together(hosts, flags.coordinator))
        agree(software.versions() | asked_for(chosen, flags))  # before a device is touched
        agree(software.devices())
        console = Terminal(quiet=jax.process_index() != 0)
        processes.print_hosts(hosts, console)
        workdir = stack.enter_context(remote.local_copy(flags.workdir, console))
        if flags.sweep or flags.sweep_cells or flags.seeds != 1:
            run_table(chosen, workdir, flags)
            return
        reports = partial(importlib.import_module, "lift_jax.reports.report")  # it takes a while
        train_and_test(parse(chosen.config), workdir, flags.mode, meanwhile=[reports])
        if jax.process_index() == 0:
            from lift_jax.reports import report

            say(f"Report: {report.write(workdir, address=flags.workdir)}")


def asked_for(chosen: ConfigFile, flags: argparse.Namespace) -> dict[str, str]:
    """Returns what the user asked for, as text by key, in which all processes must agree."""
    from lift_jax.settings.common import common_settings
    from lift_jax.settings.parse import to_dict

    keys = ("mode", "sweep", "sweep_cells", "seeds")
    asked = {f"--{key}": str(getattr(flags, key)) for key in keys}
    asked |= common_settings(to_dict(chosen.config))
    text = chosen.path.read_bytes().decode(errors="backslashreplace")  # in any encoding
    return asked | {"the text of the config file": text}


def run_table(chosen: ConfigFile, workdir: str, flags: argparse.Namespace) -> None:
    """Runs a sweep or a seed study. Raises UserError for flags that do not go together."""
    from lift_jax.sweeps import cells as sweeps
    from lift_jax.sweeps import sweep
    from lift_jax.sweeps.changes import Origin
    from lift_jax.sweeps.published import published, references

    if flags.mode == "evaluate":
        raise UserError("--mode=evaluate is for a single run: leave --sweep and --seeds out.")
    if flags.sweep_cells and not flags.sweep:
        raise UserError("--sweep_cells chooses cells of a sweep: give --sweep as well.")
    origin = Origin(chosen.shipped, chosen.get_config)
    changes = sweeps.cells(flags.sweep, chosen.config, origin) if flags.sweep else {"": {}}
    cells = sweep.settle(chosen.config, changes)
    sweep.run_sweep(
        cells, workdir, title=" of ".join(filter(None, (flags.sweep, chosen.title))),
        mode="zero_shot" if flags.sweep in sweeps.ZERO_SHOT else flags.mode, seeds=flags.seeds,
        part=flags.sweep_cells, published={name: published(c, origin) for name, c in cells.items()},
        notes=references(chosen.config, origin), of_features=flags.sweep in sweeps.OF_FEATURES,
        crossed=sweeps.CROSSED.get(flags.sweep, ""),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m lift_jax.main`."""
    parsing.run_command(sys.modules[__name__], arguments)


if __name__ == "__main__":
    main()
