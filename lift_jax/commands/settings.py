"""Lists all settings with their defaults, or explains some.

  lift-jax settings
  lift-jax settings train.lr
  lift-jax settings test
  lift-jax settings --markdown

Set one on the command line (--config.train.lr=0.01) or in a config file (c.train.lr = 0.01).
"""

import argparse

from lift_jax.errors import UserError, unknown
from lift_jax.output.lines import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument(
        "keys", nargs="*", metavar="KEY", help="setting (train.lr) or group (train)"
    )
    parser.add_argument("--markdown", action="store_true", help="print the page docs/settings.md")


def run(flags: argparse.Namespace) -> None:
    """Runs the command. Raises UserError for a setting that does not exist, or with --markdown."""
    from lift_jax.settings import document
    from lift_jax.settings.schema import GROUPS, all_entries

    if flags.markdown and flags.keys:
        raise UserError(f"--markdown prints all settings: leave {' '.join(flags.keys)} out.")
    if flags.markdown:
        say(document.markdown(), end="")
        return
    known = all_entries()
    for key in flags.keys:
        if key not in known and key not in GROUPS:
            raise unknown("setting", key, [*known, *GROUPS], "lift-jax settings")
    entries = [
        entry
        for entry in known.values()
        if not flags.keys or entry.key in flags.keys or entry.key.partition(".")[0] in flags.keys
    ]
    say("\n".join(document.explain(entry) for entry in entries))
