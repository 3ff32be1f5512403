"""The process that a stranger's strategy lives in: `python -m clarena.submission.child FD`, started by `confined`.

It is told what to load, then answers `setup`, `learn` and `predict`. It makes its own stream from track and seed, so
that training runs as it always does; test inputs come from outside, without labels, and all that leaves is scores.
"""

import ctypes
import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle

from clarena.errors import DivergedError, PluginError
from clarena.plugins.host import Host
from clarena.plugins.registry import one_line
from clarena.submission.messages import receive, send
from clarena.submission.source import plugin_sources

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
MOST_FILE_BYTES = 2**30


@dataclass(frozen=True)
class Plugin:
    """What to load, and within which limits.

    Attributes:
        folder: where the bundle's source was unpacked; entry, strategy: as in its manifest.
        memory: bytes of address space beyond what torch and CLArena take; None where a GPU makes that meaningless.
        seconds: of processor time.
    """

    folder: Path
    entry: str
    strategy: str
    memory: int | None
    seconds: float


@dataclass(frozen=True)
class Setting:
    """The run that the strategy is set up for; benchmark and backbone are names, or classes."""

    track: Any
    benchmark: str | type[Any]
    backbone: str | type[Any]
    hyperparameters: dict[str, Any]
    learning_rate: float
    seed: int
    device: str


