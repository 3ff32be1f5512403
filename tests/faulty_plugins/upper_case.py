"""Uses a name that the command line does not allow."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    register("json:JSONDecoder", name="Upper Case", summary="Is refused.")
