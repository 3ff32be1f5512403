"""Reading records: no changed number is shown as the truth, and no odd file hides the others."""

import json
import os
import random
import re
from pathlib import Path

import pytest
from records_with_predictions import changed, kept

from clarena.errors import StoreError
from clarena.record.reader import read_record, seal
from clarena.record.record import Record
from clarena.record.store import PREDICTIONS, RECORD, Store

CHANGES = 400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    held = Store(tmp_path / "runs")
    for seed in range(2):
        kept(held, seed)
    return held


def first(store: Store) -> Path:
    return sorted(store.path.glob("*/*-seed0-*/record.json"))[0]


def as_data(record: Record) -> object:
    """As JSON has it, where undefined numbers are equal and the order of keys says nothing."""
    return json.loads(record.model_dump_json())


def one_place(text: str, rng: random.Random) -> str:
    """The text with a digit, a letter, a sign or a line of it changed, moved or taken away."""
    kind = rng.choice(("digit", "letter", "minus", "drop", "swap", "bit"))
    if kind in ("digit", "letter"):
        places = [i for i, c in enumerate(text) if (c.isdigit() if kind == "digit" else c.isalpha())]
        place = rng.choice(places)
        others = [c for c in ("0123456789" if kind == "digit" else "abcdefxyz") if c != text[place]]
        return text[:place] + rng.choice(others) + text[place + 1 :]
    if kind == "minus":
        place = rng.choice([i for i, c in enumerate(text) if c.isdigit() and not text[i - 1].isalnum()])
        return f"{text[:place]}-{text[place:]}"
    lines = text.split("\n")
    place = rng.randrange(1, len(lines) - 1)
    if kind == "drop":
        return "\n".join(lines[:place] + lines[place + 1 :])
    if kind == "swap":
        lines[place], lines[place - 1] = lines[place - 1], lines[place]
        return "\n".join(lines)
    place = rng.randrange(len(text))
    return text[:place] + chr(ord(text[place]) ^ (1 << rng.randrange(7))) + text[place + 1 :]


def test_no_change_of_one_place_of_a_record_goes_unsaid(store: Store) -> None:
    path, rng = first(store), random.Random(11)
    text, original = path.read_text(), read_record(path)
    said = 0
    for _ in range(CHANGES):
        path.write_text(other := one_place(text, rng))
        held, damaged = store.read()
        mine = [each for each in held if each.record.cell.seed == 0]
        if damaged:
            assert not mine
            assert str(path) in damaged[0].reason
            said += 1
        elif mine[0].sealed:  # what JSON does not mind: a blank, or lines that changed places
            assert as_data(mine[0].record) == as_data(original), other
        else:
            assert json.loads(other).keys() == json.loads(text).keys() - {"sha256"}  # and `results` counts those
        assert sum(each.record.cell.seed == 1 for each in held) == 1
    assert said > CHANGES / 2


def test_of_a_record_without_a_hash_every_metric_is_checked_by_recomputation(store: Store) -> None:
    path, rng = first(store), random.Random(12)
    changed(path, sealed=False)
    (plain,) = [each for each in store.read()[0] if not each.sealed]
    content = json.loads(path.read_text())
    for _ in range(100):
        name = rng.choice([name for name, value in content["metrics"].items() if value is not None])
        value = rng.choice((7.5, -7.5, 1e300, content["metrics"][name] + 0.001, "much", None))
        changed(path, sealed=False, metrics=content["metrics"] | {name: value})
        held, (damaged,) = store.read()
        assert name in damaged.reason
        assert all(each.record.cell.seed == 1 for each in held)
    for name in ("accuracy_matrix", "confusion_matrix"):
        matrix = json.loads(json.dumps(content[name]))
        matrix[-1][0], matrix[-1][1] = matrix[-1][1] + 1e-3, matrix[-1][0]
        changed(path, sealed=False, **{name: matrix})
        assert len(store.read()[1]) == 1
    report = json.loads(json.dumps(content["class_report"]))
    report["class 1"]["recall"] += 1e-6
    changed(path, sealed=False, **content | {"class_report": report})
    assert "its report by class" in store.read()[1][0].reason
    changed(path, sealed=False, **content)
    assert any(as_data(each.record) == as_data(plain.record) for each in store.read()[0])


