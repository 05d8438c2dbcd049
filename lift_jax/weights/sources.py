"""Sources of weights by their names: found here or on the hub; opened, with an adapter's base."""

from collections.abc import Callable
from pathlib import Path

from lift_jax.errors import UserError
from lift_jax.storage.names import expand_user
from lift_jax.weights import native, tokenizer
from lift_jax.weights.files import adapters, folding
from lift_jax.weights.files.adapters import Adapter
from lift_jax.weights.files.source import ADAPTER, Source, open_source
from lift_jax.weights.names import hub


def located(source: str | Path) -> Path:
    """Returns the file or folder of a backbone, of "debug" that with its tokenizer."""
    return hub.locate("demo" if str(source) == "debug" else str(source))


def here(name: str) -> Path:
    """Returns the path of a backbone. Raises UserError if it is not on this machine."""
    path = hub.DEMO if name == "demo" else expand_user(name)
    if not path.exists():
        raise UserError(
            f"The backbone {name} is not on this machine. Give its file or folder, or load it once "
            "by name."
        )
    return path


def opened(path: Path, locate: Callable[[str], Path] = hub.locate) -> Source:
    """Opens a source, or an adapter of peft with the weights that it was trained on.

    `locate` finds these. Raises UserError as `open_source` and `folding.fold`.
    """
    folder = adapters.folder_of(path)
    if folder is None:
        return open_source(path)
    adapter = adapters.read(folder)
    base = _base(adapter, locate)
    source = open_source(base)
    folding.fold(source, adapter)
    return source


def _base(adapter: Adapter, locate: Callable[[str], Path] = hub.locate) -> Path:
    """Returns the file or folder of the weights that an adapter was trained on.

    Raises UserError if they cannot be found, or are of a kind that an adapter cannot change.
    """
    name = adapters.base_of(adapter)
    remedy = f"Write another name, or its folder, as {adapters.BASE} in {adapter.folder / ADAPTER}."
    try:
        path = locate(name)
    except UserError as e:
        raise UserError(f"{adapter.folder} is an adapter of {name:.300}. {e} {remedy}") from e
    if native_file(path) is not None or adapters.folder_of(path) is not None:
        kind = "another adapter" if adapters.folder_of(path) else "converted, under other names"
        raise UserError(f"{adapter.folder} is an adapter of {path}, which is {kind}. {remedy}")
    return path


def beside(path: Path) -> Path:
    """Returns the folder with what lies beside the weights: of an adapter its base's, mostly."""
    folder = adapters.folder_of(path)
    if folder is not None and not tokenizer.find(folder):
        path = _base(adapters.read(folder))
    return path if path.is_dir() else path.parent


def native_file(path: Path) -> Path | None:
    """Returns the converted file at a path, or None if the path is of another source."""
    file = path / native.NAME if path.is_dir() else path
    return file if file.is_file() and native.describe(file) is not None else None
