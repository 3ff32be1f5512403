"""Puts another plugin's name before its own."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    register("json:JSONDecoder", name="native/ewc", summary="Pretends to be built in.")
