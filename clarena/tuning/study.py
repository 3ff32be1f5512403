"""A tuning as it lies in the store, and how an evaluation takes what it chose."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from clarena.errors import StoreError, UsageError
from clarena.plugins.composite import part_names
from clarena.protocol.frozen import FrozenModel
from clarena.protocol.protocol import Track
from clarena.record.record import Number, StrategyInfo
from clarena.tuning.space import Space

METRIC = "final_average_accuracy"
WORST = 0.0
"""The score of a trial with a run that did not finish."""


class Trial(FrozenModel):
    """One setting that was tried, under every seed.

    Attributes:
        number: from 0, which has the default values.
        values: one for each name in the space.
        scores: final average accuracy on validation data, by seed; null where the run did not finish.
        problem: what became of the first run that did not finish, or None.
    """

    number: int
    values: dict[str, Any]
    scores: list[Number]
    problem: str | None = None

    @property
    def score(self) -> float:
        """Mean over seeds; `WORST` where not all of them finished."""
        return WORST if self.problem else float(np.mean(self.scores))


class Study(FrozenModel):
    """Every trial of one strategy on one track, and which was best.

    Attributes:
        track: that the hyper-parameters are chosen for; the trials ran on its twin, `tested_on=validation`.
        strategy: with default values, and with those that were fixed by hand.
        seeds: of every trial.
        metric: whose mean over seeds, on validation data, is maximised.
        sampler: what suggested the values.
        chosen: number of the best trial, the earliest of equals; null where none finished.
        command: that began it.
    """

    schema_version: Literal[1] = 1
    track: Track
    strategy: StrategyInfo
    space: Space
    seeds: list[int]
    metric: Literal["final_average_accuracy"] = "final_average_accuracy"
    sampler: str
    trials: list[Trial] = []
    chosen: int | None = None
    command: str = ""

    def extended(self, trials: Sequence[Trial]) -> "Study":
        """The study with more trials."""
        study = self.model_copy(update={"trials": [*self.trials, *trials]})
        return study.model_copy(update={"chosen": study.best})

    @property
    def ranking(self) -> list[Trial]:
        """The trials, best first; the earlier of equals, and those that did not finish last."""
        return sorted(self.trials, key=lambda trial: (trial.problem is not None, -trial.score, trial.number))

    @property
    def best(self) -> int | None:
        """What `chosen` has to be."""
        return next((trial.number for trial in self.ranking if trial.problem is None), None)

    @property
    def how(self) -> str:
        """How the hyper-parameters were chosen, as records say it."""
        return f"tuned ({len(self.trials)} trials)"

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Every hyper-parameter by owner, as `clarena.evaluate` takes them: the chosen ones and all others."""
        name, given = self.strategy.name, self.strategy.hyperparameters
        if len(part_names(name)) > 1:
            settings = {f"{name}.{part}": dict(values) for part, values in given["parts"].items()}
        else:
            settings = {name: dict(given)}
        if not any("learning_rate" in values for values in settings.values()):
            settings.setdefault(name, {})["learning_rate"] = self.strategy.learning_rate
        return settings if self.chosen is None else merged(settings, name, self.trials[self.chosen].values)


def owner(name: str, strategy: str) -> tuple[str, str]:
    """Owner and name, as settings have them, of a name in a space: `ewc.strength` of `ewc+lwf` is `ewc+lwf.ewc`'s."""
    part, _, leaf = name.rpartition(".")
    return (f"{strategy}.{part}" if part else strategy), leaf


def merged(
    settings: Mapping[str, Mapping[str, Any]], strategy: str, values: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Settings with values of a space put in."""
    result = {key: dict(given) for key, given in settings.items()}
    for name, value in values.items():
        key, leaf = owner(name, strategy)
        result.setdefault(key, {})[leaf] = value
    return result


def value_of(info: StrategyInfo, name: str) -> Any:
    """The value that a strategy has for a name in a space."""
    part, _, leaf = name.rpartition(".")
    given = info.hyperparameters["parts"][part] if part else info.hyperparameters
    return given.get(leaf, info.learning_rate)


def read_study(path: Path) -> Study:
    """Read a study; raises `StoreError` with what is wrong and what to do."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"The study {path} cannot be read ({error}). Name a study.json of `clarena tune`.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > 1:
        raise StoreError(f"The study {path} has schema {version}; this CLArena reads up to 1. Upgrade it.")
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(f"The study {path} is not valid ({where}: {first['msg']}). Move it away.") from error
    numbers = [trial.number for trial in study.trials]
    if study.chosen != study.best or numbers != list(range(len(numbers))):
        raise StoreError(f"The study {path} was altered: what it chose is not its best trial. Move it away.")
    return study


class Tuned:
    """The studies that an evaluation takes its hyper-parameters from: `--tuned FILE`.

    Args:
        paths: of the studies.
        settings: of the evaluation besides.
        strategies: that are evaluated.

    Attributes:
        settings: with the hyper-parameters that were chosen.
        chosen: how, by strategy.

    Raises:
        StoreError: for a file that is no study.
        UsageError: for one that chose nothing, for two of one strategy, for one of another strategy, or where the
            settings say something else.
    """

    def __init__(
        self, paths: Sequence[Path], settings: Mapping[str, Mapping[str, Any]], strategies: Sequence[str]
    ) -> None:
        self.studies: dict[str, tuple[Path, Study]] = {}
        self.settings = {key: dict(given) for key, given in settings.items()}
        self.chosen: dict[str, str] = {}
        for path in paths:
            study = read_study(path)
            name = study.strategy.name
            if study.chosen is None:
                raise UsageError(f"{path} chose nothing: none of its {len(study.trials)} trials finished.")
            if not any(given == name or given.endswith(f"/{name}") for given in strategies):
                raise UsageError(f"{path} tuned {name}, which is not evaluated here: {', '.join(strategies)}.")
            if name in self.studies:
                raise UsageError(f"{self.studies[name][0]} and {path} both tuned {name}. Give one of them.")
            clash = next((key for key in self.settings if key == name or key.startswith(f"{name}.")), None)
            if clash:
                raise UsageError(f"--set gives {clash} values, and {path} has tuned ones. Leave one of them out.")
            self.studies[name] = path, study
            self.settings |= study.settings
            self.chosen[name] = study.how

    def check_track(self, track: Track) -> None:
        """Raise `UsageError` where a study was made for another track."""
        for name, (path, study) in self.studies.items():
            if study.track.digest != track.digest:
                raise UsageError(
                    f"{path} tuned {name} for the track {study.track.label} ({study.track.digest[:12]}), and this is "
                    f"{track.label} ({track.digest[:12]}). Evaluate on that one, or tune for this one."
                )
