"""A target whose other half scores nothing."""

from clarena import hookimpl


@hookimpl
def clarena_register_targets(register):
    register("json:JSONDecoder", name="odd", summary="Its scoring is a text.", scoring=dict)
