"""Run one cell: learn the stream experience by experience, test after each, keep a checkpoint, write a record.

The runner speaks to a strategy only through `setup`, `learn`, `predict`, `state_dict` and `load_state_dict`.
"""

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch

from clarena.contract.backbone import Model
from clarena.contract.experience import Experience
from clarena.contract.meter import Meter
from clarena.contract.strategy import Strategy
from clarena.errors import ClarenaError, ClarenaWarning, DivergedError, StoreError
from clarena.record.predictions import Predictions
from clarena.record.recomputation import facts
from clarena.record.record import Cell, Cost, CurvePoint, Record, Status, now
from clarena.record.store import CHECKPOINT, MODEL, Store
from clarena.record.writing import write_atomic
from clarena.run.clock import Clock
from clarena.run.deadline import NO_LIMITS, Deadline, TimedOut
from clarena.run.environment import configured, environment, peak_memory, reset_peak_memory
from clarena.run.kept import content_of
from clarena.run.realisation import CellClasses, Realisation
from clarena.run.testset import Answers, unasked
from clarena.run.warmup import warm_up
from clarena.toolbox.modules import state_bytes
from clarena.toolbox.saved import packed, unpacked
from clarena.toolbox.seeding import forked

METERING = 3
"""Revision of how costs are measured; raised when the same run is measured otherwise, noted in its record.

2: every process warms up before its first clock, so that a first run no longer pays for torch's start.
3: exemplars are kept as rows, and weigh what these do.
"""

Progress = Callable[[float], None]
"""Told the share of the run that is done, in [0, 1]."""


@dataclass
class State:
    """What a run has produced so far; together with the strategy's state it is the checkpoint.

    Attributes:
        rows: what was predicted, the first from before any learning.
        costs: one entry per call of `learn`.
        curve: accuracy within experiences.
        probes: what the backbone's probe has measured, by name, for each of the rows.
        resumed: after which experiences the run was resumed.
    """

    rows: list[Answers] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    probes: dict[str, list[float]] = field(default_factory=dict)
    resumed: list[int] = field(default_factory=list)


