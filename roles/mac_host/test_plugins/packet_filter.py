"""What the packet filter takes for a network, and for a port."""

import ipaddress
import re
from collections.abc import Callable

LAST_PORT = 65535


class TestModule:
    """The tests `filtered_network` and `filtered_port`."""

    def tests(self) -> dict[str, Callable[[object], bool]]:
        """Return them by name."""
        return {"filtered_network": is_network, "filtered_port": is_port}


def is_network(value: object) -> bool:
    """Return whether it is a network such as 192.168.10.0/24, or an address, of IPv4 or IPv6."""
    try:
        ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        return False
    return not isinstance(value, int)


def is_port(value: object) -> bool:
    """Return whether it is a port from 1 to 65535, or a range of them such as 8080:8089."""
    if not re.fullmatch(r"[0-9]{1,5}(:[0-9]{1,5})?", str(value)):
        return False
    numbers = [int(number) for number in str(value).split(":")]
    return numbers == sorted(numbers) and min(numbers) > 0 and max(numbers) <= LAST_PORT
