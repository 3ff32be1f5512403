"""Records in a bundle must bear out its claims: forgeries whose every hash fits are found all the same."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from records_with_predictions import resealed
from submissions import SETTINGS, honest, reseal, submit, write_plugin  # noqa: F401 - honest is a fixture

from clarena.errors import UsageError
from clarena.submission import evidence as evidence_module
from clarena.submission.bundle import read_bundle
from clarena.submission.evidence import evidence


def problems(path: Path, folder: Path) -> list[str]:
    bundle = read_bundle(path)
    bundle.unpack(folder / "unpacked")
    return evidence(bundle, folder / "unpacked")[1]


def part(parts, end, seed=0):
    (name,) = [name for name in parts if f"-seed{seed}-" in name and name.endswith(end)]
    return name


def edit_record(parts, change, seed=0):
    name = part(parts, "record.json", seed)
    record = json.loads(parts[name])
    change(record)
    parts[name] = json.dumps(resealed(record)).encode()


def arrays(content):
    with np.load(io.BytesIO(content)) as loaded:
        return dict(loaded)


def put_predictions(parts, changed, seed=0, save=np.savez_compressed):
    """Replace the arrays of a run, and the hash of them in its record."""
    import hashlib

    buffer = io.BytesIO()
    save(buffer, **changed)
    parts[part(parts, "predictions.npz", seed)] = buffer.getvalue()
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    edit_record(parts, lambda record: record.update(predictions=digest), seed)


def test_an_honest_bundle_has_nothing_wrong_and_the_same_store_gives_the_same_bytes(honest, tmp_path):  # noqa: F811
    path = reseal(honest, tmp_path, lambda parts: None)
    assert problems(path, tmp_path) == []
    bundle = read_bundle(path)
    assert sorted(name for name in bundle.parts if name.startswith("source/")) == [
        "source/mine.py",
        "source/mine_helper.py",
    ]
    plugin = write_plugin(tmp_path / "elsewhere")
    first = submit(plugin, tmp_path / "runs")
    assert submit(plugin, tmp_path / "runs") == first
    assert str(tmp_path).encode() not in first


def test_a_metric_that_predictions_do_not_give_is_found(honest, tmp_path):  # noqa: F811
    def forge(parts):
        edit_record(parts, lambda record: record["metrics"].update(forgetting=0.01))

    (problem,) = problems(reseal(honest, tmp_path, forge), tmp_path)
    assert "seed 0: forgetting is 0.01 in its record, and " in problem


def test_a_metric_that_only_the_manifest_has_better_is_found(honest, tmp_path):  # noqa: F811
    path = reseal(honest, tmp_path, lambda parts: None)
    claims = [claim.model_dump() for claim in read_bundle(path).manifest.claims]
    claims[0]["runs"][2]["metrics"]["final_average_accuracy"] = 0.99
    (problem,) = problems(reseal(honest, tmp_path, lambda parts: None, claims=claims), tmp_path)
    assert problem.endswith("seed 2: the metrics in the manifest are not what its predictions give")


def test_a_matrix_and_a_confusion_that_predictions_do_not_give_are_found(honest, tmp_path):  # noqa: F811
    def forge(parts):
        edit_record(parts, lambda record: record["accuracy_matrix"][-1].__setitem__(0, 1.0))
        edit_record(parts, lambda record: record["confusion_matrix"][0].__setitem__(0, 99))

    found = "\n".join(problems(reseal(honest, tmp_path, forge), tmp_path))
    assert "its accuracy matrix is not" in found
    assert "its confusion matrix is not" in found


def test_predictions_other_than_those_of_the_record_are_found(honest, tmp_path):  # noqa: F811
    def swap(parts):
        parts[part(parts, "predictions.npz", 0)] = parts[part(parts, "predictions.npz", 1)]

    (problem,) = problems(reseal(honest, tmp_path, swap), tmp_path)
    assert "seed 0: The predictions" in problem
    assert "the SHA-256 differs" in problem
    assert str(tmp_path) not in problem


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a | {"predicted": a["predicted"].astype(float)}, "holds no whole numbers"),
        (lambda a: a | {"predicted": np.array([{}], dtype=object)}, "cannot be read: Object arrays cannot be loaded"),
        (lambda a: {"predicted": a["predicted"]}, "cannot be read: these are no answers"),
        (lambda a: a | {"extra": a["labels"]}, "cannot be read: these are no answers"),
        (lambda a: a | {"predicted": a["predicted"][:, :-1]}, "metrics cannot be recomputed"),
        (lambda a: a | {"predicted": a["predicted"] * 0 + 99}, "metrics cannot be recomputed"),
        (lambda a: a | {"labels": a["labels"] - 5}, "metrics cannot be recomputed"),
    ],
)
def test_arrays_that_are_no_predictions_are_found(honest, tmp_path, change, said):  # noqa: F811
    def forge(parts):
        put_predictions(parts, change(arrays(parts[part(parts, "predictions.npz")])))

    found = problems(reseal(honest, tmp_path, forge), tmp_path)
    assert any(said in problem for problem in found), found


def test_arrays_that_unfold_beyond_the_limit_are_refused_unread(honest, tmp_path, monkeypatch):  # noqa: F811
    """A kilobyte for a megabyte, in an array file within the bundle; and a header that lies about the size."""
    monkeypatch.setattr(evidence_module, "MOST_ARRAY_BYTES", 10**6)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("predicted", "labels", "experience"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(bytes(10**6 + 1))
    bomb = buffer.getvalue()
    assert len(bomb) < 10**4

    def forge(parts):
        parts[part(parts, "predictions.npz")] = bomb

    (problem,) = problems(reseal(honest, tmp_path, forge), tmp_path)
    assert problem.endswith("a zip bomb")

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|i1", "fortran_order": False, "shape": (10**13,)})
    lying = io.BytesIO()
    with zipfile.ZipFile(lying, "w") as archive:
        for name in ("predicted", "labels", "experience"):
            archive.writestr(f"{name}.npy", header.getvalue())

    def lie(parts):
        parts[part(parts, "predictions.npz")] = lying.getvalue()

    (problem,) = problems(reseal(honest, tmp_path / "2", lie), tmp_path / "2")
    assert "seed 0" in problem


def test_records_that_are_missing_foreign_or_broken_are_found(honest, tmp_path):  # noqa: F811
    def change(parts):
        del parts[part(parts, "record.json", 0)]
        parts[part(parts, "record.json", 1)] = b"{"
        parts[part(parts, "record.json", 2)] = b"[" * 100_000
        edit_record(parts, lambda record: record.update(schema_version=9), 3)
        edit_record(parts, lambda record: record["cell"].update(seed=7), 4)
        parts["records/other/er-seed0-000000000000/record.json"] = b"{}"

    found = problems(reseal(honest, tmp_path, change), tmp_path)
    assert len(found) == 6
    assert "seed 0: there is no record of it" in found[0]
    assert "seed 1: The record" in found[1]
    assert "cannot be read" in found[1]
    assert "seed 2" in found[2]
    assert "has schema 9; this CLArena reads up to 2" in found[3]
    assert "was altered: its cell does not match" in found[4]
    assert found[5] == "records/other/er-seed0-000000000000/record.json belongs to no claim"


def test_other_names_values_and_sources_than_in_the_records_are_found(honest, tmp_path):  # noqa: F811
    for change in ({"strategy": "yours"}, {"hyperparameters": {"strength": 0.5}}, {"identity": "1" * 64}):
        found = problems(
            reseal(honest, tmp_path / "".join(change), lambda parts: None, **change), tmp_path / "".join(change)
        )
        assert any("seed 0: its cell id is not that of the strategy" in problem for problem in found), found
    found = problems(reseal(honest, tmp_path, lambda parts: None, entry="yours.py"), tmp_path)
    assert found == ["the source holds no yours.py"]


def test_what_could_not_be_ranked_is_found(honest, tmp_path):  # noqa: F811
    def drop(seed):
        def change(parts):
            for end in ("record.json", "predictions.npz"):
                del parts[part(parts, end, seed)]

        return change

    claims = [claim.model_dump() for claim in read_bundle(reseal(honest, tmp_path, lambda parts: None)).manifest.claims]
    runs = claims[0]["runs"]
    few = [claims[0] | {"runs": runs[:4]}]
    assert "4 seeds are too few" in problems(reseal(honest, tmp_path, drop(4), claims=few), tmp_path)[0]
    gap = [claims[0] | {"runs": runs[:1] + runs[2:]}]
    gap_folder = tmp_path / "gap"
    assert "the seeds are not 0, 1, …" in problems(reseal(honest, gap_folder, drop(1), claims=gap), gap_folder)[0]
    twice = tmp_path / "twice"
    assert "a track is claimed twice" in problems(reseal(honest, twice, lambda parts: None, claims=claims * 2), twice)

    far = [claims[0] | {"runs": [runs[0] | {"seed": 2**40}]}]
    assert (
        "the seeds are not 0, 1, …"
        in problems(reseal(honest, gap_folder, lambda parts: None, claims=far), gap_folder)[0]
    )
    tuned = json.loads(json.dumps(claims[0], default=str))
    tuned["track"]["protocol"]["tested_on"] = "validation"
    (problem,) = problems(reseal(honest, twice, lambda parts: None, claims=[tuned]), twice)
    assert "a tuning run" in problem

    def diverge(parts):
        edit_record(parts, lambda record: record.update(status="diverged"))

    (problem,) = problems(reseal(honest, tmp_path / "d", diverge), tmp_path / "d")
    assert problem.endswith("seed 0: the run ended as diverged")


def test_a_limited_track_is_not_claimed(tmp_path):
    content = submit(write_plugin(tmp_path / "plugin"), tmp_path / "runs", limit=20)
    found = problems(reseal(content, tmp_path, lambda parts: None), tmp_path)
    assert found == ["split-digits/class/mlp/custom: only 20 samples of each experience were used"]


def test_a_run_that_failed_is_not_claimed(tmp_path):
    plugin = write_plugin(tmp_path / "plugin")
    plugin.write_text(plugin.read_text().replace("return half", "return 1 / 0 or half"))
    with pytest.raises(UsageError, match=r"could not be ranked: seed 0 failed, seed 1 failed.*--retry"):
        submit(plugin, tmp_path / "runs", settings=SETTINGS)
