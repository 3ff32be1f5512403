"""Choose hyper-parameters on held-out training data of the first experiences: `clarena tune`.

A tuning run is a cell like any other, on the track's twin whose protocol says `tested_on=validation`, under seeds
that no other run can have. So trials are recorded, resumed and run side by side as evaluations are. They lie in a
store of their own, where no table looks:

runs/tuning/<strategy>-<row>/study.json     the space, the seeds, every trial, and what was chosen
                            /<track>/…      the records of the trials

Nothing about chance is kept: what a trial tries is a function of the trials of earlier rounds and of its number. So a
tuning that was killed, made longer, or run with more `--jobs` ends in the same study as one made in one go.
"""

import math
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clarena.contract.strategy import Strategy
from clarena.errors import StoreError, UsageError, unknown_name
from clarena.plugins.composite import Composite
from clarena.plugins.host import Host
from clarena.plugins.parameters import Parameter, parameters
from clarena.record.record import FIRST_TUNING_SEED, Record
from clarena.record.writing import write_atomic
from clarena.run.evaluation import carry_out
from clarena.run.executors import Event, Listener
from clarena.run.output import harmless
from clarena.run.planning import LearningRate, Plan, Settings, make_plan, owner_of_learning_rate
from clarena.tuning.space import Choice, Range, Space, derived, grid, read, requested, suggest
from clarena.tuning.study import METRIC, Study, Trial, Tuned, merged, owner, read_study, value_of

__all__ = ["ROUND", "Choice", "Range", "Space", "Study", "Trial", "Tuned", "Tuning", "read_study"]

ROUND = 5
"""Trials that are chosen together and may run side by side; the same number whatever `--jobs` says."""


