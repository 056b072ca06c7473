"""The configuration: mmiod.toml and machine files, checked as a whole.

Everything that is wrong is reported at once, as "file: path: reason", before anything
starts.  docs: config/mmiod.toml is the commented reference.
"""

from mmiod.config.loading import configure as configure, load as load, load_machine as load_machine
from mmiod.config.machines import MachineFile as MachineFile, read_machine as read_machine
from mmiod.config.settings import Config as Config, DaemonConfig as DaemonConfig, VmConfig as VmConfig
