"""`python -m ctrnn_jax` is the command `ctrnn`."""

from .cli import main

if __name__ == "__main__":
    main()
