"""Takes no argument, so it could register nothing."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies():
    pass
