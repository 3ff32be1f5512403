"""Old identities of code that are proven to be later ones: read, written, followed; and never further than proven."""

import json

import pytest
import troublemakers as trouble

from clarena import Store, StoreError, evaluate
from clarena.record.aliases import IDENTITIES, Alias, Aliases, Attested, AttestedRun, SameBytes, add_aliases, with_code
from clarena.record.record import Record
from clarena.record.store import RECORD
from clarena.record.summary import rows

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one")).records[0]


def run(store, seeds=1):
    return evaluate(
        trouble.Plain, benchmark=trouble.Tiny, protocol="smoke", seeds=seeds, store=store, jobs=1, track=False
    )


def same(old, new, name="plain"):
    return Alias(strategy=name, old=old, new=new, evidence=SameBytes())


def attested(old, new, row, predictions=(A, A)):
    runs = [AttestedRun(track=A, seed=0, old_predictions=predictions[0], new_predictions=predictions[1])]
    return Alias(strategy="plain", old=old, new=new, evidence=Attested(rows=[row], runs=runs))


def test_chains_are_followed_both_ways_and_circles_end(record):
    cells = {code: with_code(record.cell, code) for code in (A, B, C, D)}
    table = Aliases([same(A, B), same(B, C), same(C, A), same(D, C, "other")])
    assert table.newest(cells[A]).row == cells[C].row
    assert table.newest(cells[B]).row == cells[A].row
    assert [cell.id for cell in table.earlier(cells[C])] == [cells[B].id, cells[A].id]
    assert table.newest(cells[D]) == cells[D]
    assert list(table.earlier(cells[D])) == []
    assert Aliases().newest(cells[A]) == cells[A]


def test_what_was_attested_holds_for_the_rows_that_were_run_again_and_no_other(record):
    old, new = with_code(record.cell, A), with_code(record.cell, B)
    other = old.model_copy(update={"strategy": old.strategy.model_copy(update={"learning_rate": 0.5})})
    table = Aliases([attested(A, B, old.row)])
    assert table.newest(old).row == new.row
    assert table.newest(other) == other
    assert [cell.row for cell in table.earlier(new)] == [old.row]
    assert not list(table.earlier(with_code(other, B)))
    unequal = Aliases([attested(A, B, old.row, predictions=(A, B))])
    assert unequal.newest(old) == old


def test_it_is_read_as_it_was_written_and_nothing_is_written_twice(tmp_path, record):
    table = [same(A, B), attested(B, C, record.cell.row)]
    add_aliases(tmp_path, table[:1])
    add_aliases(tmp_path, table)
    assert Store(tmp_path).aliases().all == tuple(table)
    first = json.loads((tmp_path / IDENTITIES).read_text().splitlines()[0])
    assert first == {"strategy": "plain", "old": A, "new": B, "evidence": {"kind": "same bytes"}}
    assert Store(tmp_path / "nowhere").aliases().all == ()


@pytest.mark.parametrize(
    "line",
    ["{", "[" * 100_000, '{"strategy": "ewc"}', json.dumps({"strategy": "e", "old": A, "new": "x", "evidence": {}})],
)
def test_a_line_that_is_none_is_named(tmp_path, line):
    (tmp_path / IDENTITIES).write_text(f"{same(A, B).model_dump_json()}\n{line}\n")
    with pytest.raises(StoreError, match=r"identities\.jsonl, line 2: .*Mend or remove that line"):
        Store(tmp_path).aliases()


def older(store, code=A):
    """Make the records of a store those of earlier code, as of before there were identities."""
    for path in list(store.path.glob(f"*/*/{RECORD}")):
        held = Record.model_validate_json(path.read_text())
        info = held.cell.strategy.model_copy(update={"source_hash": code, "identity": ""})
        cell = held.cell.model_copy(update={"strategy": info})
        home = store.folder(cell)
        path.parent.rename(home)
        changed = held.model_copy(update={"cell": cell, "cell_id": cell.id, "sha256": None})
        (home / RECORD).write_text(changed.model_dump_json())


def test_a_finished_cell_is_found_under_its_earlier_identity_and_shares_a_row_with_new_seeds(tmp_path):
    first = run(tmp_path, seeds=2)
    new = first.records[0].cell.strategy.identity
    store = Store(tmp_path)
    older(store)
    assert store.find(first.records[0].cell) is None
    (row,) = rows(store.records()[0])
    assert row.earlier
    before = {path: path.read_bytes() for path in tmp_path.rglob(RECORD)}
    add_aliases(tmp_path, [same(A, new)])
    heard = []
    again = evaluate(
        trouble.Plain,
        benchmark=trouble.Tiny,
        protocol="smoke",
        seeds=3,
        store=tmp_path,
        jobs=1,
        track=False,
        listener=heard.append,
    )
    assert {event.work.cell.seed for event in heard} == {2}
    assert [record.started for record in again][:2] == [record.started for record in first]
    assert {path: path.read_bytes() for path in before} == before  # records are never rewritten
    (row,) = rows(store.records()[0], store.aliases())
    assert (row.seeds, row.id, row.info.identity, row.earlier) == ([0, 1, 2], again.records[2].cell.row, new, False)
    assert store.predictions(again.records[0]).predicted.shape[0] == 4
