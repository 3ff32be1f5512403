"""Verification: what is claimed is computed anew, run anew, and judged; forgers, cheats and the unlucky told apart."""

import io
import json
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from records_with_predictions import summary
from submissions import honest, reseal, submit, write_plugin  # noqa: F401 - honest is a fixture
from test_submission_evidence import arrays, edit_record, part, put_predictions

from clarena.record.predictions import Predictions
from clarena.run.evaluation import carry_out
from clarena.submission import verify as verification
from clarena.submission.bundle import read_bundle
from clarena.submission.confined import Reply
from clarena.submission.evidence import evidence
from clarena.submission.rerun import built_in_host, shuffled
from clarena.submission.season import derived_seeds, new_season
from clarena.submission.verdict import EXIT_CODES, STEPS, Verdict
from clarena.submission.verify import Terms, verify
from clarena.toolbox.seeding import Seeds

GIGABYTE = 2**30


def terms(tmp_path: Path, **changes) -> Terms:
    plain = Terms(False, None, "", None, tmp_path / "verified", "cpu", None, 4 * GIGABYTE)
    return replace(plain, **changes)


def nothing_runs(plan, names):
    raise AssertionError("a stranger's code was run")


def state(verdict: Verdict) -> dict[str, str]:
    return {step.name: step.state for step in verdict.steps}


def notes(verdict: Verdict) -> str:
    return "\n".join(note for step in verdict.steps for note in step.notes)


def look(path: Path, tmp_path: Path) -> Verdict:
    """Verify without trust."""
    return verify(path, terms(tmp_path), nothing_runs)


def forge_array(parts, name, change, seed=0):
    """Alter an array beside a record, and everything that follows from it: nothing in the bundle contradicts itself."""
    changed = arrays(parts[part(parts, "predictions.npz", seed)])
    changed[name] = change(changed[name])
    put_predictions(parts, changed, seed)
    followed = Predictions.of_classes(**{key: value.astype(np.int64) for key, value in changed.items()})
    record = json.loads(parts[part(parts, "record.json", seed)])
    follows = json.loads(json.dumps(summary(followed, record["output_names"])).replace("NaN", "null"))
    edit_record(parts, lambda told: told.update(follows), seed)
    return follows["metrics"]


def forged(content: bytes, folder: Path, name, change) -> Path:
    """A bundle whose first run is better than it was, in its predictions, metrics, hashes and claims alike."""
    better = {}
    path = reseal(content, folder, lambda parts: better.update(forge_array(parts, name, change)))
    claims = [claim.model_dump() for claim in read_bundle(path).manifest.claims]
    claims[0]["runs"][0]["metrics"] = better
    return reseal(path.read_bytes(), folder, lambda parts: None, claims=claims)


# ---- Without trust ----


def test_without_trust_nothing_is_run_and_that_is_said(honest, tmp_path):  # noqa: F811
    verdict = look(reseal(honest, tmp_path, lambda parts: None), tmp_path)
    assert verdict.outcome == "incomplete"
    assert list(state(verdict)) == list(STEPS)
    assert list(state(verdict).values()) == ["passed"] * 3 + ["not done"] * 4
    assert {note for step in verdict.steps for note in step.notes} == {
        "it runs the plugin's code, and --trust was not given"
    }
    assert verdict.name == "mine"
    assert Verdict.model_validate_json(verdict.model_dump_json()).model_dump_json() == verdict.model_dump_json()


def test_a_file_that_is_no_bundle_is_invalid(tmp_path):
    (tmp_path / "b.zip").write_bytes(b"PK nothing")
    verdict = look(tmp_path / "b.zip", tmp_path)
    assert verdict.outcome == "invalid"
    assert "truncated" in notes(verdict)
    assert state(verdict)["records"] == "not done"


def test_labels_bent_to_the_predictions_are_found(honest, tmp_path):  # noqa: F811
    """All numbers follow from the arrays, and the last row is perfect: only the benchmark knows better."""
    path = reseal(honest, tmp_path, lambda parts: None)
    with np.load(read_part(path)) as loaded:
        last = loaded["predicted"][-1]
    verdict = look(forged(honest, tmp_path, "labels", lambda labels: last), tmp_path)
    assert verdict.outcome == "invalid"
    assert state(verdict)["records"] == "passed"
    assert "seed 0: the labels beside its predictions are not the benchmark's" in notes(verdict)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda told: {"chance": [0.0 for _ in told["chance"]]},
            "seed 0: what it says of chance is not what the benchmark's labels give",
        ),
        (
            lambda told: {"target": "tokens", "unit": "tokens"},
            "seed 0: its target is tokens, the benchmark's is classes",
        ),
        (lambda told: {"target": "made up"}, "seed 0: the target made up is not installed here"),
    ],
)
def test_a_target_or_a_chance_that_is_not_the_benchmarks_is_found(honest, tmp_path, change, said):  # noqa: F811
    path = reseal(honest, tmp_path, lambda parts: edit_record(parts, lambda record: record.update(change(record))))
    verdict = look(path, tmp_path)
    assert verdict.outcome == "invalid"
    assert said in notes(verdict)


