"""`python -m tests.attack`."""

import argparse
import sys
import tempfile

from absl import logging

import tests.attack
from tests.attack import chaos, commands, damage, engine, functions, kills, processes

KINDS = functions.KINDS | damage.KINDS | kills.KINDS | chaos.KINDS | processes.KINDS


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.attack", description=tests.attack.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=KINDS, default=list(KINDS))
    flags = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as cache, commands.own_cache(cache):
        chosen = {name: KINDS[name] for name in flags.only}
        whole = engine.run(chosen, flags.seconds, flags.seed, lambda line: print(line, flush=True))
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
