"""Hidden boundaries: nobody is told where an experience ends, and who needs to be is found out before anything runs."""

from collections import Counter

import numpy as np
import pytest
import torch
from clarena_native.benchmarks.digits import RotatedDigits
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.replay.er import ER
from cli_command import clarena, smoke
from tiny import walk

from clarena import GradientStrategy, PluginError, Store, UsageError, evaluate
from clarena.contract.experience import Experience, HiddenStream
from clarena.contract.meter import Meter
from clarena.errors import ClarenaError
from clarena.plugins.host import Host, PluginSources
from clarena.run.planning import make_plan
from clarena.run.runner import Run

HIDDEN = {"boundaries": "hidden", "optimizer_state": "kept"}


def run(strategy, store, scenario="class", settings=None, benchmark="split-digits", retry=False, **protocol):
    results = evaluate(
        strategy,
        benchmark=benchmark,
        scenario=scenario,
        protocol="smoke",
        seeds=[0],
        settings={"protocol": {"limit": 70, "epochs": 2} | HIDDEN | protocol} | (settings or {}),
        store=store,
        jobs=1,
        track=False,
        retry=retry,
    )
    assert not results.errors
    return results.records[0]


def hidden(ours):
    """The whole stream of a walk, as the runner hands it out."""
    ours.realised.begin_hidden()
    parts = (ours.realised.experience(positions) for positions in ours.realised.steps)
    return HiddenStream(parts, ours.realised.space, ours.realised.protocol)


# --- what is learned -----------------------------------------------------------------------------------------------

FULL = {"heads": "full", "stream_length": "known", "loss_over": "all"}


@pytest.mark.parametrize("strategy", ["finetune", "er"])
def test_over_a_stream_of_known_length_a_schedule_runs_once(tmp_path, strategy):
    """Those are admitted who are without one; a batch in parts and a clipped gradient tell nothing either."""
    known = {"stream_length": "known"}
    steps = {"schedule": "cosine", "clip_norm": 1.0, "accumulation": 2}
    constant, falling = (run(strategy, tmp_path / str(len(more)), **known, **more) for more in ({}, steps))
    assert constant.status == falling.status == "finished"
    assert constant.costs[-1].mean_loss != falling.costs[-1].mean_loss


@pytest.mark.parametrize(("scenario", "fields"), [("domain", {}), ("class", FULL)])
def test_finetune_learns_the_same_whether_it_is_told_or_not(tmp_path, scenario, fields):
    """Nothing in it looks at a boundary: the same batches in the same order, tested at the same moments."""
    told = run("finetune", tmp_path / "known", scenario, **fields, boundaries="known")
    untold = run("finetune", tmp_path / "hidden", scenario, **fields)
    assert told.track_digest != untold.track_digest
    assert told.predictions == untold.predictions, "bit for bit, in every row"
    for one, other in zip(told.costs, untold.costs, strict=True):
        same = ("position", "steps", "passes", "state_bytes", "parameters", "replayed", "scanned")
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
        assert one.mean_loss == pytest.approx(other.mean_loss, rel=1e-4)


@pytest.mark.parametrize("strategy", ["finetune", "er", "der++"])
def test_a_stream_of_new_classes_is_learned_as_they_come(tmp_path, strategy):
    record = run(strategy, tmp_path, settings={"stream": {"blur": 0.2}}, eval_every=4)
    assert record.status == "finished"
    assert np.isfinite(record.matrix[-1]).all()
    assert [cost.position for cost in record.costs] == [1, 2, 3, 4, 5]
    assert [cost.steps for cost in record.costs] == [6] * 5
    assert [(point.position, point.step) for point in record.curve] == [(position, 4) for position in range(1, 6)]
    assert all(cost.passes == 2 for cost in record.costs)
    assert record.cell.track.label == "split-digits+blur=0.2/class/mlp/custom"


def test_outputs_appear_with_the_batches_that_show_them():
    class Watching(Finetune):
        def step(self, batch):
            seen.update(batch.y.tolist())
            allowed = (
                set(range(self.model.outputs)) if batch.mask is None else set(batch.mask[0].nonzero()[:, 0].tolist())
            )
            widths.append(self.model.outputs)
            assert allowed == seen
            assert self.model.outputs == max(seen) + 1
            super().step(batch)

    seen, widths = set(), []
    ours = walk(Watching, **HIDDEN)
    ours.strategy.learn(hidden(ours))
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == 6
    trained = [p for group in ours.strategy.optimizer.param_groups for p in group["params"]]
    assert Counter(map(id, trained)) == Counter(map(id, ours.strategy.model.parameters()))
    assert all(state["step"] > 0 for state in ours.strategy.optimizer.state.values())


def test_joint_learns_the_union_as_always(tmp_path):
    told = run("joint", tmp_path / "known", boundaries="known")
    untold = run("joint", tmp_path / "hidden")
    assert told.predictions == untold.predictions


# --- what is hidden ------------------------------------------------------------------------------------------------


