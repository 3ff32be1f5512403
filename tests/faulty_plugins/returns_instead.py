"""Returns what it should register."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    return "json:JSONDecoder"
