"""Environment variables of NCCL and Gloo, proxies, and the ports of Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping

from segtune.checks.machine.outcome import Outcome, graded

# Of Ray; a local Ray takes the next free one.
DASHBOARD_PORT = 8265
LOCAL = ("localhost", "127.0.0.1")
# They switch off fast paths between GPUs, often left over from a search for an error.
SLOW = ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE")
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")
PROXIES = ("http_proxy", "HTTP_PROXY", "grpc_proxy", "https_proxy", "HTTPS_PROXY")


def check_collectives(environment: Mapping[str, str] | None = None) -> Iterator[Outcome]:
    """Check the variables that decide how the ranks of a trial communicate."""
    environment = os.environ if environment is None else environment
    present = [interface for _, interface in socket.if_nameindex()]
    names = sorted(
        name for name in environment if name.startswith(("NCCL_", "GLOO_", "TORCH_NCCL_"))
    )
    wrong = False
    for name in names:
        value = environment[name]
        if name in INTERFACES and not _has_interface(value, present):
            wrong = True
            remedy = f"unset {name}, or name one of {', '.join(present)}"
            text = f"{name}={value}: there is no such network interface"
            yield Outcome("collectives", "warning", text, remedy)
        elif name in SLOW and value not in ("", "0"):
            wrong = True
            text = f"{name}={value} switches off a fast path between GPUs"
            yield Outcome("collectives", "warning", text, f"unset {name}, unless it is needed here")
    if not wrong:
        shown = ", ".join(f"{name}={environment[name]}" for name in names)
        yield Outcome("collectives", "ok", shown or "no variables of NCCL or Gloo are set")


def _has_interface(value: str, present: list[str]) -> bool:
    """Return whether NCCL's list of interfaces (`eth,ib`, `^lo`, `=eth0`) has one of these."""
    if value.startswith("^"):
        return any(not _has_interface(value[1:], [name]) for name in present)
    exact = value.startswith("=")
    wanted = value.lstrip("=").split(",")
    return any(name == w if exact else name.startswith(w) for name in present for w in wanted if w)


def check_proxy(environment: Mapping[str, str] | None = None) -> Outcome:
    """Check that a proxy does not receive what Ray's processes send to this machine."""
    environment = os.environ if environment is None else environment
    proxies = [name for name in PROXIES if environment.get(name)]
    exempt = environment.get("no_proxy", environment.get("NO_PROXY", ""))
    covered = exempt.strip() == "*" or all(name in exempt.split(",") for name in LOCAL)
    text = f"{', '.join(proxies)} set" if proxies else "none"
    return graded(
        "proxy",
        text + (", without an exception for this machine" if proxies and not covered else ""),
        warning=bool(proxies) and not covered,
        remedy=f"export no_proxy={','.join(LOCAL)},$(hostname -I | tr ' ' ,)",
    )


def check_ports(port: int = DASHBOARD_PORT) -> Iterator[Outcome]:
    """Check that a process may listen, and which port the dashboard of Ray gets."""
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
    except OSError as error:
        text = f"no process may listen on 127.0.0.1: {error.strerror}"
        remedy = "Ray needs local ports: allow them in the sandbox or the container"
        yield Outcome("ports", "problem", text, remedy)
        return
    taken = _is_taken(port)
    text = f"the dashboard of a local Ray will be at http://127.0.0.1:{port}"
    if taken:
        text = f"port {port} is taken, perhaps by another Ray: the dashboard gets the next free one"
    yield Outcome("ports", "ok", text)


def _is_taken(port: int) -> bool:
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
    except OSError:
        return True
    return False
