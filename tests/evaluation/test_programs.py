"""Tests of programs that are compiled ahead: each once, errors dropped, nothing waits for them."""

import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import pytest
from support.paths import ROOT

from lift_jax.evaluation.programs import MOST, THREAD, Ahead, Program, Programs
from lift_jax.parallel import freed_memory


class Jitted:
    """Stands in for a jitted function; takes a while to compile, and counts that."""

    def __init__(self):
        self.begun, self.go, self.compiled = threading.Event(), threading.Event(), 0

    def lower(self, *arguments):
        return self

    def compile(self):
        self.begun.set()
        assert self.go.wait(10)
        self.compiled += 1
        return self

    out_info = output_shardings = ()  # no results

    def __call__(self, x):
        if not self.compiled:
            self.compile()
        return x + 1


def end(thread_name=THREAD):
    """Waits for the thread."""
    for thread in threading.enumerate():
        if thread.name == thread_name:
            thread.join(10)


def test_a_use_waits_for_its_program_and_does_not_compile_it_again():
    jitted = Jitted()
    program = Program(jitted)
    with Ahead() as ahead:
        ahead.start([program.compile])
        assert jitted.begun.wait(10)
        threading.Timer(0.1, jitted.go.set).start()
        assert program(1) == 2
    assert jitted.compiled == 1
    end()


def test_what_compiling_took_goes_back_after_the_last_job(monkeypatch):
    done = []
    monkeypatch.setattr(freed_memory, "give_back", lambda: done.append("returned"))
    with Ahead(last=[lambda: done.append("last")]) as ahead:
        ahead.start([lambda: done.append("first")])
        end()
    assert done == ["first", "last", "returned"]


def test_a_program_compiled_from_shapes_is_the_one_that_a_call_takes():
    traced = []

    def double(x):
        traced.append(x)
        return 2 * x

    program = Program(jax.jit(double))
    with jax.default_matmul_precision("highest"), Ahead() as ahead:
        x = jnp.arange(3)
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        found = []
        ahead.start([lambda: found.append(program.compile(shape))] * 2)
        end()
        assert len(traced) == 1
        assert [(each.shape, each.dtype) for each in found] == [(x.shape, x.dtype)] * 2
        assert program(x).tolist() == [0, 2, 4] and len(traced) == 1
    assert program(x).tolist() == [0, 2, 4] and len(traced) == 2  # of another precision


def test_an_error_of_a_job_is_dropped_and_the_next_one_is_done():
    done = []

    def fail():
        raise MemoryError

    with Ahead() as ahead:
        ahead.start([fail, lambda: done.append(1)])
        end()
    assert done == [1]


@pytest.mark.parametrize("error", [SystemExit(75), KeyboardInterrupt(), None])
def test_the_end_of_the_block_waits_for_no_job_and_begins_none(error):
    jitted, later = Jitted(), []
    with pytest.raises(BaseException) if error else Ahead() as _, Ahead() as ahead:
        ahead.start([Program(jitted).compile, lambda: later.append(1)])
        assert jitted.begun.wait(10)
        if error:
            raise error
    assert not jitted.compiled
    jitted.go.set()
    end()
    assert jitted.compiled == 1 and not later


def test_a_gpu_and_several_processes_compile_nothing_ahead(monkeypatch):
    done = []
    for function, value in (("default_backend", "gpu"), ("process_count", 2)):
        with monkeypatch.context() as patch, Ahead() as ahead:
            patch.setattr(jax, function, lambda value=value: value)
            ahead.start([lambda: done.append(1)])
    end()
    assert not done


def test_programs_are_told_apart_by_graph_and_key():
    programs, graphs = Programs(), ([], [])  # equal, and without a hash
    first = programs.get(lambda: abs, graphs[:1], "count", 0)
    assert programs.get(lambda: abs, graphs[:1], "count", 0) is first
    assert programs.get(lambda: abs, graphs[1:], "count", 0) is not first
    assert programs.get(lambda: abs, graphs[:1], "count", 1) is not first
    for i in range(MOST):
        programs.get(lambda: abs, graphs[1:], "later", i)
    assert programs.get(lambda: abs, graphs[:1], "count", 0) is not first  # forgotten


def test_equal_graphs_share_a_program():
    programs = Programs()
    one, same, other = ("tower", 4), tuple(["tower", 4]), ("tower", 5)
    assert one is not same
    first = programs.get(lambda: abs, (one,), "features")
    assert programs.get(lambda: abs, (same,), "features") is first
    assert programs.get(lambda: abs, (other,), "features") is not first


def test_a_graph_is_hashed_once():
    class Graph:
        hashed = 0

        def __hash__(self):
            self.hashed += 1
            return 1

    graph, programs = Graph(), Programs()
    first = programs.get(lambda: abs, (graph,), "features")
    once = graph.hashed
    assert programs.get(lambda: abs, (graph,), "features") is first
    assert graph.hashed == once


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("raise SystemExit(75)", 75),
        ("raise UserError('a mistake')", 2),
        ("raise KeyboardInterrupt", 130),
        ("pass", 0),
    ],
)
def test_a_command_does_not_wait_for_what_is_compiled(end, status):
    code = f"""
import time
from lift_jax.commands.line.ending import errors_as_lines
from lift_jax.errors import UserError
from lift_jax.evaluation.programs import Ahead
with errors_as_lines(), Ahead() as ahead:
    ahead.start([lambda: time.sleep(30)])
    {end}
"""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=100)
    assert done.returncode == status, done.stderr
    assert time.monotonic() - begin < 28
