"""`clarena evaluate` from the outside: what is wrong is said in words, and what was done is not done again."""

import textwrap

import pytest
from cli_command import clarena, smoke

from clarena.cli.options import MOST_SEEDS, parse_seeds, parse_settings
from clarena.errors import ClarenaWarning, UsageError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("finetne",), ["no strategy named 'finetne'", "Did you mean 'finetune'?", "clarena list names all "]),
        (("ewc", "--benchmark", "split-digit"), ["no benchmark named", "Did you mean 'split-digits'?"]),
        (("ewc", "--backbone", "mlpp"), ["no backbone named", "Did you mean 'mlp'?"]),
        (("ewc", "--protocol", "smoky"), ["no protocol named", "Did you mean 'smoke'?"]),
        (("ewc", "--scenario", "clas"), ["no scenario named", "Did you mean 'class'?"]),
        (("ewc", "--benchmark", "rotated-digits", "--scenario", "class"), ["it has: domain, task"]),
        (("ewc", "--device", "gpu"), ["There is no device 'gpu'"]),
        (("ewc", "ewc"), ["A strategy is named twice"]),
        (("ewc", "--set", "ewc.strength"), ["cannot be read", "--set ewc.strength=100"]),
        (("ewc", "--set", "strength=1"), ["cannot be read"]),
        (("ewc", "--set", "ewc.strength=1", "--set", "ewc.strength=2"), ["gives ewc.strength twice"]),
        (("ewc", "--set", "ewc.strenght=1"), ["hyper-parameter of ewc", "Did you mean 'strength'?"]),
        (("ewc", "--set", "ewc.strength=much"), ["ewc.strength = 'much'", "float, ≥ 0, default 1000.0", "λ"]),
        (("ewc", "--set", "ewc.strength=-1"), ["greater than or equal to 0"]),
        (("ewc", "--set", "ewc.fisher=guess"), ["ewc.fisher = 'guess'", "exact | sample"]),
        (("ewc", "--set", "ewx.strength=1"), ["Did you mean 'ewc'?"]),
        (("ewc", "--set", "protocol.epoch=1"), ["protocol field", "Did you mean 'epochs'?"]),
        (("ewc", "--set", "protocol.epochs=0"), ["protocol.epochs", "Passes over an experience's data"]),
        (("ewc", "--seeds", "many"), ["--seeds 'many' cannot be read", "10-14 for a range"]),
        (("ewc", "--seeds", "1,1"), ["Seeds must not repeat: 1."]),
        (("ewc", "--seeds=-1"), ["Seeds must not be negative: -1."]),
        (("ewc", "--seeds", "0"), ["at least one seed"]),
        (("ewc", "--seeds", "7-3"), ["at least one seed"]),
        (("ewc", "--seeds", "12345"), ["more than 1000 seeds", "--seeds 12345-12345"]),
        (("ewc", "--limit", "0"), ["--limit"]),
        ((), ["STRATEGY"]),
    ],
)
def test_a_wrong_request_is_said_in_words(arguments, said, tmp_path):
    outcome = clarena("evaluate", *arguments, "--no-tracking", "--store", tmp_path / "runs")
    assert outcome.code == 2
    assert [words for words in said if words not in outcome.err] == []
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs").exists()


def test_a_strategy_says_in_which_scenarios_it_runs(tmp_path):
    plugin = tmp_path / "picky.py"
    plugin.write_text(
        textwrap.dedent("""
        from clarena import GradientStrategy, hookimpl

        class Picky(GradientStrategy):
            '''Needs the task label.'''
            name = "picky"
            scenarios = frozenset({"task"})

        @hookimpl
        def clarena_register_strategies(register):
            register(Picky)
        """)
    )
    outcome = smoke(tmp_path / "runs", "picky", "--plugin", plugin)
    assert outcome.code == 2
    assert "picky does not run in the class scenario; it runs in: task." in outcome.err


def test_more_experiences_than_classes_ends_with_a_message(tmp_path):
    outcome = smoke(tmp_path / "runs", "finetune", "--seeds", 1, "--set", "benchmark.experiences=11")
    assert outcome.code == 2
    assert "Cannot split 10 classes into 11 experiences" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_store_that_cannot_be_written_is_said_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    outcome = smoke(tmp_path / "file" / "runs", "finetune", "--seeds", 1)
    assert outcome.code == 1
    assert "Cannot write to the store" in outcome.err
    assert "--store" in outcome.err


def test_dry_run_says_what_would_be_run_and_writes_nothing(tmp_path):
    store = tmp_path / "runs"
    text = smoke(store, "finetune", "ewc", "--seeds", 2, "--dry-run")
    assert text.code == 0
    assert "4 of 4 cells to run." in text.out
    assert not store.exists()
    cells = smoke(store, "finetune", "ewc", "--seeds", "3,5", "--dry-run", "--json").data["cells"]
    assert [(cell["strategy"], cell["seed"], cell["done"]) for cell in cells] == [
        ("finetune", 3, False),
        ("finetune", 5, False),
        ("ewc", 3, False),
        ("ewc", 5, False),
    ]


def test_what_the_store_holds_is_not_run_again(tmp_path):
    first = smoke(tmp_path, "finetune", "joint", "--seeds", 2, "--json")
    assert first.code == 0
    records = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}
    assert len(records) == 4
    again = smoke(tmp_path, "finetune", "joint", "--seeds", 2)
    assert "0 runs, 4 there already" in again.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("record.json")} == records
    rows = [line.split()[0] for line in again.out.splitlines() if "kB" in line]
    assert rows == ["joint", "finetune"]
    assert "References come first" in again.out
    assert "Not ranked: only 16 samples" in again.out


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [0, 1, 2]), ("0,3,7", [0, 3, 7]), ("10-12", [10, 11, 12]), ("1, 4-5", [1, 4, 5]), ("-2", [-2])],
)
def test_seeds_are_read(text, seeds):
    assert parse_seeds(text) == seeds


def test_a_slip_of_the_finger_does_not_fill_the_memory():
    with pytest.raises(UsageError, match=f"more than {MOST_SEEDS}"):
        parse_seeds("0-99999999999999")


def test_settings_are_read_by_owner_and_keep_what_follows_the_first_equals_sign():
    items = ["ewc.strength=10", "native/ewc.mode = online", "x.text=a=b"]
    assert parse_settings(items) == {
        "ewc": {"strength": "10"},
        "native/ewc": {"mode": "online"},
        "x": {"text": "a=b"},
    }


def test_what_ones_own_data_are_is_said_before_they_are_learned_from(tmp_path):
    rows = "".join(f"{i},{i * 2},red,{'abc'[i % 3]}\n" for i in range(30))
    (tmp_path / "mine.csv").write_text("x,y,colour,label\n" + rows)
    chosen = ("finetune", "--benchmark", f"split:{tmp_path / 'mine.csv'}", "--seeds", 1)
    with pytest.warns(ClarenaWarning):
        few = smoke(tmp_path / "runs", *chosen)
    assert few.code == 2
    assert "Cannot split 3 classes into 5 experiences. Choose between 1 and 3" in few.err
    assert "--set benchmark.experiences=3." in few.err
    with pytest.warns(ClarenaWarning, match="the column 'colour' is ignored"):
        done = smoke(tmp_path / "runs", *chosen, "--set", "benchmark.experiences=3")
    assert done.code == 0, done.err
    assert "split:mine: 24 training and 6 test samples of 3 classes (8 training samples each)" in done.err
    (report,) = (tmp_path / "runs").glob("*/data.json")
    assert "'colour'" in report.read_text()
