"""What tells of the work does not stop it: not a full disk, a closed descriptor, an encoding without ±, or a listener.

A process that does work for someone calls `shield` first; `lost` says at its end whether all was written.
"""

import codecs
import errno
import io
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from clarena.errors import ClarenaWarning

Told = TypeVar("Told")

READABLE = "clarena-readable"
"""The name of the error handler that writes what an encoding lacks in ASCII."""

_ASCII = {
    "±": "+-", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "─": "-", "━": "=", "│": "|", "→": "->", "←": "<-",
    "≤": "<=", "≥": ">=", "≠": "!=", "·": "*", "•": "*", "‘": "'", "’": "'", "“": '"', "”": '"', "∑": "sum", "Σ": "sum",
    "√": "sqrt", "∞": "inf", "∈": "in", "‖": "||", "∂": "d", "∇": "grad", "⊗": "(x)", "∪": "u", "⟨": "<", "⟩": ">",
    "⁄": "/", "⌊": "[", "⌋": "]", "λ": "lambda", "Λ": "Lambda", "₋": "_-", "°": "deg", "\u0302": "^", "\u0303": "~",
}  # fmt: skip


def shield() -> None:
    """Make `sys.stdout` and `sys.stderr` such that writing never fails; streams that someone replaced stay theirs."""
    codecs.register_error(READABLE, _readable)
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: it would be given to the next file that is opened, and that be written to
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper)):
            setattr(sys, name, _shielded(stream, descriptor))


def lost() -> str | None:
    """Why standard output is not complete, or None. A reader that has seen enough (`head`) is no reason."""
    sys.stdout.flush()
    error = sys.stdout.outlet.error if isinstance(sys.stdout, _Text) else None
    return None if error is None or error.errno == errno.EPIPE else error.strerror


def holds(text: str) -> bool:
    """Whether standard output can hold this text as it is."""
    encoding = sys.stdout.written_in if isinstance(sys.stdout, _Text) else sys.stdout.encoding
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def harmless(listener: Callable[[Told], None]) -> Callable[[Told], None]:
    """A listener that cannot stop what it listens to: one that raises is told no more, and a warning says so.

    Only KeyboardInterrupt, by which it may ask for the end, and its like pass.
    """
    show, failed = warnings.showwarning, False

    def tell(event: Told) -> None:
        nonlocal failed
        if failed:
            return
        try:
            listener(event)
        except Exception as error:  # whatever drawing, printing and networks raise
            failed = True
            with warnings.catch_warnings():
                warnings.simplefilter("always", ClarenaWarning)
                warnings.showwarning = show  # not where a run's own warnings go: that may be this listener
                message = f"What follows the runs failed and is told no more ({type(error).__name__}: {error})."
                warnings.warn(f"{message} The runs go on.", ClarenaWarning, stacklevel=2)

    return tell


class _Outlet(io.RawIOBase):
    """Bytes to a descriptor, or from the first failure on to nowhere."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, content: Any) -> int:
        view = memoryview(content)
        if self.error is None:
            try:
                return os.write(self.descriptor, view)
            except OSError as error:
                self.error = error
        return len(view)


class _Text(io.TextIOWrapper):
    """Text to an outlet. ASCII goes by the name of its next of kin: where click sees ASCII, it writes UTF-8."""

    def __init__(self, outlet: _Outlet, encoding: str, **options: Any) -> None:
        super().__init__(io.BufferedWriter(outlet), encoding=encoding, errors=READABLE, **options)
        self.outlet, self.written_in = outlet, encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "latin-1" if codecs.lookup(self.written_in).name == "ascii" else self.written_in


def _shielded(stream: io.TextIOWrapper | None, descriptor: int) -> _Text:
    outlet = _Outlet(descriptor)
    if stream is None:  # it was closed when this process began
        return _Text(outlet, "utf-8")
    stream.flush()
    lines = stream.line_buffering or stream.write_through  # stderr in a file: each line is there when it is said
    return _Text(outlet, stream.encoding, line_buffering=lines, write_through=stream.write_through)


def _readable(error: UnicodeError) -> tuple[str, int]:
    """One character in ASCII, and where to go on. `+-` takes the blank after it, so that tables stay as they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    return _in_ascii(character), after + (error.object[error.start : after + 1] == "± ")


def _in_ascii(character: str) -> str:
    """`lambda` for λ, `^2` for ², `e` for é, and a question mark where nothing is known."""
    if character in _ASCII:
        return _ASCII[character]
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(character, "")):
        return greek[2].lower() if greek[1] == "SMALL" else greek[2].capitalize()
    kind = unicodedata.decomposition(character).partition(" ")[0]
    mark = {"<super>": "^", "<sub>": "_"}.get(kind, "")
    parts = unicodedata.normalize("NFKD", character).replace("⁄", "/")
    return (mark + parts.encode("ascii", "ignore").decode()) if parts.encode("ascii", "ignore") else "?"
