"""What a bundle's records are worth without running anything: they exist, they fit the claims, and they add up."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from clarena.errors import ClarenaError
from clarena.record.catalogue import named
from clarena.record.predictions import Predictions, unpacked
from clarena.record.reader import read_record
from clarena.record.recomputation import LATER_METRICS, recompute, same
from clarena.record.record import Cell, Record
from clarena.record.scoring import scoring
from clarena.record.store import PREDICTIONS, RECORD, Store
from clarena.submission.bundle import MANIFEST, RECORDS, SOURCE, Bundle
from clarena.submission.manifest import BundleError, Claim, ClaimedRun

MOST_ARRAY_BYTES = 2**28
UNREADABLE = (
    OSError, EOFError, KeyError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
"""What zip, zlib and numpy raise for what they cannot read."""
LEAST_SEEDS = 5
"""Below five seeds no table says anything of a row; a full table has ten."""


@dataclass(frozen=True)
class Evidence:
    """One claimed run with its record and predictions."""

    claim: Claim
    run: ClaimedRun
    record: Record
    predictions: Predictions


def evidence(bundle: Bundle, folder: Path) -> tuple[list[Evidence], list[str]]:
    """The claimed runs of a bundle that was unpacked into a folder, and what is wrong with them, a sentence each.

    Metrics are recomputed from predictions; whether these come with the benchmark's own labels is not asked here.
    """
    manifest, store = bundle.manifest, Store(folder / RECORDS)
    problems = [f"{claim.track.label}: {reason}" for claim in manifest.claims if (reason := unrankable(claim))]
    digests = [claim.track.digest for claim in manifest.claims]
    if len(set(digests)) < len(digests):
        problems.append("a track is claimed twice")
    if problems:
        return [], problems
    package = f"{manifest.entry.partition('.')[0]}/__init__.py"
    if not {f"{SOURCE}/{manifest.entry}", f"{SOURCE}/{package}"} & bundle.parts.keys():
        problems.append(f"the source holds no {manifest.entry}")
    found, expected = [], {MANIFEST}
    for claim in manifest.claims:
        for run in claim.runs:
            cell = manifest.cell(claim, run.seed)
            home = store.folder(cell)
            expected |= {(home / name).relative_to(folder).as_posix() for name in (RECORD, PREDICTIONS)}
            try:
                found.append(_piece(store, claim, run, cell))
            except (ClarenaError, RecursionError, MemoryError) as error:
                problems.append(f"{claim.track.label} seed {run.seed}: {str(error).replace(f'{folder}/', '')}")
                continue
            problems += [f"{claim.track.label} seed {run.seed}: {problem}" for problem in _wrong(found[-1])]
    strangers = sorted(name for name in bundle.parts if name not in expected and not name.startswith(f"{SOURCE}/"))
    problems += [f"{name} belongs to no claim" for name in strangers]
    return found, problems


def unrankable(claim: Claim) -> str | None:
    """Why a claimed row could not be ranked, or None."""
    if claim.track.unranked:
        return claim.track.unranked
    if sorted(claim.seeds) != list(range(len(claim.seeds))):
        return f"the seeds are not 0, 1, … without a gap, but {', '.join(map(str, claim.seeds[:20]))}"
    if len(claim.seeds) < LEAST_SEEDS:
        return (
            f"{len(claim.seeds)} seeds are too few: claim {LEAST_SEEDS} or more, as many as its table has (mostly 10)"
        )
    return None


def _piece(store: Store, claim: Claim, run: ClaimedRun, cell: Cell) -> Evidence:
    """The record and predictions of a claimed run; raises `ClarenaError` where they cannot be used."""
    if run.cell != cell.id:
        raise BundleError("its cell id is not that of the strategy, hyper-parameters and source in the manifest")
    _check_arrays(store.folder(cell) / PREDICTIONS)
    path = store.folder(cell) / RECORD
    record = read_record(path) if path.exists() else None
    if record is None or record.cell_id != cell.id:
        raise BundleError("there is no record of it")
    return Evidence(claim, run, record, store.predictions(record))


def _check_arrays(path: Path) -> None:
    """Refuse an array file that would unfold to more than a test set's predictions, or holds anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if len(infos) != len({info.filename for info in infos}):
                raise BundleError("its predictions hold an array twice")
            if max((info.file_size for info in infos), default=0) > MOST_ARRAY_BYTES:
                raise BundleError(f"its predictions unfold to more than {MOST_ARRAY_BYTES} bytes: a zip bomb")
        unpacked(path.read_bytes())
    except UNREADABLE as error:
        raise BundleError(f"its predictions cannot be read: {error}") from error


def _wrong(piece: Evidence) -> list[str]:
    """What does not add up within one record."""
    record, problems = piece.record, []
    if record.status != "finished":
        problems.append(f"the run ended as {record.status}")
    if record.cell.strategy.reference:
        problems.append("a reference is a bound, and never ranked")
    if scoring(record.target) is None:
        return [*problems, f"the target {record.target} is not installed here, so that its scores cannot be recomputed"]
    later = [named(name, record.score) for name in LATER_METRICS]
    found, flaws = recompute(record, piece.predictions)
    problems += flaws
    problems += [f"its metrics lack {name}" for name in found if name not in record.metrics and name not in later]
    claimed = piece.run.metrics
    # A bundle may be older than some metrics, and then claims none of them.
    if not same(claimed, {name: value for name, value in found.items() if name in {*claimed} or name not in later}):
        problems.append("the metrics in the manifest are not what its predictions give")
    return problems
