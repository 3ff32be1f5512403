"""Avalanche's strategies in the realisation: what is learned is what Avalanche learns, and the host's rules hold."""

import inspect
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from needs import needs

from clarena import ClarenaError, PluginError, UsageError

needs("avalanche")

import clarena_avalanche
from clarena_avalanche import strategies
from clarena_avalanche.adapters import Adapted
from clarena_avalanche.memory import Place, pack, unpack
from clarena_avalanche.samples import Pool
from clarena_avalanche.table import METHODS, REFUSED, RUNNING
from clarena_avalanche.trainer import find
from clarena_native.strategies.references.cumulative import Cumulative
from clarena_native.strategies.references.finetune import Finetune
from clarena_native.strategies.references.joint import Joint

from clarena.checks.behaviour import exemplars
from clarena.checks.tiny import Subject
from clarena.checks.trial import Trial, laboratory
from clarena.contract.experience import Experience
from clarena.plugins.registry import first_sentence
from clarena.protocol.protocol import Protocol
from clarena.run.updates import check_updates
from clarena.testing import parametrize_with_checks
from clarena.toolbox.modules import state_bytes
from clarena.toolbox.states import same

BUFFER = 40  # enough for Avalanche's replay to begin on the tiny stream
OWN_INITIALISATION = {"la-maml"}  # draws anew whenever its object is made
CANNOT_GROW = {"gdumb", "cwr-star"}  # by themselves; der only where no outputs come
NAMES = [method.name for method in RUNNING]


def strategy(name: str) -> type[Adapted]:
    return next(getattr(strategies, method.class_name) for method in METHODS if method.name == name)


def finished(subject: Subject, protocol: Mapping[str, Any] | None = None, **hyper: Any) -> Trial:
    with laboratory():
        return Trial(subject, protocol={"buffer_size": BUFFER, **(protocol or {})}, **hyper).finish()


def learned(subject: Subject, **hyper: Any) -> tuple[Trial, list[Experience]]:
    """A trial, and its experiences with what was metered."""
    with laboratory():
        trial = Trial(subject, protocol={"buffer_size": BUFFER}, **hyper)
        return trial, [trial.step() for _ in trial.steps]


@parametrize_with_checks([strategy("ewc"), strategy("agem"), strategy("icarl"), strategy("cwr-star")], ["class"])
def test_conformance(check: Any) -> None:
    check()


@pytest.mark.slow
@pytest.mark.matrix
@parametrize_with_checks([strategy(name) for name in NAMES])
def test_conformance_of_all(check: Any) -> None:
    check()


# ---- What is learned ----


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
def test_naive_is_finetune_bit_for_bit(scenario: Any) -> None:
    """The host's batches, in its order, through Avalanche's loop: not one rounding differs."""
    theirs, ours = finished(Subject(strategy("naive"), scenario)), finished(Subject(Finetune, scenario))
    assert same(theirs.scores(), ours.scores())
    for a, b in zip(theirs.strategy.model.parameters(), ours.strategy.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["naive", "replay"])
@pytest.mark.parametrize("protocol", [{"clip_norm": 0.2}, {"schedule": "cosine"}, {"precision": "bf16"}], ids=str)
def test_the_protocols_steps_are_made_in_avalanches_loop_too(name: str, protocol: dict[str, Any]) -> None:
    """Fine-tuning's bit for bit; where a loader of Avalanche's has batches of its own, they are still felt."""
    theirs = finished(Subject(strategy(name), "class"), protocol=protocol)
    if name == "naive":
        assert same(theirs.scores(), finished(Subject(Finetune, "class"), protocol=protocol).scores())
    assert not same(theirs.scores(), finished(Subject(strategy(name), "class")).scores())


def test_the_rate_falls_from_pass_to_pass_whoever_makes_the_batches() -> None:
    """Replay's loader hands out more batches in a pass than the host would; GDumb's, those of its memory."""
    for name, buffer in (("replay", BUFFER), ("gdumb", 7), ("mer", BUFFER)):
        trial = Trial(Subject(strategy(name), "task"), protocol={"buffer_size": buffer, "schedule": "cosine"})
        rates: list[float] = []
        while trial.done < len(trial.steps):
            with laboratory():
                trial.step()
            group = trial.strategy.updater.optimizer.param_groups[0]  # type: ignore[union-attr]
            rates.append(group["lr"])
        full = trial.strategy.context.learning_rate
        last = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=full)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(last, T_max=4)
        for _ in range(3):
            last.step()
            scheduler.step()
        assert rates == [last.param_groups[0]["lr"]] * len(trial.steps)


