"""Messages between a run and the process of a stranger's strategy: a JSON header and raw bytes, each by its length.

Nothing that comes back is unpickled: who answers may be hostile.
"""

import json
import socket
import struct
import time
from typing import Any

LENGTHS = struct.Struct("!II")
MOST_HEADER, MOST_BODY = 2**20, 2**30
CHUNK = 2**20


def send(to: socket.socket, header: dict[str, Any], body: bytes = b"", deadline: float | None = None) -> None:
    """Send one message by the deadline (of `time.monotonic`); raises `OSError`, such as `TimeoutError`."""
    text = json.dumps(header).encode()
    to.settimeout(_left(deadline))
    to.sendall(LENGTHS.pack(len(text), len(body)) + text + body)


def receive(source: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
    """The next message.

    Raises:
        TimeoutError: the deadline passed.
        EOFError: the other side is gone.
        ValueError: it is no message.
    """
    header_size, body_size = LENGTHS.unpack(_exactly(source, LENGTHS.size, deadline))
    if header_size > MOST_HEADER or body_size > MOST_BODY:
        raise ValueError(f"a message of {header_size + body_size} bytes is too long")
    try:
        header = json.loads(_exactly(source, header_size, deadline))
    except RecursionError as error:
        raise ValueError("a message is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("a message has no header")
    return header, _exactly(source, body_size, deadline)


def _exactly(source: socket.socket, size: int, deadline: float | None) -> bytes:
    content = bytearray()
    while len(content) < size:
        source.settimeout(_left(deadline))
        part = source.recv(min(CHUNK, size - len(content)))
        if not part:
            raise EOFError
        content += part
    return bytes(content)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
