"""Imports a name that its own library does not have."""

from json import no_such_function
