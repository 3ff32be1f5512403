"""A target of which half is missing."""

from clarena import hookimpl


@hookimpl
def clarena_register_targets(register):
    register("json:JSONDecoder", name="half", summary="Has no scoring.")
