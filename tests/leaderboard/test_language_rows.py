"""Language models' rows: bits per byte are recomputed, shown on the row's page, and forgeries are flaws."""

import math

import numpy as np
import pytest
from clarena_leaderboard.board import load_board
from clarena_leaderboard.site.detail import row_detail
from clarena_leaderboard.site.render import build_site
from clarena_leaderboard.sources import StoreSource
from made_up import record
from records_with_predictions import changed, summary

from clarena.record.predictions import Predictions
from clarena.record.record import ExperienceInfo
from clarena.record.store import RECORD, Store

TOKENS = [f"token {number}" for number in range(300)]
DOMAINS = ["plays", "letters"]
BITS = [[None, None], [1.0, None], [0.5, 2.0]]
"""After experience 1, tokens of 2 bytes with p = 1/4; at the end p = 1/2 and, for those of 1 byte, 1/4."""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs")
    store.prepare()
    for name in ("finetune", "er"):
        for seed in range(5):
            made, predictions = record(name, seed, right=5)
            likely = np.full((3, 20), np.nan, dtype=np.float32)
            likely[1, :10], likely[2, :10], likely[2, 10:] = -math.log(4), -math.log(2), -math.log(4)
            sizes = np.repeat([2, 1], 10)
            predictions = Predictions(
                predictions.answers | {"log_probability": likely},
                predictions.truth | {"text_bytes": sizes},
                predictions.experience,
            )
            facts = summary(predictions, TOKENS) | {"output_names": TOKENS, "class_report": {}, "confusion_matrix": []}
            facts["experiences"] = [
                ExperienceInfo(classes=TOKENS, domain=domain, train_samples=9, test_samples=10)
                for domain in (DOMAINS if name == "er" or seed else DOMAINS[::-1])
            ]
            store.write(made.model_copy(update=facts), predictions)
    return store


def the_row(store):
    source = StoreSource(store.path)
    (table,) = load_board(source).tables
    entry = next(entry for entry in table.entries if entry.info.name == "er")
    return entry, row_detail(entry, table, source.load)


def test_bits_per_byte_are_recomputed_and_in_the_rows_data(store):
    entry, data = the_row(store)
    assert [run.flaws for run in entry.runs] == [()] * 5
    assert entry.runs[0].metrics["final_bits_per_byte"] == pytest.approx(1.25)
    assert entry.runs[0].metrics["bits_per_byte_forgetting"] == pytest.approx(-0.5)
    assert data["further"]["bits_per_byte"]["mean"] == BITS
    assert data["further"]["bits_per_byte"]["seeds"]["4"] == BITS
    assert data["confusion"] is None  # of 300 tokens it is a table that nobody can read


@pytest.mark.parametrize("forged", [[[9.0, 9.0], [1.0, 9.0], [0.1, 0.1]], []])
def test_bits_that_the_predictions_do_not_give_are_a_flaw(store, forged):
    path = next(path for path in store.path.glob(f"*/er-seed0-*/{RECORD}"))
    changed(path, bits_per_byte=forged)
    flaws = the_row(store)[0].runs[0].flaws
    assert "its bits per byte are not what its predictions give" in flaws


def test_without_predictions_they_follow_from_the_matrix(store):
    for path in store.path.glob("*/*/predictions.npz"):
        path.unlink()
    entry, data = the_row(store)
    assert data["further"]["bits_per_byte"]["mean"] == BITS
    assert entry.runs[0].metrics["final_bits_per_byte"] == pytest.approx(1.25)


def test_the_page_of_a_row_shows_them(store, tmp_path):
    source = StoreSource(store.path)
    build_site(load_board(source), source.load, tmp_path / "site")
    pages = [path.read_text() for path in (tmp_path / "site" / "row").glob("*.html")]
    assert len(pages) == 2
    for page in pages:
        assert page.count("Bits per byte</h2>") == 1
        assert "<td>1.00</td><td></td>" in page
        assert "<td>0.50</td><td>2.00</td>" in page


def test_the_page_of_a_row_names_domains_where_the_seeds_agree(store, tmp_path):
    source = StoreSource(store.path)
    build_site(load_board(source), source.load, tmp_path / "site")
    for name, shown in (("er", DOMAINS), ("finetune", ['<span class="with">by seed</span>'] * 2)):
        (page,) = (path.read_text() for path in (tmp_path / "site" / "row").glob("*.html") if name in path.stem)
        for number, held in enumerate(shown, 1):
            assert f">{number}</th><td>{held}</td>" in page
