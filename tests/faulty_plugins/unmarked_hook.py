"""Forgets the marker above its hook."""


def clarena_register_strategies(register):
    register("json:JSONDecoder", name="unmarked", summary="Is never reached.")
