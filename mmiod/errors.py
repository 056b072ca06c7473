"""The error tree.

    MmiodError
      ConfigError       the configuration: the path of the value and the reason
      ProtocolError     the peer: the field and its value; that connection closes
      PluginError       a device model
        DeclarationError  its class is wrong (clashing registers, ...): found at load
        RestoreError      a saved state does not fit
      MachineError      devices that cannot be placed or wired together

A guest's mistake is a value, never an exception.  Everything else that is raised is
a defect of ours and ends the daemon.
"""

from __future__ import annotations


class MmiodError(Exception):
    """Root of what mmiod raises on purpose."""


class ConfigError(MmiodError):
    """A configuration is wrong; `problems` are "path: reason" lines, all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UpgradeRejected(MmiodError):
    """The daemon did not execute itself anew, and serves on; the message says why."""


class ProtocolError(MmiodError):
    """A peer broke its protocol, or asked what cannot be granted.

    `name` is the field ("hello.version_min") and `value` what it held; `code` is a
    number of the protocol's error table (exit protocol: `enum error`); `subject` is the
    sequence or serial of the offending message, 0 if it has none.  After a fatal error
    the connection closes.
    """

    def __init__(
        self, code: int, name: str, value: int, reason: str, *, subject: int = 0, fatal: bool = True
    ) -> None:
        super().__init__(f"{name} is {value:#x}: {reason}")
        self.code = code
        self.name = name
        self.value = value
        self.reason = reason
        self.subject = subject
        self.fatal = fatal


class PluginError(MmiodError):
    """A device model is wrong."""


class DeclarationError(PluginError):
    """A device class is wrong: registers that clash, fields outside their register."""


class RestoreError(PluginError):
    """A saved state does not fit the device; the message names the field."""


class MachineError(MmiodError):
    """Devices cannot be placed or wired as asked; each of the `problems` names both sides."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
