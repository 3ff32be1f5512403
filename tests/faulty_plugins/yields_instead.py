"""Is a generator, so nothing in it ever runs."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    yield register("json:JSONDecoder", name="yielded", summary="Is never reached.")
