"""Config files: finding them, running them, and overriding single settings.

A config file is Python with a function `get_config(argument)`. The shipped ones are found by name
from any folder (`demo`, `inat`); a path works as well (`configs/demo.py`, `mine.py`).
"""

import importlib.util
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from lift_jax.errors import UserError, near, shown, unknown
from lift_jax.settings.schema import GROUPS, all_entries
from lift_jax.settings.values import TYPE_NAMES

PACKAGE = Path(__file__).parent.parent
# inside the installed package, or beside it in a checkout
SHIPPED = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"


@dataclass(frozen=True)
class ConfigFile:
    """A config file, its argument, and the config that they give.

    Attributes:
        path: the file.
        argument: the text after the colon, "" for none.
        config: what the file gives for the argument.
        get_config: the file's own function.
    """

    path: Path
    argument: str
    config: ConfigDict
    get_config: Callable[[str | None], ConfigDict]

    @property
    def shipped(self) -> str:
        """Returns the name of a shipped config, "" for a file of the user's own."""
        return self.path.stem if self.path.resolve().parent == SHIPPED.resolve() else ""

    @property
    def title(self) -> str:
        """Returns the name with the argument, as tables show it."""
        return f"{self.path.stem}:{self.argument}" if self.argument else self.path.stem


def shipped_names() -> list[str]:
    """Returns the names of the shipped configs."""
    return sorted(file.stem for file in SHIPPED.glob("*.py") if file.stem != "__init__")


def find(name: str) -> Path:
    """Returns the file of a config's name or path. Raises UserError if there is none."""
    path = Path(os.path.expanduser(name))
    if (SHIPPED / f"{name}.py").is_file() and path.parent == Path():
        return SHIPPED / f"{name}.py"
    if path.is_file():
        return path
    if path.parent == Path("configs") and (SHIPPED / path.name).is_file():
        return SHIPPED / path.name  # as in the checkout, typed in another folder
    if path.suffix not in ("", ".py"):
        raise UserError(f"{path} is no config file (--config): its name must end in .py.")
    beside = [str(file) for file in sorted(path.parent.glob("*.py"))] if path.suffix else []
    raise unknown("config (--config)", name, [*beside, *shipped_names()])


def run_file(path: Path) -> ModuleType:
    """Runs a config file and returns its module. Raises UserError if it cannot be run."""
    try:
        spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError("its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as e:  # whatever the file does
        raise UserError(f"Cannot run the config file {path} (--config): {_told(e, path)}") from e
    return module


def _told(error: Exception, path: Path) -> str:
    """Returns what a config file raised, and in which of its lines where that is known."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    return f"line {lines[-1]}: {error!r}" if lines else repr(error)


def split_argument(text: str) -> tuple[str, str]:
    """Returns the name or path and the argument of `NAME_OR_PATH:ARGUMENT`.

    Where the path itself may hold colons, it is the longest part of the text that is a file.
    """
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        name = ":".join(parts[:count])
        if os.path.isfile(os.path.expanduser(name)):
            return name, ":".join(parts[count:])
    return parts[0], ":".join(parts[1:])


def open_config(text: str) -> ConfigFile:
    """Returns the config of `NAME_OR_PATH` or `NAME_OR_PATH:ARGUMENT`.

    Raises UserError for a file that is missing, cannot be run, or gives no config.
    """
    name, argument = split_argument(text)
    path = find(name)
    module = run_file(path)
    get_config: Any = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{path} (--config) has no function get_config(argument).")
    try:
        config = get_config(argument or None)
    except UserError:
        raise
    except Exception as e:  # whatever the file does
        raise UserError(f"get_config of {path} (--config) failed: {_told(e, path)}") from e
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config of {path} (--config) gave {shown(config)}; expected a ConfigDict."
        )
    return ConfigFile(path, argument, config.lock(), get_config)  # type: ignore[arg-type]


def load(name: str, argument: str | None = None) -> ConfigDict:
    """Returns the config of a shipped name or a path, for a config file to change.

    Raises UserError as `open_config`.
    """
    return open_config(f"{name}:{argument}" if argument else name).config


def override(config: ConfigDict, assignments: Sequence[tuple[str, str | None]]) -> None:
    """Sets settings of a config from (dotted key, text); None as text stands for true.

    Raises UserError for an unknown key and for a text that does not fit the setting's type.
    """
    known = all_entries()
    for key, text in assignments:
        if key not in known:
            if key in GROUPS:
                raise UserError(
                    f"{key} is a group of settings (--config.{key}): set one of them. "
                    f"`lift-jax settings {key}` lists them."
                )
            meant = near(key, known)
            guess = f" Did you mean {' or '.join(meant)}?" if meant else ""
            raise UserError(
                f"The config has no such key: {key:.80} (--config.{key:.80}).{guess} "
                "`lift-jax settings` lists all."
            )
        kind = known[key].type
        if text is None and kind is not bool:
            raise UserError(f"--config.{key} needs a value: {TYPE_NAMES[kind]}.")
        value = parse_text("true" if text is None else text, kind)
        if value is None:
            raise UserError(f"--config.{key} is {shown(text)}; expected {TYPE_NAMES[kind]}.")
        config.update_from_flattened_dict({key: value})


def parse_text(text: str, kind: type) -> bool | int | float | str | None:
    """Returns the value of the type that a text stands for, None if it stands for none."""
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower())
    try:
        return kind(text)
    except ValueError:
        return None
