"""The conformance kit for pytest: one line in an author's tests runs every check on their strategies or targets."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from clarena.checks import Suite
from clarena.checks.restart import Restart
from clarena.checks.target import check_target
from clarena.contract.backbone import Backbone
from clarena.contract.strategy import Strategy
from clarena.protocol.protocol import Scenario

__all__ = ["Case", "check_target", "parametrize_with_checks"]


@dataclass(frozen=True)
class Case:
    """One check of one strategy; calling it passes, fails, skips or fails as expected."""

    suite: Suite
    name: str
    scenario: Scenario | None

    def __call__(self) -> None:
        """Run the check and tell pytest."""
        result = self.suite.result(self.name, self.scenario)
        match result.outcome:
            case "failed":
                pytest.fail(result.message, pytrace=False)
            case "excepted":
                pytest.xfail(result.message)
            case "not_applicable":
                pytest.skip(result.message)
            case "unexpectedly_passed":
                warnings.warn(f"{self.name}: {result.message}", stacklevel=2)

    def __str__(self) -> str:
        name = getattr(self.suite.strategy, "name", self.suite.strategy.__name__)
        return "-".join(filter(None, (name, self.scenario, self.name)))


def parametrize_with_checks(
    strategies: Sequence[type[Strategy]],
    scenarios: Iterable[Scenario] | None = None,
    backbone: type[Backbone] | None = None,
    options: Mapping[str, Any] | None = None,
) -> pytest.MarkDecorator:
    """Run a test once for every check of every strategy; its argument is `check`, to be called.

        @parametrize_with_checks([MyMethod])
        def test_conformance(check):
            check()

    Args:
        strategies: the classes.
        scenarios: in which; None takes all that each declares.
        backbone: on what; None takes a tiny MLP, or a tiny transformer where the strategy works on tokens.
        options: of the backbone.

    Raises:
        UsageError: for a scenario that a strategy does not declare.
    """
    suites = [Suite(strategy, scenarios, backbone, options) for strategy in strategies]
    restart = Restart([subject for suite in suites for subject in suite.subjects.values()])
    for suite in suites:
        suite.restart = restart
    cases = [Case(suite, *case) for suite in suites for case in suite.cases]
    return pytest.mark.parametrize("check", cases, ids=str)
