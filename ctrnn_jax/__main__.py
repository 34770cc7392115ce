"""`python -m ctrnn_jax` is the command `ctrnn`."""

from ._command.app import main

if __name__ == "__main__":
    main()
