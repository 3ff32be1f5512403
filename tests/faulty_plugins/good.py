"""A sound plugin among the faulty ones: none of them may hide it."""

from clarena import Strategy, hookimpl


class Good(Strategy):
    """Learns nothing (Nobody et al. 2020). It is here to be found."""

    name = "good"

    def learn(self, experience):
        pass


class Lazy(Good):
    """Is imported when it is asked for."""

    name = "lazy"


@hookimpl
def clarena_register_strategies(register):
    register(Good)
    register(f"{__name__}:Lazy", name="lazy", summary="Is imported when it is asked for.")
