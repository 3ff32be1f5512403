"""Bundles: the same bytes for the same parts, and nothing odd gets past the door."""

import io
import json
import stat
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarena.errors import UsageError
from clarena.protocol.protocol import NamedPart, Protocol, Track
from clarena.record.archive import EPOCH, pack
from clarena.record.record import Cell, StrategyInfo
from clarena.submission import bundle as bundles
from clarena.submission.bundle import MANIFEST, read_bundle, sha256
from clarena.submission.manifest import BundleError, Claim, ClaimedRun, Manifest, read_json

TRACK = Track(benchmark=NamedPart(name="b"), scenario="class", backbone=NamedPart(name="n"), protocol=Protocol())


def manifest(parts, **changes):
    runs = [ClaimedRun(seed=0, cell="0" * 64, metrics={"forgetting": float("nan")})]
    fields = {
        "name": "mine",
        "authors": ["Ada Lovelace"],
        "licence": "MIT",
        "entry": "mine.py",
        "strategy": "mine",
        "source_hash": "0" * 64,
        "hyperparameters": {},
        "chosen": "default",
        "claims": [Claim(track=TRACK, learning_rate=0.1, runs=runs)],
        "parts": {name: sha256(content) for name, content in parts.items()},
        "clarena": "0",
    }
    return Manifest(**fields | changes)


PARTS = {"source/mine.py": b"x = 1\n", "records/a/b/record.json": b"{}"}
WHOLE = PARTS | {MANIFEST: manifest(PARTS).model_dump_json().encode()}


def zipped(path, *entries, **how):
    """A zip of (name or ZipInfo, content) pairs, made by zipfile as anybody would."""
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def refused(path):
    with pytest.raises(BundleError) as caught:
        read_bundle(path)
    return str(caught.value)


def test_a_bundle_is_read_as_it_was_packed(tmp_path):
    path = tmp_path / "b.zip"
    path.write_bytes(pack(WHOLE))
    bundle = read_bundle(path)
    assert bundle.parts == WHOLE
    assert bundle.digest == sha256(path.read_bytes())
    bundle.unpack(tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in WHOLE} == WHOLE


