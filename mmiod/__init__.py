"""mmiod: decode a guest's exits once, answer them from Python device models."""

from mmiod import compiled

__version__ = "0.1.0"

compiled.use()
