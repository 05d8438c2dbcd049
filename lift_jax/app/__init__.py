"""A page to try a run in the browser, served by this machine: `lift-jax app --run=W`."""
