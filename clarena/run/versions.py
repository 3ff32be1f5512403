"""Records of earlier versions of a strategy: joined to today's row by its bytes, or by running it again.

Old records are never rewritten: what is proven is written into the store's table of aliases.
"""

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clarena.errors import ClarenaError, UsageError
from clarena.plugins.composite import Composite
from clarena.plugins.host import Host
from clarena.plugins.identity import code_identity, source_hash
from clarena.record.aliases import Alias, Attested, AttestedRun, SameBytes, add_aliases, with_code
from clarena.record.predictions import Predictions
from clarena.record.record import Record
from clarena.record.store import Store
from clarena.run.evaluation import carry_out
from clarena.run.executors import Listener
from clarena.run.planning import Plan, make_plan, owner_of_learning_rate

SEEDS = 2
"""Runs of each row that are made again before its old records count as today's."""


@dataclass(frozen=True)
class Upgrade:
    """What became of a store's records; counts by strategy.

    Attributes:
        today: of today's identity, or proven to be before.
        joined: proven now, by the bytes of their files.
        earlier: of an earlier version: no source has their hash any more.
        unknown: of strategies that no plugin here offers, with the reason.
    """

    today: dict[str, int] = field(default_factory=dict)
    joined: dict[str, int] = field(default_factory=dict)
    earlier: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


def upgrade(store: Store, host: Host) -> Upgrade:
    """Join the records of before there were identities to today's code where its bytes are theirs; nothing is run.

    Raises:
        StoreError: the table cannot be read or written.
    """
    report, aliases, table = Upgrade(), list[Alias](), store.aliases()
    by_strategy: dict[str, list[Record]] = defaultdict(list)
    for record in store.records()[0]:
        by_strategy[record.cell.strategy.name].append(record)
    for name, records in sorted(by_strategy.items()):
        try:
            cls = host.strategy(name)
            today, its_bytes = code_identity(cls), source_hash(cls)
        except ClarenaError as error:
            report.unknown[name] = str(error).partition("\n")[0]
            continue
        for record in records:
            code = table.newest(record.cell).strategy.code
            if code == today:
                counts = report.today
            elif code == its_bytes and not record.cell.strategy.identity:
                counts = report.joined
                aliases.append(Alias(strategy=name, old=code, new=today, evidence=SameBytes()))
            else:
                counts = report.earlier
            counts[name] = counts.get(name, 0) + 1
    if aliases:
        add_aliases(store.path, dict.fromkeys(aliases))
    return report


@dataclass(frozen=True)
class Attestation:
    """How the runs of a row came out that were made again.

    Attributes:
        strategy: its name.
        rows: old rows whose predictions were all made again, bit for bit.
        runs: how many.
        differences: where they differ, or why a row could not be run again; one sentence each.
    """

    strategy: str
    rows: tuple[str, ...]
    runs: int
    differences: tuple[str, ...]


def attest(
    store: Store,
    host: Host,
    wanted: str,
    *,
    device: str = "cpu",
    jobs: int | None = None,
    listener: Listener | None = None,
) -> Attestation:
    """Run two seeds again of each old row of a strategy; where all predictions are the same bits, the table says so.

    Args:
        store: of the old records; the new runs are made in a store of their own, which is thrown away.
        host: with today's code.
        wanted: a strategy's name, or the beginning of a row's digest, which means that strategy with these
            hyper-parameters on all tracks.
        device, jobs, listener: as for `clarena.evaluate`.

    Raises:
        UsageError: there is no such row, or none of an earlier version.
    """
    name, groups = _old_rows(store, host, wanted)
    cls = host.strategy(name)
    today = code_identity(cls)
    proven: dict[str, list[AttestedRun]] = {}
    differences: list[str] = []
    environment: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="clarena-attest-") as scratch:
        for row, records in groups.items():
            track = records[0].cell.track
            where = f"{track.label} ({row[:8]})"
            if len(records) < SEEDS:
                differences.append(f"{where}: {len(records)} finished run; {SEEDS} are needed")
                continue
            try:
                plan = _again(records[:SEEDS], host, device, scratch)
                made = carry_out(plan, scratch, jobs=jobs, track=False, listener=listener)
            except ClarenaError as error:
                differences.append(f"{where}: cannot be run again: {str(error).partition(chr(10))[0]}")
                continue
            found = {record.cell.seed: record for record in made}
            runs = []
            for record in records[:SEEDS]:
                new = found.get(record.cell.seed)
                if new is None or new.status != "finished":
                    reason = made.errors.get(record.cell.label, "") if new is None else f"{new.status}: {new.reason}"
                    differences.append(f"{where} seed {record.cell.seed}: did not finish: {reason}")
                    continue
                before, after = store.predictions(record), Store(scratch).predictions(new)
                differences += [f"{where} seed {record.cell.seed}: {text}" for text in _differences(before, after)]
                environment = new.environment
                runs.append(
                    AttestedRun(
                        track=record.track_digest,
                        seed=record.cell.seed,
                        old_predictions=arrays_digest(before),
                        new_predictions=arrays_digest(after),
                    )
                )
            proven[row] = runs
    if not differences:
        old_rows: dict[str, list[str]] = defaultdict(list)
        for row, records in groups.items():
            old_rows[records[0].cell.strategy.code].append(row)
        add_aliases(
            store.path,
            [
                Alias(
                    strategy=name,
                    old=old,
                    new=today,
                    evidence=Attested(
                        rows=rows, runs=[run for row in rows for run in proven[row]], environment=environment
                    ),
                )
                for old, rows in old_rows.items()
            ],
        )
    return Attestation(name, tuple(groups), sum(map(len, proven.values())), tuple(differences))