def main(descriptor: int) -> None:
    """Load what the first message names, say how that went, then serve until the other side hangs up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, 9)
    import clarena.run.runner  # noqa: F401 - torch and all that a run needs, before limits and strangers

    wire = socket.socket(fileno=descriptor)
    send(wire, {"kind": "ready"})
    plugin: Plugin = cloudpickle.loads(receive(wire)[1])
    _limit(plugin)
    try:
        # From here on a stranger's code has run, and this process is believed in nothing but scores.
        sys.path.insert(0, str(plugin.folder))
        host = Host.discover(plugin_sources(plugin.folder, plugin.entry))
        reasons = [
            each.reason for each in host.broken if each.plugin == Path(plugin.entry).stem or each.plugin == plugin.entry
        ]
        if reasons:
            raise PluginError(reasons[0])
        strategy = host.strategy(plugin.strategy)
        send(wire, {"kind": "loaded"} | _facts(strategy))
    except (Exception, SystemExit) as error:
        send(wire, _complaint(error))
        return
    with suppress(EOFError):
        Server(wire, host, strategy).serve()


class Server:
    """Answers the other side's requests about one run."""

    def __init__(self, wire: socket.socket, host: Host, strategy: type[Any]) -> None:
        self.wire, self.host, self.cls = wire, host, strategy
        self.random: Any = None  # states of the global generators within a row of predictions

    def serve(self) -> None:
        """The first request is `setup`; it names the run, whose settings of torch hold from then on."""
        import torch

        from clarena.run.environment import configured
        from clarena.toolbox.seeding import forked

        setting: Setting = cloudpickle.loads(receive(self.wire)[1])
        with forked(setting.seed), configured(setting.track.protocol):
            self.device = torch.device(setting.device)
            self._answer(lambda: self._setup(setting))
            while True:
                self._handle(*receive(self.wire))

    def _handle(self, header: dict[str, Any], body: bytes) -> None:
        if header["kind"] == "learn":
            self._answer(lambda: self._learn(header["position"]))
        elif header["kind"] == "predict":
            self._answer(lambda: self._predict(header, body))

    def _answer(self, work: Any) -> None:
        try:
            header, body = work()
        except (Exception, SystemExit) as error:
            header, body = _complaint(error), b""
        send(self.wire, header, body)

    def _setup(self, setting: Setting) -> tuple[dict[str, Any], bytes]:
        from clarena.run.realisation import CellClasses, Realisation

        parts = CellClasses(
            self.cls,
            self.host.benchmarks.resolve(setting.benchmark),
            self.host.backbones.resolve(setting.backbone),
            self.host.targets.load,
        )
        self.realised = Realisation(setting.track, parts, setting.seed, self.device)
        self.strategy = self.realised.set_up(self.cls(**setting.hyperparameters), setting.learning_rate)
        self.random = None
        return {"kind": "done"}, b""

    def _learn(self, position: int | None) -> tuple[dict[str, Any], bytes]:
        """Learn one experience, or where boundaries are hidden the stream, as the runner does."""
        if position is None:
            return self._learn_hidden()
        self.realised.begin([position])
        experience = self.realised.experience([position])
        self._watch(experience, experience.meter)
        self.strategy.learn(experience)
        _check_finite(experience.meter, position)
        self.random = None
        return {"kind": "done", "samples": experience.meter.samples, "steps": experience.meter.steps}, b""

    def _learn_hidden(self) -> tuple[dict[str, Any], bytes]:
        def parts() -> Iterator[Any]:
            for positions in self.realised.steps:
                if stream.meter.steps:
                    self._wait(stream.meter.steps)
                experience = self.realised.experience(positions)
                self._watch(experience, stream.meter)
                yield experience

        self.realised.begin_hidden()
        stream: Any = self.realised.hidden_stream(parts())
        self.strategy.learn(stream)
        stream.check_finished()
        _check_finite(stream.meter, self.realised.steps[-1][-1])
        self.random = None
        return {"kind": "done"}, b""

    def _watch(self, experience: Any, meter: Any) -> None:
        """Where the protocol tests within an experience, let the other side do so; `meter` is as in the runner."""
        protocol = self.realised.protocol
        steps_per_pass = -(-len(experience) // protocol.batch_size)
        position, before = experience.position, meter.steps  # and not the experience: as in the runner

        def on_step(total: int) -> None:
            step = total - before
            if step and step % steps_per_pass == 0:
                _check_finite(meter, position)
            if protocol.eval_every and step and step % protocol.eval_every == 0:
                self._wait(total)

        experience.on_step = on_step

    def _wait(self, step: int) -> None:
        """Answer the other side before this step, until it says to go on."""
        self.random = None
        send(self.wire, {"kind": "step", "step": step})
        header, body = receive(self.wire)
        while header["kind"] != "go on":
            self._handle(header, body)
            header, body = receive(self.wire)

    def _predict(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Scores as float64, which holds every smaller float exactly, so that the arg-max is what it is here."""
        import numpy as np
        import torch

        from clarena.toolbox.seeding import forked

        x = torch.frombuffer(bytearray(body), dtype=getattr(torch, header["dtype"])).reshape(header["shape"])
        with forked(header["seed"]):  # one fork for a whole row, though it is asked for in parts
            if self.random:
                torch.set_rng_state(self.random[0])
                np.random.set_state(self.random[1])
                random.setstate(self.random[2])
            scores = self.strategy.predict(x.to(self.device), header["task"])
            self.random = torch.get_rng_state(), np.random.get_state(), random.getstate()
        if not isinstance(scores, torch.Tensor):
            raise PluginError(f"predict returned {type(scores).__name__}; it must return a tensor of scores.")
        answer = scores.detach().cpu().double()
        return {"kind": "scores", "shape": list(answer.shape)}, answer.contiguous().numpy().tobytes()


def _facts(strategy: type[Any]) -> dict[str, Any]:
    """What the class says of itself."""
    from clarena.contract.strategy import is_reference
    from clarena.plugins.identity import code_identity, source_hash

    return {
        "name": strategy.name,
        "source_hash": source_hash(strategy),
        "identity": code_identity(strategy),
        "reference": is_reference(strategy),
    }


def _complaint(error: BaseException) -> dict[str, Any]:
    from clarena.run.runner import is_out_of_memory

    kind = "diverged" if isinstance(error, DivergedError) else "out_of_memory" if is_out_of_memory(error) else "failed"
    return {"kind": "error", "error": kind, "message": str(error) if kind == "diverged" else one_line(error)}


def _check_finite(meter: Any, position: int) -> None:
    """As the runner does after every pass."""
    from clarena.run.runner import finite_loss

    finite_loss(meter, position)


def _limit(plugin: Plugin) -> None:
    """Limits that the kernel keeps: address space, processor time, size of a file, no core dumps.

    Raises:
        PluginError: where the system has no such limits.
    """
    try:
        import resource
    except ImportError as error:
        raise PluginError("A stranger's code runs under limits that Linux and macOS keep. Verify it there.") from error
    if plugin.memory is not None:
        with suppress(OSError):  # elsewhere than on Linux, the limit counts from nothing
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            _at_most(resource.RLIMIT_AS, taken + plugin.memory)
    _at_most(resource.RLIMIT_CPU, int(plugin.seconds) + 60)
    _at_most(resource.RLIMIT_FSIZE, MOST_FILE_BYTES)
    _at_most(resource.RLIMIT_CORE, 0)


def _at_most(kind: int, value: int) -> None:
    import resource

    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main(int(sys.argv[1]))
