"""Streams beyond clean splits: what each variation moves, what it leaves alone, and what the matrix then holds."""

from collections import Counter

import numpy as np
import pytest
import torch
from clarena_native.benchmarks.digits import PermutedDigits, RotatedDigits, SplitDigits
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.references.joint import Joint
from cli_command import clarena, smoke
from hypothesis import given
from hypothesis import strategies as st
from records_of_matrices import track
from tiny import SCENARIOS, same, walk

from clarena import Data, Store, UsageError, evaluate
from clarena.contract.benchmark import Split, Stream, same_classes
from clarena.contract.target import Classes, Tokens
from clarena.errors import UnknownNameError
from clarena.protocol.protocol import Track, Variation, variation
from clarena.run.variation import renumbered, varied
from clarena.toolbox.seeding import Seeds

shares = st.floats(0.01, 0.95)


@st.composite
def streams(draw):
    """A clean stream of disjoint class groups, over rows that count up: uneven, some classes with a single row."""
    sizes = draw(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=2, max_size=5))
    splits, row, label = [], 0, 0
    for group in sizes:
        y = torch.repeat_interleave(torch.arange(label, label + len(group)), torch.tensor(group))
        splits.append(
            Split(torch.arange(row, row + len(y)), y, torch.arange(label, label + len(group)) + 1000, y.unique())
        )
        row, label = row + len(y), label + len(group)
    return Stream(tuple(splits), tuple(f"class {c}" for c in range(label)))


def made(stream, scenario="class", seed=0, **options):
    return varied(
        stream,
        Variation(**options),
        scenario,
        Seeds(seed),
        Tokens() if stream.splits[0].y_train.ndim > 1 else Classes(),
    )


def names_of(stream, split):
    """Each training row with the name of its class, whatever its number."""
    return list(zip(split.train.tolist(), (stream.output_names[y] for y in split.y_train.tolist()), strict=True))


def every(stream):
    return sorted(pair for split in stream.splits for pair in names_of(stream, split))


# --- each variation ------------------------------------------------------------------------------------------------


@given(streams(), shares, shares, st.integers(0, 99))
def test_no_row_is_lost_none_comes_twice_and_every_label_stays(stream, repeats, blur, seed):
    ours = made(stream, seed=seed, repeats=repeats, blur=blur)
    assert every(ours) == every(stream)
    assert all(len(split.train) for split in ours.splits)
    for before, after in zip(stream.splits, ours.splits, strict=True):
        home = {int(row): e for e, split in enumerate(stream.splits) for row in split.train}
        assert [home[row] for row in after.train.tolist()] == after.origin.tolist() == sorted(after.origin.tolist())
        assert {stream.output_names[c] for c in before.classes} == {ours.output_names[c] for c in after.tested}
        assert set(after.tested) <= set(after.classes), "every class is there in its own experience, whatever moves"


@given(streams(), st.floats(0.01, 0.95), st.integers(0, 99))
def test_blur_exchanges_exactly_its_share(stream, share, seed):
    ours = made(stream, seed=seed, blur=share)
    wanted = [min(round(share * len(s.train)), len(s.train) - len(s.classes)) for s in stream.splits]
    given_up = [min(own, sum(wanted) - own) for own in wanted]
    for position, (before, after) in enumerate(zip(stream.splits, ours.splits, strict=True)):
        assert len(after.train) == len(before.train)
        assert int((after.origin != position).sum()) == given_up[position]


def test_what_blur_deals_out_comes_from_all_others_alike():
    """Of 10 experiences each gives 90 rows to nine others: about ten to each, hypergeometrically spread."""
    y = torch.arange(10).repeat_interleave(300)
    rows = torch.arange(3000).split(300)
    stream = Stream(tuple(Split(r, y[r], r[:1], y[r[:1]]) for r in rows), tuple("abcdefghij"))
    counts = np.zeros((10, 10))
    for seed in range(20):
        for position, split in enumerate(made(stream, seed=seed, blur=0.3).splits):
            counts[position] += np.bincount(split.origin.numpy(), minlength=10)
    assert (counts.diagonal() == 20 * 210).all()
    away = counts[~np.eye(10, dtype=bool)]
    assert away.mean() == 200
    assert away.std() < 3 * np.sqrt(200 * 8 / 9)  # binomial: 13


