"""The host's side of streams and services: what a machine file names, awaited by the device task."""
