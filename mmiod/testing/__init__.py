"""The kit for authors of device models: drive a device without a daemon."""

from mmiod.testing.harness import Harness as Harness
