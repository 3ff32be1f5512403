"""Errors that a user can fix; the command line prints them without a traceback, in one place.

Every message says what happened, what exists, and what to do next.
"""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from textwrap import wrap


class ClarenaError(Exception):
    """Something the user can put right; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(ClarenaError):
    """The request itself is wrong: an unknown name, a value out of range, options that exclude each other."""

    exit_code = 2


class UnknownNameError(UsageError):
    """No plugin registered this name."""


class PluginError(ClarenaError):
    """A plugin broke the contract: it fails to load, or a strategy returned what the host cannot use."""


class SpentError(PluginError):
    """A strategy took more of what the protocol limits (looks at the data, views) than it grants."""


class DataError(ClarenaError):
    """A data set is absent, damaged, empty, or holds what no benchmark can use."""


class StoreError(ClarenaError):
    """A store cannot be written, or a record or checkpoint in it cannot be read."""


class DivergedError(ClarenaError):
    """The loss or the scores are no longer finite: a result, not a failure of the host."""


class ClarenaWarning(UserWarning):
    """Something that a user should know of and that stops nothing; the command line prints it on one line."""


MOST_LISTED = 12
"""So many names a message lists; of more it says where to see them."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], broken: Mapping[str, str] | None = None, see: str = ""
) -> UnknownNameError:
    """The error for a name that nobody registered: the closest few, what exists, and which plugins failed to load.

    Args:
        kind: what it should have named: `strategy`.
        known: what exists.
        broken: the name of each plugin that failed to load and its one-line reason: the missing name may be in it.
        see: the command that names all of them, such as `clarena list`; without one they are all listed.
    """
    known = sorted(known)
    lines = [f"There is no {kind} named {name!r}."]
    by_lower = {one.lower(): one for one in known}
    close = [repr(by_lower[each]) for each in get_close_matches(name.lower(), by_lower, n=4, cutoff=0.5)]
    if close:
        also = f" Also close: {', '.join(close[1:])}." if close[1:] and len(known) > MOST_LISTED else ""
        lines.append(f"Did you mean {close[0]}?{also}")
    if see and len(known) > MOST_LISTED:
        lines.append(f"{see} names all {len(known)}.")
    else:
        lines.append(listed(known))
    for plugin, reason in sorted((broken or {}).items()):
        lines.append(f"Plugin {plugin!r} failed to load and may have held it: {reason}")
    return UnknownNameError("\n".join(lines))


def listed(known: Sequence[str]) -> str:
    """`Known: a, b.` on lines that a terminal has room for."""
    names = f"{', '.join(known) or 'none'}."
    return "\n".join(
        wrap(f"Known: {names}", 78, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    )
