"""The four hooks through which a plugin offers what it has; natives and strangers use the same door."""

from typing import Any, Protocol

import pluggy

PROJECT = "clarena"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """The callback that every hook is given."""

    def __call__(
        self,
        target: type[Any] | str,
        *,
        name: str | None = None,
        summary: str | None = None,
        extra: str | None = None,
        scoring: type[Any] | str | None = None,
    ) -> None:
        """Offer one class, or the two halves of one target.

        Args:
            target: the class itself, or a lazy reference `"package.module:Class"` that is imported when it is
                asked for.
            name: required with a lazy reference; otherwise the class's own `name`. Lower-case letters, digits
                and `+._-`. Written as `"plugin/name"`, it lays no claim to the short name. One that ends in a
                placeholder, as in `"split:PATH"`, takes an argument: the class's `of(argument)` makes the class for it.
            summary: one line for `clarena list`, required with a lazy reference; otherwise the first sentence
                of the class's docstring.
            extra: with a lazy reference, the extra of `clarena-bench` that brings the packages it imports: an
                error about a missing package then says how to install it.
            scoring: of a target, its other half: what its answers are worth, a subclass of `clarena.Scoring` or a
                lazy reference to one. It is loaded by itself, by who has no torch.

        Raises:
            PluginError: on the author's line, when the registration is not usable.
        """


@hookspec
def clarena_register_strategies(register: Register) -> None:
    """Call `register` once for each strategy: a subclass of `clarena.Strategy`."""


@hookspec
def clarena_register_backbones(register: Register) -> None:
    """Call `register` once for each backbone: a subclass of `clarena.Backbone`."""


@hookspec
def clarena_register_benchmarks(register: Register) -> None:
    """Call `register` once for each benchmark: a subclass of `clarena.Benchmark`."""


@hookspec
def clarena_register_targets(register: Register) -> None:
    """Call `register` once for each target, with both halves: a subclass of `clarena.Target`, and its `scoring`."""
