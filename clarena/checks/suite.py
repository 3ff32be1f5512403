"""Run the rules on a strategy, and say how each came out."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from clarena.checks.backbone import check_frozen_kept, check_nothing_left_behind
from clarena.checks.behaviour import (
    check_batch_independent,
    check_budget,
    check_buffer_budget,
    check_data_released,
    check_data_untouched,
    check_learns,
    check_no_task_label,
    check_parameters_kept,
    check_predict_changes_nothing,
    check_rows,
    check_runs,
    check_scores,
    check_untrained_scores,
    check_updates,
)
from clarena.checks.declared import Broken, NotApplicable, check_constructible, check_metadata, require
from clarena.checks.identity import (
    check_copies,
    check_off,
    check_reproducible,
    check_restart,
    check_setup_starts_over,
)
from clarena.checks.restart import Restart
from clarena.checks.tiny import TARGET, Subject, tiny_backbone
from clarena.checks.trial import laboratory
from clarena.checks.views import check_views
from clarena.contract.backbone import Backbone
from clarena.contract.strategy import Strategy
from clarena.errors import UsageError
from clarena.plugins.registry import first_sentence, one_line
from clarena.protocol.protocol import SCENARIOS, Scenario

Outcome = Literal["passed", "failed", "excepted", "unexpectedly_passed", "not_applicable"]


@dataclass(frozen=True)
class CheckResult:
    """How one check came out.

    Attributes:
        name: of the check, `learns` for `check_learns`.
        scenario: in which it ran; None for a check of the class.
        outcome: `excepted` failed as the strategy declares; `unexpectedly_passed` was declared, too.
        message: what to do about a failure, why it is excepted, or why it does not apply.
        seconds: how long it took.
    """

    name: str
    scenario: Scenario | None
    outcome: Outcome
    message: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there is nothing to put right."""
        return self.outcome != "failed"


def check_exceptions(strategy: type[Strategy]) -> None:
    """Declared exceptions name checks that exist, each with a reason."""
    exceptions = strategy.exceptions
    require(isinstance(exceptions, Mapping), f"exceptions is {exceptions!r}. Map the name of a check to the reason.")
    unknown = sorted(set(exceptions) - set(CHECKS))
    require(not unknown, f"exceptions has {', '.join(unknown)}, which is no check. Checks: {', '.join(CHECKS)}.")
    bare = sorted(name for name, reason in exceptions.items() if not str(reason).strip())
    require(not bare, f"exceptions gives no reason for {', '.join(bare)}. Say why it cannot be met.")


def _named(*functions: Callable[..., None]) -> dict[str, Callable[..., None]]:
    return {function.__name__.removeprefix("check_"): function for function in functions}


CLASS_CHECKS = _named(check_metadata, check_exceptions, check_constructible)
"""Checks of the class, by name: nothing is trained."""

STREAM_CHECKS = _named(
    check_runs,
    check_parameters_kept,
    check_scores,
    check_untrained_scores,
    check_no_task_label,
    check_learns,
    check_batch_independent,
    check_data_untouched,
    check_data_released,
    check_budget,
    check_views,
    check_updates,
    check_buffer_budget,
    check_rows,
    check_reproducible,
    check_predict_changes_nothing,
    check_nothing_left_behind,
    check_frozen_kept,
    check_setup_starts_over,
    check_copies,
    check_restart,
    check_off,
)
"""Checks on the tiny stream, by name; they run in each scenario."""

CHECKS = CLASS_CHECKS | STREAM_CHECKS
"""All checks, in order."""

GATES = ("constructible", "runs", "scores", "reproducible")
"""Where one of these fails, those after it would only fail for the same reason, so they wait."""