def _old_rows(store: Store, host: Host, wanted: str) -> tuple[str, dict[str, list[Record]]]:
    """The strategy, and the finished records of its rows that are not proven to be today's, by row and then by seed."""
    held, table = store.records()[0], store.aliases()
    meant = [record for record in held if record.cell.strategy.name == wanted]
    if not meant:
        started = [r for r in held if r.cell.row.startswith(wanted) or table.newest(r.cell).row.startswith(wanted)]
        kinds = {_setting(record) for record in started}
        if len(kinds) > 1:
            raise UsageError(f"{wanted!r} begins the digests of several rows. Give more of it: clarena results --json.")
        meant = [record for record in held if _setting(record) in kinds]
    if not meant:
        names = ", ".join(sorted({record.cell.strategy.name for record in held})) or "none"
        raise UsageError(
            f"{store.path} has no row {wanted!r}. Name a strategy ({names}), or begin a row's digest as "
            "clarena results --json shows it."
        )
    name = meant[0].cell.strategy.name
    today = code_identity(host.strategy(name))
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(meant, key=lambda record: record.cell.seed):
        again = record.status == "finished" and record.cell.track.continues is None
        if again and table.newest(record.cell).strategy.code != today:
            groups[record.cell.row].append(record)
    if not groups:
        raise UsageError(f"All finished runs of {wanted} are of today's code, or are proven to be: nothing to attest.")
    return name, groups


def _setting(record: Record) -> tuple[str, str, str]:
    """What rows of one strategy on several tracks share."""
    info = record.cell.strategy
    return info.name, info.code, f"{sorted(info.hyperparameters.items())} {info.learning_rate}"


def _again(records: Sequence[Record], host: Host, device: str, scratch: str) -> Plan:
    """Today's code on the same track; raises `UsageError` where that track cannot be made any more."""
    track, info = records[0].cell.track, records[0].cell.strategy
    settings: dict[str, dict[str, Any]] = {
        "benchmark": track.benchmark.options,
        "stream": track.stream.model_dump(),
        "backbone": track.backbone.options,
        "protocol": track.protocol.model_dump(exclude={"revision", "tested_on"}),
    }
    cls = host.strategy(info.name)
    own = dict(info.hyperparameters)
    if issubclass(cls, Composite):  # set part by part
        settings |= {f"{info.name}.{part}": values for part, values in own.pop("parts").items()}
    if owner_of_learning_rate(cls) is None:
        own["learning_rate"] = info.learning_rate
    settings[info.name] = own
    plan = make_plan(
        [info.name],
        benchmark=track.benchmark.name,
        scenario=track.scenario,
        backbone=track.backbone.name,
        preset="standard",
        seeds=[record.cell.seed for record in records],
        settings=settings,
        limit=None,
        device=device,
        store=scratch,
        retry=False,
        host=host,
        tuning=track.protocol.tested_on == "validation",
    )
    if plan.track.digest != track.digest:
        raise UsageError("the same names and options make another track here: data, revisions or code are others")
    if with_code(plan.works[0].cell, info.code).row != records[0].cell.row:
        raise UsageError("its hyper-parameters are not those of today's code")
    return plan


def arrays_digest(predictions: Predictions) -> str:
    """SHA-256 over the arrays, whatever file they are in."""
    digest = hashlib.sha256()
    for name, array in predictions.arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _differences(old: Predictions, new: Predictions) -> list[str]:
    """Where predictions differ, in words; none where they are the same bits."""
    if arrays_digest(old) == arrays_digest(new):
        return []
    kept = [(old.answers, new.answers), (old.truth, new.truth)]
    if any({n: a.shape for n, a in one.items()} != {n: a.shape for n, a in other.items()} for one, other in kept):
        return ["the test samples are others"]
    if not all(np.array_equal(old.truth[name], new.truth[name], equal_nan=True) for name in old.truth):
        return ["the test samples are others"]
    name = next(iter(old.answers))  # what was answered; the others say how sure it was
    told: list[str] = []
    for position, (before, after) in enumerate(zip(old.answers[name], new.answers[name])):
        differ = (before != after) & ~((before != before) & (after != after))
        if changed := int(differ.reshape(len(before), -1).any(axis=1).sum()):
            when = f"after experience {position}" if position else "before any learning"
            told.append(f"{changed} of {len(before)} predictions differ {when}")
    return told or ["the predictions agree, and the probabilities do not"]
