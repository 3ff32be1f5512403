"""The data of a benchmark: read once in a process, again when its files have changed, and what a person sees of it."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from clarena.contract.benchmark import Benchmark
from clarena.contract.data import Data
from clarena.contract.target import Target, built_in
from clarena.errors import ClarenaError, DataError, PluginError
from clarena.plugins.identity import HOST, code_identity
from clarena.plugins.parameters import parameters, parse
from clarena.protocol.protocol import NamedPart
from clarena.toolbox.files import Stamp, file_stamps
from clarena.toolbox.together import columns, kinds, part, shape_of

KEPT = 2
"""Data that are kept for the next run of the same process."""

Targets = Callable[[str], type[Target]]
"""The target of a name."""

Report = dict[str, Any]
"""What is known of data, as JSON; see `Loaded.report`."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """Validated data, and the facts that are computed of them once.

    Attributes:
        name: the benchmark's.
        target: what is asked of an input.
        input_shape: of what a model is given of one sample, before the transform of an experience.
        from_files: whether the benchmark names files that they were read from.
    """

    name: str
    data: Data
    target: Target
    input_shape: tuple[int, ...]
    from_files: bool

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data and of what is asked of them, unless that is built in and as it first was."""
        target, data = type(self.target), self.data.fingerprint()
        if target.revision == 1 and target.__module__.partition(".")[0] == HOST:
            return data
        identity = f"{data} {target.name} {target.revision} {code_identity(target)}"
        return hashlib.sha256(identity.encode()).hexdigest()

    @cached_property
    def report(self) -> Report:
        """Counts by part and class, range, samples that occur twice, and the notes of whoever read the data."""
        data = self.data
        train, test = _hashes(data.x_train), _hashes(data.x_test)
        known, given = set(train), self.input_shape
        inputs = [_described(*both) for both in zip(columns(data.x_train), columns(data.x_test))]
        return {
            "benchmark": self.name,
            "fingerprint": self.fingerprint,
            "inputs": {
                **(dict(zip(kinds(data.x_train), inputs)) or inputs[0]),
                "given_to_the_model": given._asdict() if hasattr(given, "_asdict") else list(given),
            },
            "classes": list(data.class_names),
            "domains": list(data.domain_names),
            "train": {"samples": len(train), "labels_by_class": self._counts(data.y_train)},
            "test": {"samples": len(test), "labels_by_class": self._counts(data.y_test)},
            "twice": {
                "within_train": len(train) - len(known),
                "within_test": len(test) - len(set(test)),
                "test_samples_in_train": sum(row in known for row in test),
            },
            "notes": list(data.notes),
        }

    def _counts(self, y: Tensor) -> list[int]:
        counts: list[int] = self.target.labels_by_output(y, self.data.classes).tolist()
        return counts

    @property
    def summary(self) -> str:
        """The report in one line."""
        report = self.report
        inputs, train, test, twice = (report[key] for key in ("inputs", "train", "test", "twice"))
        counts = train["labels_by_class"]
        each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        if "shape" in inputs:
            told, given = _told(inputs), _product(inputs["given_to_the_model"])
            told += f", given to the model as {given}" if given != _product(inputs["shape"]) else ""
        else:
            told = ", ".join(f"{kind} {_told(facts)}" for kind, facts in inputs.items() if kind != "given_to_the_model")
        line = (
            f"{self.name}: {train['samples']} training and {test['samples']} test samples of {len(counts)} classes "
            f"({each} training samples each); {told}"
        )
        return f"{line}; {twice['within_train']} training samples occur twice." if twice["within_train"] else f"{line}."


_kept: OrderedDict[tuple[type[Benchmark], str, tuple[Stamp, ...]], Loaded] = OrderedDict()


def load(benchmark: type[Benchmark], options: Mapping[str, Any], targets: Targets = built_in) -> Loaded:
    """The validated data of a benchmark, kept for the next run of the same process until one of its files changes.

    `targets`: where the target that the data name is looked up.

    Raises:
        DataError: when they are absent, cannot be used, or do not fit into memory.
    """
    try:
        values = parse(benchmark, options, benchmark.name)
        made = benchmark(**values)
        files = file_stamps(made.source_files())
        key = (benchmark, repr(values), files)
        kept = _kept.get(key)
        data = made.data() if kept is None else kept.data
        target = targets(data.target)
        if target.name != data.target:
            raise PluginError(
                f"The target {data.target!r} calls itself {target.name!r}, as another may. Give it a name of its own, "
                "the same where it is registered and in both halves: records and tables say it."
            )
        if kept is None or type(kept.target) is not target:
            data.validate(target())
            input_shape = shape_of(made.inputs(part(data.x_train, slice(1))))
            _kept[key] = Loaded(benchmark.name, data, target(), input_shape, bool(files))
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
    except Exception as error:  # whatever a plugin's benchmark raises
        raise blamed(error, benchmark.name) from error
    _kept.move_to_end(key)
    return _kept[key]


def blamed(error: Exception, name: str) -> ClarenaError:
    """What a benchmark raised as an error that says whose fault it is: that of the request, the data, or the benchmark.

    Args:
        name: of the benchmark.
    """
    if isinstance(error, ClarenaError):
        return error
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # numpy's word, and torch's
        return DataError(
            f"The data of {name} do not fit into memory ({error}). Take fewer or smaller samples; its options are in: "
            f"clarena describe {name}"
        )
    return DataError(f"The benchmark {name} is faulty: {type(error).__name__}: {error}")


def loaded_from_files(benchmark: type[Benchmark], targets: Targets = built_in) -> Loaded | None:
    """The data that a benchmark reads from files that are there, by its default options; None where it names none.

    `targets`: as for `load`.

    Raises:
        ClarenaError: as `load`, and where an option has no default.
    """
    paths = list(benchmark(**parse(benchmark, {}, benchmark.name)).source_files())
    return load(benchmark, {}, targets) if paths and all(path.exists() for path in paths) else None


def require_unchanged(benchmark: type[Benchmark], part: NamedPart, targets: Targets = built_in) -> None:
    """Raise `DataError` where the data are no longer those that a track is made of; `targets` as for `load`."""
    if part.fingerprint is not None and load(benchmark, part.options, targets).fingerprint != part.fingerprint:
        raise DataError(f"The data of {part.name} have changed since the evaluation was planned. Start it again.")


def stated(benchmark: type[Benchmark], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a track names: all, but for those that came later and are at their default."""
    known = parameters(benchmark)
    added = frozenset[str]().union(*(vars(base).get("added", ()) for base in benchmark.__mro__))
    return {name: value for name, value in options.items() if name not in added or value != known[name].default}


def _described(train: Tensor, test: Tensor) -> Report:
    return {
        "shape": list(train.shape[1:]),
        "type": str(train.dtype).removeprefix("torch."),
        "lowest": min(x.min().item() for x in (train, test)),
        "highest": max(x.max().item() for x in (train, test)),
    }


def _told(facts: Report) -> str:
    return f"{_product(facts['shape'])} {facts['type']} from {facts['lowest']:g} to {facts['highest']:g}"


def _product(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def _hashes(x: Any) -> list[int]:
    each = [[hash(row.tobytes()) for row in column.flatten(1).numpy()] for column in columns(x)]
    return each[0] if len(each) == 1 else [hash(row) for row in zip(*each)]