@given(streams(), st.floats(0.01, 0.95), st.integers(0, 99))
def test_repeats_come_later_and_evenly(stream, share, seed):
    ours = made(stream, seed=seed, repeats=share)
    came = np.zeros((len(stream.splits),) * 2, dtype=int)
    for position, split in enumerate(ours.splits):
        np.add.at(came[position], split.origin.numpy(), 1)
    for home, before in enumerate(stream.splits):
        later = came[home + 1 :, home]
        held = min(round(share * len(before.train)), len(before.train) - len(before.classes)) if len(later) else 0
        assert came[:home, home].sum() == 0
        assert later.sum() == held
        assert came[home, home] == len(before.train) - held
        assert not len(later) or later.max() - later.min() <= 1
    assert ours.output_names == stream.output_names, "nothing appears early, so no label is renumbered"


def test_the_long_tail_is_exponential():
    """By hand: 4 classes of 80 rows at a ratio of 8 keep 80, 40, 20 and 10, in whichever order."""
    y = torch.arange(4).repeat_interleave(80)
    rows = torch.arange(320).split(160)
    stream = Stream(tuple(Split(r, y[r], r[:1], y[r[:1]]) for r in rows), tuple("abcd"))
    orders = set()
    for seed in range(12):
        ours = made(stream, seed=seed, imbalance=8)
        counts = Counter(name for _, name in every(ours))
        assert sorted(counts.values()) == [10, 20, 40, 80]
        orders.add(tuple(sorted(counts, key=counts.__getitem__)))
        assert set(every(ours)) < set(every(stream))
    assert len(orders) > 6, "which class is the head is drawn"


@given(streams(), st.floats(1.01, 1000), st.integers(0, 99))
def test_the_long_tail_leaves_something_of_every_class(stream, ratio, seed):
    ours = made(stream, seed=seed, imbalance=ratio)
    before = Counter(name for _, name in every(stream))
    after = Counter(name for _, name in every(ours))
    assert before.keys() == after.keys()
    assert set(every(ours)) <= set(every(stream))
    shares = sorted((ratio ** (-k / max(1, len(before) - 1)) for k in range(len(before))), reverse=True)
    assert any(after[name] == before[name] for name in before), "the head is whole"
    assert all(after[name] >= max(1, round(before[name] * shares[-1])) for name in before)


def test_where_experiences_share_rows_the_tail_is_the_same_in_each():
    y = torch.arange(60) % 3
    data = Data(torch.rand(60, 2), y, torch.rand(3, 2), torch.arange(3), ("a", "b", "c"))
    ours = made(same_classes(data, "domain", [None] * 4), "domain", imbalance=10)
    assert sorted(ours.splits[0].y_train.unique(return_counts=True)[1].tolist()) == [2, 6, 20]
    assert all(torch.equal(split.train, ours.splits[0].train) for split in ours.splits)


@given(streams(), st.floats(0.01, 0.95), st.integers(0, 99))
def test_wrong_labels_are_as_many_as_said_and_none_is_of_a_class_that_is_not_there(stream, share, seed):
    ours = made(stream, seed=seed, label_noise=share)
    for before, after in zip(stream.splits, ours.splits, strict=True):
        assert torch.equal(before.train, after.train)
        wrong = int((before.y_train != after.y_train).sum())
        possible = len(before.train) - len(before.classes)
        expected = min(round(share * len(before.train)), possible) if len(before.classes) > 1 else 0
        assert wrong == after.noisy == expected
        assert after.classes == before.classes


def test_wrong_labels_are_symmetric():
    y = torch.arange(4).repeat_interleave(1000)
    rows = torch.arange(4000)
    stream = Stream((Split(rows, y, rows[:1], y[:1]),), tuple("abcd"))
    (split,) = made(stream, label_noise=0.6).splits
    table = np.histogram2d(y.numpy(), split.y_train.numpy(), bins=4)[0]
    assert table.sum() - table.trace() == 2400
    assert np.abs(table[~np.eye(4, dtype=bool)] - 200).max() < 5 * np.sqrt(200)


