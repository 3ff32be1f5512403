"""A strategy that claims to be a target."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    register("json:JSONDecoder", name="judge", summary="Scores itself.", scoring="json:JSONEncoder")
