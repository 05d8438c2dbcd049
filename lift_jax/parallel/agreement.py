"""The agreement of processes: all hold the same settings, data, weights and software, or end."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence

from lift_jax.errors import UserError
from lift_jax.parallel import exchange, processes

SHOWN = 72  # characters of a value in a message
ABSENT = "nothing"
# the first key in which a process differs from process 0, the place there, and the value around it
First = tuple[str, int, str] | None


def agree(values: Mapping[str, str]) -> None:
    """Raises UserError in all processes, with the same message, unless all hold the same values.

    All processes call it. They exchange a digest; if the digests differ, also process 0's values
    and the part in which others differ from those. With a single process nothing happens.

    Args:
        values: texts of any length by key, in the order in which they are compared.
    """
    if exchange.count() == 1:
        return
    mine = json.dumps(list(values.items()))
    digests = exchange.gather(hashlib.sha256(mine.encode()).hexdigest())
    if len(set(digests)) == 1:
        return
    first = json.loads(exchange.gather(mine if exchange.number() == 0 else "")[0])
    own = first_difference(dict(first), values)
    firsts = [json.loads(text) for text in exchange.gather(json.dumps(own))]
    raise UserError(difference(dict(first), firsts, processes.all_hosts()))


def first_difference(first: Mapping[str, str], own: Mapping[str, str]) -> First:
    """Returns the first key in which `own` differs from `first`, and where; None without any.

    Keys that `first` lacks come last.
    """
    for key in dict.fromkeys([*first, *own]):
        theirs, value = first.get(key, ABSENT), own.get(key, ABSENT)
        if theirs != value:
            start = len(os.path.commonprefix([theirs, value]))
            return key, start, _excerpt(value, start)
    return None


def difference(first: Mapping[str, str], firsts: Sequence[First], hosts: Sequence[str]) -> str:
    """Returns the message that names the first key that differs, its values and who holds them.

    Args:
        first: the values of process 0.
        firsts: the `first_difference` of every process, by process number.
        hosts: host name of every process.
    """
    order = [*first, *(found[0] for found in firsts if found)]
    key = min((found[0] for found in firsts if found), key=order.index)
    start = min(found[1] for found in firsts if found and found[0] == key)
    expected = _excerpt(first.get(key, ABSENT), start)
    holders: dict[str, list[str]] = {}
    for number, (found, host) in enumerate(zip(firsts, hosts, strict=True)):
        value = found[2] if found and found[0] == key else expected
        holders.setdefault(value, []).append(f"{number} (on {host})")
    shown = "; ".join(f"{value} on process {_listed(who)}" for value, who in holders.items())
    return (
        f"The processes differ in {key}: {shown}. Nothing was trained. Start all of them with the "
        "same command, files and packages."
    )


def _excerpt(value: str, start: int) -> str:
    """Returns a text, or the part of a long one around the character `start`."""
    if len(value) <= SHOWN:
        return value
    begin = max(0, start - SHOWN // 3)
    part = value[begin : begin + SHOWN]
    return "..." * (begin > 0) + part + "..." * (begin + SHOWN < len(value))


def _listed(who: Sequence[str]) -> str:
    """Returns the first of the processes, and how many more there are."""
    return ", ".join(who[:4]) + (f" and {len(who) - 4} more" if len(who) > 4 else "")
