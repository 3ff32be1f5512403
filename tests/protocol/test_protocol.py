"""The protocol and its digests: stable over time, blind to the seed, and strict about what does not fit."""

import pytest
import torch
from clarena_native.strategies.references.finetune import Finetune
from hypothesis import given
from hypothesis import strategies as st
from records_of_matrices import track
from tiny import walk

from clarena import UsageError
from clarena.checks.tiny import Subject
from clarena.errors import UnknownNameError
from clarena.protocol.protocol import PRESETS, REVISION, SCENARIOS, NamedPart, Protocol, Track, digest, protocol
from clarena.record.record import Cell, StrategyInfo

MOVED = (
    "The identity of tracks moved: no row of before can be compared with one of now. If that is meant (another "
    "default), raise clarena.protocol.REVISION and put the new values here; if not, undo it."
)

GENERAL = ("standard", "online", "smoke")
"""The presets that are no paper's."""

DEFAULTS = {
    "epochs": 10, "batch_size": 32, "optimizer": "adam", "learning_rate": 0.001, "momentum": 0.0, "weight_decay": 0.0,
    "optimizer_state": "reset", "heads": "growing", "loss_over": "seen", "stream_length": "unknown",
    "buffer_size": 200, "eval_batch_size": 512, "eval_every": 0, "precision": "float32", "limit": None,
    "tested_on": "test", "validation_fraction": 0.2, "tuning_experiences": 3, "boundaries": "known",
    "augmentation": None, "exemplars_per_class": None, "scans": None,
    "schedule": "constant", "milestones": (), "gamma": 0.1, "warmup": 0, "clip_norm": None,
    "accumulation": 1, "own_views": False, "views": None,
}  # fmt: skip
"""Of revision 1. A field at its default takes no part in a digest, so a default may never change unnoticed; a field
that is added joins this list, with what was done before it existed."""


def test_tracks_are_what_they_have_always_been():
    assert (REVISION, Protocol().model_dump(exclude={"revision"})) == (1, DEFAULTS), MOVED
    found = {name: Track(**dict(track()) | {"protocol": PRESETS[name]}).digest[:16] for name in GENERAL}
    assert found == {"standard": "c61e8e3483adbaff", "online": "998561b3b44e4e42", "smoke": "f8032e2c34ef749d"}, MOVED


def test_a_field_added_later_moves_no_digest():
    class Wider(Protocol):
        colour: str = "none"

    old, new = (track().model_copy(update={"protocol": kind(epochs=3)}) for kind in (Protocol, Wider))
    other = track().model_copy(update={"protocol": Wider(epochs=3, colour="red")})
    assert old.digest == new.digest != other.digest


def test_a_digest_is_sha256_of_canonical_json():
    """Computed apart: echo -n '{"a":[1,2.5,null],"é":true}' | sha256sum."""
    value = {"é": True, "a": (1, 2.5, None)}
    assert digest(value) == digest({"a": [1, 2.5, None], "é": True})
    assert digest(value) == "21b0ae764c2c3ce541f7107d30536b97d1033ba82b58437e03b3541048641eab"
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_no_seed_takes_part_in_a_track():
    assert not [name for model in (Track, Protocol, NamedPart) for name in model.model_fields if "seed" in name]
    info = StrategyInfo(name="ewc", source_hash="f" * 64, hyperparameters={"strength": 1.0}, learning_rate=0.001)
    cells = [Cell(track=track(), strategy=info, seed=seed) for seed in range(3)]
    assert len({cell.track.digest for cell in cells}) == len({cell.row for cell in cells}) == 1
    assert len({cell.id for cell in cells}) == 3


def test_a_row_goes_by_the_identity_of_its_code_and_without_one_by_the_bytes_as_before():
    info = StrategyInfo(name="ewc", source_hash="f" * 64, hyperparameters={"strength": 1.0}, learning_rate=0.001)
    old = Cell(track=track(), strategy=info, seed=0)
    assert old.row == digest([track().digest, "ewc", {"strength": 1.0}, 0.001, "f" * 64])
    new = old.model_copy(update={"strategy": info.model_copy(update={"identity": "a" * 64})})
    assert new.row == digest([track().digest, "ewc", {"strength": 1.0}, 0.001, "a" * 64])
    commented = new.model_copy(update={"strategy": new.strategy.model_copy(update={"source_hash": "e" * 64})})
    assert commented.id == new.id


