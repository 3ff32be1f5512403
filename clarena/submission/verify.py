"""Verify a bundle: believe nothing that can be computed here, and say of everything whether it was done."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clarena.errors import ClarenaError
from clarena.record.catalogue import ACCURACY
from clarena.record.record import Record, now
from clarena.submission.bundle import SOURCE, Bundle, read_bundle, sha256
from clarena.submission.child import Plugin
from clarena.submission.confined import describe
from clarena.submission.evidence import Evidence, evidence
from clarena.submission.manifest import BundleError, Claim
from clarena.submission.rerun import (
    Bench,
    built_in_host,
    canary_plan,
    claim_plan,
    reference_plan,
    tells_experience,
    wrong_labels,
)
from clarena.submission.season import Season, derived_seeds
from clarena.submission.verdict import (
    CANARY_RUNS,
    STEPS,
    Canary,
    Rerun,
    SeasonRow,
    SeasonRun,
    Step,
    Verdict,
    canary_bound,
    chance,
    disagreements,
    outcome,
)

if TYPE_CHECKING:
    from clarena.run.planning import Plan

LEAST_SECONDS, TIMES_CLAIMED, MOST_SECONDS = 600.0, 10.0, 86_400.0
"""A run may take ten minutes, or ten times what its author says it took if that is longer, but no more than a day."""

Execute = Callable[["Plan", Mapping[str, str]], Sequence[Record]]
"""Carries out a plan and returns the records there are; is also given what to call each cell, by its id, so that no
hidden seed is shown."""


@dataclass(frozen=True)
class Terms:
    """What a verifier allows.

    Attributes:
        trust: whether to run the stranger's code at all.
        season, secret: whose hidden seeds to run; None runs none.
        hidden: how many of them; None takes as many as the season says.
        store: where runs made here are kept.
        seconds: that a run may take; None derives it from the claim.
        memory: bytes that it may take beyond torch, on the CPU.
    """

    trust: bool
    season: Season | None
    secret: str
    hidden: int | None
    store: Path
    device: str
    seconds: float | None
    memory: int


def verify(path: Path, terms: Terms, execute: Execute) -> Verdict:
    """The verdict on the bundle at this path.

    Raises:
        UsageError: there is no file.
        ClarenaError: nothing can be run here: the store cannot be written, or data are missing.
    """
    return Verification(terms, execute).verdict(path)


class Verification:
    """One verification under way; `steps` grows as it goes."""

    def __init__(self, terms: Terms, execute: Execute) -> None:
        self.terms, self.execute = terms, execute
        self.steps: list[Step] = []
        self.reruns: list[Rerun] = []
        self.hidden: list[SeasonRow] = []
        self.canaries: list[Canary] = []

    def verdict(self, path: Path) -> Verdict:
        """Go through the steps until one fails that the others stand on."""
        from clarena import __version__
        from clarena.run.devices import device_named
        from clarena.run.environment import environment

        device = device_named(self.terms.device)
        started, bundle = now(), None
        try:
            bundle = read_bundle(path)
            self._note("bundle", [])
        except BundleError as error:
            self._note("bundle", [str(error)])
        if bundle:
            with tempfile.TemporaryDirectory(prefix="clarena-verify-") as folder:
                bundle.unpack(Path(folder))
                self._look_into(bundle, Path(folder))
        done = {step.name for step in self.steps}
        self.steps += [Step(name=name, state="not done", notes=[self._why()]) for name in STEPS if name not in done]
        season = self.terms.season
        return Verdict(
            outcome=outcome(self.steps),
            bundle=bundle.digest if bundle else sha256(path.read_bytes()),
            name=bundle.manifest.name if bundle else "",
            season=season.name if season else "",
            commitment=season.commitment if season else "",
            steps=self.steps,
            reruns=self.reruns,
            hidden=self.hidden,
            canaries=self.canaries,
            environment=environment(device),
            clarena=__version__,
            started=started,
            ended=now(),
        )

    def _look_into(self, bundle: Bundle, folder: Path) -> None:
        bench = Bench(built_in_host(), self.terms.store, self.terms.device)
        pieces, problems = evidence(bundle, folder)
        manifest = bundle.manifest
        if manifest.strategy in bench.host.strategies.names():
            problems.append(f"{manifest.strategy} is a strategy of CLArena; a submission has a name of its own")
        if not self._note("records", problems):
            return
        by_claim = [(claim, [piece for piece in pieces if piece.claim is claim]) for claim in manifest.claims]
        problems = []
        for claim, mine in by_claim:
            try:
                reference_plan(claim, [0], bench)
                problems += wrong_labels(mine, bench)
            except BundleError as error:
                problems.append(str(error))
        if not self._note("labels", problems) or not self.terms.trust:
            return
        if not self._note("load", self._load(bundle, folder, pieces)):
            return
        self._claimed_seeds(bundle, folder, by_claim, bench)
        self._hidden_seeds(bundle, folder, by_claim, bench)
        self._canary(bundle, folder, by_claim, bench)

    # ---- What runs a stranger's code, in processes of its own ----

    def _plugin(self, bundle: Bundle, folder: Path, pieces: Sequence[Evidence]) -> Plugin:
        claimed = max((piece.record.ended - piece.record.started).total_seconds() for piece in pieces)
        seconds = self.terms.seconds or min(MOST_SECONDS, max(LEAST_SECONDS, TIMES_CLAIMED * claimed))
        memory = self.terms.memory if self.terms.device == "cpu" else None
        return Plugin(folder / SOURCE, bundle.manifest.entry, bundle.manifest.strategy, memory, seconds)

    def _load(self, bundle: Bundle, folder: Path, pieces: Sequence[Evidence]) -> list[str]:
        try:
            facts = describe(self._plugin(bundle, folder, pieces))
        except (ClarenaError, MemoryError) as error:
            return [f"the plugin does not load: {error}"]
        problems = []
        if facts.name != bundle.manifest.strategy:
            problems.append(f"the strategy {bundle.manifest.strategy} calls itself {facts.name}")
        # What the code does; a bundle of before there was an identity has its bytes alone.
        made_with = bundle.manifest.identity or bundle.manifest.source_hash
        if made_with != (facts.identity if bundle.manifest.identity else facts.source_hash):
            problems.append("the source is not the one that the records were made with (its hash differs)")
        if facts.reference:
            problems.append("the strategy sees past data, or is plain finetune: a bound, never ranked")
        return problems

    def _claimed_seeds(
        self, bundle: Bundle, folder: Path, by_claim: Sequence[tuple[Claim, list[Evidence]]], bench: Bench
    ) -> None:
        problems = []
        for claim, pieces in by_claim:
            plan = claim_plan(bundle.manifest, claim, claim.seeds, self._plugin(bundle, folder, pieces), bench)
            ours = self._run(plan, [f"{bundle.manifest.name} claimed seed {seed}" for seed in claim.seeds])
            theirs = [piece.record for piece in pieces]
            problems += [f"{claim.track.label} {problem}" for problem in disagreements(theirs, ours)]
            self.reruns += [_rerun(one, other) for one, other in zip(theirs, ours)]
        self._note("claimed seeds", problems)

    def _hidden_seeds(
        self, bundle: Bundle, folder: Path, by_claim: Sequence[tuple[Claim, list[Evidence]]], bench: Bench
    ) -> None:
        season = self.terms.season
        if season is None:
            return
        count = season.seeds if self.terms.hidden is None else min(self.terms.hidden, season.seeds)
        problems = []
        for claim, pieces in by_claim:
            seeds = derived_seeds(season, self.terms.secret, claim.track.digest, count)
            numbers = {seed: number for number, seed in enumerate(seeds)}
            plans = [claim_plan(bundle.manifest, claim, seeds, self._plugin(bundle, folder, pieces), bench)]
            plans += [reference_plan(claim, seeds, bench)]
            for plan in plans:
                names = [
                    f"{w.cell.strategy.name} hidden seed {numbers[w.cell.seed] + 1} of {count}" for w in plan.works
                ]
                self.hidden += _rows(self._run(plan, names), numbers)
            mine = next(row for row in self.hidden if row.row == bundle.manifest.row(claim))
            unfinished = [run for run in mine.runs if run.status != "finished"]
            problems += [
                f"{claim.track.label} hidden seed {run.number + 1} ended as {run.status}" for run in unfinished
            ]
        if problems or count == season.seeds:
            self._note("hidden seeds", problems)
        else:
            note = f"only {count} of the season's {season.seeds} seeds were run"
            self.steps.append(Step(name="hidden seeds", state="not done", notes=[note]))

    def _canary(
        self, bundle: Bundle, folder: Path, by_claim: Sequence[tuple[Claim, list[Evidence]]], bench: Bench
    ) -> None:
        problems, unfinished = [], []
        for claim, pieces in by_claim:
            plan = canary_plan(bundle.manifest, claim, CANARY_RUNS, self._plugin(bundle, folder, pieces), bench)
            records = self._run(
                plan, [f"{bundle.manifest.name} canary {i + 1} of {CANARY_RUNS}" for i in range(CANARY_RUNS)]
            )
            scored = [r.metric("final_average_accuracy") for r in records if r.status == "finished"]
            if not scored:
                unfinished.append(f"{claim.track.label}: no run on shuffled labels finished ({records[0].reason})")
                continue
            test = pieces[0].predictions
            if pieces[0].record.score != ACCURACY:
                unfinished.append(f"{claim.track.label}: no bound of chance is known in {pieces[0].record.score}")
                continue
            p, groups = chance(test.labels, test.experience, tells_experience(claim, bench))
            bound = canary_bound(p, len(scored) * groups)
            self.canaries.append(Canary(track=claim.track.digest, chance=p, bound=bound, accuracies=scored))
            if np.mean(scored) > bound:
                problems.append(
                    f"{claim.track.label}: trained on shuffled labels it scores {100 * np.mean(scored):.1f} %, where "
                    f"chance is {100 * p:.1f} % and at most {100 * bound:.1f} %: it knows the test data from elsewhere"
                )
        if problems or not unfinished:
            self._note("canary", problems)
        else:
            self.steps.append(Step(name="canary", state="not done", notes=unfinished))

    # ---- Helpers ----

    def _run(self, plan: "Plan", names: Sequence[str]) -> list[Record]:
        """The records of a plan, one for each cell, in its order; raises `ClarenaError` where one could not be made."""
        called = {work.cell.id: name for work, name in zip(plan.works, names)}
        records = {record.cell_id: record for record in self.execute(plan, called)}
        for key, name in called.items():
            if key not in records:
                raise ClarenaError(f"{name} could not be run. What was run is kept: the same command goes on.")
        return [records[work.cell.id] for work in plan.works]

    def _note(self, name: str, problems: list[str]) -> bool:
        """Write down how a step came out; whether it passed."""
        self.steps.append(Step(name=name, state="failed" if problems else "passed", notes=problems))
        return not problems

    def _why(self) -> str:
        """Why the remaining steps were not done."""
        if self.steps[-1].state == "failed":
            return "a step before it failed"
        if not self.terms.trust:
            return "it runs the plugin's code, and --trust was not given"
        return "no --season was given"


def _rerun(claimed: Record, ours: Record) -> Rerun:
    return Rerun(
        track=claimed.track_digest,
        seed=claimed.cell.seed,
        cell=claimed.cell_id,
        claimed=claimed.metric("final_average_accuracy"),
        ours=ours.metric("final_average_accuracy"),
        status=ours.status,
        identical=ours.status == "finished" and claimed.predictions == ours.predictions,
        same_environment=claimed.environment == ours.environment,
    )


def _rows(records: Sequence[Record], numbers: Mapping[int, int]) -> list[SeasonRow]:
    """Runs on hidden seeds by row, told by the seed's number alone."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record.cell.row, []).append(record)
    return [
        SeasonRow(
            track=group[0].track_digest,
            row=row,
            strategy=group[0].cell.strategy.name,
            reference=group[0].cell.strategy.reference,
            runs=[
                SeasonRun(
                    number=numbers[record.cell.seed],
                    status=record.status,
                    metrics=record.metrics,
                    predictions=record.predictions,
                )
                for record in group
            ],
        )
        for row, group in rows.items()
    ]
