"""Registers a backbone and a strategy, and then fails in a helper of its own."""

from clarena import hookimpl


@hookimpl
def clarena_register_backbones(register):
    register("json:JSONDecoder", name="half_backbone", summary="Must be taken back.")


@hookimpl
def clarena_register_strategies(register):
    register("json:JSONDecoder", name="half", summary="Must be taken back.")
    look_up("absent")


def look_up(key):
    return {}[key]
