"""From a plugin to its row on a board: the bundle, the verdict, the ledger, the pages, and `clarena compare`."""

import json
import re
from pathlib import Path

import pytest
from clarena_leaderboard.board import load_board
from clarena_leaderboard.ledger import add
from clarena_leaderboard.submitted import open_with_submissions, submitted
from cli_command import clarena
from submissions import PLUGIN, SETTINGS, honest, reseal, submit, write_plugin  # noqa: F401 - honest is a fixture

from clarena.record.record import now
from clarena.run.evaluation import carry_out
from clarena.run.planning import make_plan
from clarena.submission.bundle import read_bundle, sha256
from clarena.submission.rerun import built_in_host
from clarena.submission.season import derived_seeds, new_season
from clarena.submission.verdict import STEPS, Canary, SeasonRow, SeasonRun, Step, Verdict

EVIL = "<img src=x onerror=alert(1)></script><b>"
ROWS = {"mine": (0.22, 0.23, 0.21, 0.24, 0.22, 0.22), "finetune": (0.2,) * 6, "joint": (0.9,) * 6}


def made_up_verdict(bundle: Path, path: Path, rows=ROWS, said: str = "", **changes) -> Path:
    """A verdict that verifies a bundle, whose row scored so on hidden seeds, and the references beside it."""
    content = read_bundle(bundle)
    claim = content.manifest.claims[0]
    hidden = [
        SeasonRow(
            track=claim.track.digest,
            row=content.manifest.row(claim) if name == "mine" else sha256(name.encode()),
            strategy=name,
            reference=name != "mine",
            runs=[
                SeasonRun(number=k, status="finished", metrics={"final_average_accuracy": a}, predictions="0" * 64)
                for k, a in enumerate(accuracies)
            ],
        )
        for name, accuracies in rows.items()
    ]
    verdict = Verdict(
        outcome="verified",
        bundle=content.digest,
        name="mine",
        season="2026-autumn",
        commitment="c" * 64,
        steps=[Step(name=name, state="passed", notes=[said] if said else []) for name in STEPS],
        hidden=hidden,
        canaries=[Canary(track=claim.track.digest, chance=0.1, bound=0.29, accuracies=[0.11, 0.09])],
        environment={"hardware": said or "made up"},
        clarena="0.1.0",
        started=now(),
        ended=now(),
    )
    path.write_text(verdict.model_copy(update=changes).model_dump_json())
    return path


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with an empty store in it."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bundle(honest, place) -> Path:  # noqa: F811
    path = place / "mine.zip"
    path.write_bytes(honest)
    return path


def build() -> dict[str, str]:
    """The pages of the board in this folder, by their kind."""
    built = clarena("leaderboard", "build", "--submissions", "ledger")
    assert built.code == 0, built.err
    track = next(Path("site/track").glob("*.html")).read_text()
    row = next(Path("site/row").glob("mine-*.html")).read_text()
    return {"track": track, "row": row, "index": Path("site/index.html").read_text()}


def section(page: str, anchor: str) -> str:
    """The text below a heading up to the next of its rank, in one line and without markup."""
    (body,) = re.findall(rf'<h2 id="{anchor}">(.*?)(?:<h2|</main>)', page, re.DOTALL)
    return " ".join(re.sub("<[^>]+>", " ", body).split())


def test_a_claimed_row_is_called_so_and_has_no_hidden_table(bundle):
    add(Path("ledger"), bundle)
    pages = build()
    assert 'class="badge claimed"' in pages["track"]
    assert "badge verified" not in pages["track"] + pages["row"]
    assert "Hidden seeds of" not in pages["track"] + pages["index"]
    log = section(pages["row"], "verification")
    assert "nobody has run it again yet" in log
    assert f"by Ada Lovelace submission mine-{read_bundle(bundle).digest[:8]}" in log
    assert read_bundle(bundle).digest in log