def test_the_code_of_a_benchmark_and_a_backbone_counts_where_it_is_not_built_in():
    parts = ("benchmark", "backbone")
    built_in = track()
    for part in parts:
        named = getattr(built_in, part)
        others = [
            built_in.model_copy(update={part: named.model_copy(update={"identity": value})}).digest
            for value in (None, "a" * 64, "b" * 64)
        ]
        assert others[0] == built_in.digest
        assert len(set(others)) == 3


CHANGES = [
    {"epochs": 11},
    {"batch_size": 33},
    {"optimizer": "sgd"},
    {"learning_rate": 0.002},
    {"momentum": 0.1},
    {"weight_decay": 0.1},
    {"schedule": "cosine"},
    {"schedule": "milestones", "milestones": (5,)},
    {"schedule": "milestones", "milestones": (5, 8)},
    {"schedule": "milestones", "milestones": (5, 8), "gamma": 0.5},
    {"warmup": 1},
    {"clip_norm": 1.0},
    {"accumulation": 2},
    {"optimizer_state": "kept"},
    {"heads": "full", "stream_length": "known"},
    {"loss_over": "current"},
    {"stream_length": "known"},
    {"boundaries": "hidden"},
    {"buffer_size": 201},
    {"exemplars_per_class": 20},
    {"scans": 2},
    {"eval_batch_size": 511},
    {"eval_every": 1},
    {"augmentation": "crop-flip"},
    {"augmentation": "contrastive"},
    {"own_views": True},
    {"views": 1},
    {"precision": "tf32"},
    {"precision": "bf16"},
    {"limit": 7},
    {"validation_fraction": 0.1},
    {"tuning_experiences": 2},
]
HOSTS = [{"revision": REVISION + 1}, {"tested_on": "validation"}]
"""Fields that no one but the host sets."""


def test_every_field_takes_part():
    digests = [track(**changes).digest for changes in [{}, *CHANGES]]
    digests += [track(scenario).digest for scenario in SCENARIOS if scenario != "class"]
    digests += [track().model_copy(update={"protocol": Protocol(**changes)}).digest for changes in HOSTS]
    for part in ("benchmark", "backbone"):
        for change in ({"name": "x"}, {"options": {}}, {"revision": 2}, {"fingerprint": "1" * 64}):
            digests.append(track().model_copy(update={part: getattr(track(), part).model_copy(update=change)}).digest)
    assert len(set(digests)) == len(digests)
    assert {field for changes in CHANGES + HOSTS for field in changes} == set(Protocol.model_fields)


def test_weights_take_part_by_what_they_are_and_not_by_where_they_lie():
    def digest(weights: str, fingerprint: str | None, **options: object) -> str:
        part = NamedPart(name="net", options={"weights": weights, "size": 1} | options, fingerprint=fingerprint)
        return track().model_copy(update={"backbone": part}).digest

    here = digest("/here/w.pt", "1" * 64)
    assert here == digest("/there/w.pt", "1" * 64)
    assert (
        len({here, digest("/here/w.pt", "2" * 64), digest("/here/w.pt", "1" * 64, size=2), digest("none", None)}) == 4
    )
    assert digest("none", None) != digest("default", None)


@given(st.permutations(sorted(Protocol.model_fields)))
def test_a_track_survives_json_whatever_the_order(names):
    whole = Subject(Finetune, "task").track()
    assert Track.model_validate_json(whole.model_dump_json()).digest == whole.digest
    shuffled = {name: whole.protocol.model_dump()[name] for name in names}
    assert whole.model_copy(update={"protocol": Protocol(**shuffled)}).digest == whole.digest


def test_text_and_numbers_are_one_protocol():
    assert protocol("standard", {"learning_rate": "1", "epochs": "4"}) == protocol(
        "standard", {"learning_rate": 1, "epochs": 4}
    )
    assert digest(protocol("standard", {"weight_decay": 1}).model_dump(mode="json")) == digest(
        protocol("standard", {"weight_decay": 1.0}).model_dump(mode="json")
    )
    assert protocol("smoke", {"limit": "none"}).limit is None
    assert protocol("standard", {"scans": "none", "exemplars_per_class": "none"}) == Protocol()
    assert protocol("standard", {"exemplars_per_class": "20"}) == Protocol(exemplars_per_class=20)


