"""Where a tuning looks, the study it leaves, and what an evaluation makes of it."""

import json
from typing import Annotated, Literal

import pytest
import torch
import troublemakers as trouble
from pydantic import Field
from tunable import HOST, TINY, Hopeless, Moody, Peaked, tuned, tuning

from clarena import Store, StoreError, UsageError
from clarena.checks.tiny import TinyTransformer, tiny_backbone
from clarena.plugins.parameters import parameters
from clarena.run.evaluation import carry_out
from clarena.run.planning import make_plan
from clarena.tuning import Choice, Range, Tuned, read_study
from clarena.tuning import __name__ as tuning_module
from clarena.tuning.space import derived, read
from clarena.tuning.study import value_of


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A study of six trials that is looked at and not changed, and its path."""
    return tuned(tmp_path_factory.mktemp("shared"))


# --- the space -----------------------------------------------------------------------------------------------------


class Kinds:
    """One hyper-parameter of every kind."""

    def __init__(
        self,
        *,
        strength: Annotated[float, Field(ge=0)] = 20.0,
        rate: Annotated[float, Field(gt=0, le=0.5)] = 0.25,
        capped: Annotated[float, Field(le=30)] = 20.0,
        floored: Annotated[float, Field(ge=5)] = 20.0,
        share: Annotated[float, Field(gt=0, lt=1)] = 0.0,
        maybe: Annotated[float | None, Field(gt=0)] = 2.0,
        nothing: Annotated[float | None, Field(gt=0)] = None,
        zero: Annotated[float, Field(ge=0)] = 0.0,
        negative: float = -1.0,
        flag: bool = False,
        mode: Literal["a", "b"] = "a",
        single: Literal["a"] = "a",
        optional: Literal["a", None] = None,
        buffer_size: Annotated[int | None, Field(ge=0)] = None,
        draws: Annotated[int, Field(ge=1)] = 3,
        shares: tuple[float, ...] = (0.5,),
        text: str = "a",
        anything=3,
        tensor: torch.Tensor | None = None,
    ) -> None: ...


def test_what_follows_from_a_signature():
    found = {name: derived(each, each.default) for name, each in parameters(Kinds).items()}
    assert {name: str(dimension) for name, dimension in found.items() if dimension} == {
        "strength": "0.2..2000:log",
        "rate": "0.005..0.5",
        "capped": "0.2..30:log",
        "floored": "5..2000:log",
        "share": "0.01..0.99",
        "maybe": "0.02..200:log",
        "flag": "false,true",
        "mode": "a,b",
        "optional": "a,null",
    }
    assert found["flag"] == Choice(options=(False, True))


@pytest.mark.parametrize("name", [*(e.name for e in HOST.strategies if e.plugin == "native"), "ewc+lwf"])
def test_every_native_strategy_has_a_space_without_budgets(tmp_path, name):
    scenario = "task" if "task" in HOST.strategy(name).scenarios else "class"
    backbone = TinyTransformer if tiny_backbone(HOST.strategy(name)) is TinyTransformer else "mlp"
    ours = tuning(tmp_path, name, space=(), scenario=scenario, backbone=backbone)
    assert [key for key in ours.space if key.endswith("learning_rate")]
    for key, dimension in ours.space.items():
        known = {
            f"{part}{p.name}": p for part in ("", "ewc.", "lwf.") for p in parameters(HOST.strategy(name)).values()
        }
        assert "int" not in (known[key].type_name if key in known else "").replace(",", " ").split()
        if isinstance(dimension, Range):
            assert dimension.holds(value_of(ours.base.cell.strategy, key)), key
    assert not tmp_path.joinpath("tuning").exists()


def test_parts_of_a_composite_are_tuned_by_their_names(tmp_path):
    request = {"benchmark": "split-digits", "limit": 16}
    ours = tuning(tmp_path, "ewc+lwf", space=("ewc.strength=1..10", "learning_rate"), seeds=1, **request)
    study = ours.run(2, jobs=1)
    (record,) = [r for r in Store(ours.folder).records()[0] if r.cell.strategy.learning_rate != 0.001]
    strength, rate = (study.trials[1].values[name] for name in ("ewc.strength", "learning_rate"))
    assert record.cell.strategy.hyperparameters["parts"]["ewc"]["strength"] == strength
    assert (record.cell.strategy.learning_rate, study.trials[1].problem) == (rate, None)
    settings = study.model_copy(update={"chosen": 1}).settings
    assert settings["ewc+lwf.ewc"]["strength"] == strength
    assert settings["ewc+lwf"] == {"learning_rate": rate}
    assert settings["ewc+lwf.lwf"]["temperature"] == 2.0


def test_a_strategy_may_say_where_to_look(tmp_path):
    class Declared(Peaked):
        name = "declared"
        tuning = {"samples": "1..9", "strength": "1..100:log"}

    found = tuning(tmp_path, Declared, space=()).space
    assert found["samples"] == Range(low=1, high=9, whole=True)
    assert str(found["strength"]) == "1..100:log"
    assert str(found["learning_rate"]) == "1e-05..0.1:log"
    assert str(tuning(tmp_path, Declared, space=("strength=2..3",)).space["strength"]) == "2..3"
    assert type(tuned(tmp_path, 2, Declared, space=("samples",))[0].trials[1].values["samples"]) is int


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("strenght=1..2", "Did you mean 'strength'"),
        ("strength=2..1", "is empty: the lower end comes first"),
        ("strength=1..1", "is empty"),
        ("strength=1..nan", "is empty"),
        ("strength=0..1:log", "begins above 0"),
        ("strength=a..b", "could not convert string to float: 'a'"),
        ("strength=3", "leaves nothing to choose"),
        ("strength=", "cannot be read. Write NAME=LOW..HIGH"),
        ("=1..2", "cannot be read"),
        ("strength=0..1", "peaked.strength = 0.0 is not valid: Input should be greater than 0"),
        ("mode=plain,odd", "peaked.mode = 'odd' is not valid"),
        ("mode=1..2", "peaked.mode = 1.0 is not valid"),
        ("samples=1.5..3", "peaked.samples = 1.5 is not valid"),
        ("samples", r"No range follows from what peaked says of samples \(int, ≥ 1, default 3\)"),
    ],
)
def test_a_space_that_does_not_fit_is_named(tmp_path, space, says):
    with pytest.raises(UsageError, match=says):
        tuning(tmp_path, space=(space,))
    assert list(tmp_path.iterdir()) == []


def test_what_a_strategy_refuses_is_left_out_unless_it_was_asked_for(tmp_path):
    """iCaRL mirrors images only, and the tiny inputs are none."""
    assert "flip" not in tuning(tmp_path, "icarl", space=()).space
    with pytest.raises(UsageError, match="mirrors images"):
        tuning(tmp_path, "icarl", space=("flip",))
    assert set(tuning(tmp_path, Moody, space=(), settings={"moody": {"strength": 5.0}}).space["mood"].options) == {
        "good", "raises", "diverges",
    }  # fmt: skip


def test_what_is_fixed_is_not_tuned(tmp_path):
    fixed = {"peaked": {"strength": 3.0}}
    ours = tuning(tmp_path, space=(), settings=fixed)
    assert set(ours.space) == {"mode", "learning_rate"}
    assert ours.run(2, jobs=1).settings["peaked"] | {"mode": 0, "learning_rate": 0} == {
        "strength": 3.0, "samples": 3, "mode": 0, "learning_rate": 0,
    }  # fmt: skip
    with pytest.raises(UsageError, match="strength is fixed by --set"):
        tuning(tmp_path, settings=fixed)
    with pytest.raises(UsageError, match="names strength twice"):
        tuning(tmp_path, space=("strength", "strength=1..2"))
    everything = {"hopeless": {"strength": 1.0, "learning_rate": 0.1}}
    with pytest.raises(UsageError, match="There is nothing to tune in hopeless"):
        tuning(tmp_path, Hopeless, space=(), settings=everything)


def test_text_reads_as_it_is_written():
    for text in ("0.1..1000:log", "1e-05..3", "-2..2", "a,b"):
        assert str(read("strength", text, parameters(Kinds)["strength"])) == text


@pytest.mark.parametrize(("change", "says"), [({"seeds": 0}, "seeds = 0"), ({"trials": 0}, "trials = 0")])
def test_counts_below_one_are_refused(tmp_path, change, says):
    with pytest.raises(UsageError, match=says):
        tuned(tmp_path, **change)


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{tuning_module}.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'clarena-bench\[tune\]'"):
        tuning(tmp_path)


# --- the study in the store ----------------------------------------------------------------------------------------


def test_another_tuning_of_the_same_row_is_refused(tmp_path):
    _, path = tuned(tmp_path, trials=1)
    before = path.read_bytes()
    with pytest.raises(
        UsageError, match=r"holds 1 trials of peaked with 2 seeds and the space strength=0.01..10000:log"
    ):
        tuning(tmp_path, space=("strength=1..2",))
    with pytest.raises(UsageError, match="a tuning with 4 seeds"):
        tuning(tmp_path, seeds=4)
    assert path.read_bytes() == before
    assert tuning(tmp_path, space=("strength=1..2",), settings={"protocol": {"epochs": 3}}).study.trials == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[:-20], "cannot be read"),
        (lambda text: "[]", "is not valid"),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
            "has schema 2; this CLArena reads up to 1",
        ),
        (lambda text: text.replace('"seeds"', '"seed"'), "is not valid"),
        (lambda text: json.dumps(json.loads(text) | {"chosen": 0}), "was altered"),
        (lambda text: json.dumps(json.loads(text) | {"trials": json.loads(text)["trials"][1:]}), "was altered"),
    ],
)
def test_a_study_that_cannot_be_trusted_is_refused(shared, tmp_path, damage, says):
    study, path = shared
    assert study.chosen != 0
    assert read_study(path).model_dump_json() == study.model_dump_json()
    ours = tuning(tmp_path).path
    ours.parent.mkdir(parents=True)
    ours.write_text(damage(path.read_text()))
    with pytest.raises(StoreError, match=says):
        tuning(tmp_path)


def test_a_damaged_record_of_a_trial_is_set_aside_and_run_again(tmp_path):
    _, path = tuned(tmp_path, trials=1)
    path.unlink()
    record = next(path.parent.glob("*/*/record.json"))
    record.write_text("{")
    tuning(tmp_path).run(1, jobs=1)
    assert record.with_name("record.damaged-1.json").read_text() == "{"
    assert json.loads(record.read_text())["status"] == "finished"


# --- what an evaluation makes of it --------------------------------------------------------------------------------


def plan(store, chosen=None, **settings):
    both = [Peaked, trouble.Plain]
    return make_plan(both, seeds=[0], settings=settings, store=store, retry=False, host=HOST, chosen=chosen, **TINY)


def test_records_say_how_hyper_parameters_were_chosen_and_it_is_no_part_of_their_identity(shared, tmp_path):
    study, path = shared
    ours = Tuned([path], {"protocol": {"epochs": 1}}, ["peaked", "plain"])
    plans = [
        plan(tmp_path),
        plan(tmp_path, peaked=study.settings["peaked"]),
        plan(tmp_path, ours.chosen, **ours.settings),
        plan(tmp_path, {"peaked": "paper"}, **study.settings),
    ]
    said = [[work.cell.strategy.chosen for work in each.works] for each in plans]
    assert [first for first, _ in said] == ["default", "by hand", "tuned (6 trials)", "paper"]
    assert {second for _, second in said} == {"default"}
    default, *others = ([work.cell.id for work in each.works] for each in plans)
    assert others[0] == others[1] == others[2]
    assert (others[0][0] != default[0], others[0][1]) == (True, default[1])
    (record, _) = carry_out(plans[2], tmp_path, jobs=1, track=False)
    assert record.cell.strategy.chosen == "tuned (6 trials)"
    assert record.cell.strategy.hyperparameters["strength"] == study.trials[study.chosen].values["strength"]


def test_a_study_is_taken_for_its_own_strategy_and_track_only(shared, tmp_path):
    _, path = shared
    with pytest.raises(UsageError, match="tuned peaked, which is not evaluated here: ewc, er"):
        Tuned([path], {}, ["ewc", "er"])
    with pytest.raises(UsageError, match="both tuned peaked"):
        Tuned([path, path], {}, ["peaked"])
    with pytest.raises(UsageError, match="--set gives peaked values"):
        Tuned([path], {"peaked": {"samples": 4}}, ["peaked"])
    ours = Tuned([path], {}, ["peaked"])
    ours.check_track(plan(tmp_path).track)
    with pytest.raises(UsageError, match=r"for the track tiny/\S+/smoke .* and this is tiny/\S+/custom"):
        ours.check_track(plan(tmp_path, protocol={"epochs": 2}).track)


def test_the_chosen_settings_say_everything(shared):
    study, _ = shared
    best = study.trials[study.chosen].values
    assert study.settings == {"peaked": {"mode": "plain", "samples": 3, "learning_rate": 0.001} | best}
