"""The configuration: mmiod.toml and machine files, checked as a whole.

Everything that is wrong is reported at once, as "file: path: reason", before anything
starts; with what is left one looks further (`Examined`).  docs: config/mmiod.toml is the
commented reference.
"""

from mmiod.config.examined import Examined as Examined
from mmiod.config.loading import (
    configure as configure,
    examine_config as examine_config,
    examine_device as examine_device,
    examine_machine as examine_machine,
    load as load,
    load_machine as load_machine,
)
from mmiod.config.machines import MachineFile as MachineFile, read_machine as read_machine
from mmiod.config.settings import Config as Config, DaemonConfig as DaemonConfig, VmConfig as VmConfig
