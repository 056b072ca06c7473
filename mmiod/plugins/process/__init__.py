"""Devices in processes of their own: the host here, the worker there, and what confines it."""
