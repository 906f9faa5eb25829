"""Socket addresses: Python's tuples and the kernel's ``sockaddr``, both ways.

The conversions are those of CPython's `socket` module, with one difference: they never ask
a name server. A host is a number in text (``"127.0.0.1"``, ``"::1"``, ``"127.1"``), empty
for any address, or ``"<broadcast>"``.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import lru_cache
from struct import Struct, error
from struct import pack as _pack
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

__all__ = ["ADDRESS_MAX", "decode", "encode", "families"]

ADDRESS_MAX = 128
"""No address is longer than this many bytes (``sockaddr_storage``)."""

# The BSDs keep the length in the first byte and the family in the second.
_HAS_LENGTH_BYTE = sys.platform.startswith(("darwin", "freebsd", "openbsd", "netbsd", "dragon"))

_AF_INET = int(socket.AF_INET)
_AF_INET6 = int(socket.AF_INET6)
_AF_UNIX = int(getattr(socket, "AF_UNIX", -1))
_AF_NETLINK = int(getattr(socket, "AF_NETLINK", -1))
_AF_PACKET = int(getattr(socket, "AF_PACKET", -1))
_AF_VSOCK = int(getattr(socket, "AF_VSOCK", -1))

# No family has a number above 255.
_FAMILY_AT = 0 if sys.byteorder == "little" and not _HAS_LENGTH_BYTE else 1
# Port, address; port, flow, address, scope. Big-endian but for the scope.
_inet_out = Struct("!2sH4s8x")
_inet6 = Struct("!2xHI16s")
_inet6_scope = Struct("=24xI")
_inet6_out = Struct("!2sHI16s")
_uint = Struct("=I")
_netlink = Struct("=2x2xII")
_netlink_out = Struct("=H2xII")
_vsock = Struct("=2x2xII")
_vsock_out = Struct("=HHIIB3x")
_packet = Struct("=2x2sIHBB8s")
_packet_out = Struct("=H2sIHBB8s")

_SUN_PATH = 2
_SUN_PATH_SIZE = 104 if _HAS_LENGTH_BYTE else 108
_SA_DATA_SIZE = 14
_pton, _ntop = socket.inet_pton, socket.inet_ntop
_NO_BYTES = b"\0" * ADDRESS_MAX


def _head(family: int, size: int) -> bytes:
    return bytes((size, family)) if _HAS_LENGTH_BYTE else _pack("=H", family)


_INET_HEAD = _head(_AF_INET, 16)
_INET6_HEAD = _head(_AF_INET6, 28)


# -- to the kernel ---------------------------------------------------------------------


def _host_text(host: object) -> str:
    if isinstance(host, str):
        text = host
        if not host.isascii():
            try:
                text = host.encode("idna").decode("ascii")
            except UnicodeError:
                raise TypeError("encoding of hostname failed") from None
    elif isinstance(host, (bytes, bytearray)):
        text = host.decode("latin-1")
    else:
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if "\0" in text:
        raise TypeError("host name must not contain null character")
    return text


def _numeric(host: object, family: int) -> bytes:
    """The rarer spellings of an address: empty, broadcast, bytes, short, with a scope."""
    text = _host_text(host)
    if text == "":
        return b"\0" * (4 if family == _AF_INET else 16)
    if text in ("<broadcast>", "255.255.255.255"):
        if family != _AF_INET:
            raise OSError("address family mismatched")
        return b"\xff\xff\xff\xff"
    try:
        return socket.inet_pton(family, text)
    except OSError:
        pass
    try:
        found = socket.getaddrinfo(
            text, None, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST
        )
    except UnicodeError:
        raise TypeError("encoding of hostname failed") from None
    except socket.gaierror as exc:
        raise socket.gaierror(
            exc.errno,
            f"{exc.strerror}: {text!r} is not a numeric address of this family; resolve names "
            "first, with getaddrinfo",
        ) from None
    return socket.inet_pton(family, str(found[0][4][0]).partition("%")[0])


def _not_a_tuple(name: str, address: object) -> NoReturn:
    raise TypeError(f"{name} address must be tuple, not {type(address).__name__}")


def _bad_tuple(name: str, shape: str, address: tuple[Any, ...]) -> NoReturn:
    raise TypeError(f"{name} address must be a tuple {shape}, not of length {len(address)}")


def _bad_number(exc: error, *numbers: object) -> NoReturn:
    """What did not go into the struct: no integer, or one that is too large."""
    for number in numbers:
        if not hasattr(number, "__index__"):
            name = type(number).__name__
            raise TypeError(f"{name!r} object cannot be interpreted as an integer") from None
    raise OverflowError(f"a number in the address is out of range: {exc}") from None


def _bad_port(port: object) -> NoReturn:
    if not hasattr(port, "__index__"):
        name = type(port).__name__
        raise TypeError(f"{name!r} object cannot be interpreted as an integer")
    raise OverflowError("port must be 0-65535.")


def _encode_inet(address: Any) -> bytes:
    if not isinstance(address, tuple):
        _not_a_tuple("AF_INET", address)
    if len(address) != 2:
        _bad_tuple("AF_INET", "(host, port)", address)
    host, port = address
    try:
        packed = _pton(_AF_INET, host)
    except (OSError, TypeError, ValueError):
        packed = _numeric(host, _AF_INET)
    try:
        return _inet_out.pack(_INET_HEAD, port, packed)
    except error:
        _bad_port(port)


def _encode_inet6(address: Any) -> bytes:
    if not isinstance(address, tuple):
        _not_a_tuple("AF_INET6", address)
    if not 2 <= len(address) <= 4:
        _bad_tuple("AF_INET6", "(host, port[, flowinfo[, scope_id]])", address)
    host, port = address[:2]
    flow = address[2] if len(address) > 2 else 0
    scope = address[3] if len(address) > 3 else 0
    try:
        packed = _pton(_AF_INET6, host)
    except (OSError, TypeError, ValueError):
        packed = _numeric(host, _AF_INET6)
    try:
        # As in CPython, where a scope (not a flow) outside 32 bits wraps around.
        scope_field = _uint.pack(_index(scope) & 0xFFFFFFFF)
        flow = _index(flow) & 0xFFFFFFFF
        if flow > 0xFFFFF:
            raise OverflowError("flowinfo must be 0-1048575.")
        return _inet6_out.pack(_INET6_HEAD, port, flow, packed) + scope_field
    except error:
        _bad_port(port)


def _index(number: Any) -> int:
    try:
        return int(number.__index__())
    except AttributeError:
        name = type(number).__name__
        raise TypeError(f"{name!r} object cannot be interpreted as an integer") from None


def _encode_unix(address: Any) -> bytes:
    if isinstance(address, str):
        path = os.fsencode(address)
    else:
        try:
            path = bytes(memoryview(address))
        except TypeError:
            raise TypeError(
                f"a bytes-like object is required, not {type(address).__name__!r}"
            ) from None
    # Linux: an empty name or one that begins with NUL has no place in the file system.
    abstract = sys.platform.startswith("linux") and path[:1] in (b"", b"\0")
    if len(path) > _SUN_PATH_SIZE - (not abstract):
        raise OSError("AF_UNIX path too long")
    if not abstract:
        path += b"\0"
    return _head(_AF_UNIX, _SUN_PATH + len(path)) + path


def _encode_netlink(address: Any) -> bytes:
    if not isinstance(address, tuple):
        _not_a_tuple("AF_NETLINK", address)
    if len(address) != 2:
        _bad_tuple("AF_NETLINK", "(pid, groups)", address)
    pid, groups = address
    return _netlink_out.pack(_AF_NETLINK, _index(pid) & 0xFFFFFFFF, _index(groups) & 0xFFFFFFFF)


def _encode_vsock(address: Any) -> bytes:
    if not isinstance(address, tuple):
        _not_a_tuple("AF_VSOCK", address)
    if len(address) != 2:
        _bad_tuple("AF_VSOCK", "(cid, port)", address)
    cid, port = address
    return _vsock_out.pack(_AF_VSOCK, 0, _index(port) & 0xFFFFFFFF, _index(cid) & 0xFFFFFFFF, 0)


def _encode_packet(address: Any) -> bytes:
    if not isinstance(address, tuple):
        _not_a_tuple("AF_PACKET", address)
    if not 2 <= len(address) <= 5:
        _bad_tuple("AF_PACKET", "(ifname, proto[, pkttype[, hatype[, addr]]])", address)
    name, protocol, *rest = address
    missing: tuple[Any, ...] = (0, 0, b"")
    kind, hardware, raw = [*rest, *missing[len(rest) :]]
    if not isinstance(name, str):
        raise TypeError(f"an interface name must be str, not {type(name).__name__}")
    at_hardware = bytes(memoryview(raw))
    if len(at_hardware) > 8:
        raise ValueError("hardware address must be 8 bytes or less")
    if not 0 <= _index(protocol) <= 0xFFFF:
        raise OverflowError("proto must be 0-65535.")
    try:
        return _packet_out.pack(
            _AF_PACKET,
            _index(protocol).to_bytes(2, "big"),
            socket.if_nametoindex(name),
            _index(hardware),
            _index(kind),
            len(at_hardware),
            at_hardware,
        )
    except error as exc:
        _bad_number(exc, hardware, kind)


_encoders: dict[int, Callable[[Any], bytes]] = {
    _AF_INET: _encode_inet,
    _AF_INET6: _encode_inet6,
    _AF_UNIX: _encode_unix,
    _AF_NETLINK: _encode_netlink,
    _AF_VSOCK: _encode_vsock,
    _AF_PACKET: _encode_packet,
}
_encoders.pop(-1, None)

families: frozenset[int] = frozenset(_encoders)
"""The address families that `encode` and `decode` know as well as CPython does."""


def encode(family: int, address: Any) -> bytes:
    """The ``sockaddr`` of an address, at most `ADDRESS_MAX` bytes.

    Args:
      family: ``socket.AF_*``.
      address: as for `socket.socket.connect` on a socket of that family: ``(host, port)``,
        ``(host, port, flowinfo, scope_id)``, a path as `str` or `bytes`, and so on.

    Raises:
      TypeError, ValueError, OverflowError, OSError: for what is not an address of this
        family; the same as in the `socket` module. A host that is a name: `socket.gaierror`.
    """
    encoder = _encoders.get(family)
    if encoder is None:
        raise OSError(f"bad family: {family!r} has no addresses that can be encoded here")
    return encoder(address)


@lru_cache(maxsize=1024)
def encode_numeric(host: str, port: int) -> bytes | None:
    """`encode` for AF_INET, of what needs no resolving; None for anything else, wrong or right.
    Kept: whoever sends datagrams sends many to one address."""
    try:
        return _inet_out.pack(_INET_HEAD, port, _pton(_AF_INET, host))
    except (OSError, ValueError, error):
        return None


# -- from the kernel -------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _inet_text(packed: bytes) -> str:
    return _ntop(_AF_INET, packed)


def _decode_packet(raw: bytes) -> tuple[str, int, int, int, bytes]:
    protocol, index, hardware, kind, length, address = _packet.unpack_from(raw)
    try:
        name = socket.if_indextoname(index) if index else ""
    except OSError:
        name = ""
    return name, int.from_bytes(protocol, "big"), kind, hardware, address[:length]


def _decode_rare(family: int, raw: bytes) -> Any:
    if family == _AF_NETLINK:
        return _netlink.unpack_from(raw)
    if family == _AF_VSOCK:
        port, cid = _vsock.unpack_from(raw)
        return cid, port
    if family == _AF_PACKET:
        return _decode_packet(raw)
    return family, raw[2 : 2 + _SA_DATA_SIZE]


def decode(raw: Buffer) -> Any:
    """The address in a ``sockaddr``, as the `socket` module shows it.

    Args:
      raw: what the kernel wrote, exactly as long as it said.

    Returns:
      ``(host, port)``, ``(host, port, flowinfo, scope_id)``, a path as `str`, an abstract
      name as `bytes`; `None` when the kernel gave no address (nothing was written); and
      ``(family, bytes)`` for a family that is not known.
    """
    view = raw if isinstance(raw, bytes) else bytes(raw)
    size = len(view)
    if size == 0:
        return None
    if size >= 8 and view[_FAMILY_AT] == _AF_INET:
        return _inet_text(view[4:8]), view[2] << 8 | view[3]
    if size < 28:
        view += _NO_BYTES[size:]  # what the kernel did not write is zero
    family = view[_FAMILY_AT]
    if family == _AF_INET:
        return _ntop(_AF_INET, view[4:8]), view[2] << 8 | view[3]
    if family == _AF_INET6:
        port, flow, packed = _inet6.unpack_from(view)
        (scope,) = _inet6_scope.unpack_from(view)
        return _ntop(_AF_INET6, packed), port, flow, scope
    if family == _AF_UNIX:
        name = view[_SUN_PATH:size]
        if name[:1] == b"\0" and sys.platform.startswith("linux"):
            return name
        return os.fsdecode(name.partition(b"\0")[0])
    return _decode_rare(family, view)
