"""Attachments: a protocol's session joined to a machine."""