class Suite:
    """The checks of one strategy; each runs when it is first asked for.

    Attributes:
        subjects: the strategy in each scenario.
        restart: the new process of the check of that name; suites may share one.
        cases: the name of each check with the scenario in which it runs (None for a check of the class), in order.
    """

    def __init__(
        self,
        strategy: type[Strategy],
        scenarios: Iterable[Scenario] | None = None,
        backbone: type[Backbone] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """`backbone`: None takes a tiny one; raises `UsageError` for a scenario that the strategy does not declare."""
        declared = [scenario for scenario in SCENARIOS if scenario in tuple(strategy.scenarios)]
        chosen = declared if scenarios is None else list(scenarios)
        for scenario in chosen:
            if scenario not in declared:
                raise UsageError(
                    f"{strategy.__name__} does not declare the scenario {scenario!r}; it declares: "
                    f"{', '.join(declared) or 'none'}."
                )
        self.strategy = strategy
        on = backbone or tiny_backbone(strategy)
        self.subjects = {scenario: Subject(strategy, scenario, on, options or {}) for scenario in chosen}
        self.restart = Restart(list(self.subjects.values()))
        self.cases: list[tuple[str, Scenario | None]] = [(name, None) for name in CLASS_CHECKS]
        self.cases += [(name, scenario) for scenario in chosen for name in STREAM_CHECKS]
        self._results: dict[tuple[str, Scenario | None], CheckResult] = {}

    def result(self, name: str, scenario: Scenario | None = None) -> CheckResult:
        """How the check comes out in this scenario (None for a check of the class)."""
        key = name, scenario
        if key not in self._results:
            self._results[key] = self._run(name, scenario)
        return self._results[key]

    def _run(self, name: str, scenario: Scenario | None) -> CheckResult:
        targets = self.strategy.targets
        if scenario is not None and isinstance(targets, frozenset | set) and TARGET not in targets:
            return CheckResult(
                name, scenario, "not_applicable", "the kit's stream is of classes, which it does not learn"
            )
        order = list(CHECKS)
        for gate in (gate for gate in GATES if order.index(gate) < order.index(name)):
            first = self.result(gate, None if gate in CLASS_CHECKS else scenario)
            if first.outcome == "not_applicable":
                return CheckResult(name, scenario, "not_applicable", first.message)
            if first.outcome in ("failed", "excepted"):
                return CheckResult(name, scenario, "not_applicable", f"it waits until {gate!r} passes")
        about = self.strategy if scenario is None else self.subjects[scenario]
        shared = {"restart": self.restart} if name == "restart" else {}
        start = time.perf_counter()
        outcome: Outcome = "passed"
        message = ""
        try:
            with laboratory():
                CHECKS[name](about, **shared)
        except NotApplicable as error:
            outcome, message = "not_applicable", str(error)
        except Broken as error:
            outcome, message = "failed", str(error)
        except Exception as error:
            outcome, message = "failed", one_line(error)
        exceptions = self.strategy.exceptions
        if isinstance(exceptions, Mapping) and name in exceptions:
            if outcome == "failed":
                outcome, message = "excepted", f"{exceptions[name]} ({message})"
            elif outcome == "passed":
                outcome = "unexpectedly_passed"
                message = f"It passes: remove it from exceptions, where it says: {exceptions[name]}"
        return CheckResult(name, scenario, outcome, message, time.perf_counter() - start)


def run_checks(
    strategy: type[Strategy],
    scenarios: Iterable[Scenario] | None = None,
    backbone: type[Backbone] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[CheckResult], None] = lambda result: None,
) -> list[CheckResult]:
    """Run every check on a strategy.

    Args:
        strategy: the class.
        scenarios: in which; None takes all that it declares.
        backbone: the class of the backbone, for inputs [1, 8, 8]; None takes a tiny one, whose inputs are [1, 4, 4].
        options: of the backbone.
        progress: told each result as it comes.

    Raises:
        UsageError: for a scenario that the strategy does not declare.
    """
    suite = Suite(strategy, scenarios, backbone, options)
    results = []
    for name, scenario in suite.cases:
        results.append(suite.result(name, scenario))
        progress(results[-1])
    return results


def summary(strategy: type[Strategy], results: Sequence[CheckResult]) -> str:
    """What a person wants to know: the counts, and each failure with what to do about it, alike ones together."""
    counts = Counter(result.outcome for result in results)
    parts = [f"{counts[outcome]} {outcome.replace('_', ' ')}" for outcome in get_args(Outcome) if counts[outcome]]
    seconds = sum(result.seconds for result in results)
    lines = [f"{getattr(strategy, 'name', strategy.__name__)}: {', '.join(parts)} ({seconds:.1f} s)"]
    alike: dict[tuple[Outcome, str, str], list[str]] = {}
    for result in results:
        refused = result.name == "runs" and result.outcome == "not_applicable"
        if refused or result.outcome not in ("passed", "not_applicable"):
            where = alike.setdefault((result.outcome, result.name, result.message), [])
            where += [result.scenario] if result.scenario else []
    for (outcome, name, message), where in alike.items():
        scenarios = f" ({', '.join(where)})" if where else ""
        lines += ["", f"{outcome.replace('_', ' ')}: {name}{scenarios}"]
        lines += [f"  rule: {first_sentence(CHECKS[name].__doc__)}.", *(f"  {line}" for line in message.splitlines())]
    return "\n".join(lines)