def test_the_order_of_parts_does_not_matter_and_no_time_is_kept():
    assert pack(WHOLE) == pack(dict(reversed(WHOLE.items())))
    with zipfile.ZipFile(io.BytesIO(pack(WHOLE))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(WHOLE)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_bundle_is_refused(tmp_path, share):
    path, content = tmp_path / "b.zip", pack(WHOLE)
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in refused(path)


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "source/../../evil.py", "/etc/evil", "source\\..\\evil", "C:evil", "source//x", "source/./x", "x/"],
)
def test_a_path_that_leads_out_is_refused(tmp_path, name):
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    assert "leads out" in refused(zipped(tmp_path / "b.zip", (info, b"evil")))
    assert not (tmp_path.parent / "evil.py").exists()


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path):
    path = zipped(tmp_path / "b.zip", ("source/zeros.py", bytes(10**8)), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    assert "zip bomb" in refused(path)


def test_more_bytes_than_a_bundle_may_have_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "MOST_BYTES", 1000)
    path = zipped(tmp_path / "b.zip", ("source/a.py", b"x" * 2000), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1000
    assert "claim more than 1000 bytes" in refused(path)
    path.write_bytes(bytes(1001))
    assert "1000 are the limit" in refused(path)


def test_links_duplicates_and_crowds_are_refused(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("source/link", EPOCH)
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    assert "not a plain file" in refused(zipped(tmp_path / "link.zip", (link, b"/etc/passwd")))
    plain = zipfile.ZipInfo("source/a.py", EPOCH)
    plain.create_system, plain.external_attr = 3, 0o100644 << 16
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped(tmp_path / "twice.zip", (plain, b"1"), (plain, b"2"))
    assert "twice" in refused(twice)
    assert "is a file" in refused(written(tmp_path, pack({"source/a": b"", "source/a/b": b""})))
    monkeypatch.setattr(bundles, "MOST_PARTS", 1)
    assert "3 parts" in refused(written(tmp_path, pack(WHOLE)))


def written(folder, content):
    path = folder / "written.zip"
    path.write_bytes(content)
    return path


def test_bytes_around_and_between_the_parts_are_refused(tmp_path):
    content = pack(WHOLE)
    assert "holds more than its parts" in refused(written(tmp_path, b"#!/bin/sh\n" + content))
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"hello"
    assert "holds more than its parts" in refused(written(tmp_path, buffer.getvalue()))


def test_what_the_manifest_says_must_be_so(tmp_path):
    altered = WHOLE | {"source/mine.py": b"x = 2\n"}
    assert refused(written(tmp_path, pack(altered))).startswith("source/mine.py was altered")
    more = WHOLE | {"source/extra.py": b""}
    assert refused(written(tmp_path, pack(more))) == "source/extra.py is not listed in the manifest."
    less = {name: part for name, part in WHOLE.items() if name != "source/mine.py"}
    assert refused(written(tmp_path, pack(less))).startswith("source/mine.py is missing")
    assert "has no manifest.json" in refused(written(tmp_path, pack(PARTS)))
    with pytest.raises(UsageError, match="cannot be read"):
        read_bundle(tmp_path / "nowhere.zip")


def changed(**fields):
    return json.dumps(json.loads(WHOLE[MANIFEST]) | fields).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed(schema_version=2), "has schema 2; this CLArena reads up to 1. Upgrade it."),
        (changed(extra=1), "not valid (extra"),
        (changed(authors=[]), "not valid (authors"),
        (changed(authors=["\x1b[2J"]), "not valid (authors"),
        (changed(authors=["\u202egnp.exe"]), "not valid (authors"),
        (changed(name="../x"), "not valid (name"),
        (changed(entry="../x.py"), "not valid (entry"),
        (changed(claims=[]), "not valid (claims"),
        (changed(parts={"../x": "0" * 64}), "not valid (parts"),
        (changed(parts={"source/.git/config": "0" * 64}), "not valid (parts"),
        (changed(parts={f"source/{'x' * 201}": "0" * 64}), "not valid (parts"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "not valid (the whole"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, content, said):
    assert said in refused(written(tmp_path, pack(PARTS | {MANIFEST: content})))


lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | lines,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(lines, inner, max_size=3),
    max_leaves=6,
)


@given(
    authors=st.lists(lines, min_size=1, max_size=3),
    paper=st.just("") | lines,
    chosen=lines,
    hyperparameters=st.dictionaries(lines, json_values, max_size=4),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    metric=st.floats(0, 1) | st.just(float("nan")),
    rate=st.floats(1e-9, 10),
)
def test_a_manifest_survives_the_way_through_json(authors, paper, chosen, hyperparameters, seeds, metric, rate):
    runs = [ClaimedRun(seed=seed, cell="a" * 64, metrics={"forgetting": metric}) for seed in seeds]
    claim = Claim(track=TRACK, learning_rate=rate, runs=runs)
    told = {"authors": authors, "paper": paper, "chosen": chosen, "hyperparameters": hyperparameters, "claims": [claim]}
    before = manifest(PARTS, **told)
    after = read_json(before.model_dump_json(indent=1), Manifest, "manifest")
    assert after.model_dump_json() == before.model_dump_json()
    assert after.row(after.claims[0]) == before.row(claim)


def test_a_claimed_row_is_the_row_that_its_records_have():
    info = StrategyInfo(
        name="mine", source_hash="0" * 64, hyperparameters={"a": 1}, learning_rate=0.1, plugin="elsewhere"
    )
    told = manifest(PARTS, hyperparameters={"a": 1})
    assert told.row(told.claims[0]) == Cell(track=TRACK, strategy=info, seed=3).row
    assert told.cell(told.claims[0], 3).id == Cell(track=TRACK, strategy=info, seed=3).id