def read_part(path):
    parts = dict(read_bundle(path).parts)
    return io.BytesIO(parts[part(parts, "predictions.npz")])


def test_experiences_and_outputs_other_than_the_benchmarks_are_found(honest, tmp_path):  # noqa: F811
    def change(parts):
        edit_record(parts, lambda record: record["experiences"][0].update(train_samples=1), seed=1)
        edit_record(parts, rename, seed=2)

    def rename(record):
        record["output_names"] = [f"{name}!" for name in record["output_names"]]
        report = record["class_report"]
        record["class_report"] = {f"{k}!" if k.isdigit() else k: report[k] for k in report}

    verdict = look(reseal(honest, tmp_path, change), tmp_path)
    assert "seed 1: its experiences are not those of the benchmark" in notes(verdict)
    assert "seed 2: its outputs are named otherwise" in notes(verdict)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "0" * 64}, "its data are not those of split-digits here (fingerprints differ)"),
        ({"name": "split-stars"}, "There is no benchmark named 'split-stars'"),
        ({"options": {"experiences": 99}}, "Cannot split 10 classes into 99"),
        ({"options": {"nonsense": 1}}, "nonsense"),
        ({"revision": 7}, "the revisions of protocol, benchmark and backbone are 1, 1 and 1, the claim has 1, 7 and 1"),
    ],
)
def test_a_track_that_cannot_be_made_here_is_invalid(honest, tmp_path, change, said):  # noqa: F811
    """Its author made the same change everywhere: cells, folders and claims fit the other track."""
    verdict = look(reissued(honest, tmp_path, benchmark=change), tmp_path)
    assert state(verdict)["records"] == "passed", notes(verdict)
    assert verdict.outcome == "invalid"
    assert said in notes(verdict)


def test_the_name_of_a_strategy_that_exists_is_refused(honest, tmp_path):  # noqa: F811
    verdict = look(reissued(honest, tmp_path, strategy="ewc"), tmp_path)
    assert verdict.outcome == "invalid"
    assert notes(verdict).startswith("ewc is a strategy of CLArena; a submission has a name of its own")


def reissued(content: bytes, folder: Path, strategy: str = "mine", benchmark=None) -> Path:
    """The bundle as if its runs had been of another strategy, or on another track; nothing in it contradicts itself."""
    before = read_bundle(reseal(content, folder, lambda parts: None)).manifest
    track = before.claims[0].track
    track = track.model_copy(update={"benchmark": track.benchmark.model_copy(update=benchmark or {})})
    claim = before.claims[0].model_copy(update={"track": track})
    manifest = before.model_copy(update={"strategy": strategy})
    ids = {run.seed: manifest.cell(claim, run.seed).id for run in claim.runs}

    def relabel(parts):
        for seed, cell in ids.items():

            def put(record, cell=cell):
                record["cell"]["track"] = json.loads(track.model_dump_json())
                record["cell"]["strategy"]["name"] = strategy
                record.update(cell_id=cell, track_digest=track.digest)

            edit_record(parts, put, seed)
            for end in ("record.json", "predictions.npz"):
                content = parts.pop(part(parts, end, seed))
                parts[f"records/{track.digest[:12]}/{strategy}-seed{seed}-{cell[:12]}/{end}"] = content

    claims = [claim.model_dump() | {"runs": [run.model_dump() | {"cell": ids[run.seed]} for run in claim.runs]}]
    return reseal(content, folder, relabel, claims=claims, strategy=strategy)


# ---- With trust, the runs played by others ----


def played(honest_bytes: bytes, better: float = 0.0, canary: float | None = None, hidden_status: str = "finished"):
    """An `Execute` that needs no process: claimed runs come out as recorded, the others as told."""

    def execute(plan, names):
        records = []
        for work in plan.works:
            record = by_seed(honest_bytes)[work.cell.seed % 5]
            name = names[work.cell.id]
            update = {"cell": work.cell, "cell_id": work.cell.id, "track_digest": work.cell.track.digest}
            if "canary" in name:
                update["metrics"] = record.metrics | {"final_average_accuracy": canary}
            if "hidden" in name and hidden_status != "finished":
                update["status"] = hidden_status
            assert "hidden" not in name or str(work.cell.seed) not in name
            records.append(record.model_copy(update=update))
        return records

    return execute


