"""Registers a class that nobody described."""

from clarena import Strategy, hookimpl


class Undocumented(Strategy):
    name = "undocumented"


@hookimpl
def clarena_register_strategies(register):
    register(Undocumented)