class Run:
    """One cell being run on a device."""

    def __init__(
        self,
        cell: Cell,
        parts: CellClasses,
        device: torch.device,
        store: Store,
        *,
        command: str = "",
        progress: Progress = lambda share: None,
        deadline: Deadline | None = None,
        keep: bool = False,
    ) -> None:
        """`keep`: whether the model is kept beside the record of a run that finishes."""
        self.cell, self.parts, self.device, self.store, self.keep = cell, parts, device, store, keep
        self.command, self.progress, self.deadline = command, progress, deadline or Deadline(NO_LIMITS)
        self.checkpoint = store.folder(cell) / CHECKPOINT
        self.realised: Realisation | None = None
        self.state = State()

    def execute(self) -> Record:
        """Run to the end, from the last checkpoint where there is one, and write the record whatever happens.

        The caller's settings of torch and global random numbers are as they were when this returns.

        Raises:
            StoreError: when the store cannot be written.
            KeyboardInterrupt: after a record of the interruption was written.
        """
        self.started, self._began = now(), time.monotonic()
        with forked(self.cell.seed), ExitStack() as settings:
            try:
                return self._attempt(settings)
            except TimedOut as error:
                return self._finish("timed_out", error)

    def give_up(self, reason: str, seconds: float) -> Record:
        """Write the record of a run whose process had to be ended when its time was up, with what its checkpoint holds.

        Args:
            reason: what to say.
            seconds: since it began.
        """
        self.started, self._began = now() - timedelta(seconds=seconds), time.monotonic() - seconds
        with forked(self.cell.seed), configured(self.cell.track.protocol, self.device):
            self.realised = self._realise()
            with suppress(Exception):  # a damaged checkpoint: then nothing is known
                self.state = self._read()[0]
            return self._finish("timed_out", TimedOut(reason))

    def _realise(self) -> Realisation:
        return Realisation(self.cell.track, self.parts, self.cell.seed, self.device)

    def _attempt(self, settings: ExitStack) -> Record:
        try:
            settings.enter_context(configured(self.cell.track.protocol, self.device))
            warm_up(self.device)
            self.deadline.start()
            reset_peak_memory(self.device)
            self.realised = self._realise()
            strategy = self._learn_stream(self.realised)
        except StoreError:
            raise
        except KeyboardInterrupt as error:
            with suppress(StoreError):  # stopping comes first, and the checkpoint is there
                self._finish("interrupted", error)
            raise
        except DivergedError as error:
            return self._finish("diverged", error)
        except (Exception, SystemExit) as error:
            return self._finish("out_of_memory" if is_out_of_memory(error) else "failed", error)
        return self._finish("finished", strategy=strategy)

    def _learn_stream(self, realised: Realisation) -> Strategy:
        """The strategy when it has learned all of it."""
        if realised.hidden:
            strategy = self._fresh(realised)
            self._learn_hidden(realised, strategy)
            return strategy
        restored = self._restored(realised)
        strategy = self._fresh(realised) if restored is None else restored
        for positions in realised.steps[len(self.state.costs) :]:
            self.deadline.next(f"experience {positions[-1] + 1}")
            realised.begin(positions)
            self._learn(realised, strategy, positions)
            self._save(strategy)
        return strategy

    def _fresh(self, realised: Realisation) -> Strategy:
        self.state = State()
        strategy = self._set_up(realised)
        self.state.rows.append(realised.test.answers(strategy, realised.space))
        self._probe(strategy)
        return strategy

    def _set_up(self, realised: Realisation) -> Strategy:
        info = self.cell.strategy
        return realised.set_up(self.parts.strategy(**info.hyperparameters), info.learning_rate)

    def _learn(self, realised: Realisation, strategy: Strategy, positions: list[int]) -> None:
        """Learn one experience (or a union of several), test, and account for it."""
        experience = realised.experience(positions)
        clock = Clock(self.device)
        self._watch(realised, strategy, experience, clock, experience.meter)
        with clock:
            strategy.learn(experience)
        self._account(realised, strategy, experience, clock.seconds, experience.meter)

    def _learn_hidden(self, realised: Realisation, strategy: Strategy) -> None:
        """Learn the stream in one call; between experiences the clock stops, and the host tests and accounts.

        Nobody can come back into the middle of a call, so a checkpoint holds no strategy; it is made where time
        is limited, for the record of a run that has to be ended from outside.
        """
        clock = Clock(self.device)
        seconds, before = 0.0, Meter()
        experience: Experience | None = None

        def account() -> None:
            nonlocal seconds, before
            assert experience is not None
            self._account(realised, strategy, experience, clock.seconds - seconds, stream.meter.since(before))
            seconds, before = clock.seconds, stream.meter.copy()
            if self.deadline.limits:
                self._save(None)

        def parts() -> Iterator[Experience]:
            nonlocal experience
            for positions in realised.steps:
                with clock.stopped():
                    if experience is not None:
                        account()
                    self.deadline.next(f"experience {positions[-1] + 1}")
                    experience = realised.experience(positions)
                    self._watch(realised, strategy, experience, clock, stream.meter)
                yield experience

        realised.begin_hidden()
        stream = realised.hidden_stream(parts())
        with clock:
            strategy.learn(cast(Experience, stream))
        stream.check_finished()
        account()

    def _account(
        self, realised: Realisation, strategy: Strategy, experience: Experience, seconds: float, meter: Meter
    ) -> None:
        """Test after an experience, and put down what it has cost."""
        position, testing = experience.position + 1, Clock(self.device)
        loss = finite_loss(meter, experience.position)
        with testing:
            row = realised.test.answers(strategy, realised.space)
        skipped = position - len(self.state.rows)  # joint has no rows between the first and the last
        self.state.rows += [unasked(row)] * skipped + [row]
        self._probe(strategy, skipped)
        self.state.costs.append(
            Cost(
                position=position,
                train_seconds=seconds,
                predict_seconds=testing.seconds,
                peak_memory_bytes=peak_memory(self.device),
                state_bytes=state_bytes(strategy),
                parameters=sum(p.numel() for p in strategy.parameters()),
                passes=meter.samples / len(experience),
                steps=meter.steps,
                replayed=meter.replayed,
                scanned=meter.scanned,
                accesses=meter.accesses,
                viewed=meter.viewed,
                mean_loss=loss,
            )
        )

    def _probe(self, strategy: Strategy, skipped: int = 0) -> None:
        """Measure what is left of the general ability of the backbone, where it has a probe."""
        model = getattr(strategy, "model", None)
        for name, value in model.probe().items() if isinstance(model, Model) else ():
            self.state.probes.setdefault(name, []).extend([float("nan")] * skipped + [value])

    def _watch(
        self, realised: Realisation, strategy: Strategy, experience: Experience, clock: Clock, meter: Meter
    ) -> None:
        """At every step of the experience: report progress, and test where `eval_every` says so, the clock stopped.

        Whether the loss is finite is looked up once for each pass over the data, because that waits for the device.
        `meter`: of the experience or, where boundaries are hidden, of the stream.
        """
        protocol, finished = realised.protocol, len(self.state.costs)
        steps_per_pass = -(-len(experience) // protocol.batch_size)
        total = protocol.epochs * steps_per_pass
        # The experience itself is not kept here: that cycle would hold all of the run until Python looks for cycles.
        position, before = experience.position, meter.steps

        def on_step(step: int) -> None:
            step -= before
            if step and step % steps_per_pass == 0:
                finite_loss(meter, position)
            if protocol.eval_every and step and step % protocol.eval_every == 0:
                with clock.stopped():
                    scores = realised.scores(realised.test.answers(strategy, realised.space), position + 1)
                self.state.curve.append(CurvePoint(position=position + 1, step=step, accuracy=scores))
            self.progress((finished + min(1.0, step / total)) / len(realised.steps))

        experience.on_step = on_step

    # --- checkpoints -------------------------------------------------------------------------------------------

    def _save(self, strategy: Strategy | None) -> None:
        content = {
            "cell": self.cell.id,
            "strategy": None if strategy is None else strategy.state_dict(),
            "rows": [{name: torch.from_numpy(kept) for name, kept in row.items()} for row in self.state.rows],
            "costs": [cost.model_dump() for cost in self.state.costs],
            "curve": [point.model_dump() for point in self.state.curve],
            "probes": self.state.probes,
            "resumed": self.state.resumed,
        }
        write_atomic(self.checkpoint, packed(content))

    def _restored(self, realised: Realisation) -> Strategy | None:
        """A strategy as it was after the last finished experience, or None where there is no usable checkpoint."""
        if not self.checkpoint.exists():
            return None
        try:
            state, saved = self._read()
            strategy = self._set_up(realised)
            for positions in realised.steps[: len(state.costs)]:
                realised.begin(positions)
            strategy.load_state_dict(saved)
            state.resumed.append(state.costs[-1].position)
            self.state = state
        except Exception as error:
            # Whatever is wrong with the file, starting this seed over is safe; finished records are elsewhere.
            reason = " ".join(str(error).split())[:200]
            message = f"The checkpoint {self.checkpoint} cannot be used; starting over. ({reason})"
            warnings.warn(message, ClarenaWarning, stacklevel=2)
            return None
        return strategy

    def _read(self) -> tuple[State, dict[str, Any]]:
        """What a checkpoint holds: the run so far, and the strategy's state. Raises whatever is wrong with the file."""
        saved = unpacked(self.checkpoint.read_bytes(), self.device)
        if saved["cell"] != self.cell.id:
            raise ValueError("it belongs to another cell")
        state = State(
            rows=[{name: kept.cpu().numpy() for name, kept in row.items()} for row in saved["rows"]],
            costs=[Cost(**cost) for cost in saved["costs"]],
            curve=[CurvePoint(**point) for point in saved["curve"]],
            probes=dict(saved.get("probes", {})),  # a checkpoint of an earlier version has none
            resumed=list(saved["resumed"]),
        )
        return state, saved["strategy"]

    # --- the record --------------------------------------------------------------------------------------------

    def _finish(self, status: Status, error: BaseException | None = None, strategy: Strategy | None = None) -> Record:
        self.deadline.stop()
        realised: dict[str, Any] = {}
        predictions = None
        if self.realised is not None:
            names = list(self.realised.stream.output_names)
            target = self.realised.scoring
            realised = {"output_names": names, "experiences": self.realised.experiences()}
            realised |= {"target": target.name, "score": target.score, "unit": target.unit}
            if self.state.rows:
                missing = len(self.realised.stream.splits) + 1 - len(self.state.rows)
                rows = [*self.state.rows, *[unasked(self.state.rows[0])] * missing]
                test = self.realised.test
                answers = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
                predictions = Predictions(answers, test.truth, test.experience)
                realised |= facts(target, predictions, names, self.realised.groups, self.state.curve)
                realised["chance"] = self.realised.chance(predictions)
        record = Record(
            cell=self.cell,
            cell_id=self.cell.id,
            track_digest=self.cell.track.digest,
            status=status,
            reason=_reason(error),
            traceback="".join(traceback.format_exception(error)) if error and status == "failed" else None,
            costs=self.state.costs,
            curve=self.state.curve,
            probes=self.state.probes,
            resumed=self.state.resumed,
            environment=environment(self.device),
            command=self.command,
            metering=METERING,
            started=self.started,
            # Not the wall clock, which may have been set in the meantime.
            ended=self.started + timedelta(seconds=time.monotonic() - self._began),
            **realised,
        )
        if self.keep and strategy is not None and self.realised is not None and predictions is not None:
            kept = content_of(self.cell, self.realised, strategy, predictions.digest)
            write_atomic(self.checkpoint.with_name(MODEL), packed(kept))
        record = self.store.write(record, predictions)
        if status in ("finished", "diverged"):
            self.checkpoint.unlink(missing_ok=True)
        return record


def finite_loss(meter: Meter, position: int) -> float:
    """The mean loss so far, NaN where none was observed; raises `DivergedError` where one was not finite.

    Args:
        meter: what was spent up to now.
        position: of the experience that is learned, from 0.
    """
    loss = meter.mean_loss
    if loss is not None and not np.isfinite(loss):
        raise DivergedError(f"The loss in experience {position + 1} is not finite.")
    return float("nan") if loss is None else loss


def _reason(error: BaseException | None) -> str | None:
    if error is None:
        return None
    if isinstance(error, KeyboardInterrupt):
        return "stopped by the user"
    text = " ".join(str(error).split())
    return text if isinstance(error, ClarenaError | TimedOut) else f"{type(error).__name__}: {text}"


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
