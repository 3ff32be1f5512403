"""Is not Python."""


def clarena_register_strategies(register)
    register("json:JSONDecoder")