def test_a_verified_row_has_its_log_and_its_place_on_hidden_seeds(bundle, place):
    add(Path("ledger"), bundle, made_up_verdict(bundle, place / "v.json"))
    pages = build()
    assert 'class="badge verified"' in pages["track"]
    hidden = section(pages["track"], "hidden")
    assert hidden.startswith("Hidden seeds of 2026-autumn")
    assert re.search(r"References ref joint 90\.0 ± 0\.0 – 6 – – .* ref finetune 20\.0 ± 0\.0 .* Ranked 1 mine", hidden)
    assert "22.3 ± 1.1" in hidden
    assert "Worse on hidden seeds: 22.3 ± 1.1 % on those of 2026-autumn" in hidden
    assert "Worse on hidden seeds" in section(pages["track"], "rows")
    assert "Hidden seeds of 2026-autumn : mine" in " ".join(re.sub("<[^>]+>", " ", pages["index"]).split())
    log = section(pages["row"], "verification")
    for said in (
        *(f"{step} passed" for step in STEPS), ": verified",
        "season 2026-autumn: accuracy 22.3 ± 1.1 on 6 hidden seeds",
        "c" * 64, "canary runs 11.0, 9.0 %, where chance is 10.0 % and the bound 29.0 %", "CLArena 0.1.0, made up",
        "hyper-parameters", read_bundle(bundle).digest, "licence MIT",
    ):  # fmt: skip
        assert said in log, said
    (data,) = (json.loads(path.read_text()) for path in Path("site/track").glob("*2026-autumn*.json"))
    assert [(row["label"], row["tier"]) for row in data["rows"]] == [("joint", None), ("finetune", None), ("mine", 1)]


def test_the_log_keeps_every_verdict_and_the_last_one_counts(bundle, place):
    add(Path("ledger"), bundle, made_up_verdict(bundle, place / "v.json"))
    failed = [Step(name=n, state="failed" if n == "claimed seeds" else "passed", notes=["seed 3"]) for n in STEPS]
    add(Path("ledger"), bundle, made_up_verdict(bundle, place / "w.json", outcome="differs", steps=failed))
    pages = build()
    assert 'class="badge claimed"' in pages["track"]
    assert 'id="hidden"' not in pages["track"]
    log = section(pages["row"], "verification")
    assert "the last verdict does not verify it" in log
    assert log.index(": verified") < log.index(": differs") < log.index("claimed seeds failed seed 3")


def means(root: Path) -> dict[str, list[tuple[str, float]]]:
    """By strategy, the seasons whose hidden runs count, and the mean accuracy there."""
    return {
        each.seasons[-1].strategy: [
            (told.season, pytest.approx(sum(r.metrics["final_average_accuracy"] for r in told.runs) / len(told.runs)))
            for told in each.seasons
        ]
        for each in submitted(root).values()
        if each.seasons
    }


def test_of_a_row_the_last_verdict_counts_and_of_a_reference_the_first_whole_one(bundle, place):
    def enter(mine, finetune, **changes):
        rows = {"mine": mine, "finetune": finetune}
        add(Path("ledger"), bundle, made_up_verdict(bundle, place / "v.json", rows, **changes))

    differs = {"outcome": "differs", "steps": [Step(name="hidden seeds", state="failed")]}
    enter((0.5,) * 3, (0.1,) * 2, season="s1", **differs)
    assert means(Path("ledger")) == {"finetune": [("s1", 0.1)]}
    enter((0.6,) * 3, (0.2,) * 3, season="s2")
    assert means(Path("ledger")) == {"finetune": [("s1", 0.1), ("s2", 0.2)], "mine": [("s2", 0.6)]}
    enter((0.7,) * 3, (0.3,) * 3, season="s1")
    enter((0.8,) * 3, (0.4,) * 3, season="s1")
    found = means(Path("ledger"))
    assert found["mine"] == [("s2", 0.6), ("s1", 0.8)]
    assert dict(found["finetune"]) == {"s1": 0.3, "s2": 0.2}
    enter((0.8,) * 3, (0.4,) * 3, season="s3", **differs)
    assert "mine" not in means(Path("ledger"))


def test_without_references_on_hidden_seeds_the_table_says_what_is_missing(bundle, place):
    rows = {name: ROWS[name] for name in ("mine", "joint")}
    add(Path("ledger"), bundle, made_up_verdict(bundle, place / "v.json", rows))
    hidden = section(build()["track"], "hidden")
    assert "the ledger has no complete finetune on the hidden seeds of 2026-autumn" in hidden
    assert "Ranked" not in hidden


