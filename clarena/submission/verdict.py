"""The outcome of a verification, as data and in words, and the rules that decide when two runs agree."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, Field

from clarena.protocol.frozen import FrozenModel
from clarena.record.catalogue import named
from clarena.record.record import Number, Record, Status
from clarena.record.statistics import paired_sign_flip
from clarena.submission.manifest import Digest, Line, Name

Outcome = Literal["verified", "differs", "invalid", "incomplete"]
"""`incomplete`: nothing is wrong with what was looked at, but not everything was."""

EXIT_CODES: dict[Outcome, int] = {"verified": 0, "differs": 3, "invalid": 4, "incomplete": 5}

STEPS = ("bundle", "records", "labels", "load", "claimed seeds", "hidden seeds", "canary")
DISAGREEMENTS = ("claimed seeds", "hidden seeds")
"""Steps whose failure makes a bundle differ; any other makes it invalid."""

COMPARED = ("final_average_accuracy", "average_incremental_accuracy", "forgetting")
"""What re-runs elsewhere are compared by: the numbers that a board sorts and plots."""
SEED_TOLERANCE, MEAN_TOLERANCE, SIGNIFICANCE = 0.01, 0.005, 0.01
CANARY_RUNS, CANARY_SIGNIFICANCE = 5, 0.001


class Step(FrozenModel):
    """One step: whether it was done, and what was found."""

    name: Literal["bundle", "records", "labels", "load", "claimed seeds", "hidden seeds", "canary"]
    state: Literal["passed", "failed", "not done"]
    notes: list[str] = []


class Rerun(FrozenModel):
    """A claimed run beside the same cell run here.

    Attributes:
        claimed, ours: final average accuracy.
        status: of ours.
        identical: whether all predictions are, bit for bit.
        same_environment: whether hardware and all versions are.
    """

    track: Digest
    seed: int
    cell: Digest
    claimed: Number
    ours: Number
    status: Status
    identical: bool
    same_environment: bool


class SeasonRun(FrozenModel):
    """A run on a hidden seed, told by its number k in the season: while that is open, no seed may be told.

    Attributes:
        predictions: SHA-256, by which anyone can check the run once the secret is revealed.
    """

    number: int
    status: Status
    metrics: dict[str, Number]
    predictions: Digest | None

    def metric(self, name: str) -> float:
        """A metric by the name that it has for accuracies, whatever the score is; NaN where it is not told."""
        return self.metrics.get(name, self.metrics.get(named(name, "score"), math.nan))


class SeasonRow(FrozenModel):
    """A row of a track on the season's seeds: the submission's, or a reference's."""

    track: Digest
    row: Digest
    strategy: str
    reference: bool
    runs: list[SeasonRun]


class Canary(FrozenModel):
    """Runs on shuffled training labels: what a constant answer could score, the bound, and what was scored."""

    track: Digest
    chance: float
    bound: float
    accuracies: list[Number]


class Verdict(FrozenModel):
    """What verifying a bundle came to; `outcome` follows from the steps.

    Attributes:
        bundle: SHA-256 of the file.
        name: of the submission; empty where the bundle cannot be read.
        season, commitment: whose hidden seeds were run.
        environment: where it was verified.
    """

    schema_version: Literal[1] = 1
    outcome: Outcome
    bundle: Digest
    name: Name | Literal[""] = ""
    season: Name | Literal[""] = ""
    commitment: Digest | Literal[""] = ""
    steps: Annotated[list[Step], Field(min_length=1)]
    reruns: list[Rerun] = []
    hidden: list[SeasonRow] = []
    canaries: list[Canary] = []
    environment: dict[str, str] = {}
    clarena: Line
    started: AwareDatetime
    ended: AwareDatetime


def outcome(steps: Sequence[Step]) -> Outcome:
    """What the steps amount to."""
    failed = {step.name for step in steps if step.state == "failed"}
    if failed - set(DISAGREEMENTS):
        return "invalid"
    if failed:
        return "differs"
    done = {step.name for step in steps if step.state == "passed"}
    return "verified" if done == set(STEPS) else "incomplete"


