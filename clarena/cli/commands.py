"""Every command, imported so that it adds itself to the app, and the order of the help."""

from clarena.cli import app, check, describe, doctor, evaluate, listing, new, reproduce, results, sync  # noqa: F401

ORDER = ("evaluate", "results", "sync", "list", "describe", "new", "check", "reproduce", "doctor")

app.registered_commands.sort(key=lambda command: ORDER.index(command.name or command.callback.__name__))  # type: ignore[union-attr]
