"""Registers one name twice."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    register("json:JSONDecoder", name="twice", summary="The first.")
    register("json:JSONEncoder", name="twice", summary="The second.")