def disagreements(claimed: Sequence[Record], ours: Sequence[Record]) -> list[str]:
    """Where runs of the same cells do not agree, a sentence each.

    On the same hardware with the same versions, predictions must be identical. Elsewhere rounding sends training on
    another path, which moves a seed's numbers by no more than another seed would; so, with s the standard deviation of
    our numbers over seeds:

    1. each seed: |claimed - ours| <= max(1 point, 3 √2 s), three standard deviations of the difference of two draws;
    2. together: the paired sign-flip test does not tell them apart at 0.01, or the means are within half a point.

    Ours sets the scale, so that a claim cannot widen its own tolerance. The test can reject from eight seeds on.
    """
    problems = []
    elsewhere = []
    for theirs, mine in zip(claimed, ours):
        if mine.status != "finished":
            problems.append(f"seed {mine.cell.seed}: here the run ended as {mine.status} ({mine.reason})")
        elif theirs.predictions != mine.predictions:
            if theirs.environment == mine.environment:
                problems.append(
                    f"seed {mine.cell.seed}: predictions differ on the same hardware and versions (final average "
                    f"{mine.score} {_percent(theirs, COMPARED[0])} claimed, {_percent(mine, COMPARED[0])} here)"
                )
            else:
                elsewhere.append((theirs, mine))
    if elsewhere:
        for metric in COMPARED:
            problems += _beyond_tolerance(metric, elsewhere)
    return problems


def _beyond_tolerance(metric: str, pairs: Sequence[tuple[Record, Record]]) -> list[str]:
    theirs = np.array([record.metric(metric) for record, _ in pairs])
    mine = np.array([record.metric(metric) for _, record in pairs])
    metric = named(metric, pairs[0][1].score)
    if not np.isfinite(mine).all():
        return []
    spread = float(mine.std(ddof=1)) if len(mine) > 1 else 0.0
    allowed = max(SEED_TOLERANCE, 3 * math.sqrt(2) * spread)
    problems = [
        f"seed {record.cell.seed}: {metric} is {100 * claimed:.2f} claimed and {100 * here:.2f} here, "
        f"further apart than {100 * allowed:.2f}"
        for (record, _), claimed, here, distance in zip(pairs, theirs, mine, np.abs(theirs - mine))
        if distance > allowed
    ]
    test = paired_sign_flip(theirs, mine)
    if abs(test.difference) > MEAN_TOLERANCE and test.p_value < SIGNIFICANCE:
        problems.append(
            f"{metric} is claimed {100 * test.difference:+.2f} from what it is here on average "
            f"(paired over {test.n} seeds, p = {test.p_value:.4f})"
        )
    return problems


def chance(labels: NDArray[np.int64], experience: NDArray[np.int64], told: bool) -> tuple[float, int]:
    """The best final average accuracy of an answer that knows nothing of a sample, and the number of groups.

    share[j, c] is the share of label c among the test samples of experience j. A constant answer scores
    max_c mean_j share[j, c]. Where the experience is `told`, by a task label or by a transform that can be seen in
    the inputs, there may be a constant for each: mean_j max_c share[j, c]. A group is a label within an experience.
    """
    counts = np.zeros((experience.max() + 1, labels.max() + 1))
    np.add.at(counts, (experience, labels), 1)
    share = counts / counts.sum(1, keepdims=True)
    return float(share.max(1).mean() if told else share.mean(0).max()), int(np.count_nonzero(counts))


def canary_bound(p: float, trials: int) -> float:
    """What a mean of so many independent values in [0, 1], each p on average, exceeds with probability <= 0.001.

    The q > p at which trials · KL(q ‖ p) = ln 1000,  KL(q ‖ p) = q ln(q/p) + (1-q) ln((1-q)/(1-p))

    A group of test samples (`chance`) counts as one trial, not each sample: samples of one class are alike, and a
    model trained on chance may take them all for one label.

    Source: Hoeffding 1963, Probability inequalities for sums of bounded random variables, theorem 1.
    """
    from scipy.optimize import brentq
    from scipy.special import rel_entr

    def excess(q: float) -> float:
        return trials * float(rel_entr(q, p) + rel_entr(1 - q, 1 - p)) + math.log(CANARY_SIGNIFICANCE)

    return 1.0 if p >= 1 or excess(1.0) <= 0 else float(brentq(excess, p, 1.0))


def _percent(record: Record, metric: str) -> str:
    return f"{100 * record.metric(metric):.2f}"