# --- all of them ---------------------------------------------------------------------------------------------------

ALL = {"imbalance": 3.0, "repeats": 0.3, "blur": 0.2, "label_noise": 0.2}


@pytest.mark.parametrize("scenario", SCENARIOS)
@given(stream=streams(), seed=st.integers(0, 99))
def test_the_test_side_is_that_of_the_clean_stream(scenario, stream, seed):
    options = {name: ALL[name] for name in ("imbalance", "label_noise")} if scenario == "task" else ALL
    ours = made(stream, scenario, seed, **options)
    for before, after in zip(stream.splits, ours.splits, strict=True):
        assert torch.equal(before.test, after.test)
        assert [stream.output_names[y] for y in before.y_test] == [ours.output_names[y] for y in after.y_test]


@given(streams(), st.integers(0, 99))
def test_labels_are_numbered_in_the_order_in_which_they_appear(stream, seed):
    ours = made(stream, seed=seed, **ALL)
    seen = set()
    for split in ours.splits:
        seen |= set(split.classes)
        assert seen == set(range(len(seen)))
    assert sorted(ours.output_names) == sorted(stream.output_names)


@pytest.mark.parametrize("name", ALL)
def test_one_variation_does_not_move_the_draws_of_another_and_a_seed_gives_one_stream(name):
    data = SplitDigits().data()
    clean = SplitDigits().stream(data, "domain", np.random.default_rng(0))
    one, again, other = (made(clean, "domain", seed, **{name: ALL[name]}) for seed in (1, 1, 2))
    same_again = [names_of(one, a) == names_of(again, b) for a, b in zip(one.splits, again.splits)]
    as_another = [names_of(one, a) == names_of(other, b) for a, b in zip(one.splits, other.splits)]
    assert all(same_again)
    assert not any(as_another)
    if name != "label_noise":  # what is drawn before it is drawn alike, noise or not
        noisy = made(clean, "domain", 1, label_noise=0.1, **{name: ALL[name]})
        assert all(torch.equal(a.train, b.train) for a, b in zip(one.splits, noisy.splits))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_as_it_stands_a_variation_changes_nothing(scenario):
    stream = SplitDigits().stream(SplitDigits().data(), scenario, np.random.default_rng(0))
    assert varied(stream, Variation(), scenario, Seeds(0), Classes()) is stream
    clean, same_again = walk(Finetune, scenario).finish(), walk(Finetune, scenario, stream={"blur": 0.0}).finish()
    assert same(clean.parameters(), same_again.parameters())
    assert clean.realised.experiences() == same_again.realised.experiences()
    assert clean.realised.experiences()[0].class_samples == []


def inputs(realised):
    """Every training input of a stream as a strategy sees it, with its label."""
    found = Counter()
    for position in range(len(realised.stream.splits)):
        realised.begin([position])
        whole = realised.experience([position])
        found.update(zip((x.numpy().tobytes() for x in whole.x), whole.y.tolist(), strict=True))
    return found


@pytest.mark.parametrize("benchmark", [PermutedDigits, RotatedDigits])
def test_every_row_is_seen_through_the_transform_of_where_it_comes_from(benchmark):
    options = {"benchmark": benchmark, "benchmark_options": {"experiences": 3}}
    clean, ours = (walk(Finetune, "domain", stream=stream, **options).realised for stream in ({}, {"blur": 0.4}))
    assert inputs(ours) == inputs(clean)
    for position, split in enumerate(ours.stream.splits):
        assert (split.origin != position).float().mean() == pytest.approx(0.4, abs=1e-3)
    assert torch.equal(ours.test.x, clean.test.x)


# --- what is tested, and what is recorded --------------------------------------------------------------------------