def test_what_a_stranger_wrote_is_escaped_in_the_log(honest, place):  # noqa: F811
    changes = {"authors": [EVIL], "licence": EVIL, "paper": f"javascript:alert(1) {EVIL}", "chosen": EVIL}
    bundle = reseal(honest, place / "evil", lambda parts: None, **{k: v for k, v in changes.items() if k != "chosen"})
    add(Path("ledger"), bundle, made_up_verdict(bundle, place / "v.json", said=EVIL))
    pages = build()
    assert pages["row"].count("&lt;img src=x onerror=alert(1)&gt;") >= 3 + len(STEPS)
    for page in pages.values():
        assert "<img" not in page
        assert 'href="javascript' not in page


def test_compare_sees_what_build_sees(bundle, place):
    add(Path("ledger"), bundle, made_up_verdict(bundle, place / "v.json"))
    there = ("compare", "mine", "finetune", "--submissions", "ledger")
    (duel,) = clarena(*there, "--json").data
    assert duel["track"].endswith("hidden seeds of 2026-autumn")
    assert (duel["a"]["tier"], duel["claim"], duel["p_value"]) == (1, "better", 2 / 2**6)
    assert duel["difference"]["mean"] == pytest.approx(0.2233 - 0.2, abs=1e-4)
    source, known = open_with_submissions(Path("runs"), None, Path("ledger"))
    (table,) = load_board(source, submissions=known).tables
    assert [entry.badge for entry in table.entries] == ["verified"]


@pytest.mark.slow
def test_a_real_plugin_goes_all_the_way(place, honest):  # noqa: F811
    """Two plugins on one track; the first is verified in earnest, on six hidden seeds, and the second is claimed."""
    chosen = {"benchmark": "split-digits", "scenario": "class", "backbone": "mlp", "preset": "standard"}
    plan = make_plan(
        ["finetune", "joint"], seeds=range(5), device="cpu", store=place / "runs", retry=False, settings=SETTINGS,
        limit=None, host=built_in_host(), **chosen,
    )  # fmt: skip
    carry_out(plan, place / "runs", jobs=1, track=False)
    mine, other = place / "mine.zip", place / "other.zip"
    mine.write_bytes(honest)
    text = PLUGIN.replace('name = "mine"', 'name = "other"')
    other.write_bytes(submit(write_plugin(place / "plugin", text), place / "others", "other"))
    season = new_season("s1", 6, place / "season.toml", place / "secret")
    judged = clarena(
        "verify", mine, "--trust", "--season", "season.toml", "--secret", "secret", "--out", "verdict.json",
        "--store", "verified", "--jobs", 2,
    )  # fmt: skip
    assert judged.code == 0, judged.out + judged.err
    there = ("--submissions", "ledger")
    for arguments in ((mine, "--verdict", "verdict.json"), (other,)):
        entered = clarena("leaderboard", "add", *arguments, *there)
        assert entered.code == 0, entered.err
    pages = build()
    assert clarena("leaderboard", "audit", *there).code == 0

    rows = re.findall(r'data-badge="(\w*)".*?<a href="../row/([a-z]+)-', pages["track"], re.DOTALL)
    assert {name: badge for badge, name in rows} == {
        "finetune": "", "joint": "", "mine": "verified", "other": "claimed",
    }  # fmt: skip
    hidden = section(pages["track"], "hidden")
    assert re.search(r"Ranked 1 mine verified", hidden)
    assert "other" not in hidden
    log = section(pages["row"], "verification")
    assert all(f"{step} passed" in log for step in STEPS)
    assert "claimed runs 5 of 5 identical bit for bit" in log

    # The numbers are those of the runs that the verifier made on the season's seeds, and no page tells one of these.
    verdict = Verdict.model_validate_json(Path("verdict.json").read_text())
    (data,) = (json.loads(path.read_text()) for path in Path("site/track").glob("*s1*.json"))
    shown = {row["label"]: row["final_average_accuracy"] for row in data["rows"]}
    for told in verdict.hidden:
        scores = [run.metrics["final_average_accuracy"] for run in told.runs]
        assert shown[told.strategy] == pytest.approx(sum(scores) / 6)
    seeds = derived_seeds(season, Path("secret").read_text().strip(), verdict.hidden[0].track, 6)
    site = "".join(path.read_text() for path in Path("site").rglob("*") if path.is_file())
    assert not any(str(seed) in site for seed in seeds)

    both = clarena("compare", "mine", "finetune", *there, "--json").data
    assert [(duel["a"]["label"], len(duel["seeds"])) for duel in both] == [("mine", 5), ("mine", 6)]
    assert clarena("compare", "other", "mine", *there).code == 0
