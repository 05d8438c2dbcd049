"""The flag --config of the commands that take one, and a line for each mistake in any flag."""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from lift_jax.errors import UserError, fail, unknown

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/, with an argument after a colon if wanted.",
    lock_config=True,
)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags, every mistake in them as one message."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        raise SystemExit(fail(e)) from None
    except UserError as e:  # from the config file
        raise SystemExit(fail(e)) from None
    except (AttributeError, KeyError) as e:  # how config_flags says that a key does not exist
        text = str(e).strip("'\"").replace("\\'", "'").replace("\\n", " ")
        raise SystemExit(fail(f"The config has no such key: {text}")) from None


def config_filename() -> str:
    """The flag as it was given: a path, and after a colon the argument if there is one."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def chosen_config(usage: str) -> ConfigDict:
    """The config of the flag. Raises UserError without one (`usage`), or if its file is missing."""
    if CONFIG.value is None:
        raise UserError(usage)
    try:
        CONFIG.value.lock()  # how config_flags says that the file is missing: at the first use
    except OSError:
        path = Path(config_filename().partition(":")[0])
        known = [str(file) for file in sorted(path.parent.glob("*.py"))]
        if known:
            raise unknown("config (--config)", str(path), known) from None
        raise UserError(
            f"There is no config file {path} (--config). Start from the repository's root, where "
            "configs/ lies."
        ) from None
    return CONFIG.value
