"""`org.varlink.service`: what every varlink service answers, and the way to a command."""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

import mmiod
from mmiod.control import messages
from mmiod.control.interface import Command, Interface, fail
from mmiod.control.varlink import SERVICE, Call


@frozen
class Info:
    """Who serves here."""

    vendor: str
    product: str
    version: str
    url: str
    interfaces: list[str]


@frozen
class InterfaceName:
    """Which interface."""

    interface: str


@frozen
class Description:
    """An interface definition."""

    description: str


@frozen
class InterfaceNotFound:
    """There is no such interface."""

    interface: str


@frozen
class MethodNotFound:
    """The interface has no such method."""

    method: str


@frozen
class MethodNotImplemented:
    """The method is described and not available."""

    method: str


@frozen
class InvalidParameter:
    """This parameter is missing, unknown or wrong."""

    parameter: str


@frozen
class PermissionDenied:
    """The client may not call the method."""


@frozen
class ExpectedMore:
    """The method answers by a stream: call it with `more`."""


ERRORS: Final = (
    InterfaceNotFound,
    MethodNotFound,
    MethodNotImplemented,
    InvalidParameter,
    PermissionDenied,
    ExpectedMore,
)
"""The specification's; `MethodNotImplemented` and `PermissionDenied` are never sent."""


@define(eq=False)
class Service:
    """All interfaces of a socket, `org.varlink.service` included."""

    interfaces: dict[str, Interface] = field(factory=dict)

    @classmethod
    def of(cls, *interfaces: Interface) -> Service:
        """Serve these interfaces."""
        service = cls()
        commands = (
            Command("GetInfo", messages.Nothing, Info, service.get_info, cls.get_info.__doc__),
            Command(
                "GetInterfaceDescription",
                InterfaceName,
                Description,
                service.get_description,
                cls.get_description.__doc__,
            ),
        )
        own = Interface(SERVICE, "What every varlink service answers.", commands, ERRORS)
        service.interfaces = {interface.name: interface for interface in (own, *interfaces)}
        return service

    def get_info(self, _request: messages.Nothing) -> Info:
        """Name and version of the service, and its interfaces."""
        return Info("mmiod", "mmiod", mmiod.__version__, "", list(self.interfaces))

    def get_description(self, request: InterfaceName) -> Description:
        """The definition of an interface."""
        found = self.interfaces.get(request.interface)
        if found is None:
            raise fail(SERVICE, InterfaceNotFound(request.interface))
        return Description(found.describe())

    def find(self, call: Call) -> Command:
        """The command that a call names.

        Raises:
            Failure: there is none, or it streams and `more` was not asked for.
        """
        name, _, method = call.method.rpartition(".")
        if name not in self.interfaces:
            raise fail(SERVICE, InterfaceNotFound(name))
        command = self.interfaces[name].methods.get(method)
        if command is None:
            raise fail(SERVICE, MethodNotFound(call.method))
        if command.streams and not call.more:
            raise fail(SERVICE, ExpectedMore())
        return command
