"""mmiod: decode a guest's exits once, answer them from Python device models."""

__version__ = "0.1.0"