class Spy(GradientStrategy):
    """Looks everywhere at every step, and writes down what it sees."""

    name = "spy"

    def setup(self, context):
        super().setup(context)
        self.calls, self.notes, self.indices = Counter(), [], []

    def learn(self, experience):
        self.calls["learn"] += 1
        super().learn(experience)

    def before_experience(self, experience):
        self.calls["before"] += 1

    def after_experience(self, experience):
        self.calls["after"] += 1

    def step(self, batch):
        context, meter = self.context, self.experience.meter
        self.indices.append(batch.index.clone())
        outputs = (context.space.current, context.space.tasks, context.outputs, context.experiences)
        counted = (
            meter.steps - len(self.notes),
            meter.loss_steps - len(self.notes),
            meter.samples - sum(map(len, self.indices)),
        )
        assert set(vars(batch)) == {"x", "y", "task", "index", "mask", "fresh", "scores", "views", "_rows"}
        assert set(vars(batch.views)) == {"protocol", "generator", "meter", "samples", "taken"}
        views = id(batch.views.protocol), id(batch.views.generator), batch.views.meter is meter, batch.views.taken
        seen = context.seeds.experience, outputs, counted, batch.task, id(self.experience), self.training, views
        assert batch.views.samples == len(batch)
        self.notes.append(seen)
        super().step(batch)


def test_nothing_a_strategy_can_see_tells_of_a_boundary():
    ours = walk(
        Spy, "domain", benchmark=RotatedDigits, benchmark_options={"experiences": 3}, epochs=1, batch_size=100, **HIDDEN
    )
    ours.strategy.learn(hidden(ours))
    spy = ours.strategy
    assert spy.calls == {"learn": 1, "before": 1, "after": 1}
    assert len(spy.notes) == 45
    assert len(set(map(str, spy.notes))) == 1, "at every step it sees the same"
    index = torch.cat(spy.indices)
    assert index.sort().values.tolist() == list(range(3 * 1442)), "counted over the stream, each sample once"


NAMES = sorted({name for name in (*Experience.__dataclass_fields__, *vars(Experience)) if not name.startswith("_")})
OPEN = {"batches", "meter", "outputs", "protocol"}


@pytest.mark.parametrize("name", NAMES)
def test_asking_an_experience_for_what_would_tell_is_an_error(name):
    stream = hidden(walk(Finetune, **HIDDEN))
    if name in OPEN:
        getattr(stream, name)
        return
    with pytest.raises(PluginError, match=f"it asks for '{name}' of an experience, whose boundaries are hidden"):
        getattr(stream, name)


def test_the_stream_flows_once():
    stream = hidden(walk(Finetune, **HIDDEN))
    with pytest.raises(PluginError, match="single passes"):
        next(stream.batches(1))
    with pytest.raises(PluginError, match="size"):
        len(stream)
    assert not hasattr(stream, "no_such_thing")
    assert sum(map(len, stream.batches())) == 2 * 68
    assert stream.finished
    with pytest.raises(PluginError, match="single passes"):
        next(stream.batches())


def test_the_number_of_experiences_is_not_told_either():
    context = walk(Finetune, **HIDDEN, **FULL).strategy.context
    assert (context.outputs, context.experiences) == (6, None)


def test_a_meter_says_what_was_spent_since():
    meter = Meter(steps=2, samples=8)
    meter.observe(torch.tensor(1.0))
    before = meter.copy()
    assert meter.since(before) == Meter()
    meter.steps += 3
    meter.observe(torch.tensor(4.0))
    meter.observe(torch.tensor(6.0))
    spent = meter.since(before)
    assert (spent.steps, spent.samples, spent.loss_steps, spent.mean_loss) == (3, 0, 2, 5.0)
    assert meter.since(Meter()).mean_loss == pytest.approx(11 / 3)


# --- who is admitted -----------------------------------------------------------------------------------------------


def plan(strategy, settings=None, scenario="class", **protocol):
    return make_plan(
        [strategy], benchmark="split-digits", scenario=scenario, backbone="mlp", preset="online", seeds=[0],
        settings={"protocol": {"boundaries": "hidden"} | protocol} | (settings or {}), limit=None, device="cpu",
        store="nowhere", retry=False, host=Host.discover(PluginSources(third_party=False)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("finetune", {}),
        ("joint", {}),
        ("er", {}),
        ("er", {"policy": "class_balanced"}),
        ("er", {"policy": "ring"}),
        ("der", {}),
        ("der++", {}),
        ("mer", {}),
        ("l2", {"strength": 0}),
    ],
)
def test_who_needs_no_boundaries_is_let_in(strategy, settings):
    assert len(plan(strategy, {strategy: settings}).works) == 1


