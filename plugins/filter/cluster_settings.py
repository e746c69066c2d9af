"""What is wrong with the settings of an environment on a cluster, before anything is done there (`preflight`).

Each finding is a sentence that names the setting and the remedy. What a task would refuse after the schema was migrated
is refused here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

# Of a backend, as the Admin API takes it.
TYPES = ("ollama", "mlx", "auto", "openai")
NEEDED = ("model_name", "backend_type", "endpoint_url")
FIELDS = (
    *NEEDED,
    *("enabled", "max_tokens", "temperature_default", "timeout_seconds", "description", "priority", "weight"),
    *("max_concurrency", "max_queue", "first_token_seconds", "stall_seconds", "capabilities", "arm"),
)
# By name of the setting.
CHOICES = {
    "athena_exposure": ("NodePort", "LoadBalancer"),
    "athena_admin_exposure": ("ClusterIP", "NodePort", "LoadBalancer"),
    "athena_external_traffic": ("Local", "Cluster"),
}
REASONS = {"athena_exposure": ", because the deployment's question comes from outside of the cluster"}
AUTOSCALING = ("min", "max", "cpu_percent")
MOST_PODS = 100
MOST_PORTS = 65535
PORTS = {"http": 80, "https": 443}
# The names of the cluster that these give addresses.
NAMED_BY = {"mlx-service": "athena_mlx_addresses", "ollama": "athena_ollama_addresses"}
Row = Mapping[str, Any]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "cluster_setting_problems": problems,
            "out_of_reach": out_of_reach,
            "whole_backends": whole_backends,
        }


def problems(settings: Row) -> list[str]:
    """Return what speaks against the settings, each by itself, by their names; those that are empty may be left out.

    What is called _address or _addresses has to be addresses, _networks networks, and _ports ports.
    """
    found: list[str] = []
    for name, value in settings.items():
        if name.endswith("_address"):
            found += _faults_of_addresses(name, [value] if value else [])
        elif name.endswith("_addresses"):
            found += _faults_of_addresses(name, value)
        elif name.endswith("_networks"):
            found += _faults_of_networks(name, value)
        elif name.endswith("_ports"):
            found += _faults_of_ports(name, value)
        elif name in CHOICES and value not in CHOICES[name]:
            found.append(f"{name} must be {_or(CHOICES[name])}{REASONS.get(name, '')}; it is {value}.")
    found += _faults_of_backends(settings.get("athena_backends", []))
    found += _faults_of_autoscaling(settings.get("athena_proxy_autoscaling"))
    found += _faults_of_replicas(settings.get("athena_replicas"))
    return found


def whole_backends(backends: Any) -> list[Row]:
    """Return the declared backends that there is nothing to say against by themselves."""
    rows = backends if isinstance(backends, list) else []
    return [row for row in rows if not list(_faults_of_backend(row))]


def out_of_reach(backends: Any, egress: Iterable[Row], services: Iterable[Row]) -> list[str]:
    """Return which enabled backends the rules of the network keep pods from.

    `egress`: what the rules open to engines, `cidr` and `ports` each, of which those that cannot be open nothing;
    `services`: the names of the cluster for engines. Of any other name nobody knows here which addresses pods find: the
    port alone is judged.
    """
    rules = [
        (network, {int(port) for port in rule["ports"] if _is_count(port, MOST_PORTS)})
        for rule in egress
        if (network := _network(rule["cidr"]))
    ]
    names = {service["name"]: int(service["port"]) for service in services}
    return [
        f"athena_backends[{place}] ({row['model_name']}): {barrier}"
        for place, row in enumerate(backends if isinstance(backends, list) else [])
        if whole_backends([row]) and row.get("enabled", True)
        if (barrier := _barrier(row["endpoint_url"], rules, names))
    ]


def _barrier(url: str, rules: Sequence[tuple[Network, set[int]]], names: Mapping[str, int]) -> str:
    """Return what keeps pods from an endpoint, and the remedy; nothing if nothing is known to."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    address, (name, _, rest) = _address(host), host.partition(".")
    if address:
        is_open = any(address in network and port in ports for network, ports in rules)
    elif rest.split(".")[:2] == ["athena", "svc"] and name in NAMED_BY:
        if name not in names:
            return f"the name {name} leads nowhere while {NAMED_BY[name]} is empty. Name its machines there."
        if port != names[name]:
            return f"{name} has the port {names[name]}, and endpoint_url names {port}. Write {names[name]} there."
        is_open = True
    elif "svc" in rest.split("."):  # of others, whose pods may have other ports than their name has
        is_open = bool(rules)
    else:
        is_open = any(port in ports for _, ports in rules)
    remedy = "Name its network in athena_engine_networks, and the port in athena_engine_ports."
    return "" if is_open else f"no rule of the network lets pods reach {host} at port {port}. {remedy}"