class Tuning:
    """A request to tune one strategy on one track, checked as a whole before anything runs.

    Args:
        strategy: a name or a class.
        space: `NAME=LOW..HIGH`, `NAME=LOW..HIGH:log`, `NAME=A,B,C`, or `NAME` for its default range; what is named
            is the space. Without any, it is everything for which a range follows from the signature.
        seeds: how many.
        settings: as in `clarena.evaluate`; hyper-parameters that are set here are fixed.
        store: the directory of records, in which the study gets a folder.
        request: what else `make_plan` takes.

    Attributes:
        study: what is there so far.
        path: where it is written.
        default: the values that the strategy has of itself, which trial 0 tries.
        points: what all trials try, in order, where the space is a grid; else None.

    Raises:
        UsageError: when the request is wrong, optuna is not installed, or the store holds another tuning of this row.
        ClarenaError: when data or the store cannot be used.
    """

    def __init__(
        self,
        strategy: str | type[Strategy],
        *,
        host: Host,
        space: Sequence[str] = (),
        seeds: int = 5,
        settings: Settings | None = None,
        store: str | Path = "runs",
        **request: Any,
    ) -> None:
        if find_spec("optuna") is None:
            raise UsageError("Tuning needs optuna, which is not installed: pip install 'clarena-bench[tune]'")
        if seeds < 1:
            raise UsageError(f"seeds = {seeds} is not valid: give how many seeds each trial runs under, 1 or more.")
        self.strategy, self.host, self.fixed, self.request = strategy, host, settings or {}, request
        self.cls: type[Strategy] = host.strategy(strategy)
        self.seeds = [FIRST_TUNING_SEED + number for number in range(seeds)]
        self.folder = Path(store)
        self.base = self._plan({}).works[0]
        self.space = self._space(space)
        self.default = {name: value_of(self.base.cell.strategy, name) for name in self.space}
        points = grid(self.space)
        self.points = points and [self.default, *(point for point in points if point != self.default)]
        name = re.sub(r"[^A-Za-z0-9._+-]+", "_", self.cls.name)
        self.folder = Path(store) / "tuning" / f"{name}-{self.base.cell.row[:12]}"
        self.path = self.folder / "study.json"
        self.study = self._begun()

    def run(
        self,
        trials: int,
        *,
        jobs: int | None = None,
        listener: Listener | None = None,
        told: Callable[[Sequence[Trial]], None] = lambda trials: None,
    ) -> Study:
        """Add trials until there are so many, and return the study; it is written after every round.

        Args:
            trials: in all, those that are there already among them. No more are added than `possible` says.
            jobs: runs at a time.
            listener: told of every event of a run.
            told: of the trials of each round, when it is over.

        Raises:
            UsageError: for fewer trials than one.
            StoreError: when the store cannot be written, or a record in it is damaged.
            KeyboardInterrupt: after every run under way has recorded its interruption.
        """
        if trials < 1:
            raise UsageError(f"trials = {trials} is not valid: give the number of settings to try, 1 or more.")
        trials = self.possible(trials)
        listener, told = harmless(listener) if listener else None, harmless(told)
        while (start := len(self.study.trials)) < trials:
            begin = start - start % ROUND
            known = [(trial.values, trial.score) for trial in self.study.trials[:begin]]
            tried = [self._tried(known, number) for number in range(start, min(trials, begin + ROUND))]
            added = self._round(start, tried, jobs, listener)
            self.study = self.study.extended(added)
            write_atomic(self.path, self.study.model_dump_json(indent=1).encode())
            told(added)
        return self.study

    def possible(self, trials: int) -> int:
        """So many trials, or as many as there are points to try."""
        return min(trials, len(self.points)) if self.points else trials

    def _tried(self, known: Sequence[tuple[dict[str, Any], float]], number: int) -> dict[str, Any]:
        """The values of a trial: the default, then the other points of a grid or, without one, what is suggested."""
        if self.points:
            return self.points[number]
        return suggest(self.space, known, number) if number else self.default

    def _round(
        self, start: int, tried: Sequence[dict[str, Any]], jobs: int | None, listener: Listener | None
    ) -> list[Trial]:
        plans = [self._plan_or_reason(values) for values in tried]
        good = [plan for plan in plans if isinstance(plan, Plan)]
        works = {work.cell.id: work for plan in good for work in plan.works}
        done = {key: record for plan in good for key, record in plan.done.items()}
        errors: dict[str, str] = {}

        def listen(event: Event) -> None:
            if event.kind == "error":
                errors[event.work.cell.id] = f"not recorded: {event.message}"
            if listener:
                listener(event)

        whole = Plan(self.base.cell.track, list(works.values()), done, damaged={})
        results = carry_out(whole, self.folder, jobs=jobs, track=False, listener=listen)
        records = {record.cell_id: record for record in results}
        trials = []
        for number, (values, plan) in enumerate(zip(tried, plans), start):
            problems: list[str | None]
            if isinstance(plan, Plan):
                found = [records.get(work.cell.id, errors.get(work.cell.id, "not recorded")) for work in plan.works]
                problems, scores = [_problem(each) for each in found], [_score(each) for each in found]
            else:
                problems, scores = [plan], [math.nan] * len(self.seeds)
            problem = next(filter(None, problems), None)
            trials.append(Trial(number=number, values=values, scores=scores, problem=problem))
        return trials

    def _plan(self, values: dict[str, Any]) -> Plan:
        """The cells of one trial."""
        plan = make_plan(
            [self.strategy],
            seeds=self.seeds,
            settings=merged(self.fixed, self.cls.name, values),
            store=self.folder,
            retry=True,
            host=self.host,
            tuning=True,
            **self.request,
        )
        for reason in plan.damaged.values():
            raise StoreError(reason)
        return plan

    def _plan_or_reason(self, values: dict[str, Any]) -> Plan | str:
        """The cells of a trial, or why the strategy refuses these values together: a trial that failed."""
        try:
            return self._plan(values)
        except UsageError as error:
            return " ".join(str(error).split())

    def _begun(self) -> Study:
        """The study in the store, or a new one without trials."""
        import optuna

        track = self.base.cell.track
        new = Study(
            track=track.model_copy(update={"protocol": track.protocol.model_copy(update={"tested_on": "test"})}),
            strategy=self.base.cell.strategy,
            space=self.space,
            seeds=self.seeds,
            sampler="every point once, in random order"
            if self.points
            else f"optuna {optuna.__version__}: TPESampler(seed=trial number), rounds of {ROUND}",
            command=self.base.command,
        )
        if not self.path.exists():
            return new
        old = read_study(self.path)
        if _asked(old) != _asked(new):
            raise UsageError(
                f"{self.path} holds {len(old.trials)} trials of {self.cls.name} with {_asked(old)}.\n"
                f"This would be a tuning with {_asked(new)}.\n"
                "Ask for the same as before, move that folder away, or name another store with --store."
            )
        return old

    def _space(self, wanted: Sequence[str]) -> Space:
        """What is tuned; raises `UsageError` for names, ranges and values that do not fit."""
        name = self.cls.name
        known = _tunable(self.cls)
        fixed = {key for key in known if owner(key, name)[1] in self.fixed.get(owner(key, name)[0], {})}
        declared = {f"{prefix}{key}": text for prefix, cls in _members(self.cls) for key, text in cls.tuning.items()}
        space: Space = {}
        for key, text in requested(wanted or [key for key in known if key not in fixed]):
            if key not in known:
                raise unknown_name(f"hyper-parameter of {name} to tune", key, known)
            if key in fixed:
                raise UsageError(f"{key} is fixed by --set, and --space asks to tune it. Leave one of them out.")
            if key in space:
                raise UsageError(f"--space names {key} twice. Name it once.")
            text, default = text or declared.get(key, ""), value_of(self.base.cell.strategy, key)
            dimension = read(key, text, known[key]) if text else derived(known[key], default)
            dimension = dimension and self._taken(key, dimension, strict=bool(wanted))
            if dimension is not None:
                space[key] = dimension
            elif wanted:
                raise UsageError(
                    f"No range follows from what {name} says of {key} ({known[key].type_name}, default {default!r}). "
                    f"Say which: --space {key}=LOW..HIGH, or --space {key}=A,B,C."
                )
        if not space:
            raise UsageError(
                f"There is nothing to tune in {name}: no range follows for a hyper-parameter that is not fixed. It "
                f"has: {', '.join(known)}. Name one with a range: --space NAME=LOW..HIGH."
            )
        return space

    def _taken(self, name: str, dimension: Range | Choice, strict: bool) -> Range | Choice | None:
        """What the strategy takes of it on this track, options in their proper type; None where that is no choice.

        Raises:
            UsageError: where it does not take all of it, if `strict`: when it was asked for.
        """
        plan = self._plan if strict else self._plan_or_reason
        plans = [plan({name: value}) for value in dimension.checked]
        typed = [value_of(each.works[0].cell.strategy, name) for each in plans if isinstance(each, Plan)]
        if isinstance(dimension, Range):
            return dimension if len(typed) == len(plans) else None
        return Choice(options=tuple(typed)) if len(typed) > 1 else None


