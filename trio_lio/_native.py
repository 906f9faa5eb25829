"""The C core as Python sees it: the module, its errors, what it can do here.

Knows nothing of Trio.
"""

from __future__ import annotations

import errno
import functools
import os
from typing import Any, NoReturn

import attrs

from ._lio import ffi, lib

__all__ = [
    "BackendClosed",
    "BackendInfo",
    "BackendUnavailable",
    "ContractError",
    "Full",
    "NotInitialised",
    "WrongThread",
    "available_backends",
    "backend_names",
    "capability_names",
    "check",
    "create",
    "ffi",
    "lib",
    "probe",
    "raise_contract_error",
]


class ContractError(RuntimeError):
    """A backend was used in a way that its contract does not allow."""


class Full(ContractError):
    """As many operations are in flight as the backend was initialised for."""


class WrongThread(ContractError):
    """A backend belongs to the thread that initialised it."""


class NotInitialised(ContractError):
    """`init` was not called yet."""


class BackendClosed(ContractError):
    """The backend was closed."""


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot run here."""


@attrs.frozen
class BackendInfo:
    """One backend, as this build and this kernel have it."""

    name: str
    available: bool
    reason: str
    """Why it is not available, or why it was chosen; empty otherwise."""
    capabilities: tuple[str, ...]
    """What the kernel offers of that which a kernel may lack."""
    errno: int = 0
    """The kernel's error number when it is not available, 0 otherwise."""


def _spin_us() -> int:
    """What ``TRIO_LIO_SPIN`` asks for, as lio_options has it."""
    text = os.environ.get("TRIO_LIO_SPIN", "")
    try:
        asked = int(text or lib.LIO_SPIN_US)
    except ValueError:
        asked = -1
    if not 0 <= asked <= lib.LIO_SPIN_US_MAX:
        raise ValueError(
            f"TRIO_LIO_SPIN={text!r} is not a whole number of microseconds from 0 (never) to "
            f"{lib.LIO_SPIN_US_MAX}"
        )
    return asked or -1


def _options() -> Any:
    without = os.environ.get("TRIO_LIO_URING_WITHOUT", "")
    text = ffi.new("char[]", without.encode())
    options = ffi.new("lio_options *")
    options.without = text
    options.spin_us = _spin_us()
    # The struct does not keep what it points to.
    return options, text


def _unknown_capability() -> NoReturn:
    raise ValueError(
        f"TRIO_LIO_URING_WITHOUT={os.environ['TRIO_LIO_URING_WITHOUT']!r} names an unknown "
        f"capability; known are: {', '.join(_all_capabilities())}"
    )


@functools.cache
def _all_capabilities() -> tuple[str, ...]:
    names: list[str] = []
    while (name := lib.lio_capability_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return tuple(names)


def capability_names(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(_all_capabilities()) if bits >> bit & 1)


def backend_names() -> list[str]:
    """The backends of this build, in order of preference."""
    names: list[str] = []
    while (name := lib.lio_backend_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


def probe(name: str) -> BackendInfo:
    """Tries a backend out on this kernel, by use.

    Raises:
      ValueError: there is no such backend in this build.
    """
    options, _keep = _options()
    result = ffi.new("lio_probe_result *")
    code = lib.lio_probe(name.encode(), options, result)
    if code == -errno.ENOENT:
        raise ValueError(
            f"there is no backend {name!r} in this build of trio-lio; it has: "
            f"{', '.join(backend_names())}"
        )
    if code == -errno.EINVAL:
        _unknown_capability()
    check(code)
    reason = ffi.string(result.reason).decode()
    if result.error:
        reason = f"{reason} [{errno.errorcode.get(-result.error, -result.error)}]"
    return BackendInfo(
        name=name,
        available=result.error == 0,
        reason=reason,
        capabilities=capability_names(result.capabilities),
        errno=-result.error,
    )


def available_backends() -> list[BackendInfo]:
    """All backends of this build, in order of preference, each with what was found out."""
    return [probe(name) for name in backend_names()]


def create(name: str) -> Any:
    """A backend handle, not yet initialised, that frees itself.

    Raises:
      ValueError: there is no such backend in this build.
      BackendUnavailable: the kernel does not offer it; the message says why.
      OSError: a resource (descriptors, memory) ran out.
    """
    options, _keep = _options()
    out = ffi.new("lio_backend **")
    code = lib.lio_create(name.encode(), options, out)
    if code == -errno.EINVAL:
        _unknown_capability()
    if code != 0:
        raise_unavailable(name, code)
    return ffi.gc(out[0], lib.lio_destroy)


def raise_unavailable(name: str, code: int) -> NoReturn:
    """Says why a backend could not be made: ``code`` is a negative errno."""
    if -code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise OSError(-code, f"cannot make the {name!r} backend: {os.strerror(-code)}")
    info = probe(name)
    reason = info.reason or os.strerror(-code)
    others = [b.name for b in available_backends() if b.available and b.name != name]
    remedy = f"; available here: {', '.join(others)}" if others else ""
    raise BackendUnavailable(f"the backend {name!r} cannot run here: {reason}{remedy}")


def raise_contract_error(code: int, what: str = "") -> NoReturn:
    """Raises what a negative errno of the contract's own functions means."""
    number = -code
    if number == errno.EPERM:
        raise WrongThread(
            "this backend belongs to the thread that called init(); from other threads only "
            "wake() and wait_ready() may be called"
        )
    if number == errno.ENXIO:
        raise NotInitialised("call init(capacity) first")
    if number == errno.ESHUTDOWN:
        raise BackendClosed("this backend is closed; make a new one")
    if number == errno.EALREADY:
        raise ContractError("init() was called before; a backend is initialised once")
    if number == errno.ECHILD:
        raise ContractError(
            "this backend was made by the parent of this forked process; make a new one here"
        )
    if number == errno.ENOBUFS:
        raise Full("as many operations are in flight as init(capacity) allowed")
    if number == errno.EEXIST:
        raise ContractError(f"an operation with this id is in flight already{what}")
    if number == errno.ENOENT:
        raise ContractError(f"no operation with this id is in flight{what}")
    if number == errno.EINVAL:
        raise ValueError(f"bad argument{what}")
    raise OSError(number, os.strerror(number) + what)


def check(code: int, what: str = "") -> int:
    """``code``, unless it is an error of the contract."""
    if code < 0:
        raise_contract_error(code, what)
    return code
