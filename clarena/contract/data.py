"""The source arrays of a benchmark: what they must be, and their identity."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from clarena.contract.samples import require_finite
from clarena.contract.target import Target, built_in
from clarena.errors import DataError
from clarena.toolbox.together import columns, count, form_of, kinds

INPUTS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
    torch.float16, torch.float32, torch.float64,
)  # fmt: skip
"""What inputs may be stored as."""


@dataclass(frozen=True, eq=False)
class Data:
    """The source arrays of a benchmark, on the CPU, as they are stored (uint8 images stay uint8).

    Attributes:
        x_train, x_test: inputs [n, …], of one dtype and shape; or a named tuple of such tensors, where what belongs to
            a sample differs in kind: numbers beside ids, a text beside an image.
        y_train, y_test: labels [n, …], such as the target has them: for classes int64 [n], in 0 … classes − 1.
        class_names: a name for each class, or whatever else an output stands for.
        domain_train, domain_test: the domain of each sample, int64 [n], where samples come from several.
        domain_names: a name for each domain.
        class_bytes: how many bytes of text each class stands for, where the target is text.
        notes: what reading left out or changed, and what a person should know of the data, a sentence each; no part of
            the fingerprint.
        target: the name of what is asked of an input: `classes`, `tokens` (a class for every token of inputs
            [n, time]), `text` (the token after each, of a language model), or one that a plugin offers.
        encoding: what it takes, besides the benchmark's options, to encode new samples as these were: plain data, such
            as the names of columns; no part of the fingerprint. A trained model carries it.
    """

    x_train: Any
    y_train: Tensor
    x_test: Any
    y_test: Tensor
    class_names: tuple[str, ...]
    domain_train: Tensor | None = None
    domain_test: Tensor | None = None
    domain_names: tuple[str, ...] = ()
    class_bytes: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    target: str = "classes"
    encoding: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        train, test = count(self.x_train), count(self.x_test)
        return f"Data({train} + {test} samples {form_of(self.x_train)}, {self.classes} classes)"

    @property
    def classes(self) -> int:
        """The number of source classes, or of whatever else has an output."""
        return len(self.class_names)

    def without_test(self) -> "Data":
        """The training data alone, standing where the test data stood: what a tuning run is given."""
        return replace(self, x_test=self.x_train, y_test=self.y_train, domain_test=self.domain_train)

    def validate(self, target: Target | None = None) -> None:
        """Raise `DataError` where no benchmark could use the arrays: of a wrong type or shape, empty, out of range.

        `target`: what is asked of an input, where it is not built in.
        """
        for name in ("x_train", "y_train", "x_test", "y_test"):
            for tensor in _tensors(name, getattr(self, name)):
                if not isinstance(tensor, Tensor):
                    raise DataError(f"{name} must be a torch.Tensor, not {_kind(tensor)}: torch.from_numpy(…).")
        for part, x, y in (("training", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            labels = len(y) if y.ndim else 0
            for column in columns(x):
                _validate_inputs(part, column)
                if len(column) != labels:
                    raise DataError(
                        f"The {part} set has {len(column)} inputs but {labels} labels. Give one label per input."
                    )
        (target or built_in(self.target)()).validate(self)
        if (form := form_of(self.x_train)) != (other := form_of(self.x_test)):
            raise DataError(f"Training inputs are {form}, test inputs are {other}. They must be alike.")
        for kind, names in (("class", self.class_names), ("domain", self.domain_names)):
            _validate_names(kind, names)
        self._validate_domains()

    def _validate_domains(self) -> None:
        for part, domain, y in (
            ("training", self.domain_train, self.y_train),
            ("test", self.domain_test, self.y_test),
        ):
            if domain is None:
                continue
            count = len(self.domain_names)
            if not isinstance(domain, Tensor) or domain.dtype != torch.int64 or domain.shape != y.shape[:1]:
                raise DataError(
                    f"The {part} domains must be whole numbers, torch.int64 [{len(y)}], one for each sample."
                )
            if int(domain.min()) < 0 or int(domain.max()) >= count:
                raise DataError(f"The {part} domains must lie in 0 … {count - 1}: there are {count} names of domains.")

    def fingerprint(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes: the identity of the source data in a track's digest.

        The three targets that are built in differ in these, so none is named.
        """
        digest = hashlib.sha256("\0".join(self.class_names).encode())
        if isinstance(self.x_train, tuple):
            digest.update("\0".join(("", *kinds(self.x_train))).encode())
        tensors = [*columns(self.x_train), self.y_train, *columns(self.x_test), self.y_test]
        if self.domain_train is not None and self.domain_test is not None:
            digest.update("\0".join(("", *self.domain_names)).encode())
            tensors += [self.domain_train, self.domain_test]
        if self.class_bytes:
            digest.update(repr(self.class_bytes).encode())
        for tensor in tensors:
            digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()


def _tensors(name: str, value: Any) -> tuple[Any, ...]:
    """The tensors in `value`; raises `DataError` for a tuple of inputs that has no names, or of labels."""
    if isinstance(value, tuple) and not (name.startswith("x") and value and hasattr(value, "_fields")):
        raise DataError(f"{name} is a tuple. Give one tensor, or for inputs of several kinds a named tuple of tensors.")
    return columns(value)


def _validate_inputs(part: str, x: Tensor) -> None:
    if x.dtype not in INPUTS:
        known = ", ".join(map(_name, INPUTS))
        raise DataError(f"The {part} inputs are {_name(x.dtype)}. Give them as one of: {known}.")
    if x.ndim < 2:
        raise DataError(
            f"The {part} inputs have the shape {tuple(x.shape)}. Give a row of numbers for each sample: [n, …]."
        )
    if not x.numel():
        raise DataError(f"The {part} set is empty. Give at least one sample of each class.")
    require_finite(x, f"The {part} set holds")


def _validate_names(kind: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"The name of a {kind} must be text, not {_kind(name)} ({name!r}).")
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"The name of a {kind}, {name!r}, cannot be written as UTF-8. Rename it.") from error


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ + (f" of {dtype}" if dtype is not None else "")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
