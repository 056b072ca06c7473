"""Protocols towards hypervisors, without sockets: bytes in, events out, bytes back."""
