"""The kit for authors of device models: drive a device without a daemon, and hold it to its contract."""

from mmiod.testing.harness import Harness as Harness
from mmiod.testing.suite import contract as contract
