"""A stranger's strategy in a process of its own, under limits, behind the same seam that the runner speaks through.

Stream order, test labels, masks, arg-max, metrics and records stay on this side; inputs go over, scores come back. So
a strategy cannot score itself, and one that hangs, exits or crashes ends its own run and nothing else. It is no
sandbox: the process has the rights of the user, files and network included.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cloudpickle
from pydantic import Field, ValidationError

from clarena.errors import DivergedError, PluginError
from clarena.protocol.frozen import FrozenModel
from clarena.protocol.protocol import Track
from clarena.submission.child import Plugin, Setting
from clarena.submission.messages import receive, send

if TYPE_CHECKING:
    from clarena.contract.strategy import Strategy

START_SECONDS = 300.0
"""For the process to import torch and CLArena, before a stranger's code runs and its own time begins."""
KEPT = (
    *("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"),
    *("CLARENA_DATA", "CLARENA_CACHE", "CLARENA_CACHE_LIMIT"),
)
"""The environment variables that go over; tokens and addresses of servers do not."""


class Reply(FrozenModel):
    """What a process may say."""

    kind: Literal["ready", "loaded", "done", "step", "scores", "error"]
    name: Annotated[str, Field(max_length=200)] = ""
    source_hash: Annotated[str, Field(max_length=64)] = ""
    identity: Annotated[str, Field(max_length=64)] = ""
    reference: bool = False
    step: int = 0
    samples: Annotated[int, Field(ge=0)] = 0
    steps: Annotated[int, Field(ge=0)] = 0
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=8)] = []
    error: Literal["failed", "diverged", "out_of_memory"] = "failed"
    message: Annotated[str, Field(max_length=5000)] = ""


class Process:
    """One process with a stranger's strategy in it.

    Attributes:
        facts: what it says of the strategy.

    Raises:
        PluginError: it did not load the strategy: why not, or that it hung, exited or crashed.
    """

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.folder = tempfile.mkdtemp(prefix="clarena-confined-")
        self.wire, theirs = socket.socketpair()
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "clarena.submission.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env=kept | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,  # what it starts is ended with it
        )
        theirs.close()
        weakref.finalize(self, _end, self.process, self.wire, self.folder)
        self.deadline = time.monotonic() + START_SECONDS
        self._hear()
        self.deadline = time.monotonic() + plugin.seconds
        self.facts, _ = self.ask({"kind": "load"}, cloudpickle.dumps(plugin))

    def ask(self, header: dict[str, Any], body: bytes = b"") -> tuple[Reply, bytes]:
        """Send a request and wait for the answer, until the time of the run is up.

        Raises:
            PluginError: it hung, exited, crashed, answered nonsense, or the strategy failed.
            DivergedError, MemoryError: as the strategy did.
        """
        with suppress(OSError):  # it is gone: `_hear` says how
            send(self.wire, header, body, self.deadline)
        return self._hear()

    def _hear(self) -> tuple[Reply, bytes]:
        try:
            header, body = receive(self.wire, self.deadline)
            reply = Reply.model_validate(header)
        except TimeoutError as error:
            self.end()
            raise PluginError(f"It did not answer within {self.plugin.seconds:g} s, and was ended.") from error
        except (EOFError, OSError) as error:
            raise PluginError(f"Its process {self._how()}.") from error
        except (ValueError, ValidationError) as error:
            self.end()
            raise PluginError("Its process answered what is no answer, and was ended.") from error
        if reply.kind == "error":
            kinds = {"diverged": DivergedError, "out_of_memory": MemoryError}
            raise kinds.get(reply.error, PluginError)(reply.message)
        return reply, body

    def _how(self) -> str:
        """How the process came to its end."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.end()
            return "hung up, and was ended"
        if code == -signal.SIGXCPU:
            return "used up its processor time"
        return f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with code {code}"

    def end(self) -> None:
        """End it and whatever it started in its session."""
        _end(self.process, self.wire, self.folder)


def _end(process: subprocess.Popen[bytes], wire: socket.socket, folder: str) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wire.close()
    shutil.rmtree(folder, ignore_errors=True)


def confined(plugin: Plugin, track: Track, benchmark: "str | type[Any]", device: str) -> "type[Strategy]":
    """A strategy class each of whose instances has a process of its own, in which the plugin's strategy lives."""
    import numpy as np
    import torch

    from clarena.contract.experience import HiddenStream
    from clarena.contract.strategy import Strategy

    class Confined(Strategy):
        name = plugin.strategy

        def __init__(self, **hyperparameters: Any) -> None:
            super().__init__()
            self.hyperparameters = hyperparameters

        def setup(self, context: Any) -> None:
            self.context = context
            self.process = Process(plugin)
            setting = Setting(
                track=track,
                benchmark=benchmark,
                backbone=track.backbone.name,
                hyperparameters=self.hyperparameters,
                learning_rate=context.learning_rate,
                seed=context.seeds.seed,
                device=device,
            )
            self.process.ask({"kind": "setup"}, cloudpickle.dumps(setting))

        def learn(self, experience: Any) -> None:
            if isinstance(experience, HiddenStream):
                self.learn_hidden(experience)
                return
            reply, _ = self.process.ask({"kind": "learn", "position": experience.position})
            while reply.kind == "step":
                experience.on_step(reply.step)
                reply, _ = self.process.ask({"kind": "go on"})
            experience.meter.samples, experience.meter.steps = reply.samples, reply.steps

        def learn_hidden(self, stream: HiddenStream) -> None:
            """Walk along the same batches; where the process waits before one, getting it here makes the tests due."""
            walk = stream.batches()
            reply, _ = self.process.ask({"kind": "learn", "position": None})
            while reply.kind == "step":
                while stream.meter.steps <= reply.step:
                    if next(walk, None) is None:
                        raise PluginError("Its process waits where there is nothing to come.")
                reply, _ = self.process.ask({"kind": "go on"})
            for _ in walk:
                pass

        def predict(self, x: Any, task: int | None = None) -> Any:
            dtype = str(x.dtype).removeprefix("torch.")
            header = {"kind": "predict", "shape": list(x.shape), "dtype": dtype, "task": task}
            inputs = x.cpu().contiguous().view(torch.uint8).numpy().tobytes()
            reply, body = self.process.ask(header | {"seed": torch.initial_seed()}, inputs)
            try:
                scores = np.frombuffer(body, dtype=np.float64).reshape(reply.shape)
            except ValueError as error:
                raise PluginError("Its process sent scores that do not fit their shape.") from error
            return torch.from_numpy(scores.copy()).to(x.device)

        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            raise PluginError("a confined run always starts over")

    return Confined


def describe(plugin: Plugin) -> Reply:
    """Load a plugin in a process and say what its strategy says of itself; raises as `Process` and `Process.ask`."""
    process = Process(plugin)
    process.end()
    return process.facts
