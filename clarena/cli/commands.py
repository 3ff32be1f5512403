"""Every command, imported so that it adds itself to the app, and the order of the help."""

from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from typer import Typer
from typer.core import TyperGroup

from clarena.cli import (  # noqa: F401
    app,
    cache,
    check,
    continue_,
    describe,
    doctor,
    evaluate,
    listing,
    new,
    predict,
    reproduce,
    results,
    season,
    store,
    submit,
    sync,
    tune,
    verify,
)
from clarena.plugins.registry import DISTRIBUTION

ORDER = (
    *("evaluate", "predict", "continue", "tune", "results", "compare", "leaderboard", "sync", "list", "describe"),
    *("new", "check", "reproduce", "submit", "verify", "season", "store", "cache", "doctor"),
)

GROUP = "clarena.commands"
"""The entry points by which this distribution's other packages add commands: a function, or a group of them."""


class _InOrder(TyperGroup):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.commands = dict(sorted(self.commands.items(), key=lambda item: ORDER.index(item[0])))


def _join() -> None:
    """Add the commands of the entry points; a checkout that is not installed has none."""
    try:
        points = distribution(DISTRIBUTION).entry_points.select(group=GROUP)
    except PackageNotFoundError:
        return
    for point in points:
        command = point.load()
        if isinstance(command, Typer):
            app.add_typer(command, name=point.name)
        else:
            app.command(point.name)(command)


app.info.cls = _InOrder
_join()
