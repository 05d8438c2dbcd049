"""The engine of attacks: draws cases, judges how they end, and shrinks those that are faults."""

import random
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lift_jax.errors import UserError

HANG = 10  # seconds
RIGHT, LINE, FAULT = "right", "one line", "fault"
SHRINKS = 200  # tries to make the case of a fault smaller


class Fault(Exception):
    """An outcome that must not be, in words."""


@dataclass(frozen=True)
class Kind:
    """A kind of attack.

    Attributes:
        draw: returns a case, made of plain values, from a generator.
        attempt: tries a case in an empty folder. It returns if all is right, raises UserError for
            one line, Fault for a wrong result, and anything else for a fault.
        smaller: yields smaller cases, the smallest first; none by default.
        share: weight of this kind in the time of an attack.
        limit: seconds after which a try counts as hanging, if it does so twice: machines stall.
    """

    draw: Callable[[random.Random], Any]
    attempt: Callable[[Any, Path], None]
    smaller: Callable[[Any], Iterator[Any]] = field(default=lambda case: iter(()))
    share: float = 1
    limit: int = HANG


class Hang(Fault):
    """A try that did not end within its limit."""


def judge(kind: Kind, case: Any) -> tuple[str, str]:
    """Tries a case, twice if it hangs; returns how it ended, and a message for a fault."""
    try:
        return _judge_once(kind, case)
    except Hang:
        try:
            return _judge_once(kind, case)
        except Hang as hang:
            return FAULT, str(hang)


def _judge_once(kind: Kind, case: Any) -> tuple[str, str]:
    """Tries a case; returns as `judge` does. Raises Hang at the limit."""
    with tempfile.TemporaryDirectory() as name:
        folder, canary = Path(name) / "work", Path(name) / "canary"
        folder.mkdir()
        try:
            with _alarm(kind.limit):
                kind.attempt(case, folder)
            outcome, message = RIGHT, ""
        except UserError as error:
            outcome, message = _judge_line(str(error))
        except Hang:
            raise
        except Fault as fault:
            outcome, message = FAULT, str(fault)
        except (Exception, SystemExit) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            outcome = FAULT
            message = f"{type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        if canary.exists():
            outcome, message = FAULT, "code from the input was executed"
        return outcome, message[:500]


def _judge_line(text: str) -> tuple[str, str]:
    if not text.strip() or len(text) > 20_000 or "Traceback" in text:
        return FAULT, f"the message is {text[:300]!r}"
    return LINE, ""


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Hang(f"still running after {seconds} s")

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def shrink(kind: Kind, case: Any, message: str) -> Any:
    """Returns the smallest case found that is a fault with the same beginning of its message."""
    tries = SHRINKS
    found = True
    while found and tries > 0:
        found = False
        for smaller in kind.smaller(case):
            tries -= 1
            outcome, other = judge(kind, smaller)
            if outcome == FAULT and other[:30] == message[:30]:
                case, found = smaller, True
                break
            if tries <= 0:
                break
    return case


def run(kinds: dict[str, Kind], seconds: float, seed: int, show: Callable[[str], None]) -> bool:
    """Attacks with all kinds in turn for so long, or until Ctrl-C; shows the table.

    Returns True without a fault.
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in kinds}
    spent = dict.fromkeys(kinds, 0.0)
    faults: dict[tuple[str, str], Any] = {}
    begin, number = time.monotonic(), 0
    with suppress(KeyboardInterrupt):  # the table is shown of what was tried
        while (now := time.monotonic()) - begin < seconds:
            name = min(kinds, key=lambda each: spent[each] / kinds[each].share)
            number += 1
            case = kinds[name].draw(random.Random(f"{seed} {name} {number}"))
            outcome, message = judge(kinds[name], case)
            counts[name][outcome] += 1
            spent[name] += time.monotonic() - now
            if outcome == FAULT and (name, message[:30]) not in faults:
                faults[name, message[:30]] = shrink(kinds[name], case, message), message
                show(f"fault of {name}: {message}")
    show(table(counts))
    for (name, _), (case, message) in faults.items():
        show(f"{name}: {message}\n  smallest input: {str(case)[:600]!r}")
    return not faults


def table(counts: dict[str, Counter[str]]) -> str:
    """Returns the numbers of tries by kind and outcome."""
    rows = [("kind", "tried", RIGHT, LINE, FAULT)]
    total: Counter[str] = Counter()
    for name, found in counts.items():
        total += found
        rows.append((name, found.total(), *(found[key] for key in (RIGHT, LINE, FAULT))))
    rows.append(("all", total.total(), *(total[key] for key in (RIGHT, LINE, FAULT))))
    return "\n".join(f"{name:12}" + "".join(f"{n:>10}" for n in numbers) for name, *numbers in rows)
