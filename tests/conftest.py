"""The setup of a strict session: eight CPU devices, no silent promotion, warnings are errors.

Compiling is most of what the tests cost. So programs are hardly optimised, and each is compiled
once, whichever worker or started process asks for it. With JAX_PLATFORMS=cuda,cpu (and
JAX_DEFAULT_MATMUL_PRECISION=highest) the tests of models, losses and steps run on a GPU.
"""

import gc
import itertools
import os
import signal
import sys

from support.paths import GOLDEN

# A run in the background ignores Ctrl-C, and would hand that on to the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when JAX starts, so they are set before anything imports it.
if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + " --xla_force_host_platform_device_count=8"
        + " --xla_cpu_parallel_codegen_split_count=1"  # 32 parts for the threads cost more
    )
    if sys.version_info < (3, 12):  # jaxlib 0.12 has no others; these take most of the compiling
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory):
    """Sets the caches of this session, also for the processes that it starts.

    Converted weights are each worker's own; compiled programs are shared by all workers.
    """
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    own = tmp_path_factory.getbasetemp()
    session = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(session / "xla")
    jax.config.update("jax_compilation_cache_dir", str(session / "xla"))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collects no garbage while modules are imported, where nearly all objects stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items):
    """Marks every test that is not slow as quick: `pytest -m quick`."""
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker("quick")


@pytest.fixture(autouse=True)
def faults_are_failures(monkeypatch):
    """Fails a test whose command would end by the net for faults of lift_jax (status 70)."""
    from lift_jax.commands.line import ending

    def leave(status: int, message: str = "") -> None:
        assert status != ending.FAULT, message
        raise SystemExit(status)

    monkeypatch.setattr(ending, "leave", leave)


TESTS = itertools.count(1)
MAPS, MANY_MAPS = Path("/proc/self/maps"), 20_000


@pytest.fixture(autouse=True)
def few_programs():
    """Forgets compiled programs from time to time.

    Each takes two dozen memory maps, of which Linux gives a process 65,530: one more and it dies in
    the midst of compiling.
    """
    yield
    if next(TESTS) % 20 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """Returns a function from a name to the arrays of golden/NAME.npz.

    Arrays that are exact in float16 are stored so; they come back as float32.
    """

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return {
                key: value.astype(np.float32) if value.dtype == np.float16 else value
                for key, value in arrays.items()
            }

    return load
