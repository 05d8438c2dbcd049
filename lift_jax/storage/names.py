"""Names of files and folders as data: any name that the system allows is taken literally."""

import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lift_jax.errors import UserError
from lift_jax.storage import atomic
from lift_jax.storage.cache import cache_folder

# Names in which no library sees a pattern, an address or a format. Orbax looks for its files by
# glob patterns that begin with the folder's own name, and etils takes /gs/x for gs://x.
PLAIN = re.compile(r"(/[\w.+=,@ -]+)+")
ADDRESSES = re.compile(r"/(gs|s3|az|hf)(/|$)")

# Characters that some usual system forbids in names of folders, and names that Windows reserves.
ILLEGAL = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]')
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
LONGEST = 200  # bytes; file systems allow 255


def expand_user(given: str | os.PathLike[str]) -> Path:
    """Returns a path that a user typed, with ~ and ~user at its start replaced by the home folder.

    A ~ that names nobody's home stays as it is, and so does that of "./~".
    """
    path = Path(os.path.expanduser(given))
    # `Path` drops "./"; an absolute path cannot be expanded a second time
    return path.absolute() if str(path).startswith("~") else path


def is_plain(path: Path) -> bool:
    """Returns True if every library takes an absolute path literally."""
    return bool(PLAIN.fullmatch(str(path))) and not ADDRESSES.match(str(path))


@contextmanager
def plain_name(folder: Path) -> Iterator[Path]:
    """Yields an absolute path of a folder that every library takes literally.

    It is the folder's own path, or a link to the folder, which is removed at the end. Raises
    UserError if there is no place for such a link.
    """
    folder = folder.absolute()
    if is_plain(folder):
        yield folder
        return
    with ExitStack() as stack:
        link = _place_of_links(folder, stack) / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _place_of_links(folder: Path, stack: ExitStack) -> Path:
    """Makes a folder with a plain path, and returns it. The end of `stack` removes it.

    The cache folder comes first, because systems may empty the folders of temporary files.
    """
    for parent in (cache_folder() / "links", Path(tempfile.gettempdir()), Path("/tmp")):
        if is_plain(parent.absolute()):
            try:
                parent.mkdir(parents=True, exist_ok=True)
                return stack.enter_context(atomic.temporary_folder(parent.absolute(), "link"))
            except OSError:
                continue
    raise UserError(
        f"The name {str(folder)!r} has characters that have a meaning for orbax, which saves "
        "checkpoints. It needs a link under a plain name, but neither the cache folder "
        "($XDG_CACHE_HOME) nor /tmp can hold one. Give another run folder, or make one of these "
        "writable."
    )


def folder_names(texts: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Returns a different name of a folder for each text, legal on all usual systems.

    A legal text is its own name. In others, illegal characters become "_", and a number is added if
    another text or `taken` has the name. Names that differ in case alone count as the same.
    """
    plain = [_legal(text) for text in texts]
    found, used = [""] * len(texts), {_alike(name) for name in taken}
    # legal texts come first, so that no other text takes their name
    for i in sorted(range(len(texts)), key=lambda i: plain[i] != texts[i]):
        name, number = plain[i], 2
        while _alike(name) in used:
            name, number = f"{plain[i]}_{number}", number + 1
        used.add(_alike(name))
        found[i] = name
    return found


def _legal(text: str) -> str:
    """Returns the legal name of a folder, neither hidden nor a path, that is nearest to a text."""
    name = ILLEGAL.sub("_", text).encode()[:LONGEST].decode(errors="ignore")
    name = re.sub(r"^[.\s~-]|[.\s]$", "_", name) or "_"
    return f"{name}_" if DEVICES.fullmatch(name) else name


def _alike(name: str) -> str:
    """Returns a form that is equal for names that some system does not tell apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