def _address(text: Any) -> Address | None:
    try:
        return ip_address(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _network(text: Any) -> Network | None:
    """Return the network that ADDRESS/BITS means; bits of the address beyond those are of no matter."""
    if not isinstance(text, str) or not text.partition("/")[2].isdigit():
        return None
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _faults_of_addresses(name: str, values: Any) -> Iterator[str]:
    if not isinstance(values, list):
        yield f"{name} must be a list of addresses; it is {values}."
        return
    for value in values:
        address = _address(value)
        if address is None:
            yield f"{name}: {value} is no address, and rules of the network know no names. Write one as 192.0.2.20."
        elif isinstance(address, IPv6Address):
            yield f"{name}: {value} is an address of IPv6; pods reach it by IPv4 alone. Name one as 192.0.2.20."


def _faults_of_networks(name: str, values: Any) -> Iterator[str]:
    if not isinstance(values, list):
        yield f"{name} must be a list of networks; it is {values}."
        return
    for value in values:
        if address := _address(value):
            yield f"{name}: {value} is an address and no network. Write {value}/{address.max_prefixlen}."
        elif _network(value) is None:
            yield f"{name}: {value} is no network. Write one as 192.0.2.0/24."


def _faults_of_ports(name: str, values: Any) -> Iterator[str]:
    if not isinstance(values, list) or not all(_is_count(value, MOST_PORTS) for value in values):
        yield f"{name} must be a list of numbers from 1 to {MOST_PORTS}; it is {values}."


def _faults_of_backends(backends: Any) -> Iterator[str]:
    if not isinstance(backends, list):
        yield f"athena_backends must be a list of mappings, each with {', '.join(NEEDED)}."
        return
    for place, row in enumerate(backends):
        called = row.get("model_name") if isinstance(row, Mapping) else None
        for fault in _faults_of_backend(row):
            yield f"athena_backends[{place}] ({called or 'without a model_name'}): {fault}."


def _faults_of_backend(row: Any) -> Iterator[str]:
    if not isinstance(row, Mapping):
        yield f"it must be a mapping with {', '.join(NEEDED)}"
        return
    for field in NEEDED:
        if not isinstance(row.get(field), str) or not row[field]:
            yield f"{field} is missing"
    for field in sorted(set(row) - set(FIELDS), key=str):
        yield f"there is no field '{field}', but {', '.join(FIELDS)}"
    if row.get("backend_type") and row["backend_type"] not in TYPES:
        yield f"backend_type must be {_or(TYPES)}; it is {row['backend_type']}"
    if isinstance(row.get("endpoint_url"), str) and row["endpoint_url"] and not _is_url(row["endpoint_url"]):
        yield (
            "endpoint_url must be http:// or https://, a host without a user, and if need be a port and a path; "
            "it is none"  # and is not shown: there may be a password in it
        )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return False


def _faults_of_autoscaling(declared: Any) -> Iterator[str]:
    name = "athena_proxy_autoscaling"
    if not declared:
        return
    if not isinstance(declared, Mapping) or set(declared) != set(AUTOSCALING):
        yield f"{name} must have {', '.join(AUTOSCALING)}, or be empty ({{}}); it is {declared}."
    elif not all(_is_count(value) for value in declared.values()) or int(declared["min"]) > int(declared["max"]):
        yield f"{name}: {', '.join(AUTOSCALING)} must be whole numbers from 1, min at most max; it is {declared}."


def _faults_of_replicas(declared: Any) -> Iterator[str]:
    if not declared:
        return
    if not isinstance(declared, Mapping) or not all(_is_count(count, MOST_PODS) for count in declared.values()):
        yield f"athena_replicas must be a mapping of services to numbers from 1 to {MOST_PODS}; it is {declared}."


def _is_count(value: Any, most: int | None = None) -> bool:
    text = str(value)
    return text.isascii() and text.isdigit() and 1 <= int(text) <= (most or int(text))


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