@pytest.mark.parametrize(
    ("strategy", "settings", "reason"),
    [
        ("ewc", {}, "it asks for 'scan' of an experience"),
        ("mas", {}, "it asks for 'scan' of an experience"),
        ("agem", {}, "it asks for 'scan' of an experience"),
        ("er", {"policy": "balanced_random"}, "it asks for 'scan' of an experience"),
        ("gem", {}, "it asks for 'position' of an experience"),
        ("lwf", {}, "it asks for 'position' of an experience"),
        ("frozen", {}, "it asks for 'position' of an experience"),
        ("icarl", {}, "it asks for the size of an experience"),
        ("gdumb", {}, "it asks for single passes over an experience"),
        ("er", {"draw": "pass"}, "being told of boundaries changes what it learns"),
        ("l2", {}, "being told of boundaries changes what it learns"),
        ("si", {}, "being told of boundaries changes what it learns"),
        ("la-maml", {}, "it cannot take outputs that come with a batch"),
        ("cumulative", {}, "it sees the data of all experiences so far"),
    ],
)
def test_who_needs_boundaries_is_refused_with_the_reason(strategy, settings, reason):
    with pytest.raises(UsageError) as caught:
        plan(strategy, {strategy: settings})
    assert str(caught.value).startswith(f"{strategy} cannot learn on this track: {reason}")


def test_full_heads_let_in_whom_growing_ones_keep_out():
    assert plan("la-maml", heads="full", stream_length="known")


def test_a_strategy_may_say_that_it_needs_boundaries():
    class Honest(Finetune):
        name = "honest"
        needs = frozenset({"boundaries"})

    with pytest.raises(
        UsageError, match="honest cannot learn on this track: it has to be told where one experience ends"
    ):
        plan(Honest)
    assert plan(Honest, boundaries="known")


def test_a_faulty_strategy_is_left_to_fail_in_its_own_run(tmp_path):
    class Faulty(Finetune):
        name = "faulty"

        def loss(self, batch):
            raise ValueError("a mistake")

    record = run(Faulty, tmp_path)
    assert (record.status, record.reason) == ("failed", "ValueError: a mistake")


def test_who_stops_before_the_end_fails(tmp_path):
    class Lazy(GradientStrategy):
        name = "lazy"

        def learn(self, experience):
            self.context.grow(self.model)
            next(iter(experience.batches()))

    record = run(Lazy, tmp_path, "domain")
    assert record.status == "failed"
    assert "It stopped before the end of the stream" in record.reason


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ewc",), "ewc cannot learn on this track: it asks for 'scan'"),
        (("joint", "--scenario", "task"), "Boundaries cannot be hidden in the task scenario"),
        (("finetune", "--scenario", "task"), "Boundaries cannot be hidden in the task scenario"),
        (("finetune", "--set", "protocol.loss_over=current"), "there is no current experience"),
        (("er", "ewc"), "ewc cannot learn on this track"),
    ],
)
def test_a_refusal_is_one_message(tmp_path, arguments, said):
    outcome = smoke(tmp_path / "runs", *arguments, "--set", "protocol.boundaries=hidden")
    assert outcome.code == 2
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs").exists()


# --- from the outside ----------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_starts_again_and_ends_the_same(tmp_path, monkeypatch):
    whole = run("er", tmp_path / "whole")
    watch = Run._watch

    def watching(self, realised, strategy, experience, *rest):
        watch(self, realised, strategy, experience, *rest)
        told = experience.on_step

        def on_step(step):
            told(step)
            if experience.position == 2 and step - 2 * 6 == 3:
                raise KeyboardInterrupt

        experience.on_step = on_step

    monkeypatch.setattr(Run, "_watch", watching)
    with pytest.raises(KeyboardInterrupt):
        run("er", tmp_path / "stopped")
    monkeypatch.undo()
    ((stopped,), _) = Store(tmp_path / "stopped").records()
    assert (stopped.status, len(stopped.costs)) == ("interrupted", 2)
    again = run("er", tmp_path / "stopped", retry=True)
    assert (again.status, again.resumed) == ("finished", [])
    assert again.predictions == whole.predictions
    assert [(c.steps, c.replayed, c.mean_loss) for c in again.costs] == [
        (c.steps, c.replayed, c.mean_loss) for c in whole.costs
    ]


def test_the_example_of_the_documentation_runs(tmp_path):
    options = ("--set", "stream.blur=0.2", "--set", "protocol.boundaries=hidden")
    outcome = smoke(tmp_path, "er", "finetune", "--benchmark", "split-digits", "--seeds", "1", *options)
    assert outcome.code == 0, outcome.err
    assert "split-digits+blur=0.2/class/mlp/" in outcome.out


def test_tuning_too(tmp_path):
    outcome = clarena(
        "tune", "er", "--protocol", "smoke", "--trials", 1, "--seeds", 1, "--jobs", 1, "--store", tmp_path,
        "--set", "protocol.boundaries=hidden", "--set", "stream.blur=0.2",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "--set protocol.boundaries=hidden --set stream.blur=0.2" in outcome.out


def test_er_on_a_walk_replays_in_hidden_streams():
    ours = walk(ER(buffer_size=12), **HIDDEN)
    stream = hidden(ours)
    ours.strategy.learn(stream)
    assert stream.meter.replayed > 100
    assert len(ours.strategy.buffer) == 12
    with pytest.raises(ClarenaError):
        ours.strategy.learn(stream)
