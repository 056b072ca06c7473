"""PCI and PCI Express functions.

class Edu(PciFunction):
    identity = Identity(vendor=0x1234, device=0x11E8, class_code=0x00FF00)
    interrupt_pin_number = 1
    registers = Bar(0x100, number=0)
    msi = Msi(0x40, vectors=4)
"""

from mmiod.device.pci.bar import Bar as Bar
from mmiod.device.pci.capability import Capability as Capability
from mmiod.device.pci.express import (
    PcieFunction as PcieFunction,
    PciExpress as PciExpress,
    PortType as PortType,
)
from mmiod.device.pci.function import CONFIG_LENGTH as CONFIG_LENGTH, PciFunction as PciFunction
from mmiod.device.pci.header import Command as Command, Identity as Identity, Status as Status
from mmiod.device.pci.messages import Msi as Msi, MsiX as MsiX
