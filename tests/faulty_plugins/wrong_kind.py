"""Registers as a strategy what is none."""

from clarena import hookimpl


class NotAStrategy:
    """Inherits from nothing."""

    name = "not_a_strategy"


@hookimpl
def clarena_register_strategies(register):
    register(NotAStrategy)
