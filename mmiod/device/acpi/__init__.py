"""ACPI tables: what firmware and operating systems read about the machine's fixed hardware.

`Platform` is configuration, `files` gives what a firmware interface hands over.
"""

from mmiod.device.acpi.platform import (
    CPUS_MAX as CPUS_MAX,
    ECAM_LENGTH as ECAM_LENGTH,
    Platform as Platform,
)
from mmiod.device.acpi.tables import files as files
