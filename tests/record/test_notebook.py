"""What a notebook shows of records: short lines, the table's own numbers, plots that can be read on any page."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from test_plots import CLASS, JOINT, make_record

from clarena import Data, Protocol, Results, Split, Store, Stream
from clarena.record import plots
from clarena.record.curves import SHORT
from clarena.record.notebook import results_html
from clarena.record.predictions import Predictions
from clarena.record.record import CurvePoint
from clarena.record.summary import rows, table_texts

RECORD = make_record(CLASS)
SPLIT = Split(torch.arange(4), torch.tensor([0, 1, 0, 1]), torch.arange(2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (RECORD, f"Record({RECORD.cell.label} on {RECORD.cell.track.label}: finished, "),
        (make_record(CLASS, status="diverged", reason="The loss rose."), "diverged: The loss rose.)"),
        (RECORD.cell, f"Cell({RECORD.cell.label} on "),
        (RECORD.cell.track, f"Track({RECORD.cell.track.label}, {RECORD.track_digest[:12]})"),
        (Results([RECORD], {"er seed 1": "no"}), "Results(2 runs: 1 finished, 1 not recorded)"),
        (Store("runs"), "Store('runs')"),
        (Predictions.of_classes(np.zeros((3, 9), int), labels=np.zeros(9, int), experience=np.zeros(9, int)),
         "Predictions(9 test samples of 2 experiences)"),
        (Data(torch.zeros(4, 1, 8, 8), SPLIT.y_train, torch.zeros(2, 1, 8, 8), SPLIT.y_test, ("a", "b")),
         "Data(4 + 2 samples [1, 8, 8] of float32, 2 classes)"),
        (SPLIT, "Split(4 + 2 samples, 2 classes)"),
        (Stream((SPLIT,), ("a", "b")), "Stream(1 experiences, 2 outputs)"),
    ],
    ids=lambda thing: type(thing).__name__,
)  # fmt: skip
def test_public_objects_print_one_short_line(thing, text):
    for shown in (repr(thing), str(thing)):
        assert text in shown
        assert len(shown) < 150
        assert "\n" not in shown
    assert len(repr(Protocol())) < 500


def shown(html: str) -> list[list[str]]:
    """The cells of the tables' lines."""
    lines = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]


def test_results_show_the_numbers_of_the_commands_table_and_a_plot():
    curve = [CurvePoint(position=2, step=1, accuracy=[0.5] * 3)]
    metrics = RECORD.metrics | dict.fromkeys(SHORT, 0.25)
    finished = make_record(CLASS, curve=curve, metrics=metrics)
    failed = make_record(CLASS, status="failed", reason="<b>it broke</b>")
    failed = failed.model_copy(update={"cell": failed.cell.model_copy(update={"seed": 8})})
    html = results_html([finished, failed], {"er seed 1": "a & b"})
    titles, lines = table_texts(rows([finished, failed]))
    assert shown(html)[: 1 + len(lines)] == [titles, *lines]
    assert [line[1:] for line in shown(html) if line[1:] == ["25.0"] * 3]
    assert "&lt;b&gt;it broke" in html
    assert "<b>it broke" not in html
    assert "er seed 1: not recorded: a &amp; b" in html
    assert html.count("<svg") == 1
    assert results_html([], {}) == "<p>No runs.</p>"
    assert "<svg" not in results_html([make_record(JOINT)], {})  # which has no accuracy over time


def test_a_record_shows_its_numbers_and_both_plots():
    html = RECORD._repr_html_()
    values = dict(shown(html)[1:])
    assert values["final average accuracy"] == f"{100 * RECORD.metrics['final_average_accuracy']:.1f} %"
    assert html.count("<svg") == 2
    assert "<svg" not in make_record(CLASS, status="failed", accuracy_matrix=[], metrics={}, costs=[])._repr_html_()


@pytest.mark.parametrize("picture", [plots.accuracy_matrix, plots.accuracy_curves])
def test_pictures_within_a_page_have_a_background_and_names_of_their_own(picture):
    """Two of them on one page must not share the names that their parts are referred to by."""
    first, second = picture(RECORD, "svg"), picture(RECORD, "svg")
    root = ElementTree.fromstring(first.decode())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert b"fill: #ffffff" in first
    clips = [set(re.findall(rb'clipPath id="(\w+)"', svg)) for svg in (first, second)]
    assert clips[0]
    assert not clips[0] & clips[1]