def test_what_avalanche_cannot_have_is_refused() -> None:
    cannot = {
        "accumulation": ({"accumulation": 2}, NAMES),
        "clip_norm": ({"clip_norm": 1.0}, ["mer", "la-maml"]),
        "precision": ({"precision": "bf16"}, ["mer", "la-maml", "icarl", "scr"]),
        "schedule": ({"schedule": "cosine"}, ["la-maml"]),
    }
    for what, (protocol, names) in cannot.items():
        for name in NAMES:
            if name not in names:
                check_updates(strategy(name), Protocol(**protocol))
                continue
            with pytest.raises(UsageError, match=what):
                check_updates(strategy(name), Protocol(**protocol))


@pytest.mark.parametrize("ours", [Joint, Cumulative])
def test_references_are_the_natives_bit_for_bit(ours: Any) -> None:
    theirs = finished(Subject(strategy(ours.name), "task")).strategy.model
    for a, b in zip(theirs.parameters(), finished(Subject(ours, "task")).strategy.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["lwf", "mas", "rwalk"])
def test_without_its_penalty_it_is_finetune(name: str) -> None:
    """Where BatchNorm and dropout are absent; with them these are not, so they declare no switch."""
    off = {"lwf": {"alpha": 0.0}, "mas": {"lambda_reg": 0.0}, "rwalk": {"ewc_lambda": 0.0}}[name]
    assert same(finished(Subject(strategy(name), "task"), **off).scores(), finished(Subject(Finetune, "task")).scores())


class Uninterrupted:
    """Mixed in, lets one object of Avalanche's live through the whole stream, with all that it holds."""

    alive: Any = None

    def trainer(self, experience: Experience) -> Any:
        if self.alive is None:
            self.alive = super().trainer(experience)  # type: ignore[misc]
        present = self.wrapped(experience)  # type: ignore[attr-defined]
        for name in ("mask", "masks"):
            if hasattr(present, name):
                setattr(self.alive.model, name, getattr(present, name))
        for name, value in self.arguments(experience).items():  # type: ignore[attr-defined]
            for part in self.alive.plugins:
                if name == "memory_size" and hasattr(part, name):
                    setattr(part, name, value)
        self.alive.source = experience
        return self.alive

    def recall(self, trainer: Any, place: Any) -> None: ...

    def keep(self, trainer: Any) -> None:
        if hasattr(self, "means"):
            super().keep(trainer)  # type: ignore[misc]
            self._memory = {}


def hyper_that_bite(name: str) -> dict[str, Any]:
    """Hyper-parameters with which a small buffer and a short stream matter."""
    return {
        "ewc": {"ewc_lambda": 30.0},
        "si": {"si_lambda": 1e5},
        "gem": {"patterns_per_exp": 10},
        "agem": {"patterns_per_exp": 10, "sample_size": 12},
        "er-ace": {"batch_size_mem": 4},
        "mir": {"batch_size_mem": 4, "subsample": 20},
        "scr": {"batch_size_mem": 8},
        "mer": {"n_inner_steps": 1},
    }.get(name, {})


@pytest.mark.parametrize("scenario", ["class", "task"])
@pytest.mark.parametrize(
    "name", [m.name for m in RUNNING if m.remembers and m.name not in OWN_INITIALISATION | CANNOT_GROW]
)
def test_remembering_loses_nothing(name: str, scenario: Any) -> None:
    """Made anew for each experience from what was remembered, it learns what one living object of Avalanche's does."""
    cls, scenario = strategy(name), "domain" if name == "der" else scenario
    living = type(cls.__name__, (Uninterrupted, cls), {})
    hyper = hyper_that_bite(name)
    ours, theirs = finished(Subject(cls, scenario), **hyper), finished(Subject(living, scenario), **hyper)
    assert same(ours.scores(), theirs.scores())
    forgetful = type(cls.__name__, (cls,), {"_remembered": lambda self, trainer: []})
    if scenario == "class" and name not in {"gem", "agem", "mir", "icarl", "mas", "rwalk", "scr"}:  # these fail without
        assert not same(ours.scores(), finished(Subject(forgetful, scenario), **hyper).scores())


