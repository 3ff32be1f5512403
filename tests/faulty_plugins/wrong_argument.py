"""Names the hook's argument otherwise."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(registry):
    registry("json:JSONDecoder", name="wrong", summary="Is never reached.")