def test_the_matrix_of_a_blurred_stream_by_hand():
    """Classes a b | c d | e f. With blur, c and e appear in the first experience, d in the second, f in the third.

    So after the first, the outputs a b c e are in play, and only column 1 can be asked for; column 3 not before the
    last. A strategy that has learned what it saw is right wherever it is asked.
    """
    y = torch.tensor([0, 0, 2, 4, 1, 2, 2, 3, 3, 0, 1, 4, 4, 5, 5])
    origin = torch.tensor([0, 0, 1, 2, 0, 1, 1, 1, 1, 0, 0, 2, 2, 2, 2])
    places = [[0, 1, 4, 2, 3], [9, 5, 6, 7, 8], [10, 11, 12, 13, 14]]
    groups = [(0, 1), (2, 3), (4, 5)]
    splits = []
    for place, group in zip(places, groups):
        rows = torch.tensor(place)
        tested = torch.tensor([r for r in range(15) if y[r] in group])
        splits.append(Split(rows, y[rows], tested, y[tested], origin=origin[rows], group=group))
    stream = renumbered(Stream(tuple(splits), tuple("abcdef")))
    assert stream.output_names == tuple("abcedf")
    assert [split.classes for split in stream.splits] == [(0, 1, 2, 3), (0, 2, 4), (1, 3, 5)]
    assert [split.tested for split in stream.splits] == [(0, 1), (2, 4), (3, 5)]

    ours = walk(Finetune)
    space, test = ours.realised.space, ours.realised.test
    test.classes = [frozenset(split.tested) for split in stream.splits]
    asked = []
    for split in stream.splits:
        space.begin([frozenset(split.classes)])
        asked.append(test.questions(space))
        assert space.width == len(space.seen), "a growing head has no output that no label stands for"
    assert asked == [
        [(None, [0], [0, 1, 2, 3])],
        [(None, [0, 1], [0, 1, 2, 3, 4])],
        [(None, [0, 1, 2], [0, 1, 2, 3, 4, 5])],
    ]


def test_the_record_says_what_was_made_of_the_stream(tmp_path):
    results = evaluate(
        ["finetune", "er"], scenario="class", seeds=[0, 1], protocol="smoke", store=tmp_path, jobs=1, track=False,
        settings={"stream": {"blur": 0.2, "imbalance": 4, "label_noise": 0.1}, "protocol": {"limit": "none"}},
    )  # fmt: skip
    by_seed = {}
    for record in results:
        assert record.status == "finished"
        for info in record.experiences:
            assert sum(info.class_samples) == info.train_samples
            assert len(info.class_samples) == len(info.classes)
            assert info.from_others / info.train_samples == pytest.approx(0.2, abs=0.02)
            assert info.noisy_labels / info.train_samples == pytest.approx(0.1, abs=0.02)
        assert np.isfinite(record.matrix[np.tril_indices(6, -1)[0][5:]]).any()
        assert np.isfinite(record.metrics["forgetting"])
        assert np.isfinite(record.metrics["learning_accuracy"])
        by_seed.setdefault(record.cell.seed, []).append(record)
    for records in by_seed.values():
        assert records[0].experiences == records[1].experiences, "a seed pairs the strategies"
        assert records[0].output_names == records[1].output_names
    assert by_seed[0][0].experiences != by_seed[1][0].experiences
    assert Store(tmp_path).records()[0][0].cell.track.stream == Variation(blur=0.2, imbalance=4, label_noise=0.1)


def test_joint_sees_every_row_once():
    ours = walk(Joint, stream={"blur": 0.3, "repeats": 0.3})
    assert len(ours.step(0)) == 68


def test_a_tuning_run_is_the_beginning_of_the_same_kind_of_stream():
    options = {"benchmark": SplitDigits, "stream": {"blur": 0.3, "label_noise": 0.2}, "seed": 2**32}
    whole = walk(Finetune, **options)
    tuning = walk(Finetune, tested_on="validation", tuning_experiences=2, **options)
    assert len(tuning.realised.stream.splits) == 2
    trained = {row for split in tuning.realised.stream.splits for row in split.train.tolist()}
    tested = {row for split in tuning.realised.stream.splits for row in split.test.tolist()}
    assert not trained & tested
    assert max(int(split.origin.max()) for split in tuning.realised.stream.splits) > 1, "of later experiences as well"
    source = tuning.realised.data
    for ours, ranked in zip(tuning.realised.stream.splits, whole.realised.stream.splits):
        right = {
            ours_label: set(source.y_train[ours.test[ours.y_test == ours_label]].tolist()) for ours_label in ours.tested
        }
        assert all(len(classes) == 1 for classes in right.values()), "what is tested has its right label"
        assert len(ours.train) < len(ranked.train)
    tuning.finish()
    assert tuning.predict()


