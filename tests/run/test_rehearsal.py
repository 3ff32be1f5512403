"""What cannot work is said before anything runs: backbones whose answer is no features, replay without exemplars."""

import pytest
import torch
from torch import nn

from clarena import Backbone, ClarenaWarning, GradientStrategy, PluginError, UsageError, evaluate

ANSWERS = {
    "a tuple": (lambda x: (x, x), "returns a tuple from forward. Return one tensor: features [batch, features]"),
    "a dict": (lambda x: {"features": x}, "returns a dict from forward"),
    "nothing": (lambda x: None, "returns nothing (does it end in return?)"),
    "whole numbers": (lambda x: x.long(), "features of int64"),
    "untrue": (lambda x: x[:, :5], "features [2, 5], and by its self.features = 64 they should be [2, 64]"),
    "not flat": (lambda x: x[:, None], "features [2, 1, 64], and by its"),
    "no batch": (lambda x: x.flatten(), "features [128], and by its"),
    "an error": (lambda x: x @ torch.zeros(3, 3), "fails on inputs [1, 8, 8] of split-digits: RuntimeError"),
}


def network(answer, said=64):
    class Net(Backbone):
        """A network with one layer and this answer."""

        name = "net"

        def __init__(self, input_shape):
            super().__init__()
            if said is not None:
                self.features = said
            self.layer = nn.Linear(64, 64)

        def forward(self, x):
            return answer(self.layer(x.flatten(1)))

    return Net


def run(store, strategies="finetune", **options):
    return evaluate(
        strategies, seeds=1, protocol="smoke", limit=16, jobs=1, store=store / "runs", track=False, **options
    )


@pytest.mark.parametrize("case", ANSWERS)
def test_a_backbone_whose_answer_is_no_features(case, tmp_path):
    answer, message = ANSWERS[case]
    with pytest.raises(PluginError) as caught:
        run(tmp_path, backbone=network(answer))
    assert message in str(caught.value)
    assert str(caught.value).startswith("The backbone net ")
    assert not (tmp_path / "runs").exists()


def test_a_backbone_that_does_not_say_how_many(tmp_path):
    with pytest.raises(PluginError, match=r"set self\.features"):
        run(tmp_path, backbone=network(lambda x: x, said=None))
    assert run(tmp_path, backbone=network(lambda x: x)).records[0].status == "finished"


@pytest.mark.parametrize("name", ["gdumb", "icarl", "mer", "der", "er", "gem", "agem", "la-maml", "scr"])
def test_replay_that_is_granted_nothing(name, tmp_path):
    """By the protocol; a strategy that needs no exemplars does not mind."""
    with pytest.raises(UsageError, match=rf"{name} keeps exemplars, and is granted none") as caught:
        run(tmp_path, name, settings={"protocol": {"buffer_size": 0}})
    assert "--set protocol.buffer_size=200" in str(caught.value)


def test_replay_in_a_sum_and_those_that_need_none(tmp_path):
    with pytest.raises(UsageError, match=r"^er keeps exemplars"):
        run(tmp_path, "ewc+er", settings={"protocol": {"buffer_size": 0}})
    assert run(tmp_path, "finetune", settings={"protocol": {"buffer_size": 0}}).records[0].status == "finished"


def test_its_declared_way_to_be_switched_off_is_said(tmp_path):
    with pytest.warns(ClarenaWarning, match=r"er keeps no exemplars .buffer_size=0.: it is switched off"):
        run(tmp_path, "er", settings={"er": {"buffer_size": 0}})
    with pytest.raises(UsageError, match=r"granted none.*--set gdumb\.buffer_size=200"):
        run(tmp_path, "gdumb", settings={"gdumb": {"buffer_size": 0}})


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("finetune", 0),
        ("er", 0),
        ("scr", 0),
        ("si", 0),
        ("gdumb", 0),
        ("agem", 1),
        ("ewc", 1),
        ("mas", 1),
        ("lwf", 1),
        ("icarl", 2),
    ],
)
def test_who_looks_more_often_than_is_allowed_is_refused(name, needs, tmp_path):
    allowed = {"settings": {"protocol": {"scans": needs}}}
    assert run(tmp_path, name, **allowed).records[0].status == "finished"
    if needs:
        with pytest.raises(UsageError, match=rf"{name} cannot learn on this track.*protocol\.scans={needs}, or none"):
            run(tmp_path, name, settings={"protocol": {"scans": needs - 1}})


def test_looks_are_counted_where_a_strategy_hides_the_error(tmp_path):
    class Peeks(GradientStrategy):
        """Looks twice, and says nothing of it."""

        name = "peeks"

        def after_experience(self, experience):
            try:
                list(experience.scan())
                list(experience.scan())
            except PluginError as error:
                raise RuntimeError("something else") from error

    with pytest.raises(UsageError, match="peeks cannot learn on this track"):
        run(tmp_path, Peeks, settings={"protocol": {"scans": 1}})
    assert run(tmp_path, Peeks, settings={"protocol": {"scans": 2}}).records[0].status == "finished"
