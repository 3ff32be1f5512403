"""The ledger: what was entered stays as it was, and whoever changes anything is found out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from clarena_leaderboard import ledger
from clarena_leaderboard.ledger import add, audit, standing, stores
from clarena_leaderboard.submitted import submitted
from cli_command import clarena
from submissions import honest, reseal, submit, write_plugin  # noqa: F401 - honest is a fixture

from clarena.errors import StoreError, UsageError
from clarena.record.record import now
from clarena.record.store import Store
from clarena.submission.bundle import read_bundle, sha256
from clarena.submission.manifest import BundleError
from clarena.submission.verdict import STEPS, SeasonRow, SeasonRun, Step, Verdict


@pytest.fixture
def bundle(honest, tmp_path) -> Path:  # noqa: F811
    path = tmp_path / "mine.zip"
    path.write_bytes(honest)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "submissions"


def verdict_on(bundle: Path, path: Path, failed: str = "", outcome: str = "verified", accuracies=(0.4, 0.6)) -> Path:
    content = read_bundle(bundle)
    claim = content.manifest.claims[0]
    runs = [
        SeasonRun(number=k, status="finished", metrics={"final_average_accuracy": a}, predictions="0" * 64)
        for k, a in enumerate(accuracies)
    ]
    rows = [("mine", content.manifest.row(claim), False), ("finetune", "f" * 64, True)]
    path.write_text(
        Verdict(
            outcome=outcome,
            bundle=content.digest,
            name="mine",
            season="s1",
            commitment="0" * 64,
            steps=[Step(name=name, state="failed" if name == failed else "passed") for name in STEPS],
            hidden=[
                SeasonRow(track=claim.track.digest, row=row, strategy=name, reference=reference, runs=runs[::-1])
                for name, row, reference in rows
            ],
            clarena="0",
            started=now(),
            ended=now(),
        ).model_dump_json()
    )
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder but the lock."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_bundle_is_entered_as_text_and_as_it_came(root, bundle):
    (entry,) = add(root, bundle)
    assert (entry.number, entry.kind, entry.previous) == (1, "bundle", "0" * 64)
    assert entry.slug == f"mine-{sha256(bundle.read_bytes())[:8]}"
    files = tree(root)
    assert files[f"{entry.slug}/bundle.zip"] == bundle.read_bytes()
    for name, content in read_bundle(bundle).parts.items():
        assert files[f"{entry.slug}/{name}"] == content
    assert set(entry.files) == set(files) - {"ledger.jsonl"}
    assert audit(root) == ledger.Audit(1, sha256(files["ledger.jsonl"].rstrip(b"\n")), ())
    (store,) = stores(root)
    records, damaged = Store(store).records()
    assert (len(records), damaged) == (5, [])
    assert Store(store).predictions(records[0]).experiences == 2


def test_verdicts_follow_and_the_last_one_counts(root, bundle, tmp_path):
    row = read_bundle(bundle).manifest.row(read_bundle(bundle).manifest.claims[0])
    add(root, bundle)
    assert standing(root)[row].badge == "claimed"
    assert (submitted(root)[row].seasons, submitted(root)[row].log.verdicts) == ((), ())
    (second,) = add(root, bundle, verdict_on(bundle, tmp_path / "v1.json"))
    assert (second.number, second.kind) == (2, "verdict")
    told = submitted(root)
    assert (told[row].badge, told[row].log.authors) == ("verified", ("Ada Lovelace",))
    assert told[row].log.bundle == sha256(bundle.read_bytes())
    (season,) = told[row].seasons
    assert season.season == "s1"
    assert [(run.seed, run.metrics["final_average_accuracy"]) for run in season.runs] == [(0, 0.4), (1, 0.6)]
    assert (told["f" * 64].badge, told["f" * 64].log, len(told["f" * 64].seasons)) == ("", None, 1)
    add(root, bundle, verdict_on(bundle, tmp_path / "v2.json", failed="claimed seeds", outcome="differs"))
    told = submitted(root)
    assert (told[row].badge, told[row].seasons) == ("claimed", ())
    assert [verdict.outcome for _, verdict in told[row].log.verdicts] == ["verified", "differs"]
    assert len(told["f" * 64].seasons) == 1
    assert audit(root).problems == ()
    assert audit(root).entries == 3


def test_bundle_and_verdict_may_come_together(root, bundle, tmp_path):
    both = add(root, bundle, verdict_on(bundle, tmp_path / "v.json"))
    assert [entry.kind for entry in both] == ["bundle", "verdict"]
    assert both[1].previous == sha256(both[0].model_dump_json().encode())
    assert audit(root).problems == ()


def test_what_has_no_place_is_refused_and_leaves_nothing(root, bundle, tmp_path, honest):  # noqa: F811
    add(root, bundle)
    before = tree(root)
    other = tmp_path / "other.zip"
    other.write_bytes(submit(write_plugin(tmp_path / "p"), tmp_path / "runs", scenario="task"))
    again = reseal(honest, tmp_path / "again", lambda parts: parts.update({"source/more.py": b""}))
    wrong = reseal(honest, tmp_path / "wrong", lambda parts: parts.pop("source/mine.py"))
    invalid = verdict_on(bundle, tmp_path / "i.json", failed="canary", outcome="invalid")
    lying = verdict_on(bundle, tmp_path / "l.json", failed="canary", outcome="verified")
    newer = tmp_path / "n.json"
    newer.write_text(json.dumps(json.loads(lying.read_text()) | {"schema_version": 2}))
    for refused, error, said in [
        ((bundle,), UsageError, "is in the ledger already"),
        ((again,), UsageError, "claims the same row"),
        ((wrong,), BundleError, "does not bear out"),
        ((bundle, verdict_on(other, tmp_path / "o.json")), BundleError, "is on another bundle"),
        ((bundle, invalid), BundleError, "invalid bundle has no place"),
        ((bundle, lying), BundleError, "says verified; its steps amount to invalid"),
        ((bundle, newer), BundleError, "has schema 2"),
        ((bundle, tmp_path / "nowhere.json"), UsageError, "cannot be read"),
        ((tmp_path / "nowhere.zip",), UsageError, "cannot be read"),
    ]:
        with pytest.raises(error, match=said):
            add(root, *refused)
        assert tree(root) == before
    assert [entry.number for entry in add(root, other)] == [2]
    assert audit(root).problems == ()


@pytest.mark.parametrize("fails_at", ["manifest.json", "bundle.zip", "ledger.jsonl", "verdict-0002.json"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(root, bundle, tmp_path, monkeypatch, fails_at):
    real = ledger.write_atomic

    def full(path, content):
        if path.name == fails_at:
            raise StoreError("no space left")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_atomic", full)
        with pytest.raises(StoreError, match="no space left"):
            add(root, bundle, verdict_on(bundle, tmp_path / "v.json"))
    assert tree(root) == {}
    assert not any(path.is_dir() for path in root.iterdir())
    add(root, bundle)
    before = tree(root)
    if fails_at in ("ledger.jsonl", "verdict-0002.json"):
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "write_atomic", full)
            with pytest.raises(StoreError, match="no space left"):
                add(root, bundle, verdict_on(bundle, tmp_path / "v.json"))
        assert tree(root) == before


def test_what_a_killed_attempt_left_is_found_and_made_good(root, bundle):
    (entry,) = add(root, bundle)
    whole = tree(root)
    (root / "ledger.jsonl").unlink()
    (root / entry.slug / "source" / "mine.py").write_text("half wri")
    assert all("is in no entry of the ledger" in problem for problem in audit(root).problems)
    add(root, bundle)
    assert tree(root) == whole


def alter(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def altered_and_resealed(root: Path) -> None:
    """The text, and the ledger's hash of it; the only line, so no chain is broken."""
    line = json.loads((root / "ledger.jsonl").read_text().splitlines()[0])
    name = f"{line['slug']}/source/mine.py"
    (root / name).write_text("print('hello')\n")
    line["files"][name] = sha256((root / name).read_bytes())
    rest = (root / "ledger.jsonl").read_text().splitlines()[1:]
    (root / "ledger.jsonl").write_text("\n".join([json.dumps(line), *rest]) + "\n")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r, s: alter(r / s / "source/mine.py", "0.002", "0.1"), ["mine.py was altered", "not what the bundle"]),
        (lambda r, s: alter(r / s / "manifest.json", "Ada Lovelace", "Eve"), ["manifest.json was altered"]),
        (lambda r, s: alter(r / s / "verdict-0002.json", '"verified"', '"differs"'), ["verdict-0002.json was altered"]),
        (lambda r, s: (r / s / "verdict-0002.json").unlink(), ["verdict-0002.json is missing"]),
        (lambda r, s: (r / s / "extra.txt").write_text("x"), ["extra.txt is in no entry"]),
        (lambda r, s: (r / "someone").mkdir() or (r / "someone/a").write_text("x"), ["someone/a is in no entry"]),
        (lambda r, s: alter(r / "ledger.jsonl", '"2', '"1'), ["line 2 of the ledger does not carry the hash"]),
        (lambda r, s: swap(r / "ledger.jsonl"), ["has the number 2", "does not carry the hash"]),
        (lambda r, s: drop(r / "ledger.jsonl", 0), ["has the number 2", "bundle.zip is in no entry"]),
        (lambda r, s: drop(r / "ledger.jsonl", 1), ["verdict-0002.json is in no entry"]),
        (lambda r, s: alter(r / "ledger.jsonl", '"kind":"bundle"', '"kind":"gift"'), ["line 1 of the ledger is"]),
        (lambda r, s: altered_and_resealed(r), ["line 2 of the ledger does not carry", "is not what the bundle holds"]),
        (lambda r, s: relink(r / s / "source/mine.py"), ["mine.py is a link"]),
    ],
)  # fmt: skip
def test_whatever_is_altered_is_listed(root, bundle, tmp_path, change, said):
    (entry, _) = add(root, bundle, verdict_on(bundle, tmp_path / "v.json"))
    assert audit(root).problems == ()
    change(root, entry.slug)
    found = "\n".join(audit(root).problems)
    assert [words for words in said if words not in found] == []


