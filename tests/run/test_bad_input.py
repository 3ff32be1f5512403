"""What a person may get wrong: one clear message each, of the kind that says whose fault it is, and nothing is run."""

import numpy as np
import pytest
import torch
import troublemakers as trouble

from clarena import Data, DataError, Split, Store, Strategy, Stream, UsageError, evaluate


def refused(store, strategies=trouble.Plain, **options):
    """The message with which a request is refused; the store stays as it is."""
    chosen = {"benchmark": trouble.Tiny, "seeds": 1, "jobs": 1, "track": False, "protocol": "smoke"} | options
    with pytest.raises((UsageError, DataError)) as caught:
        evaluate(strategies, store=store, **chosen)
    assert not store.exists()
    return caught.type, str(caught.value)


WRONG = {
    "strategy": ({"strategies": "ewk"}, "There is no strategy named 'ewk'.\nDid you mean 'ewc'?"),
    "no strategy": ({"strategies": []}, "Name at least one strategy, such as finetune or ewc. clarena list names all."),
    "strategy twice": ({"strategies": ["er", "er"]}, "A strategy is named twice."),
    "no class of this kind": ({"strategies": [dict]}, "give a name or a subclass of"),
    "benchmark": ({"benchmark": "Split-Digits"}, "Did you mean 'split-digits'?"),
    "backbone": ({"backbone": "mpl"}, "Did you mean 'mlp'?"),
    "protocol": ({"protocol": "standart"}, "Did you mean 'standard'?"),
    "scenario": ({"scenario": "clas"}, "Did you mean 'class'?"),
    "scenario of a benchmark": (
        {"benchmark": "rotated-digits", "scenario": "class"},
        "rotated-digits makes no sense in the class scenario; it has: domain, task.",
    ),
    "owner": ({"settings": {"plian": {"a": 1}}}, "Did you mean 'plain'?"),
    "hyper-parameter": ({"settings": {"plain": {"speed": 1}}}, "There is no hyper-parameter of plain named 'speed'."),
    "type": (
        {"strategies": "ewc", "settings": {"ewc": {"strength": "strong"}}},
        "ewc.strength = 'strong' is not valid",
    ),
    "range": ({"strategies": "ewc", "settings": {"ewc": {"strength": -1}}}, "greater than or equal to 0"),
    "not finite": ({"strategies": "ewc", "settings": {"ewc": {"strength": "inf"}}}, "finite number"),
    "protocol field": ({"settings": {"protocol": {"epoch": 1}}}, "Did you mean 'epochs'?"),
    "protocol value": ({"settings": {"protocol": {"epochs": 0}}}, "protocol.epochs is not valid"),
    "milestones beyond the budget": (
        {"settings": {"protocol": {"schedule": "milestones", "milestones": "3"}}},
        "do not all lie after the warm-up of 0 and before the last of 1 passes",
    ),
    "clipping at 0": ({"settings": {"protocol": {"clip_norm": 0}}}, "protocol.clip_norm is not valid"),
    "clipping": (
        {"strategies": "mer", "settings": {"protocol": {"clip_norm": 1}}},
        "mer goes by the size of its gradients, which clipping would change; this protocol clips gradients "
        "(clip_norm). Leave mer out, or take another track: protocol.clip_norm=none.",
    ),
    "clipping beside a proximal step": (
        {"strategies": "den", "scenario": "task", "settings": {"protocol": {"clip_norm": 1}}},
        "den goes by the size of its gradients",
    ),
    "parts": (
        {"strategies": "la-maml", "settings": {"protocol": {"accumulation": 2}}},
        "la-maml makes steps of its own within a batch",
    ),
    "limit": ({"limit": 0}, "protocol.limit is not valid"),
    "benchmark option": ({"settings": {"benchmark": {"experience": 1}}}, "Did you mean 'experiences'?"),
    "too many experiences": (
        {"settings": {"benchmark": {"experiences": 7}}},
        "Cannot split 6 classes into 7 experiences. Choose between 1 and 6",
    ),
    "a first experience that takes all": (
        {"benchmark": "split-digits", "settings": {"benchmark": {"experiences": 2, "first_experience": 10}}},
        "A first experience of 10 of 10 classes leaves 0 for 1 more. Make the first smaller",
    ),
    "a class order that repeats": (
        {"benchmark": "split-digits", "settings": {"benchmark": {"class_order": "0,1,2,3,4,5,6,7,8,8"}}},
        "repeats: 8",
    ),
    "a class order that lacks a class": (
        {"benchmark": "split-digits", "settings": {"benchmark": {"class_order": "0,1,2,3,4,5,6,7,8"}}},
        "lacks: 9",
    ),
    "no seed": ({"seeds": 0}, "Give at least one seed"),
    "empty seeds": ({"seeds": []}, "Give at least one seed"),
    "negative seed": ({"seeds": [1, -2]}, "Seeds must not be negative: -2."),
    "repeated seeds": ({"seeds": [1, 2, 1]}, "Seeds must not repeat: 1."),
    "no whole seed": ({"seeds": [0.5]}, "Seeds must be whole numbers"),
    "device": ({"device": "gpu"}, "There is no device 'gpu'. Use cpu, mps, cuda, cuda:N, or several: cuda:0,1,2."),
    "one of several devices": ({"device": "cpu:0,cpu:1,gpu"}, "There is no device 'gpu'."),
    "a device twice": ({"device": "cpu:0,1,cpu:0"}, "names a device twice. To make several runs on one, give --jobs."),
    "a device that only a Mac has": ({"device": "mps"}, "This torch finds no MPS device."),
    "device of another kind": ({"device": "meta"}, "is not supported"),
    "jobs": ({"jobs": 0}, "jobs = 0 is not valid"),
    "negative jobs": ({"jobs": -2}, "jobs = -2 is not valid"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_is_refused_with_what_to_do_before_anything_runs(tmp_path, what):
    options, message = WRONG[what]
    kind, text = refused(tmp_path / "runs", **options)
    assert issubclass(kind, UsageError)
    assert kind.exit_code == 2
    assert message in text


def test_a_strategy_that_has_no_such_scenario_or_needs_what_is_not_granted_says_so(tmp_path):
    class OnlyTask(trouble.Plain):
        """Needs task labels."""

        name = "only-task"
        scenarios = frozenset({"task"})

    class Foresees(trouble.Plain):
        """Needs to know the end."""

        name = "foresees"
        needs = frozenset({"known_stream_length"})

    _, text = refused(tmp_path / "runs", OnlyTask)
    assert text == "only-task does not run in the class scenario; it runs in: task."
    _, text = refused(tmp_path / "runs", Foresees)
    assert "Grant it: --set protocol.stream_length=known." in text


BF16 = {"protocol": {"precision": "bf16"}}


def test_bf16_is_refused_on_a_processor_without_it_and_to_who_has_no_use_for_it(tmp_path, monkeypatch):
    known = {"architecture": "x86_64", "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    _, text = refused(tmp_path / "runs", settings=BF16)
    assert text.startswith("protocol.precision=bf16: this processor (x86_64) has no arithmetic in bfloat16.")
    known["avx512_bf16"] = True
    for strategy in ("mer", "la-maml", "pnn"):
        _, text = refused(tmp_path / "runs", strategy, settings=BF16, scenario="task")
        assert text.startswith(f"{strategy} trains in float32 alone")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    _, text = refused(tmp_path / "runs", settings=BF16)
    assert "cannot say whether this processor has arithmetic in bfloat16" in text


def test_with_bf16_a_run_is_finished_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    results = evaluate(
        trouble.Plain, benchmark=trouble.Tiny, seeds=1, jobs=1, track=False, store=tmp_path, settings=BF16
    )
    (record,) = results.records
    assert record.status == "finished"
    assert record.cell.track.protocol.precision == "bf16"


def test_a_rate_changed_behind_the_back_fails_the_run_in_words(tmp_path):
    class Meddler(trouble.Plain):
        """Slows down."""

        name = "meddler"

        def after_step(self, batch):
            self.optimizer.param_groups[0]["lr"] *= 0.9

    (record,) = evaluate(Meddler, benchmark=trouble.Tiny, seeds=1, jobs=1, track=False, store=tmp_path).records
    assert record.status == "failed"
    assert "behind the host's back" in record.reason


def flawed(**changes):
    """A benchmark whose arrays have a flaw."""

    class Flawed(trouble.Tiny):
        """Has a flaw."""

        name = "flawed"

        def data(self):
            return Data(**vars(super().data()) | changes)

    return Flawed


SOUND = vars(trouble.Tiny().data())
NAN = SOUND["x_train"].clone()
NAN[3, 1] = float("nan")
INFINITE = SOUND["x_test"].clone()
INFINITE[0, 0] = float("inf")

DATA = {
    "empty": (flawed(x_train=torch.zeros(0, 4), y_train=torch.zeros(0).long()), "The training set is empty"),
    "empty test": (flawed(x_test=torch.zeros(0, 4), y_test=torch.zeros(0).long()), "The test set is empty"),
    "NaN": (flawed(x_train=NAN), "The training set holds NaN or infinity, first in sample 3"),
    "infinite": (flawed(x_test=INFINITE), "The test set holds NaN or infinity, first in sample 0"),
    "labels of another type": (flawed(y_train=SOUND["y_train"].float()), "float32 [84]. Labels must be the numbers of"),
    "labels of another width": (flawed(y_test=SOUND["y_test"].int()), "int32 [36]. Labels must be the numbers of"),
    "labels of another shape": (flawed(y_train=SOUND["y_train"][:, None]), "int64 [84, 1]. Give one label per input"),
    "labels of another target": (flawed(target="tokens"), "Give a label for each token of inputs that are tokens"),
    "labels too high": (flawed(y_train=SOUND["y_train"] + 1), "labels must lie in 0 … 5"),
    "labels too low": (flawed(y_test=SOUND["y_test"] - 1), "labels must lie in 0 … 5"),
    "lengths": (flawed(y_train=SOUND["y_train"][1:]), "84 inputs but 83 labels"),
    "shapes": (flawed(x_test=torch.zeros(36, 5)), "They must be alike"),
    "a class without samples": (flawed(class_names=tuple("abcdefgh")), "Experience "),
}


@pytest.mark.parametrize("what", DATA)
def test_data_that_no_benchmark_can_use_are_an_error_of_the_data(tmp_path, what):
    benchmark, message = DATA[what]
    settings = {"benchmark": {"experiences": 8}} if what == "a class without samples" else {}
    kind, text = refused(tmp_path / "runs", benchmark=benchmark, settings=settings)
    assert (kind, kind.exit_code) == (DataError, 1)
    assert message in text


def rows(*numbers):
    return torch.tensor(numbers, dtype=torch.long)


STREAMS = {
    "no experience": ((), "a stream without experiences"),
    "no training samples": ((Split(rows(), rows(), rows(0), rows(0)),), "has no training samples"),
    "no test samples": ((Split(rows(0), rows(0), rows(), rows()),), "Experience 1 of the benchmark odd has no test"),
    "labels outside": (
        (Split(rows(0), rows(6), rows(0), rows(0)),),
        "its training labels run from 6 to 6",
    ),
    "negative labels": (
        (Split(rows(0), rows(0), rows(0), rows(-1)),),
        "its test labels run from -1 to -1",
    ),
    "rows outside": ((Split(rows(0), rows(0), rows(36), rows(0)),), "names test samples outside 0 … 35"),
    "lengths": ((Split(rows(0, 1), rows(0), rows(0), rows(0)),), "has 2 training samples but 1 labels"),
    "no stream": (None, "The benchmark odd is faulty: TypeError"),
}


@pytest.mark.parametrize("what", STREAMS)
def test_a_benchmark_that_makes_an_impossible_stream_is_refused(tmp_path, what):
    splits, message = STREAMS[what]

    class Odd(trouble.Tiny):
        """Makes an odd stream."""

        name = "odd"

        def stream(self, data, scenario, generator):
            return Stream(tuple(splits), data.class_names)

    kind, text = refused(tmp_path / "runs", benchmark=Odd)
    assert kind is DataError
    assert message in text


def test_planning_draws_no_random_number_of_the_caller(tmp_path):
    np.random.seed(5)
    torch.manual_seed(5)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    refused(tmp_path / "runs", seeds=[1, 1])
    refused(tmp_path / "runs", strategies=[trouble.Plain, trouble.Plain])
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_a_buffer_beyond_the_limit_is_refused_before_anything_runs(tmp_path):
    kind, text = refused(tmp_path / "runs", "er", settings={"er": {"buffer_size": 201}})
    assert kind is UsageError
    assert "exceeds the protocol's limit of 200 exemplars" in text
    assert "--set protocol.buffer_size=201" in text


def test_a_strategy_that_says_nothing_about_learning_fails_with_what_to_define(tmp_path):
    class Empty(Strategy):
        """Is empty."""

        name = "empty"

    results = evaluate(Empty, benchmark=trouble.Tiny, seeds=1, jobs=1, track=False, protocol="smoke", store=tmp_path)
    assert results.records[0].status == "failed"
    assert "define learn(experience)" in results.records[0].reason
    assert [record.status for record in Store(tmp_path).records()[0]] == ["failed"]
