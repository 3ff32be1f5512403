"""Names of classes, columns and files as text that can be written down."""


def readable_name(name: str) -> str:
    r"""A name whose every character is valid UTF-8: what is none of it is written as \udc80 and the like."""
    return name.encode("utf-8", "backslashreplace").decode()
