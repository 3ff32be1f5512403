"""The command line: one command a file; a `ClarenaError` becomes a message in exactly one place, here."""

import errno
import os
import signal
import sys
import warnings
from typing import Any

import typer

from clarena.errors import ClarenaError, ClarenaWarning, UsageError
from clarena.run.output import lost, shield

app = typer.Typer(
    name="clarena",
    help="Compare continual-learning methods under one protocol.",
    epilog="Start with: clarena evaluate finetune ewc er joint --benchmark split-digits",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(value: bool) -> None:
    if value:
        from clarena import __version__

        typer.echo(f"clarena {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    traceback: bool = typer.Option(False, "--traceback", metavar="", help="Show the Python traceback of an error."),
    version: bool = typer.Option(
        False, "--version", metavar="", callback=_version, is_eager=True, help="Show the version and stop."
    ),
) -> None:
    if traceback:
        os.environ["CLARENA_TRACEBACK"] = "1"


def main() -> None:
    """Run the command line, and turn errors into messages and exit codes: 2 for usage, 1 for failures.

    Output that is lost stops no work: the command ends as it would have, and where all went well, with 1.
    """
    shield()
    try:
        _main()
    except SystemExit as end:
        if end.code in (None, 0):
            _say_what_is_lost()
        raise
    _say_what_is_lost()


def _say_what_is_lost() -> None:
    if reason := lost():
        _complain(f"The output could not be written: {reason}. What was run is stored.")
        sys.exit(1)


def _main() -> None:
    try:
        # What ends a process politely ends a run as Ctrl-C does: with a record of the interruption.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if not _is_somewhere():  # libraries that torch loads end the process, or never come back
            raise UsageError("The working directory no longer exists. Change to one that does: cd ~")
        from clarena.cli import commands  # noqa: F401 - each command adds itself to `app`

        warnings.formatwarning = _formatted
        app()
    except ClarenaError as error:
        if os.environ.get("CLARENA_TRACEBACK"):
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("Stopped.")
        sys.exit(130)
    except OSError as error:
        if os.environ.get("CLARENA_TRACEBACK") or not (message := _about(error)):
            raise
        _complain(message)
        sys.exit(2 if error.errno == errno.ENAMETOOLONG else 1)


def _about(error: OSError) -> str:
    """What to do about an error of the system that can reach us from anywhere; empty for any other."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}. Allow more: ulimit -n 1024"
    if error.errno == errno.ENAMETOOLONG:
        return f"A path is longer than this system allows: {str(error.filename)[:60]} … Give a shorter one."
    return "" if _is_somewhere() else "The working directory was removed. Change to one that exists: cd ~"


def _is_somewhere() -> bool:
    """Whether the working directory exists."""
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _formatted(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    """A warning of ours on one line; any other as Python prints it."""
    if issubclass(category, ClarenaWarning):
        return f"Warning: {message}\n"
    return _python_format(message, category, *where, **line)


_python_format = warnings.formatwarning


def _complain(message: str) -> None:
    first, _, rest = message.partition("\n")
    typer.secho(f"Error: {first}", fg="red", bold=True, err=True)
    if rest:
        typer.echo(rest, err=True)
