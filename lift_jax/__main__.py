"""`python -m lift_jax COMMAND`, which is also installed as `lift-jax`."""

from lift_jax.commands.line.dispatch import main

if __name__ == "__main__":
    main()
