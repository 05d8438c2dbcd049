"""The ends of a command: a line and an exit status for mistakes, Ctrl-C and faults of lift_jax.

This module imports little, because Ctrl-C must end a command well while the others are imported.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from lift_jax.errors import DiskError, UserError, fail
from lift_jax.storage.disk import disk_errors

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE
FAULT = 70  # EX_SOFTWARE of sysexits.h
IMPORTS = "<frozen importlib._bootstrap>"

_interrupted = False
_ended_well = False  # the command is done, and only the interpreter's own end is left


def handle_interrupts() -> None:
    """Lets Ctrl-C end this program with a line and status 130, also while modules are imported.

    A later handler, such as that of training, may replace this one for a while. Worker processes
    ignore Ctrl-C, because they end with the process that started them.
    """
    workers = sys.modules.get("multiprocessing.process")
    if workers is not None and workers.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    elif signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt; ends at once during imports and for a second Ctrl-C.

    Modules that are interrupted while they are imported raise any kind of exception.
    """
    global _interrupted
    if _interrupted or _importing(frame):
        stop()
    _interrupted = True
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == IMPORTS:
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Ends the program if Ctrl-C was raised in a destructor or callback, which would drop it."""
    if unraisable.exc_type is not None and issubclass(unraisable.exc_type, KeyboardInterrupt):
        stop()
    sys.__unraisablehook__(unraisable)


def stop(message: str = "Stopped. Everything that was complete stays.") -> NoReturn:
    """Ends the program after Ctrl-C with a line and status 130, without Python's usual clean-up.

    The clean-up could crash while XLA compiles, and could wait for threads.
    """
    leave(INTERRUPTED, f"\n{message}\n")


def leave(status: int, message: str = "") -> NoReturn:
    """Ends the program with a status at once; flushes the output, removes temporary files."""
    if atomic := sys.modules.get("lift_jax.storage.atomic"):
        for path in tuple(atomic.UNFINISHED):
            atomic.temporary.remove(path)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, message.encode(errors="backslashreplace"))
    os._exit(status)


def skip_teardown() -> None:
    """Ends the program at once after a command that ended well.

    Registered as the first exit handler, it runs as the last. Without it the interpreter would
    free every object by itself, which takes 0.6 s after JAX has run. If the output cannot be
    written, it leaves the report of that to the interpreter.
    """
    if _ended_well:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


@contextlib.contextmanager
def errors_as_lines() -> Iterator[None]:
    """Ends the program without a trace.

    The exit status is 2 after a mistake of the user or an error of the disk, 130 after Ctrl-C, and
    70 after a fault of lift_jax, whose trace is written to a file. If the reader of the output is
    gone, as after `| head`, the program ends silently.
    """
    global _ended_well
    _ended_well = False
    try:
        with disk_errors():
            yield
        _ended_well = True
        if _compiles():
            leave(0)
    except SystemExit as error:
        if _compiles() and isinstance(error.code, int):
            leave(error.code)
        raise
    except KeyboardInterrupt:
        stop()
    except DiskError as error:  # libraries would report the same disk again at exit
        leave(fail(error))
    except UserError as error:
        status = fail(error)
        if _compiles():
            leave(status)
        raise SystemExit(status) from None
    except BrokenPipeError as error:
        if _reader_is_gone():
            leave(BROKEN_PIPE)
        _end_by(error)
    except Exception as error:
        _end_by(error)


def _compiles() -> bool:
    """Returns True if a thread compiles programs ahead, for which the interpreter would wait."""
    programs = sys.modules.get("lift_jax.evaluation.programs")
    return programs is not None and programs.THREAD in {t.name for t in threading.enumerate()}


def _reader_is_gone() -> bool:
    """Returns True if nobody reads the output any more."""
    import select

    poll = select.poll()
    poll.register(1, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _end_by(error: Exception) -> NoReturn:
    """Ends the program by an exception that is no UserError."""
    if _interrupted:  # libraries turn KeyboardInterrupt into other exceptions
        stop()
    if lack := lack_of_memory(error):
        leave(2, f"error: {lack}\n")
    leave(FAULT, f"error: {report_fault(error)}\n")


def lack_of_memory(error: Exception) -> str:
    """Returns a message if an exception says that memory is exhausted, else ""."""
    first = str(error).strip().split("\n")[0][:300]
    remedy = (
        "Set train.batch or test.batch lower, train.accum=2 or more (same results), or "
        "train.remat=dots."
    )
    if isinstance(error, MemoryError):
        return f"This machine has too little memory{f' ({first})' * bool(first)}. {remedy}"
    if "RESOURCE_EXHAUSTED" in first:
        return f"The device has too little memory ({first}). {remedy}"
    return ""


def report_fault(error: Exception) -> str:
    """Writes the trace of an unforeseen exception to a file; returns a message that says where."""
    import traceback

    text = "".join(traceback.format_exception(error))
    text = f"{' '.join(map(repr, sys.orig_argv))}\nPython {sys.version}\n\n{text}"
    try:
        path = _write_trace(text)
    except OSError:
        path = "none could be written; the trace follows\n" + text
    kind, first = type(error).__name__, str(error).strip().split("\n")[0][:200]
    return (
        f"This is a fault of lift_jax ({kind}: {first}). Complete files are intact. Please report "
        "it with this trace and the output of `lift-jax bench --system`. The trace is in: "
        f"{path}"
    )


def _write_trace(text: str) -> str:
    import tempfile
    import time
    from pathlib import Path

    from lift_jax.storage.cache import cache_folder

    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    content = text.encode(errors="backslashreplace")
    try:
        path = cache_folder() / "faults" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        handle, name = tempfile.mkstemp(prefix="lift_jax-", suffix=".txt")
        path = Path(name)
        with open(handle, "wb") as file:
            file.write(content)
    return str(path)
