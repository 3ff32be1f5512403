"""The conformance kit: every fault is caught by the check meant for it, and what ships passes."""

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clarena_native.backbones.small import Cnn, Mlp
from clarena_native.backbones.transformers import TextTransformer
from clarena_native.strategies.architecture.den import DEN
from clarena_native.strategies.references.cumulative import Cumulative
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.references.joint import Joint
from clarena_native.strategies.regularisation.ewc import EWC
from clarena_native.strategies.replay.er import ER
from faulty_strategies import FAULTY

from clarena import GradientStrategy, Strategy, UsageError
from clarena.checks import CHECKS, Suite, TinyStream, behaviour, run_checks, summary
from clarena.checks.behaviour import exemplars
from clarena.checks.suite import CLASS_CHECKS
from clarena.checks.tiny import Subject
from clarena.checks.trial import Trial, laboratory
from clarena.plugins.host import Host, PluginSources
from clarena.testing import parametrize_with_checks

NATIVES = [Finetune, Joint, Cumulative, EWC, ER]
SLOW = "restart"  # starts a process


@parametrize_with_checks(NATIVES)
def test_natives(check):
    check()


@parametrize_with_checks([EWC, ER], ["class"], Cnn, {"norm": "batch", "widths": [4], "features": 16})
def test_natives_on_images_with_batch_norm(check):
    if check.name != SLOW:
        check()


@pytest.mark.parametrize(("strategy", "meant", "advice"), FAULTY, ids=[cls.__name__ for cls, _, _ in FAULTY])
def test_a_fault_is_caught_by_its_check_alone(strategy: type[Strategy], meant: str, advice: str) -> None:
    of_class, untrained = meant in CLASS_CHECKS, meant == "untrained_scores"
    suite = Suite(strategy, [] if of_class else ["domain"] if untrained else ["class"])
    results = [suite.result(*case) for case in suite.cases if case[0] != SLOW or meant == SLOW]
    failed = {result.name: result.message for result in results if not result.ok}
    assert list(failed) == [meant]
    assert advice in failed[meant]


def test_every_check_has_a_fault() -> None:
    assert {meant for _, meant, _ in FAULTY} == set(CHECKS)


@parametrize_with_checks([EWC, ER], ["class"], TextTransformer, {"width": 16, "depth": 1})
def test_natives_on_tokens(check):
    if check.name != SLOW:
        check()


def test_tokens_are_the_same_blobs() -> None:
    stream = TinyStream(levels=9)
    x = TinyStream().data().x_train
    tokens = stream.inputs(x)
    assert (tokens.dtype, tuple(tokens.shape)) == (torch.int64, (len(x), 16))
    assert 1 <= tokens.min() <= tokens.max() < stream.vocabulary  # 0 would be no token
    order = x.flatten().argsort()
    assert (tokens.flatten()[order].diff() >= 0).all()
    assert torch.equal(stream.inputs(torch.tensor([[-9.0, 9.0]])), torch.tensor([[1, 9]]))


def test_the_stream_has_everything_awkward() -> None:
    for scenario in TinyStream.scenarios:
        realised = Trial(Subject(Finetune, scenario)).realised
        sizes = [len(split.train) for split in realised.stream.splits]
        batch = realised.protocol.batch_size
        assert len(set(sizes)) == len(sizes)  # uneven
        assert 1 in [len(split.classes) for split in realised.stream.splits]
        assert {size % batch for size in sizes} >= {1}  # a last batch of one sample
        assert all(size % batch for size in sizes)  # and odd ones elsewhere
        trained = {int(i) for split in realised.stream.splits for i in split.train}
        assert len(trained) == sum(sizes) if scenario != "domain" else True


def test_a_named_backbone_gets_larger_images_of_the_same_samples() -> None:
    tiny, large = (Trial(Subject(Finetune, "class", *on)).begin() for on in ((), (Mlp, {"hidden": (4,)})))
    assert tiny.x.shape[1:] == (1, 4, 4)
    assert large.x.shape[1:] == (1, 8, 8)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert torch.equal(large.x[:, :, row::2, column::2], tiny.x)


@pytest.mark.parametrize(
    ("accuracy", "finetune", "enough"),
    [
        (0.50, None, True),  # a third of the way from chance, 0.25, to 1: nothing is compared
        (0.49, 1.00, False),
        (0.42, 0.73, True),  # 0.25 + 0.48 / 3 = 0.41
        (0.40, 0.73, False),
        (0.38, 0.40, True),  # no less than a sixth of the way: 0.375
        (0.37, 0.40, False),
    ],
)
def test_learning_is_measured_by_what_fine_tuning_gains(monkeypatch, accuracy, finetune, enough) -> None:
    measured = iter([(accuracy, 0.25), (finetune, 0.25)])
    monkeypatch.setattr(behaviour, "_just_learned", lambda trials: next(measured))
    result = Suite(Finetune, ["class"]).result("learns", "class")
    assert result.ok == enough
    assert len(list(measured)) == (finetune is None)


class OwnRate(GradientStrategy):
    """Plain SGD at a rate of its own, and nothing else."""

    name = "ownrate"
    reference = "Made up for a test."
    needs = frozenset({"plain_sgd"})
    off = {}

    def setup(self, context):
        super().setup(replace(context, learning_rate=0.02))


def test_off_is_fine_tuning_at_the_strategys_own_rate() -> None:
    assert Suite(OwnRate, ["task"]).result("off", "task").outcome == "passed"


def test_a_refused_backbone_is_no_failure_and_the_reason_is_told() -> None:
    suite = Suite(DEN, None, Mlp, {"hidden": (8, 8), "norm": "batch"})
    results = [suite.result(*case) for case in suite.cases]
    refused = [result for result in results if result.scenario]
    assert {result.outcome for result in refused} == {"not_applicable"}
    assert len({result.message for result in refused}) == 1
    text = summary(DEN, results)
    assert "not applicable: runs (task)" in text
    assert "this backbone does not serve: den adds and removes units" in text


