"""Names of the link types that captures have (tcpdump.org/linktypes.html)."""

from __future__ import annotations

_NAMES = {
    0: "BSD loopback",
    1: "Ethernet",
    6: "Token Ring",
    7: "ARCNET",
    8: "SLIP",
    9: "PPP",
    10: "FDDI",
    50: "PPP in HDLC framing",
    51: "PPP over Ethernet",
    100: "ATM",
    101: "raw IP",
    104: "Cisco HDLC",
    105: "Wi-Fi",
    107: "frame relay",
    108: "OpenBSD loopback",
    113: "Linux cooked capture",
    117: "OpenBSD's packet filter",
    119: "Wi-Fi with Prism's header",
    122: "IP over Fibre Channel",
    127: "Wi-Fi with radiotap's header",
    129: "Linux ARCNET",
    138: "IP over IEEE 1394",
    140: "SS7 MTP2",
    141: "SS7 MTP3",
    143: "DOCSIS",
    144: "Linux IrDA",
    163: "Wi-Fi with the AVS header",
    165: "BACnet MS/TP",
    166: "PPP with a direction",
    187: "Bluetooth HCI",
    189: "USB of Linux",
    190: "CAN",
    192: "Wi-Fi with the PPI header",
    195: "IEEE 802.15.4",
    197: "Endace ERF",
    201: "Bluetooth HCI with a direction",
    220: "USB of Linux, padded",
    224: "Fibre Channel",
    226: "Solaris IPNET",
    227: "CAN of Linux",
    230: "IEEE 802.15.4 without its check sequence",
    239: "Linux NFLOG",
    240: "Ethernet with Hilscher's header",
    247: "InfiniBand",
    249: "USB of Windows",
    251: "Bluetooth Low Energy",
    253: "Linux netlink",
    266: "USB of macOS",
    272: "Bluetooth Low Energy with Nordic's header",
    273: "DOCSIS with Excentis' header",
    276: "Linux cooked capture, version 2",
    283: "IEEE 802.15.4 with TAP's header",
}  # fmt: skip


def link_name(number: int) -> str:
    """What frames of a link type are, with its number."""
    name = _NAMES.get(number)
    if name is None:
        name = "a user's own kind" if 147 <= number <= 162 else "an unknown kind"
    return f"{name} (link type {number})"
