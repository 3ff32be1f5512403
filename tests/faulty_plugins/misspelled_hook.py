"""Says strategy where the hook says strategies."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategy(register):
    register("json:JSONDecoder", name="misspelled", summary="Is never reached.")
