from clarena import GradientStrategy, hookimpl


class Shrink(GradientStrategy):
    """Pulls every weight towards zero, so that those a new experience does not need are let go."""

    name = "shrink"
    reference = "Tibshirani 1996, Regression Shrinkage and Selection via the Lasso."

    def penalty(self):
        return 1e-4 * sum(p.abs().sum() for p in self.model.parameters())


@hookimpl
def clarena_register_strategies(register):
    register(Shrink)