def _members(cls: type[Strategy]) -> list[tuple[str, type[Strategy]]]:
    """Whose hyper-parameters are tuned, with the prefix of their names: the strategy's, or those of its parts."""
    return [(f"{member.name}.", member) for member in cls.members] if issubclass(cls, Composite) else [("", cls)]


def _tunable(cls: type[Strategy]) -> dict[str, Parameter]:
    """Every hyper-parameter by its name in a space; a learning rate that no one declares is the host's."""
    known = {f"{prefix}{name}": each for prefix, member in _members(cls) for name, each in parameters(member).items()}
    return known if owner_of_learning_rate(cls) else known | parameters(LearningRate)


def _asked(study: Study) -> str:
    """What two tunings must have in common if their trials are to count together."""
    space = " ".join(f"{name}={dimension}" for name, dimension in sorted(study.space.items()))
    return f"{len(study.seeds)} seeds and the space {space}"


def _score(found: Record | str) -> float:
    return found.metric(METRIC) if isinstance(found, Record) and found.status == "finished" else math.nan


def _problem(found: Record | str) -> str | None:
    """What became of a run that did not finish: of its record, or of what kept it from having one."""
    if isinstance(found, str):
        return found
    return None if found.status == "finished" else f"{found.status.replace('_', ' ')}: {found.reason}"
