"""The charts: the Pareto front by hand and by definition, round ticks, and labels that do not overlap."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from clarena_leaderboard.site.charts import Line, Point, critical_difference, intervals, lines, pareto, scatter, spark
from clarena_leaderboard.site.svg import CHARACTER, Scale, fitted, nice_step, spread, standalone, tag
from hypothesis import example, given
from hypothesis import strategies as st


def test_pareto_front_by_hand():
    # Forgetting and accuracy: b betters a (no more forgetting, more accuracy); e is as accurate as d but forgets more.
    points = {
        "a": (0.30, 0.50),
        "b": (0.30, 0.60),
        "c": (0.10, 0.40),
        "d": (0.50, 0.80),
        "e": (0.60, 0.80),
        "f": (0.05, 0.1),
    }
    names = list(points)
    assert [names[i] for i in pareto(list(points.values()))] == ["f", "c", "b", "d"]


def test_equal_points_are_on_the_front_together():
    assert sorted(pareto([(1.0, 0.5), (1.0, 0.5), (2.0, 0.5)])) == [0, 1]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_the_front_is_what_nothing_dominates(points):
    def dominates(one, other):
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    expected = [i for i, p in enumerate(points) if not any(dominates(q, p) for q in points)]
    assert sorted(pareto(points)) == expected


@pytest.mark.parametrize(("span", "step"), [(1.0, 0.2), (10, 2), (0.07, 0.01), (42, 10), (7, 1), (100, 20)])
def test_steps_are_round(span, step):
    assert nice_step(span) == pytest.approx(step)


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_within_the_axis_and_are_few(low, span):
    for log in (False, True):
        ticks = Scale(low, low + span, 0.0, 100.0, log=log).ticks
        assert len(ticks) <= 9
        assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
        if not log:
            assert len(ticks) >= 3


@given(st.lists(st.floats(0.001, 1e9), min_size=1, max_size=8), st.booleans())
@example([313916979.0, 600000001.0], True)
def test_a_fitted_axis_holds_every_value(values, log):
    scale = fitted(values, 10, 400, log=log)
    assert all(10 <= scale(value) <= 400 for value in values)
    assert 2 <= len(scale.ticks) <= 9


@given(st.lists(st.floats(0, 300), max_size=15))
def test_spread_labels_keep_their_distance_and_order(wanted):
    placed = spread(wanted, 14, 0, 300)
    assert len(placed) == len(wanted)
    ordered = sorted(placed)
    assert all(b - a >= 14 - 1e-6 for a, b in pairwise(ordered))
    assert all(-1e-6 <= y <= 300 + 1e-6 for y in placed)
    assert [y for _, y in sorted(zip(wanted, placed), key=lambda p: p[0])] == ordered


def point(label, x, y, named=True, family=0):
    return Point(label, f"{label}-1", x, y, y - 0.01, y + 0.01, family, named, f"about {label}")


def boxes(chart):
    """The rectangle of each name in a scatter plot, from its anchor, by the width the writer assumes."""
    found = []
    for element in ElementTree.fromstring(str(chart)).iter():
        if "halo" in element.get("class", ""):
            width, x, y = CHARACTER * len(element.text), float(element.get("x")), float(element.get("y"))
            left = x - width * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor")]
            found.append((left, y - 10, left + width, y + 2, element.text))
    return found


@given(st.lists(st.tuples(st.floats(0.1, 50), st.floats(0.1, 0.95)), min_size=2, max_size=40))
def test_names_never_overlap(places):
    points = [point(f"strategy-{i}", x, y) for i, (x, y) in enumerate(places)]
    found = boxes(scatter(points, title="t", x_title="x", show=str, bounds=[("joint", 0.97), ("finetune", 0.2)]))
    for i, (left, top, right, bottom, words) in enumerate(found):
        assert left >= 0, words
        assert right <= 400, words
        for other in found[:i]:
            apart = (
                right <= other[0] + 0.2 or other[2] <= left + 0.2 or bottom <= other[1] + 0.2 or other[3] <= top + 0.2
            )
            assert apart, (words, other[4])


def test_only_the_front_and_tier_one_are_named():
    points = [
        point("best", 1, 0.9),
        point("peer", 5, 0.85),
        point("worse", 3, 0.4, named=False),
        point("fast", 0.1, 0.3, named=False),
    ]
    chart = scatter(points, title="t", x_title="x", show=str)
    assert {words for *_, words in boxes(chart)} == {"best", "peer", "fast"}
    hovers = [element.text for element in ElementTree.fromstring(str(chart)).iter() if element.tag.endswith("title")]
    assert "about worse" in hovers


def test_marks_off_the_front_are_hollow():
    chart = ElementTree.fromstring(
        str(scatter([point("best", 1, 0.9), point("worse", 3, 0.4)], title="t", x_title="x", show=str))
    )
    marks = {g.get("data-row"): g[1].get("fill") for g in chart.iter() if g.get("data-row")}
    assert marks == {"best-1": "#0072b2", "worse-1": "#ffffff"}


def test_an_interval_beyond_what_is_possible_stays_within_the_axes():
    chart = lines([Line("mean", [1, 2], [0.9, 0.1], [0.2, -0.8], [1.6, 1.0])], title="t", x_title="x")
    (band,) = [e for e in ElementTree.fromstring(str(chart)).iter() if e.tag.endswith("polygon")]
    heights = [float(corner.split(",")[1]) for corner in band.get("points").split()]
    axis = [
        float(e.get("y1"))
        for e in ElementTree.fromstring(str(chart)).iter()
        if e.get("y1") and e.get("y1") == e.get("y2")
    ]
    assert min(axis) - 6 <= min(heights) <= max(heights) <= max(axis)


def test_every_chart_carries_its_own_colours():
    series = [
        Line("mean", [1, 2, 3], [0.9, 0.8, 0.7], [0.8, 0.7, 0.6], [1, 0.9, 0.8]),
        Line("one", [2, 3], [0.5, math.nan], strong=False),
    ]
    charts = [
        scatter([point("a", 1, 0.5), point("b", 2, 0.6)], title="t", x_title="x", show=str, log=True),
        lines(series, title="t", x_title="x"),
        intervals([("a", 0.5, 0.4, 0.6)], title="t", x_title="x"),
        critical_difference({"a": 1.2, "b": 1.9, "c": 2.9}, [("a", "b")], title="t"),
        spark(0.5, 0.4, 0.6, [0.2, 0.9]),
    ]
    for chart in charts:
        for element in ElementTree.fromstring(
            standalone(str(chart)).partition("\n")[2] if "<title>" in chart else str(chart)
        ).iter():
            for name in re.findall(r"(fill|stroke)-(?!opacity|width)\w+", element.get("class", "")):
                assert re.fullmatch(r"#[0-9a-f]{6}", element.get(name))
        assert "nan" not in str(chart).lower().replace("dominant", "")


def test_words_in_a_chart_are_escaped():
    assert str(tag("text", '<b>&"', x=1.25, class_='a"b')) == '<text class="a&#34;b" x="1.2">&lt;b&gt;&amp;&#34;</text>'