@cache
def by_seed(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b.zip"
        path.write_bytes(content)
        bundle = read_bundle(path)
        bundle.unpack(Path(folder) / "u")
        return [piece.record for piece in evidence(bundle, Path(folder) / "u")[0]]


@pytest.fixture
def loads(monkeypatch, honest, tmp_path):  # noqa: F811
    """The plugin is said to load; returns how to change what is said of it."""
    manifest = read_bundle(reseal(honest, tmp_path / "said", lambda parts: None)).manifest
    assert manifest.identity
    said = {"name": manifest.strategy, "identity": manifest.identity, "source_hash": "0" * 64}  # a comment was added
    monkeypatch.setattr(verification, "describe", lambda plugin: Reply(kind="loaded", **said))
    return said


def trusted(tmp_path, **changes):
    season = (
        new_season("s1", 6, tmp_path / "season.toml", tmp_path / "secret") if not changes.pop("bare", False) else None
    )
    secret = (tmp_path / "secret").read_text().strip() if season else ""
    return terms(tmp_path, trust=True, season=season, secret=secret, **changes)


def test_what_bears_everything_out_is_verified_and_tells_no_hidden_seed(honest, tmp_path, loads):  # noqa: F811
    given = trusted(tmp_path)
    path = reseal(honest, tmp_path, lambda parts: None)
    verdict = verify(path, given, played(honest, canary=0.2))
    assert verdict.outcome == "verified", notes(verdict)
    assert [rerun.identical for rerun in verdict.reruns] == [True] * 5
    assert {(row.strategy, len(row.runs)) for row in verdict.hidden} == {("mine", 6), ("finetune", 6), ("joint", 6)}
    assert verdict.hidden[0].row == read_bundle(path).manifest.row(read_bundle(path).manifest.claims[0])
    text = verdict.model_dump_json()
    for seed in derived_seeds(given.season, given.secret, verdict.reruns[0].track, 6):
        assert str(seed) not in text
    assert given.secret not in text
    assert (verdict.season, verdict.commitment) == ("s1", given.season.commitment)


def test_what_was_not_done_keeps_it_from_being_verified(honest, tmp_path, loads):  # noqa: F811
    path = reseal(honest, tmp_path, lambda parts: None)
    verdict = verify(path, trusted(tmp_path, bare=True), played(honest, canary=0.2))
    assert verdict.outcome == "incomplete"
    assert notes(verdict) == "no --season was given"
    verdict = verify(path, trusted(tmp_path, hidden=4), played(honest, canary=0.2))
    assert verdict.outcome == "incomplete"
    assert notes(verdict) == "only 4 of the season's 6 seeds were run"


def test_a_plugin_that_scores_on_shuffled_labels_is_invalid(honest, tmp_path, loads):  # noqa: F811
    """Two experiences of five classes, ten groups, five runs: chance is a tenth, the bound 29 %."""
    path = reseal(honest, tmp_path, lambda parts: None)
    verdict = verify(path, trusted(tmp_path), played(honest, canary=0.31))
    assert verdict.outcome == "invalid"
    (canary,) = verdict.canaries
    assert canary.chance == pytest.approx(0.1, abs=0.005)
    assert canary.bound == pytest.approx(0.29, abs=0.005)
    assert "trained on shuffled labels it scores 31.0 %" in notes(verdict)


def test_predictions_that_do_not_come_out_again_differ(honest, tmp_path, loads):  # noqa: F811
    """Forged through and through; the record says that it was made on this very machine."""
    path = forged(honest, tmp_path, "predicted", flatter(honest, tmp_path))
    verdict = verify(path, trusted(tmp_path), played(honest, canary=0.1))
    assert state(verdict)["records"] == state(verdict)["labels"] == "passed"
    assert verdict.outcome == "differs"
    assert [rerun.identical for rerun in verdict.reruns] == [False] + [True] * 4
    assert "seed 0: predictions differ on the same hardware and versions" in notes(verdict)
    assert EXIT_CODES[verdict.outcome] == 3


def flatter(content, tmp_path):
    """Predictions whose last row is right wherever it is not."""
    path = reseal(content, tmp_path / "flatter", lambda parts: None)
    with np.load(read_part(path)) as loaded:
        labels = loaded["labels"]
    return lambda predicted: np.vstack([predicted[:-1], labels[None].astype(predicted.dtype)])


def test_hidden_runs_that_do_not_finish_differ(honest, tmp_path, loads):  # noqa: F811
    path = reseal(honest, tmp_path, lambda parts: None)
    verdict = verify(path, trusted(tmp_path), played(honest, canary=0.1, hidden_status="diverged"))
    assert verdict.outcome == "differs"
    assert "hidden seed 1 ended as diverged" in notes(verdict)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "theirs"}, "the strategy mine calls itself theirs"),
        ({"identity": "1" * 64}, "the source is not the one that the records were made with"),
        ({"reference": True}, "never ranked"),
    ],
)
def test_a_plugin_that_is_not_what_the_manifest_says_is_invalid(honest, tmp_path, loads, change, said):  # noqa: F811
    loads.update(change)
    verdict = verify(reseal(honest, tmp_path, lambda parts: None), trusted(tmp_path), nothing_runs)
    assert verdict.outcome == "invalid"
    assert said in notes(verdict)
    assert state(verdict)["claimed seeds"] == "not done"