def test_presets():
    assert (PRESETS["online"].epochs, PRESETS["online"].batch_size) == (1, 10)
    assert all(protocol(name) == preset for name, preset in PRESETS.items())
    for name in GENERAL:
        preset = PRESETS[name]
        whole = track().model_copy(update={"protocol": preset})
        assert whole.label == f"split-digits/class/mlp/{name}"
        assert (whole.unranked is None) is (name != "smoke")
    hidden = track(boundaries="hidden")
    assert (hidden.protocol.optimizer_state, hidden.label) == ("kept", "split-digits/class/mlp/standard+hidden")
    assert hidden.unranked is None
    assert track(epochs=11).label == "split-digits/class/mlp/custom"
    assert track(limit=5).unranked == "only 5 samples of each experience were used"
    tuning = track().model_copy(update={"protocol": Protocol(tested_on="validation")})
    assert tuning.unranked == "a tuning run: held-out training data stands in for the test data"
    assert track("task").label == "split-digits/task/mlp/standard"


def test_it_prints_what_is_not_at_its_default():
    assert repr(Protocol()) == "Protocol()"
    assert repr(Protocol(epochs=3, scans=0)) == "Protocol(epochs=3, scans=0)"


def test_every_field_has_a_sentence():
    assert all(field.description and field.description.endswith(".") for field in Protocol.model_fields.values())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"epochs": 0},
            "protocol.epochs is not valid: Input should be greater than or equal to 1. epochs: Passes over",
        ),
        ({"batch_size": "many"}, "protocol.batch_size is not valid"),
        ({"epochs": "none"}, "protocol.epochs is not valid"),
        ({"learning_rate": "0"}, "protocol.learning_rate is not valid: Input should be greater than 0"),
        ({"learning_rate": "nan"}, "protocol.learning_rate is not valid"),
        ({"weight_decay": "inf"}, "protocol.weight_decay is not valid"),
        ({"momentum": 1}, "less than 1"),
        ({"optimizer": "lion"}, "'sgd', 'adam' or 'adamw'"),
        ({"heads": "full"}, "set stream_length=known as well"),
        ({"loss_over": "all"}, "set heads=full as well"),
        ({"boundaries": "hidden", "optimizer_state": "reset"}, "set optimizer_state=kept"),
        ({"boundaries": "hidden", "loss_over": "current"}, "there is no current experience"),
        ({"boundaries": "blurred"}, "'known' or 'hidden'"),
        ({"buffer_size": -1}, "protocol.buffer_size is not valid"),
        ({"exemplars_per_class": 0}, "protocol.exemplars_per_class is not valid"),
        ({"exemplars_per_class": 20, "buffer_size": 2000}, "exemplars_per_class=20 for each class: set one of them"),
        ({"scans": -1}, "protocol.scans is not valid: Input should be greater than or equal to 0"),
        ({"views": -1}, "protocol.views is not valid: Input should be greater than or equal to 0"),
        ({"own_views": "perhaps"}, "protocol.own_views is not valid: Input should be a valid boolean"),
        ({"validation_fraction": 0}, "protocol.validation_fraction is not valid"),
        ({"validation_fraction": 1}, "protocol.validation_fraction is not valid"),
        ({"tuning_experiences": 0}, "protocol.tuning_experiences is not valid"),
        ({"epochs": 0, "batch_size": 0}, "protocol.batch_size is not valid"),
        ({"schedule": "linear"}, "'constant', 'cosine' or 'milestones'"),
        ({"schedule": "milestones"}, "set both, or neither"),
        ({"milestones": "3"}, "set both, or neither"),
        ({"schedule": "milestones", "milestones": "6,12"}, "before the last of 10 passes: set each from 1 to 9"),
        ({"schedule": "milestones", "milestones": "10"}, "set each from 1 to 9"),
        ({"schedule": "milestones", "milestones": "2,6", "warmup": 2}, "set each from 3 to 9"),
        ({"schedule": "milestones", "milestones": "0,6"}, "greater than or equal to 1"),
        ({"schedule": "milestones", "milestones": "6,3"}, "not in ascending order"),
        ({"schedule": "milestones", "milestones": "6,6"}, "not in ascending order"),
        ({"schedule": "milestones", "milestones": "six"}, "protocol.milestones is not valid"),
        ({"gamma": 0.5}, "gamma has an effect at milestones only"),
        ({"gamma": 0}, "protocol.gamma is not valid"),
        ({"schedule": "milestones", "milestones": "6", "gamma": 1}, "protocol.gamma is not valid"),
        ({"warmup": 10}, "leaves no pass at the full rate: set it below epochs=10"),
        ({"warmup": 11}, "leaves no pass at the full rate"),
        ({"warmup": -1}, "protocol.warmup is not valid"),
        ({"schedule": "cosine", "epochs": 1}, "has a single one: set epochs higher"),
        ({"schedule": "cosine", "warmup": 9}, "has a single one"),
        ({"clip_norm": 0}, "protocol.clip_norm is not valid: Input should be greater than 0. clip_norm: Greatest norm"),
        ({"clip_norm": "-1"}, "protocol.clip_norm is not valid"),
        ({"clip_norm": "inf"}, "protocol.clip_norm is not valid"),
        ({"accumulation": 0}, "protocol.accumulation is not valid"),
        ({"accumulation": 33}, "cuts a batch of 32 into more parts than samples"),
        ({"precision": "fp16"}, "'float32', 'tf32' or 'bf16'"),
        ({"boundaries": "hidden", "schedule": "cosine"}, "set stream_length=known as well, or schedule=constant"),
        ({"boundaries": "hidden", "warmup": 1}, "set stream_length=known as well"),
    ],
)
def test_a_value_that_does_not_fit_is_named(changes, says):
    with pytest.raises(UsageError) as caught:
        protocol("standard", changes)
    assert says in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_milestones_are_read_as_people_write_them():
    for text in ("60,80", "[60, 80]", "(60, 80)", [60, 80], (60, 80)):
        given = protocol("standard", {"schedule": "milestones", "milestones": text, "epochs": 100})
        assert given.milestones == (60, 80)
    assert protocol("standard", {"milestones": "none", "clip_norm": "none"}) == Protocol()


