"""Gives a lazy reference and nothing to list it by."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    register("json:JSONDecoder", name="bare")
