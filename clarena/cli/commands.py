"""Every command, imported so that it adds itself to the app; the order is that of the help."""

from clarena.cli import evaluate  # noqa: F401
