"""Runs a command in a network of its own: with ``::1 localhost`` and the two outside names
that anyio's tests look up in the hosts file, and an interface that has addresses besides
loopback's. Nothing of the machine is changed, and nothing outside can be reached::

    python private_network.py COMMAND [ARGS ...]

As root it takes new network and mount namespaces; anybody else needs user namespaces too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

_HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost
192.0.2.77 fass.de
192.0.2.78 xn--fa-hia.de
"""
# Whichever of these the kernel has.
_KINDS = ("dummy", "bridge", "veth")
_SETUP = [
    "ip link set lo up",
    "ip address add 192.0.2.10/24 dev lan0",
    "ip -6 address add 2001:db8::10/64 dev lan0 nodad",
    "ip link set lan0 up",
]
_INSIDE = "--inside"


def _enter(command: list[str]) -> None:
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            sys.exit(f"{program} is missing: apt-get install {package}")
    flags = ["--net", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        flags.append("--map-root-user")
    probe = subprocess.run(["unshare", *flags, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        sys.exit(
            f"no private network here ({probe.stderr.strip()}): be root, or allow "
            "unprivileged user namespaces"
        )
    os.execvp("unshare", ["unshare", *flags, sys.executable, __file__, _INSIDE, *command])


def _try(line: str) -> str:
    """What it complained of; nothing if it went well."""
    done = subprocess.run(line.split(), capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def _set_up() -> None:
    complaint = ""
    for kind in _KINDS:
        complaint = _try(f"ip link add lan0 type {kind}")
        if not complaint:
            break
    else:
        sys.exit(f"no interface of the kinds {', '.join(_KINDS)} can be made: {complaint}")
    for line in _SETUP:
        complaint = _try(line)
        if complaint:
            sys.exit(f"{line!r} failed: {complaint}")
    with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
        hosts.write(_HOSTS)
        hosts.flush()
        os.chmod(hosts.name, 0o644)
        subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)


if __name__ == "__main__":
    if sys.argv[1] == _INSIDE:
        _set_up()
        os.execvp(sys.argv[2], sys.argv[2:])
    _enter(sys.argv[1:])
