"""Avalanche's strategies under the host's protocol: the order of data, the budget, testing and metrics are the host's.

Avalanche's own loop trains the host's model with the host's optimiser on the host's batches. Only where a strategy
joins exemplars to the data, its own loader draws the batches, and the host counts what it reads. Its dynamic heads,
its evaluation and its checkpoints are not used. What differs between strategies is in `table`.
"""

from inspect import Parameter, Signature
from typing import Any

from clarena import Strategy
from clarena_avalanche.library import import_avalanche

import_avalanche()

from clarena_avalanche import single_methods  # noqa: E402
from clarena_avalanche.adapters import Adapted  # noqa: E402
from clarena_avalanche.method import Method  # noqa: E402
from clarena_avalanche.table import METHODS  # noqa: E402


def strategy_class(method: Method) -> type[Adapted]:
    """The strategy that a method describes, with its hyper-parameters in the signature."""

    def __init__(self: Adapted, **values: Any) -> None:  # noqa: N807 - it becomes one
        given = dict(defaults, **values)
        if unknown := given.keys() - defaults.keys():
            raise TypeError(f"{method.class_name} takes no {', '.join(sorted(unknown))}.")
        Strategy.__init__(self)
        for name, value in given.items():
            setattr(self, name, value)

    defaults = {name: default for name, (_, default) in method.hyper.items()}
    arguments = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in method.hyper.items()
    ]
    __init__.__annotations__ = {name: annotation for name, (annotation, _) in method.hyper.items()}
    __init__.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *arguments]
    )
    facts = {
        "__init__": __init__,
        "__module__": __name__,
        "__doc__": f"{method.summary}.\n\n{method.differs}",
        "method": method,
        "name": f"avalanche/{method.name}",
        "reference": method.paper,
        "family": method.family,
        "scenarios": method.scenarios,
        "needs": method.needs | {"own_loop", "whole_batches"},
        "off": method.off,
        "carries": method.carries,
        "exceptions": method.exceptions,
    }
    base = Adapted if method.adapter == "Adapted" else getattr(single_methods, method.adapter)
    return type(method.class_name, (base,), facts)


globals().update({method.class_name: strategy_class(method) for method in METHODS})
