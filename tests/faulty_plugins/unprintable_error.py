"""Raises an error that cannot even be printed."""


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("not this either")


raise Unprintable
