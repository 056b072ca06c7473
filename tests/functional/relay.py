"""What tpm2-tools start as their TCTI `cmd:`: TPM commands from standard input to a socket and back."""

from __future__ import annotations

import socket
import sys
from typing import BinaryIO


def message(source: BinaryIO) -> bytes:
    """One command or response, by its header; nothing at the end."""
    header = source.read(10)
    return header + source.read(int.from_bytes(header[2:6], "big") - 10) if len(header) == 10 else b""


def main(path: str) -> None:
    """Relay until the end of input."""
    with socket.socket(socket.AF_UNIX) as tpm:
        tpm.connect(path)
        replies = tpm.makefile("rb")
        while data := message(sys.stdin.buffer):
            tpm.sendall(data)
            sys.stdout.buffer.write(message(replies))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
