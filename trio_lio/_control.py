"""Ancillary data of messages (passed descriptors, credentials), to and from the kernel's
form, as in `socket.socket.sendmsg` and `socket.socket.recvmsg`.
"""

from __future__ import annotations

import socket
import sys
import warnings
from struct import Struct, error
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

__all__ = ["decode_control", "encode_control"]

# cmsg_len, cmsg_level, cmsg_type; the length is a size_t on Linux, a socklen_t elsewhere.
_header = Struct("@Nii" if sys.platform.startswith(("linux", "win")) else "@Iii")


if sys.platform == "win32":  # has control messages, but no names for them in Python

    def _cmsg_len(size: int) -> int:
        return _header.size + size

    def _cmsg_space(size: int) -> int:
        return _header.size + -(-size // 8) * 8

else:
    _cmsg_len, _cmsg_space = socket.CMSG_LEN, socket.CMSG_SPACE
_DATA_AT = _cmsg_len(0)


def _bad_item(item: object) -> NoReturn:
    raise TypeError(
        "ancillary data items must be tuples (level: int, type: int, data: bytes-like), "
        f"not {item!r}"
    )


def encode_control(ancdata: Iterable[tuple[int, int, Buffer]]) -> bytes:
    """Control messages as the kernel wants them; empty for none.

    Args:
      ancdata: ``(cmsg_level, cmsg_type, cmsg_data)`` for each.

    Raises:
      TypeError: something else.
      OverflowError: level or type does not fit an ``int``.
    """
    parts: list[bytes] = []
    for item in ancdata:
        if not isinstance(item, (tuple, list)) or len(item) != 3:
            _bad_item(item)
        level, kind, data = item
        try:
            with memoryview(data) as view:
                body = view.tobytes()
        except TypeError:
            _bad_item(item)
        try:
            header = _header.pack(_cmsg_len(len(body)), level, kind)
        except error:
            if hasattr(level, "__index__") and hasattr(kind, "__index__"):
                raise OverflowError("cmsg_level or cmsg_type does not fit an int") from None
            _bad_item(item)
        whole = header.ljust(_DATA_AT, b"\0") + body
        parts.append(whole.ljust(_cmsg_space(len(body)), b"\0"))
    return b"".join(parts)


def decode_control(raw: Buffer) -> list[tuple[int, int, bytes]]:
    """The control messages that the kernel wrote.

    Args:
      raw: what it wrote, exactly as long as it said (``msg_controllen``).

    Returns:
      ``(cmsg_level, cmsg_type, cmsg_data)`` for each. Of a message that was cut short, what
      there is of it, with a `RuntimeWarning`, as CPython does.
    """
    found: list[tuple[int, int, bytes]] = []
    view = bytes(raw)
    at = 0
    while at + _DATA_AT <= len(view):
        length, level, kind = _header.unpack_from(view, at)
        cut = length < _DATA_AT or at + length > len(view)
        if cut:
            _warn_of_truncation()
        if length < _DATA_AT:
            break
        found.append((level, kind, view[at + _DATA_AT : at + length]))
        if cut:
            break
        at += _cmsg_space(length - _DATA_AT)
    return found


def _warn_of_truncation() -> None:
    warnings.warn(
        "received malformed or improperly-truncated ancillary data",
        RuntimeWarning,
        stacklevel=3,
    )
