"""The rules that decide: what a verdict amounts to, when runs agree, and what chance can score."""

import itertools
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy.stats import binom

from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.record.record import Cell, Record, StrategyInfo
from clarena.submission.verdict import DISAGREEMENTS, STEPS, Step, canary_bound, chance, disagreements, outcome

TRACK = Track(benchmark=NamedPart(name="b"), scenario="class", backbone=NamedPart(name="n"), protocol=Protocol())
INFO = StrategyInfo(name="mine", source_hash="0" * 64, hyperparameters={}, learning_rate=0.1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(seed, accuracy, predictions="a", environment="here", status="finished", **metrics):
    cell = Cell(track=TRACK, strategy=INFO, seed=seed)
    numbers = {"final_average_accuracy": accuracy, "average_incremental_accuracy": 0.9, "forgetting": 0.1} | metrics
    return Record(
        cell=cell,
        cell_id=cell.id,
        track_digest=TRACK.digest,
        status=status,
        reason="it fell over" if status != "finished" else None,
        metrics=numbers,
        predictions=predictions,
        environment={"hardware": environment},
        started=NOW,
        ended=NOW,
    )


def steps(**states):
    named = {name.replace("_", " "): state for name, state in states.items()}
    return [Step(name=name, state=named.get(name, "passed")) for name in STEPS]


def test_the_outcome_follows_from_the_steps():
    assert outcome(steps()) == "verified"
    for name in STEPS:
        assert outcome(steps(**{name: "not done"})) == "incomplete"
        expected = "differs" if name in DISAGREEMENTS else "invalid"
        assert outcome(steps(**{name: "failed"})) == expected
    assert outcome(steps(claimed_seeds="failed", canary="failed")) == "invalid"
    assert outcome(steps()[:3]) == "incomplete"


def test_on_the_same_machine_predictions_must_be_identical():
    claimed = [record(k, 0.9) for k in range(5)]
    assert disagreements(claimed, claimed) == []
    ours = [*claimed[:4], record(4, 0.9, predictions="b")]
    (problem,) = disagreements(claimed, ours)
    assert problem.startswith("seed 4: predictions differ on the same hardware and versions")


def test_a_run_that_does_not_finish_here_differs():
    claimed = [record(0, 0.9), record(1, 0.9)]
    ours = [record(0, 0.9), record(1, 0.9, status="diverged")]
    assert disagreements(claimed, ours) == ["seed 1: here the run ended as diverged (it fell over)"]


def elsewhere(claimed, ours, **metrics):
    """Disagreements of two lists of accuracies from different machines."""
    theirs = [record(k, a, predictions="a", environment="there", **metrics) for k, a in enumerate(claimed)]
    mine = [record(k, a, predictions="b") for k, a in enumerate(ours)]
    return disagreements(theirs, mine)


def test_elsewhere_a_seed_may_move_as_far_as_another_seed_would():
    ours = [0.88, 0.90, 0.92, 0.88, 0.92]  # s = 0.02, so 3 √2 s = 8.485 points
    assert elsewhere([a + sign * 0.084 for a, sign in zip(ours, (1, -1, 1, -1, 1))], ours) == []
    (problem,) = elsewhere([0.88 + 0.086, *ours[1:]], ours)
    assert problem == "seed 0: final_average_accuracy is 96.60 claimed and 88.00 here, further apart than 8.49"


def test_where_seeds_hardly_differ_one_point_is_allowed():
    ours = [0.9] * 5
    assert elsewhere([0.909, 0.891, 0.9, 0.9, 0.9], ours) == []
    assert len(elsewhere([0.911, 0.9, 0.9, 0.9, 0.9], ours)) == 1


def test_a_claim_that_scatters_widely_gets_no_wider_tolerance():
    assert len(elsewhere([0.5, 1.0, 0.5, 1.0, 0.5], [0.7] * 5)) == 5


def test_a_small_advantage_on_every_seed_is_noticed_from_eight_seeds_on():
    ours = [0.88, 0.90, 0.92, 0.88, 0.92, 0.90, 0.91, 0.89]
    (problem,) = elsewhere([a + 0.02 for a in ours], ours)
    assert "claimed +2.00 from what it is here on average (paired over 8 seeds, p = 0.0078)" in problem
    assert elsewhere([a + 0.02 for a in ours[:7]], ours[:7]) == []
    assert elsewhere([a + 0.004 for a in ours], ours) == []


def test_forgetting_is_compared_as_well():
    (problem, *_) = elsewhere([0.9] * 5, [0.9] * 5, forgetting=0.0)
    assert problem == "seed 0: forgetting is 0.00 claimed and 10.00 here, further apart than 1.00"


def test_chance_of_two_experiences_of_two_classes_by_hand():
    labels, experience = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert chance(labels, experience, told=False) == (0.25, 4)
    assert chance(labels, experience, told=True) == (0.5, 4)
    # Domain: the same two labels in both, three of four samples are label 0 in the first, one of two in the second.
    labels, experience = np.array([0, 0, 0, 1, 0, 1]), np.array([0, 0, 0, 0, 1, 1])
    assert chance(labels, experience, told=False) == ((0.75 + 0.5) / 2, 4)


def test_chance_is_the_best_of_all_constant_answers():
    generator = np.random.default_rng(0)

    def score(answer, labels, experience):
        return np.mean([np.mean(labels[experience == j] == answer[j]) for j in range(3)])

    for _ in range(20):
        test = generator.integers(0, 4, 60), generator.permutation(np.arange(60) % 3)
        constant = max(score((c, c, c), *test) for c in range(4))
        informed = max(score(answer, *test) for answer in itertools.product(range(4), repeat=3))
        assert chance(*test, told=False)[0] == pytest.approx(constant)
        assert chance(*test, told=True)[0] == pytest.approx(informed)


@pytest.mark.parametrize(("p", "trials"), [(0.1, 50), (0.5, 50), (0.5, 25), (0.1, 500), (0.02, 500)])
def test_the_bound_is_exceeded_by_chance_less_than_once_in_a_thousand(p, trials):
    """Of all values in [0, 1] with mean p, zero and one scatter most: so the binomial is the worst case."""
    bound = canary_bound(p, trials)
    assert binom.sf(math.floor(bound * trials + 1e-9), trials, p) <= 0.001
    divergence = bound * math.log(bound / p) + (1 - bound) * math.log((1 - bound) / (1 - p))
    assert trials * divergence == pytest.approx(math.log(1000))
    assert p < canary_bound(p, 2 * trials) < bound < 1


def test_where_too_little_is_tried_nothing_is_beyond_chance():
    assert canary_bound(0.5, 5) == 1.0
    assert canary_bound(1.0, 50) == 1.0
