"""The programs of a run's tests: each is compiled once, where possible while training goes on."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import jax
from jaxtyping import PyTree

from lift_jax.parallel import freed_memory

MOST = 32  # programs that are kept; a head of texts has others at each validation
THREAD = "lift_jax compiles"  # name of the thread, for which a command must not wait at its end

Job = Callable[[], Any]  # compiles one program


class Program:
    """A jitted function which several threads may use: none compiles what another one compiles."""

    def __init__(self, jitted: Callable[..., Any]):
        self._jitted: Any = jitted
        self._lock = threading.Lock()
        self._ahead: dict[Hashable, PyTree] = {}  # shapes of results by those of arguments

    def __call__(self, *arguments: PyTree) -> Any:
        with self._lock:
            return self._jitted(*arguments)

    def compile(self, *arguments: PyTree) -> PyTree:
        """Compiles the program for shapes with shardings; returns those of its results.

        JAX keeps it with the function, so that a call with such arguments finds it.
        """
        shapes, structure = jax.tree.flatten(arguments)
        key = *shapes, structure
        with self._lock:
            if key not in self._ahead:
                lowered = self._jitted.lower(*arguments)
                shardings = lowered.compile().output_shardings
                self._ahead[key] = jax.tree.map(_shape, lowered.out_info, shardings)
            return self._ahead[key]


class Programs:
    """The programs of a run by what they are made for; each is made once."""

    def __init__(self):
        self._made: dict[Hashable, tuple[Program, tuple[object, ...]]] = {}
        self._known: dict[Hashable, tuple[Program, tuple[object, ...]]] = {}  # by ids of graphs

    def get(
        self, make: Callable[[], Callable[..., Any]], graphs: tuple[object, ...], *key: Hashable
    ) -> Program:
        """Returns the program for graphs of modules and a key; `make` gives its function.

        Equal graphs share it. Those of a user's modules may hold values without a hash, and are
        compared by identity. A graph that was seen is not hashed again, which takes a tower half a
        millisecond, and every batch asks.
        """
        same = *map(id, graphs), *key
        if same not in self._known:
            equal = *map(_identity, graphs), *key
            if equal not in self._made:
                _add(self._made, equal, Program(make()), graphs)
            _add(self._known, same, self._made[equal][0], graphs)
        return self._known[same][0]


def _add(
    programs: dict[Hashable, tuple[Program, tuple[object, ...]]], key: Hashable, program: Program,
    graphs: tuple[object, ...],
) -> None:  # fmt: skip
    """Adds a program, with its graphs so that their ids stay their own; drops the oldest."""
    if len(programs) >= MOST:
        del programs[next(iter(programs))]
    programs[key] = program, graphs


def _shape(info: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(info.shape, info.dtype, sharding=sharding)


def _identity(graph: object) -> Hashable:
    try:
        hash(graph)
    except TypeError:  # see `Programs.get`
        return id(graph)
    return graph


class Ahead:
    """A thread that compiles programs while other work goes on, for as long as a block runs.

    Only a caller of the program that is being compiled waits for the thread. When the block ends,
    also by an exception, no further program is begun. An error of a job is dropped: the caller of
    the program meets it again. The jobs `last` are done after the programs.
    """

    def __init__(self, last: Iterable[Job] = ()):
        self._ended, self._last = threading.Event(), last

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    def start(self, jobs: Iterable[Job]) -> None:
        """Does the jobs in order in a thread, if compiling ahead is possible here."""
        if not may_compile_ahead():
            return
        whole = itertools.chain(jobs, self._last)
        precision = jax.config.values["jax_default_matmul_precision"]

        def work() -> None:
            with jax.default_matmul_precision(precision):
                for job in itertools.takewhile(lambda _: not self._ended.is_set(), whole):
                    with contextlib.suppress(Exception):
                        job()
            freed_memory.give_back()

        # not a daemon: the interpreter would crash if it ended while XLA compiles
        threading.Thread(target=work, name=THREAD).start()


def may_compile_ahead() -> bool:
    """Returns True if a thread may compile while training goes on.

    On a GPU, compiling measures kernels on the device, and training steps would disturb the
    measurement. Several processes must compile in the same order.
    """
    return jax.process_count() == 1 and jax.default_backend() != "gpu"