def test_a_separator_within_a_text_ends_no_line(root, bundle, tmp_path):
    add(root, bundle, verdict_on(bundle, tmp_path / "v.json"))
    alter(root / "ledger.jsonl", "mine.py", "mi\u2028n\u0085e.py")
    told = audit(root)
    assert told.entries == 2
    assert any("mi\u2028n\u0085e.py is missing" in problem for problem in told.problems)


def swap(path):
    path.write_text("".join(f"{line}\n" for line in reversed(path.read_text().splitlines())))


def drop(path, number):
    lines = path.read_text().splitlines()
    del lines[number]
    path.write_text("".join(f"{line}\n" for line in lines))


def relink(path):
    content = path.read_bytes()
    path.unlink()
    other = path.parent.parent.parent.parent / "elsewhere.py"
    other.write_bytes(content)
    path.symlink_to(other)


def test_only_a_noted_head_tells_that_the_last_lines_are_gone(root, bundle, tmp_path):
    (entry, _) = add(root, bundle, verdict_on(bundle, tmp_path / "v.json"))
    head = audit(root).head
    assert audit(root, head).problems == ()
    drop(root / "ledger.jsonl", 1)
    (root / entry.slug / "verdict-0002.json").unlink()
    assert audit(root).problems == ()
    (problem,) = audit(root, head).problems
    assert f"no line of the ledger has the hash {head}" in problem