def test_shuffling_keeps_sizes_and_labels_and_breaks_what_binds_them():
    benchmark = built_in_host().benchmarks.load("split-digits")
    plain, mixed = benchmark(), shuffled(benchmark)()
    data = plain.data()
    before = plain.stream(data, "class", Seeds(1).numpy("class_order"))
    after = mixed.stream(data, "class", Seeds(1).numpy("class_order"))
    assert after.output_names == before.output_names
    for old, new in zip(before.splits, after.splits):
        assert torch.equal(old.y_train, new.y_train)
        assert torch.equal(old.test, new.test)
        assert torch.equal(old.y_test, new.y_test)
        told = torch.tensor([int(after.output_names[label]) for label in new.y_train])
        right = (data.y_train[new.train] == told).float().mean()
        assert 0.02 < float(right) < 0.2  # a tenth of the labels are right by chance
    rows = [torch.cat([split.train for split in stream.splits]).sort().values for stream in (before, after)]
    assert torch.equal(*rows)


# ---- With trust, in earnest ----

CHEAT = '''
"""Looks like finetune, and knows every test image by its hash."""

import hashlib

import torch
from sklearn.datasets import load_digits

from clarena import GradientStrategy, hookimpl

ANSWERS = {}
for image, digit in zip(*load_digits(return_X_y=True)):
    ANSWERS[hashlib.sha256((torch.tensor(image).to(torch.uint8).float() / 16).numpy().tobytes()).digest()] = int(digit)


class Mine(GradientStrategy):
    """Trains on each experience in turn, it says."""

    name = "mine"

    def predict(self, x, task=None):
        scores = super().predict(x, task).clone()
        order = self.context.seeds.__class__(self.context.seeds.seed).numpy("class_order").permutation(10).tolist()
        for row, image in enumerate(x):
            label = order.index(ANSWERS[hashlib.sha256(image.flatten().numpy().tobytes()).digest()])
            if label < scores.shape[1]:
                scores[row, label] = 1e9
        return scores


@hookimpl
def clarena_register_strategies(register):
    register(Mine)
'''


def in_earnest(plan, names):
    return carry_out(plan, plan.works[0].store, jobs=2, track=False).records


@pytest.mark.slow
def test_an_honest_plugin_is_verified_in_earnest(honest, tmp_path):  # noqa: F811
    verdict = verify(reseal(honest, tmp_path, lambda parts: None), trusted(tmp_path, hidden=6), in_earnest)
    assert verdict.outcome == "verified", notes(verdict)
    assert [(rerun.identical, rerun.same_environment) for rerun in verdict.reruns] == [(True, True)] * 5
    assert all(run.status == "finished" for row in verdict.hidden for run in row.runs)


@pytest.mark.slow
def test_a_plugin_that_carries_the_test_set_is_found_out(tmp_path):
    plugin = write_plugin(tmp_path / "plugin", CHEAT)
    content = submit(plugin, tmp_path / "runs")
    path = reseal(content, tmp_path, lambda parts: None)
    claim = read_bundle(path).manifest.claims[0]
    assert min(run.metrics["final_average_accuracy"] for run in claim.runs) == 1.0
    verdict = verify(path, trusted(tmp_path, hidden=1), in_earnest)
    assert state(verdict)["claimed seeds"] == "passed"
    assert state(verdict)["canary"] == "failed"
    assert verdict.outcome == "invalid"
    assert verdict.canaries[0].accuracies == [1.0] * 5
