"""An example of a CLArena plugin that can be installed: one strategy, offered by reference."""

from clarena import hookimpl


@hookimpl
def clarena_register_strategies(register):
    """Register the strategy by reference, so that a list of names imports nothing heavy."""
    register(
        "clarena_example.shrink_perturb:ShrinkPerturb",
        name="shrink-perturb",
        summary="Shrinks the weights and adds noise to them before each experience",
    )