def test_where_the_streams_length_is_known_a_schedule_may_run_over_hidden_boundaries():
    given = protocol("online", {"boundaries": "hidden", "stream_length": "known", "schedule": "cosine"})
    assert (given.epochs, given.schedule) == (1, "cosine")


def test_unknown_presets_and_fields_bring_the_closest():
    with pytest.raises(UnknownNameError, match="Did you mean 'standard'"):
        protocol("standart")
    with pytest.raises(UnknownNameError, match="Did you mean 'epochs'"):
        protocol("standard", {"epoch": 3})
    for changes in HOSTS:
        with pytest.raises(UnknownNameError, match=next(iter(changes))):
            protocol("standard", changes)


def test_nothing_can_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        PRESETS["standard"].epochs = 3
    with pytest.raises(ValueError, match="extra"):
        Protocol.model_validate({"epoch": 3})


def test_a_stream_of_unknown_length_stays_unknown():
    for length, expected in (("unknown", (None, None)), ("known", (6, 3))):
        context = walk(Finetune, stream_length=length).strategy.context
        assert (context.outputs, context.experiences) == expected


def test_the_buffer_is_granted_within_the_limit():
    context = walk(Finetune, buffer_size=12).strategy.context
    assert [context.granted_buffer(wanted) for wanted in (None, 0, 5, 12)] == [12, 0, 5, 12]
    with pytest.raises(UsageError, match="exceeds the protocol's limit of 12 exemplars"):
        context.granted_buffer(13)


def test_plain_sgd_is_granted_to_those_whose_mathematics_needs_it():
    class Plain(Finetune):
        needs = frozenset({"plain_sgd"})

    ours = walk(Plain, optimizer="adamw", weight_decay=0.1, learning_rate=0.25)
    ours.step(0)
    optimiser = ours.strategy.optimizer
    group = optimiser.param_groups[0]
    assert isinstance(optimiser, torch.optim.SGD)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.25, 0, 0)
