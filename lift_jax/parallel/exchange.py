"""The exchange of texts between processes, which needs no device.

It uses the key-value store of JAX's coordinator, which is there once `processes.start` has
connected the processes. So it also works where devices or libraries differ too much for a
collective.
"""

import itertools
import json
from typing import Any

from jax._src import distributed  # JAX has no public name for its store

from lift_jax.errors import UserError

# Seconds until a process that has not come to the same point counts as lost: reading the list of
# a large data set over a slow network takes minutes.
PATIENCE = 1800

_turns = itertools.count()


def number() -> int:
    """Returns the number of this process, from 0, as given to `processes.start`."""
    return distributed.global_state.process_id


def count() -> int:
    """Returns the number of connected processes, 1 if none are connected."""
    state = distributed.global_state
    return state.num_processes if state.client is not None else 1


def gather(text: str) -> list[str]:
    """Returns the texts of all processes, by process number. All processes call it.

    Raises UserError if a process does not come.
    """
    if count() == 1:
        return [text]
    turn = f"lift_jax/{next(_turns)}"
    if number() != 0:
        _store().key_value_set(f"{turn}/{number()}", text)
        return json.loads(_wait_for(f"{turn}/all", 0))
    texts = [text, *(_wait_for(f"{turn}/{i}", i) for i in range(1, count()))]
    _store().key_value_set(f"{turn}/all", json.dumps(texts))
    return texts


def _store() -> Any:
    client = distributed.global_state.client
    assert client is not None
    return client


def _wait_for(key: str, sender: int) -> str:
    """Returns the text that process `sender` stores."""
    try:
        return _store().blocking_key_value_get(key, PATIENCE * 1000)
    except RuntimeError as error:  # of XLA, which has one class for all errors
        cause = str(error).splitlines()[0]
        raise UserError(
            f"Process {sender} did not answer (within {PATIENCE} s at most): {cause}. End all "
            "processes, and run the same command on all machines again."
        ) from error
