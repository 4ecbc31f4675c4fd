"""Reach: the hosts that a message may be sent to, when its address was typed on a page or sent by a program.

Whoever may start a job could else have this machine ask its neighbours, or itself: server-side request
forgery (OWASP). All public addresses are allowed, and of the others those that `--notify-hosts` names. What
counts is the address that is connected to, whatever the name has said before.
"""

import ipaddress
import re

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, 2.5.5.1: the same, deprecated
# A translator of the local network's turns these into IPv4 ones: RFC 8215, and RFC 2765, 2.1.
TRANSLATED = (ipaddress.IPv6Network("64:ff9b:1::/48"), ipaddress.IPv6Network("::ffff:0:0:0/96"))
NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]{0,252}[a-z0-9_])?")


def inside(address: Address) -> list[Address]:
    """The address, and the IPv4 ones that an IPv6 address stands for: where its packets may end."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped:
        return [address.ipv4_mapped]
    found = [address, address.sixtofour, *(address.teredo or ())]
    if address in NAT64 or address in COMPATIBLE:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could be there: not this machine, its link, or a private network."""
    return not any(address in network for network in TRANSLATED) and all(
        one.is_global and not one.is_multicast and not getattr(one, "is_site_local", False)
        for one in inside(address)
    )


class Reach:
    """What `--notify-hosts` allows besides: names, `*.` and a domain, addresses, networks, by commas.

    Raises ValueError with the rest of a sentence.
    """

    def __init__(self, hosts: str = ""):
        self.names: set[str] = set()
        self.networks: list[Network] = []
        for word in hosts.replace(",", " ").lower().split():
            try:
                self.networks.append(ipaddress.ip_network(word.strip("[]"), strict=False))
            except ValueError:
                if not NAME.fullmatch(word):
                    raise ValueError(f"has names, addresses and networks, not {word[:40]!r}.") from None
                self.names.add(word)

    def names_it(self, host: str) -> bool:
        """Whether a host may be at any address."""
        name = host.lower().rstrip(".")
        domains = name.split(".")
        wild = {f"*.{'.'.join(domains[n:])}" for n in range(1, len(domains))}
        return name in self.names or bool(wild & self.names)

    def allows(self, host: str, address: Address) -> bool:
        """Whether a connection to a host may go to this address."""
        if is_public(address) or self.names_it(host):
            return True
        return any(one in network for network in self.networks for one in (address, *inside(address)))

    def refuses(self, host: str) -> bool:
        """Whether it is plain without asking anybody that a host may not be connected to."""
        name = host.lower().rstrip(".").strip("[]")
        try:
            return not self.allows(name, ipaddress.ip_address(name.partition("%")[0]))
        except ValueError:
            local = name == "localhost" or name.endswith(".localhost")
            return local and not self.allows(name, ipaddress.ip_address("127.0.0.1"))
