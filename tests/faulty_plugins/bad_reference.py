"""Gives a reference without a class."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    register("json.JSONDecoder", name="bad", summary="Has a dot where a colon belongs.")
