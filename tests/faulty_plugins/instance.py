"""Registers an object instead of its class."""

from clarena import Strategy, hookimpl


class Instance(Strategy):
    """Is a strategy."""

    name = "instance"


@hookimpl
def clarena_register_strategies(register):
    register(Instance())