def test_nothing_is_shown_or_added_where_the_ledger_was_altered(root, bundle, tmp_path):
    (entry, _) = add(root, bundle, verdict_on(bundle, tmp_path / "v.json"))
    alter(root / entry.slug / "verdict-0002.json", "0.4", "0.9")
    with pytest.raises(StoreError, match="was altered"):
        standing(root)
    swap(root / "ledger.jsonl")
    for act in (lambda: standing(root), lambda: stores(root), lambda: add(root, bundle)):
        with pytest.raises(StoreError, match="was altered"):
            act()


def test_an_empty_folder_has_an_empty_ledger(root):
    assert audit(root) == ledger.Audit(0, "0" * 64, ())
    assert standing(root) == {}
    assert stores(root) == []


def test_the_commands(root, bundle, tmp_path):
    there = ("--submissions", root)
    added = clarena("leaderboard", "add", bundle, *there)
    assert added.code == 0, added.err
    assert audit(root).head in added.out
    assert clarena("leaderboard", "add", bundle, *there).code == 2
    assert clarena("leaderboard", "audit", *there).code == 0
    (root / "extra").write_text("x")
    found = clarena("leaderboard", "audit", *there)
    assert found.code == 1
    assert "extra is in no entry of the ledger" in found.err
    assert "1 problems" in found.out


def test_the_ledger_does_not_wait_for_torch():
    code = "import sys, clarena_leaderboard.ledger; sys.exit('torch' in sys.modules)"
    paths = [str(Path(__file__).parents[2] / folder) for folder in (".", "leaderboard", "plugins")]
    assert subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"]).returncode == 0
