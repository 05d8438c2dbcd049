"""What was freed goes back to the system; a compiled step leaves nothing behind."""

import ctypes
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

from lift_jax.parallel import cost, freed_memory

BLOCK, COUNT = 4096, 25_000  # 100 MB of blocks that are too small to be mapped one by one


def resident() -> int:
    """Returns the bytes of this process that are in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "malloc_trim"),
    reason="only glibc keeps freed memory and can return it",
)
def test_freed_blocks_below_a_used_one_go_back():
    c = ctypes.CDLL(None)
    c.malloc.restype = ctypes.c_void_p
    blocks = [ctypes.c_void_p(c.malloc(ctypes.c_size_t(BLOCK))) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[:-1]:
        c.free(block)
    before = resident()
    freed_memory.give_back()
    after = resident()
    c.free(blocks[-1])
    assert before - after > 0.9 * BLOCK * COUNT


@pytest.mark.parametrize("error", [AttributeError, TypeError])
def test_nothing_happens_where_the_function_is_missing(monkeypatch, error):
    def missing(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    freed_memory.give_back()


def test_a_compiled_step_gives_back_what_compiling_took(monkeypatch):
    calls = []
    monkeypatch.setattr(freed_memory, "give_back", lambda: calls.append(True))
    step = jax.jit(lambda state, frozen, batch: state @ frozen @ batch)
    held = jnp.eye(2)
    cost.compile_step(step, held, held, held, Console(quiet=True))
    assert calls == [True]
