"""Registers a class that has no name."""

from clarena import Strategy, hookimpl


class Nameless(Strategy):
    """Is a strategy."""


@hookimpl
def clarena_register_strategies(register):
    register(Nameless)