ODD = {
    "accuracy above 1": ({"accuracy_matrix": [[None] * 3] + [[1.5] * 3] * 3}, "accuracy_matrix: 1.5 is not within"),
    "a matrix too short": ({"accuracy_matrix": [[1.0] * 3]}, "accuracy_matrix: it is not 4 rows of 3"),
    "an unknown metric": ({"metrics": {"splendour": 1.0}}, "'splendour' is none that this CLArena knows"),
    "no costs": ({"costs": []}, "costs: they are of the experiences"),
    "too many classes": ({"confusion_matrix": [[1]]}, "confusion_matrix: it is not 6 by 6"),
    "a time before computers": ({"started": "0001-01-01T00:00:00+14:00"}, "no run was made then"),
    "no hash of predictions": ({"predictions": "../../etc"}, "predictions: it is no SHA-256"),
    "a huge number": ({"metrics": {"forgetting": 10**400}}, "is not valid (metrics.forgetting"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_no_run_can_have_measured_is_refused_whatever_its_hash(odd: str, store: Store) -> None:
    fields, said = ODD[odd]
    changed(first(store), **fields)
    held, (damaged,) = store.read()
    assert said in damaged.reason
    assert len(held) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("train_seconds", -1.0), ("state_bytes", -5), ("parameters", 2**63), ("steps", 10**30), ("position", 3),
     ("passes", "many"), ("peak_memory_bytes", 1.5)],
)  # fmt: skip
def test_every_cost_has_a_range(name: str, value: object, store: Store) -> None:
    path = first(store)
    costs = json.loads(path.read_text())["costs"]
    changed(path, costs=[costs[0] | {name: value}, *costs[1:]])
    (damaged,) = store.read()[1]
    assert "costs" in damaged.reason


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _edited(**fields: object):  # type: ignore[no-untyped-def]
    def edit(path: Path) -> None:
        content = json.loads(path.read_text()) | fields
        path.write_text(json.dumps(content))

    return edit


def _hyperparameters(value: object):  # type: ignore[no-untyped-def]
    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        content["cell"]["strategy"]["hyperparameters"]["strength"] = value
        path.write_text(json.dumps(content))

    return edit


DEEP = "[" * 900 + "]" * 900
FILES = {
    "200,000 brackets": lambda path: path.write_bytes(b"[" * 200_000),
    "deep within": lambda path: path.write_text(
        path.read_text().replace('"kept": null', f'"kept": {"[" * 900}{"]" * 900}')
    ),
    "NaN as a hyper-parameter": _hyperparameters(float("nan")),
    "a lone surrogate": _hyperparameters("\ud800"),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00{"),
    "a number of 5,000 digits": lambda path: path.write_text(path.read_text().replace("1234", "1" * 5000, 1)),
    "a list": lambda path: path.write_text("[1, 2]"),
    "a text for a list": _edited(costs="none"),
    "a number for a name": _edited(command=7),
    "a seed that is none": lambda path: path.write_text(path.read_text().replace('"seed": 0', '"seed": {}', 1)),
    "a folder in its place": _folder,
    "a link to itself": _loop,
    "a pipe": _pipe,
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("odd", FILES)
def test_one_odd_file_is_named_with_a_remedy_and_hides_no_other(odd: str, store: Store) -> None:
    path = first(store)
    FILES[odd](path)
    held, (damaged,) = store.read()
    assert [each.record.cell.seed for each in held] == [1]
    assert damaged.path == path
    assert str(path) in damaged.reason
    assert "--retry sets it aside" in damaged.reason


def test_infinity_is_no_number_even_without_a_hash(store: Store) -> None:
    path = first(store)
    changed(path, sealed=False)
    text = path.read_text()
    for name in ("mean_loss", "forgetting", "train_seconds"):
        path.write_text(re.sub(rf'"{name}": [0-9.e-]+', f'"{name}": 1e999', text, count=1))
        (damaged,) = store.read()[1]
        assert name in damaged.reason


def test_folders_that_cannot_be_listed_are_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.path / "loop").symlink_to("loop")
    (store.path / "a file").write_text("of somebody else's")
    (first(store).parent.parent / "knot").symlink_to("knot")
    held, damaged = store.read()
    assert len(held) == 2
    assert {each.path.name for each in damaged} == {"loop", "knot"}
    real, barred = os.scandir, first(store).parent.parent

    def locked(path: Path):  # type: ignore[no-untyped-def]
        if Path(path) == barred:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("clarena.record.store.os.scandir", locked)
    held, damaged = store.read()
    assert held == []
    assert any("cannot be listed: Permission denied. Mend its permissions" in each.reason for each in damaged)


def test_altered_predictions_make_a_record_unbelievable(store: Store) -> None:
    path = first(store).with_name(PREDICTIONS)
    path.write_bytes(path.read_bytes()[:-9])
    held, (damaged,) = store.read()
    assert len(held) == 1
    assert "its predictions are not those that its record was written with" in damaged.reason


def test_a_hash_is_of_the_content_and_not_of_its_layout(store: Store) -> None:
    path = first(store)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, sort_keys=True))
    assert store.read()[1] == []
    assert seal(content) == content["sha256"] == read_record(path).sha256


def test_a_damaged_record_is_set_aside_and_kept_under_a_name_of_its_own(store: Store) -> None:
    path = first(store)
    cell = read_record(path).cell
    for number in (1, 2):
        path.write_text(f"damage {number}")
        with pytest.raises(StoreError):
            store.find(cell)
        aside = store.set_aside(cell)
        assert aside.read_text() == f"damage {number}"
        assert store.find(cell) is None
        kept(store, 0)
    assert len(list(path.parent.glob("predictions.damaged-*.npz"))) == 2
    assert len(store.records()[0]) == 2
    assert path.name == RECORD