class Picky(GradientStrategy):
    """Works with no backbone whatever."""

    def setup(self, context):
        raise UsageError("picky needs something else.")


def test_the_tiny_backbone_must_not_be_refused() -> None:
    result = Suite(Picky, ["class"]).result("runs", "class")
    assert result.outcome == "failed"
    assert result.message.startswith("picky needs something else")


def test_exemplars_are_counted_in_buffers_and_elsewhere() -> None:
    with laboratory():
        trial = Trial(Subject(ER, "class"))
        inputs = trial.step().x.flatten(1)
        assert exemplars(trial, inputs) == 7  # the buffer is full, and not counted twice
        trial.strategy.register_buffer("alias", trial.strategy.buffer.stored_rows)
        assert exemplars(trial, inputs) == 7  # the same storage
        trial.strategy.register_buffer("hidden", torch.cat([inputs[:2], torch.randn(3, 16)]).view(5, 1, 4, 4))
        assert exemplars(trial, inputs) == 9
        trial.strategy.register_buffer("flat", inputs[2:5].double())
        assert exemplars(trial, inputs) == 12


class Excused(GradientStrategy):
    """Learns nothing, and says so; says also that it cannot be copied, which is not true."""

    name = "excused"
    reference = "Made up for a test."
    exceptions = {"learns": "It has no mechanism.", "copies": "It is unique."}

    def step(self, batch):
        pass


def test_declared_exceptions_are_run_and_reported() -> None:
    suite = Suite(Excused, ["task"])
    learns, copies = suite.result("learns", "task"), suite.result("copies", "task")
    assert learns.outcome == "excepted"
    assert learns.ok
    assert learns.message.startswith("It has no mechanism. (Accuracy just after learning is ")
    assert copies.outcome == "unexpectedly_passed"
    assert "remove it from exceptions" in copies.message


def test_checks_wait_for_those_they_build_upon() -> None:
    broken = next(cls for cls, meant, _ in FAULTY if meant == "runs")
    results = run_checks(broken, ["class", "task"])
    outcomes = {(r.name, r.scenario): r.outcome for r in results}
    assert outcomes["metadata", None] == "passed"
    assert outcomes["runs", "class"] == outcomes["runs", "task"] == "failed"
    later = {outcome for (name, scenario), outcome in outcomes.items() if scenario and name != "runs"}
    assert later == {"not_applicable"}
    assert "ExpectsFullBatches" not in summary(broken, results)  # its name is
    text = summary(broken, results)
    assert text.startswith("expectsfullbatches: 3 passed, 2 failed, 42 not applicable (")
    assert text.count("failed: runs") == 1
    assert "failed: runs (class, task)" in text


def test_the_callers_settings_come_back() -> None:
    torch.manual_seed(5)
    chance, deterministic = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    assert Suite(Finetune, ["class"]).result("reproducible", "class").ok
    assert torch.equal(chance, torch.get_rng_state())
    assert torch.are_deterministic_algorithms_enabled() == deterministic


def test_a_scenario_that_is_not_declared_is_refused() -> None:
    class TaskOnly(GradientStrategy):
        """Runs in one scenario."""

        scenarios = frozenset({"task"})

    with pytest.raises(UsageError, match="does not declare the scenario 'class'; it declares: task"):
        Suite(TaskOnly, ["class"])


MINE = """
    from clarena import GradientStrategy, hookimpl

    class Mine(GradientStrategy):
        '''Does as it is told.'''

        name = "mine"
        reference = "Made up for a test."

    @hookimpl
    def clarena_register_strategies(register):
        register(Mine)
"""


def test_a_one_file_plugin_is_found_in_a_new_process(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(MINE))
    strategy = Host.discover(PluginSources(files=(str(file),))).strategies.resolve("mine")
    assert Suite(strategy, ["class"]).result("restart", "class").outcome == "passed"


def test_a_class_that_no_module_holds_is_found_in_a_new_process() -> None:
    class Local(Finetune):
        """Is typed in, as into a notebook."""

    assert Suite(Local, ["class"]).result("restart", "class").outcome == "passed"


class Lazy(Excused):
    """Does nothing but look where it must not."""

    exceptions = {"learns": "It is lazy.", "runs": "It is too lazy."}

    def after_experience(self, experience):
        experience.x.sum()


def test_pytest_is_told_how_a_check_came_out() -> None:
    mark = parametrize_with_checks([Lazy], ["class"])
    cases = {str(case): case for case in mark.args[1]}
    assert list(cases)[:3] == ["excused-metadata", "excused-exceptions", "excused-constructible"]
    cases["excused-class-scores"]()
    with pytest.warns(UserWarning, match="remove it from exceptions, where it says: It is too lazy"):
        cases["excused-class-runs"]()
    with pytest.raises(pytest.xfail.Exception, match="It is lazy"):
        cases["excused-class-learns"]()
    with pytest.raises(pytest.fail.Exception, match=r"reads experience\.x itself"):
        cases["excused-class-budget"]()
    with pytest.raises(pytest.skip.Exception, match="declares no way"):
        cases["excused-class-off"]()


def test_a_strategy_that_learns_no_classes_is_not_tried_on_them() -> None:
    class OfText(GradientStrategy):
        """Learns texts alone."""

        name = "of-text"
        reference = "None: for this test."
        targets = frozenset({"text"})

    suite = Suite(OfText, ["domain"])
    outcomes = {suite.result(*case).outcome for case in suite.cases if case[1]}
    assert outcomes == {"not_applicable"}
    assert suite.result("metadata").outcome == "passed"