def test_importances_of_si_are_copied() -> None:
    """Avalanche 0.6.0 alone keeps views of the weights on a CPU: all of its importances are 0."""
    from avalanche.training.plugins import SynapticIntelligencePlugin as Plugin

    model = torch.nn.Linear(3, 2)
    penalty: Any = ({}, {})
    path: Any = {name: {} for name in ("old_theta", "new_theta", "grad", "trajectory", "cum_trajectory")}
    Plugin.create_syn_data(model, penalty, path, set())
    Plugin.pre_update(model, path, set())
    model(torch.ones(4, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    Plugin.post_update(model, path, set())
    assert not path["trajectory"]["weight"].data.any()  # once this fails, `PathIntegral` has done its duty

    memory = finished(Subject(strategy("si"), "class")).strategy._memory  # type: ignore[attr-defined]
    _, importances = unpack(memory["ewc_data"], None)  # type: ignore[arg-type]
    assert all(0 < each.data.max() <= 0.001 for name, each in importances.items() if "backbone" in name)


# ---- What the host keeps: budget, buffer, errors ----


def test_passes_are_counted() -> None:
    _, experiences = learned(Subject(strategy("naive"), "class"))
    for experience in experiences:
        meter, passes = experience.meter, experience.protocol.epochs
        assert (meter.samples, meter.accesses, meter.replayed) == (passes * len(experience), 0, 0)
        assert meter.steps == passes * -(-len(experience) // experience.protocol.batch_size)


@pytest.mark.parametrize("name", ["replay", "icarl"])
def test_passes_of_its_own_loader_are_counted(name: str) -> None:
    """Every sample of the stream once a pass, exemplars apart; reading exemplars out of the stream comes on top."""
    _, experiences = learned(Subject(strategy(name), "class"))
    for number, experience in enumerate(experiences):
        meter = experience.meter
        assert meter.samples == experience.protocol.epochs * len(experience)
        assert (meter.replayed > 0) == (number > 0)
        assert meter.accesses >= (meter.samples if number else 0)
        assert meter.loss_steps == meter.steps


def test_exemplars_are_counted_once() -> None:
    """MER of Avalanche asks for each three times: for its input, its label and its task; keeping them is one more."""
    _, experiences = learned(Subject(strategy("mer"), "class"), n_inner_steps=1, batch_size_mem=10)
    assert [e.meter.replayed > 0 for e in experiences] == [False, True, True]
    assert all(e.meter.replayed <= 10 * e.meter.steps + BUFFER for e in experiences)


def test_importances_are_read_apart() -> None:
    _, experiences = learned(Subject(strategy("ewc"), "class"))
    assert [e.meter.accesses for e in experiences] == [len(e) for e in experiences]


@pytest.mark.parametrize(("name", "experience"), [("naive", 1), ("replay", 2)])
def test_the_budget_is_kept(name: str, experience: int) -> None:
    class Greedy(strategy(name)):  # type: ignore[misc]
        def common(self, model: Any) -> dict[str, Any]:
            asked = super().common(model)
            return asked | {"train_epochs": asked["train_epochs"] + (self.context.space.seen != set(range(3)))}

    class Greediest(strategy(name)):  # type: ignore[misc]
        def common(self, model: Any) -> dict[str, Any]:
            return super().common(model) | {"train_epochs": 9}

    with pytest.raises(
        PluginError, match=rf"avalanche/{name}: Avalanche's .* failed in experience {experience}: .*pass"
    ):
        finished(Subject(Greediest if experience == 1 else Greedy, "class"))


@pytest.mark.parametrize("granted", [7, 13])
@pytest.mark.parametrize("name", [m.name for m in RUNNING if m.needs_exemplars])
def test_the_buffer_is_kept(name: str, granted: int) -> None:
    with laboratory():
        trial = Trial(Subject(strategy(name), "class"), protocol={"buffer_size": granted})
        inputs: list[torch.Tensor] = []
        while trial.done < len(trial.steps):
            inputs.append(trial.step().x.flatten(1))
            assert 0 < exemplars(trial, torch.cat(inputs)) <= granted


@pytest.mark.parametrize("name", [m.name for m in RUNNING if m.needs_exemplars])
def test_no_exemplars_no_training(name: str) -> None:
    with pytest.raises(UsageError, match="cannot do without exemplars"):
        finished(Subject(strategy(name), "class"), {"buffer_size": 0})


def test_experiences_share_the_memory_of_gem() -> None:
    trial = finished(Subject(strategy("gem"), "class"), {"buffer_size": 20})
    memory = unpack(trial.strategy._memory["memory_y"], None)  # type: ignore[arg-type,attr-defined]
    assert {position: len(labels) for position, labels in memory.items()} == {0: 6, 1: 6, 2: 6}


def test_what_is_remembered_is_metered() -> None:
    """Exemplars of the tiny stream have 16 values of 4 bytes; the naive model is all that the other has besides."""
    replay, naive = (finished(Subject(strategy(name), "class")).strategy for name in ("replay", "naive"))
    assert state_bytes(replay) - state_bytes(naive) >= BUFFER * 16 * 4


def test_what_is_raised_inside_becomes_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("something in there")

    monkeypatch.setattr(find("EWC"), "forward", fail)
    message = "avalanche/ewc: Avalanche's EWC failed in experience 1: RuntimeError: something in there"
    with pytest.raises(PluginError, match=message) as caught:
        finished(Subject(strategy("ewc"), "class"))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_running_out_of_memory_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(find("EWC"), "forward", fail)
    with pytest.raises(MemoryError):
        finished(Subject(strategy("ewc"), "class"))


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(PluginError, match="it remembers an object of threading"):
        pack(__import__("threading").Event())


def test_a_mode_without_its_parameter_is_refused() -> None:
    with pytest.raises(UsageError, match=r"decay_factor with mode=online"):
        finished(Subject(strategy("ewc"), "class"), mode="online")


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Set avalanche/la-maml\.n_inner_updates to a divisor of 8"):
        finished(Subject(strategy("la-maml"), "class"), n_inner_updates=5)


@pytest.mark.parametrize(
    "value",
    [{1: {2}, "a": (1.5, None, True)}, [torch.ones(2), {"b": torch.Size([1, 2])}], torch.device("cpu")],
)
def test_what_is_packed_comes_back(value: Any) -> None:
    back = unpack(pack(value), Place(torch.nn.Identity(), 1, Pool(lambda read: None)))
    assert type(back) is type(value)
    assert str(back) == str(value).replace("torch.Size([1, 2])", "(1, 2)")


# ---- What is offered ----


@pytest.mark.parametrize("method", REFUSED, ids=lambda method: method.name)
def test_what_cannot_run_says_why(method: Any) -> None:
    with pytest.raises(UsageError) as caught:
        finished(Subject(strategy(method.name), "class"))
    assert str(caught.value).startswith(f"avalanche/{method.name} cannot run: {method.refuses}.")
    assert inspect.isclass(find(method.builds))


@pytest.mark.parametrize("method", RUNNING, ids=lambda method: method.name)
def test_hyper_parameters_are_the_constructors(method: Any) -> None:
    accepted = inspect.signature(find(method.builds).__init__).parameters  # type: ignore[misc]
    assert {*method.hyper, *method.fixed} - {"learning_rate"} <= set(accepted)


def test_what_is_set_reaches_the_constructor() -> None:
    with laboratory():
        trial = Trial(Subject(strategy("ewc"), "class"), ewc_lambda=7.0, mode="online", decay_factor=0.5)
        plugin = trial.strategy.trainer(trial.begin()).plugins[0]  # type: ignore[attr-defined]
    assert (plugin.ewc_lambda, plugin.mode, plugin.decay_factor) == (7.0, "online", 0.5)
    with pytest.raises(TypeError, match="takes no lambda_ewc"):
        strategy("ewc")(lambda_ewc=1.0)  # type: ignore[call-arg]


def test_what_is_registered_is_what_there_is() -> None:
    offered: dict[str, tuple[str, str]] = {}

    def register(target: str, *, name: str, summary: str, extra: str) -> None:
        offered[name] = target, summary

    clarena_avalanche.clarena_register_strategies(register)  # type: ignore[arg-type]
    clarena_avalanche.clarena_register_backbones(register)  # type: ignore[arg-type]
    clarena_avalanche.clarena_register_benchmarks(register)  # type: ignore[arg-type]
    for name, (target, summary) in offered.items():
        module, _, attribute = target.partition(":")
        cls = getattr(__import__(module, fromlist=[attribute]), attribute)
        assert (cls.name, first_sentence(cls.__doc__)) == (name, summary)


def test_nothing_of_avalanche_is_imported_to_name_it() -> None:
    code = "import sys, clarena_avalanche; print({'avalanche', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_missing_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from clarena.plugins.host import KINDS
    from clarena.plugins.registry import Offer, Registry

    monkeypatch.setitem(sys.modules, "avalanche", None)
    monkeypatch.delitem(sys.modules, "clarena_avalanche.strategies")
    entry = Offer("avalanche", "ewc", "s", "clarena_avalanche.strategies:Ewc", "clarena-bench", "avalanche", None)
    with pytest.raises(ClarenaError, match=r"needs the package 'avalanche'.*pip install 'clarena-bench\[avalanche\]'"):
        Registry(KINDS[0], [entry]).load("avalanche/ewc")
