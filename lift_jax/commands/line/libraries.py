"""The libraries as commands use them: JAX with a cache of compiled programs, orbax silent."""

import os

from lift_jax.errors import UserError


def use_compile_cache() -> None:
    """Keeps compiled programs under the user's cache folder: a second run starts at once.

    If no such folder can be written, nothing is kept.
    """
    import warnings

    import jax

    from lift_jax.storage.cache import cache_folder
    from lift_jax.storage.disk import make_folder

    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = make_folder(cache_folder() / "xla", "XDG_CACHE_HOME")
        except UserError:
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # also what compiles fast: a run has dozens of such programs
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def quiet_libraries() -> None:
    """Silences orbax, which warns of parts that it does not need; its real errors are exceptions.

    Silences asyncio as well. When orbax gives up a checkpoint at the first error, asyncio would
    print the others.
    """
    import logging

    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
