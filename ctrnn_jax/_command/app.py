"""The command `ctrnn`: its subcommands, and how it ends."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from typing import Annotated, Any

import jax
import typer

from .._files import writing
from . import analyse, bench, explore, export, generate, info, reproduce, simulate, train
from .options import Context, as_command

app = typer.Typer(
    name="ctrnn",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# typer brings its own copy of click or depends on it, by version: this finds the base of either.
_UsageError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

# Arguments of the library that options have another name for.
_OPTIONS = {
    "num_steps": "steps",
    "x0": "initial_states",
    "A": "weights",
    "file": "weights",
    "target_hz": "frequency",
    "figures": "figure",
    "changes": "set_",
}


@app.callback(invoke_without_command=True)
def ctrnn(
    context: Context,  # pyright: ignore[reportInvalidTypeForm]
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Continuous-time recurrent networks with skew-symmetric weights.

    Simulate them, train oscillators, generate their signals, analyse any, reproduce the paper,
    measure the speed, tell what files hold and export them; or explore them on a page.
    """
    if version:
        typer.echo(importlib.metadata.version("ctrnn-jax"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("simulate")(as_command(simulate.simulate_to_folder))
app.command()(reproduce.reproduce)
app.command("train")(as_command(train.train_to_folder))
app.command()(generate.generate)
app.command("analyse")(analyse.analyse_to_folder)
app.command()(explore.explore)
app.command()(export.export)
app.command()(info.info)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line; exit status 2 and one line on bad input, 130 on an interrupt."""
    with writing.interruptible():
        try:
            status = app(standalone_mode=False)
        except _UsageError as error:
            _refuse(error.format_message())
        except typer.Abort:
            sys.exit(130)
        except BrokenPipeError:  # whoever reads the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except MemoryError as error:
            _refuse(f"memory: expected enough for this run, got {error or 'too little'}")
        except (ValueError, TypeError, OSError, ImportError) as error:
            _refuse(_with_options(str(error)))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            _refuse(f"memory: expected enough for this run, got {error}")
        else:
            sys.exit(status if isinstance(status, int) else 0)


def _with_options(message: str) -> str:
    """The message of an error, by the option where the library names its argument.

    As `name: expected ...`, and as `(name or name decides)`, which goes where none is an option.
    """
    command: Any = typer.main.get_command(app)
    called = next((word for word in sys.argv[1:] if word in command.commands), None)
    command = command.commands[called] if called else command
    flags = {p.name: p.opts[0] for p in command.params if p.opts[0].startswith("--")}

    def option(name: str) -> str:
        return flags.get(_OPTIONS.get(name, name), name)

    def options(hint: re.Match[str]) -> str:
        found = [option(name) for name in hint[1].split(" or ") if option(name) != name]
        return f" ({' or '.join(found)} decides)" if found else ""

    message = re.sub(r" \((\w+(?: or \w+)*) decides\)", options, message)
    name, colon, rest = message.partition(":")
    first, space, more = name.partition(" ")
    return option(first) + space + more + colon + rest


def _refuse(message: str) -> None:
    typer.echo("ctrnn: " + " ".join(message.split()), err=True)
    sys.exit(2)