# --- identity ------------------------------------------------------------------------------------------------------


def test_a_variation_is_a_track_of_its_own_and_none_moves_no_digest():
    clean = track()
    assert Track(**dict(clean) | {"stream": Variation()}).digest == clean.digest
    made = [clean.model_copy(update={"stream": Variation(**{name: value})}) for name, value in ALL.items()]
    made.append(clean.model_copy(update={"stream": Variation(blur=0.1)}))
    assert len({clean.digest, *(each.digest for each in made)}) == 6
    assert Track.model_validate_json(made[0].model_dump_json()).digest == made[0].digest
    assert made[-1].label == "split-digits+blur=0.1/class/mlp/standard"
    both = clean.model_copy(update={"stream": variation({"imbalance": "100", "label_noise": "0.25"})})
    assert both.label == "split-digits+imbalance=100+label_noise=0.25/class/mlp/standard"
    assert both.unranked is None
    assert Track.model_validate(clean.model_dump(mode="json", exclude={"stream"})).digest == clean.digest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"blur": 1}, "stream.blur is not valid: Input should be less than 1. blur: Share of"),
        ({"blur": "much"}, "stream.blur is not valid"),
        ({"repeats": -0.1}, "stream.repeats is not valid"),
        ({"imbalance": 0.5}, "greater than or equal to 1"),
        ({"imbalance": "inf"}, "stream.imbalance is not valid"),
        ({"label_noise": "nan"}, "stream.label_noise is not valid"),
        ({"blurr": 0.1}, "Did you mean 'blur'?"),
    ],
)
def test_what_does_not_fit_is_named(changes, says):
    with pytest.raises((UsageError, UnknownNameError)) as caught:
        variation(changes)
    assert says in str(caught.value)


def sequences():
    y = torch.zeros(8, 5, dtype=torch.long)
    rows = torch.arange(8).split(4)
    return Stream(tuple(Split(r, y[r], r, y[r]) for r in rows), ("token",))


@pytest.mark.parametrize("name", ["imbalance", "label_noise"])
def test_a_sequence_of_labels_has_no_tail_and_no_noise(name):
    with pytest.raises(UsageError, match=f"stream.{name} needs a class for each sample; here the target is tokens"):
        made(sequences(), "domain", **{name: ALL[name]})


def test_sequences_can_be_mixed():
    ours = made(sequences(), "domain", blur=0.5)
    assert [split.origin.tolist() for split in ours.splits] == [[0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("name", ["repeats", "blur"])
def test_a_stream_of_one_experience_cannot_be_mixed(name):
    stream = SplitDigits(experiences=1).stream(SplitDigits().data(), "class", np.random.default_rng(0))
    with pytest.raises(UsageError, match=f"stream.{name} needs a stream of at least two experiences"):
        made(stream, **{name: 0.1})


@pytest.mark.parametrize("name", ["repeats", "blur"])
def test_task_labels_and_mixed_experiences_exclude_each_other(name, tmp_path):
    outcome = smoke(tmp_path / "runs", "finetune", "--scenario", "task", "--set", f"stream.{name}=0.1")
    assert outcome.code == 2
    assert f"stream.{name} makes no sense in the task scenario" in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs").exists()


def test_the_command_line_runs_and_names_a_varied_track(tmp_path):
    wanted = ("--set", "stream.blur=0.2", "--set", "stream.repeats=0.3")
    outcome = smoke(tmp_path / "runs", "finetune", "--seeds", "1", *wanted, "--protocol", "online")
    assert outcome.code == 0, outcome.err
    assert "split-digits+repeats=0.3+blur=0.2/class/mlp/" in outcome.out
    page = clarena("describe", "split-digits").out
    assert all(f"stream.{name}" in page for name in Variation.model_fields)
    assert "stream.imbalance" in clarena("list").out
