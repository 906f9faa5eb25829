"""The C core as Python sees it: the module, its errors, what it can do here.

Knows nothing of Trio.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import attrs

from ._faults import Faults
from ._lio import ffi, lib

__all__ = [
    "ETIME",
    "RESOURCE_ERRORS",
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
    "in_use",
    "known_backends",
    "lib",
    "os_error",
    "probe",
    "raise_contract_error",
    "raise_unavailable",
    "unavailable",
]

# To receive 64 KiB is to allocate as much. glibc returns freed memory of that size to the
# system at once, which faults it in page by page for the next one, unless the program has
# freed a block that was larger still: from then on it keeps twice that (mallopt(3),
# M_MMAP_THRESHOLD).
bytes(1 << 20)

ETIME: Final = int(getattr(errno, "ETIME", errno.ETIMEDOUT))
"""What an operation that is a time-out ends with (LIO_ETIME)."""


RESOURCE_ERRORS: Final = frozenset({errno.ENOMEM, errno.ENFILE, errno.EMFILE})
"""Something ran out: no reason to take another backend."""


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


def _spin_us(text: str) -> int:
    """What ``TRIO_LIO_SPIN`` asks for, as lio_options has it."""
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


def _options(faults: Faults | None = None, seed: int = 0, virtual_time: bool = False) -> Any:
    without = os.environ.get("TRIO_LIO_URING_WITHOUT", "")
    spin = os.environ.get("TRIO_LIO_SPIN", "")
    if faults is None and seed == 0 and not virtual_time:
        return _plain_options(without, spin)
    return _make_options(without, spin, faults, seed, virtual_time)


@functools.lru_cache(maxsize=4)
def _plain_options(without: str, spin: str) -> Any:
    """Those of nearly all runs. The core only reads them."""
    return _make_options(without, spin, None, 0, False)


def _make_options(
    without: str, spin: str, faults: Faults | None, seed: int, virtual_time: bool
) -> Any:
    text = ffi.new("char[]", without.encode())
    options = ffi.new("lio_options *")
    options.without = text
    options.spin_us = _spin_us(spin)
    options.seed = seed
    options.virtual_time = virtual_time
    native = None
    if faults is not None:
        native = ffi.new("struct lio_faults *")
        for name, value in attrs.asdict(faults).items():
            if name != "latency":
                setattr(native, name, value)
        native.latency_ns = int(faults.latency * 1e9)
        options.faults = native
    # The struct does not keep what it points to.
    return options, (text, native)


def sim_seed() -> int:
    """The seed of ``"sim"`` where nobody gave one: ``TRIO_LIO_SIM_SEED``, or 0."""
    raw = os.environ.get("TRIO_LIO_SIM_SEED", "0")
    if not raw.isdecimal() or int(raw) >= 2**64:
        raise ValueError(f"TRIO_LIO_SIM_SEED must be 0 to 2**64 - 1, not {raw!r}")
    return int(raw)


def _unknown_capability() -> NoReturn:
    raise ValueError(
        f"TRIO_LIO_URING_WITHOUT={os.environ['TRIO_LIO_URING_WITHOUT']!r} names an unknown "
        f"capability; known are: {', '.join(_all_capabilities())}"
    )


def _listed(name_of: Callable[[int], Any]) -> tuple[str, ...]:
    """All that the core names: the build has them, and they stay the same."""
    names: list[str] = []
    while (name := name_of(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return tuple(names)


@functools.cache
def _all_capabilities() -> tuple[str, ...]:
    return _listed(lib.lio_capability_name)


@functools.lru_cache(maxsize=16)
def capability_names(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(_all_capabilities()) if bits >> bit & 1)


@functools.lru_cache(maxsize=16)
def in_use(name: str, reason: str, bits: int) -> BackendInfo:
    """What `trio_lio.current_backend` says of a backend with these capabilities."""
    return BackendInfo(
        name=name, available=True, reason=reason, capabilities=capability_names(bits)
    )


@functools.cache
def _all_backends() -> tuple[str, ...]:
    return _listed(lib.lio_backend_name)


def backend_names() -> list[str]:
    """The backends of this build, in order of preference."""
    return list(_all_backends())


def known_backends() -> list[str]:
    """All that can be asked for by name: those of `backend_names`, and the simulated kernel,
    which nobody gets who did not ask. It stands on POSIX."""
    return [*backend_names(), *([] if sys.platform == "win32" else ["sim"])]


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
            f"{', '.join(known_backends())}"
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


def create(
    name: str,
    faults: Faults | None = None,
    seed: int | None = None,
    virtual_time: bool = False,
) -> Any:
    """A backend handle, not yet initialised, that frees itself.

    ``faults`` are laid over it; ``seed`` and ``virtual_time`` are of ``"sim"``.

    Raises:
      ValueError: there is no such backend in this build.
      BackendUnavailable: the kernel does not offer it; the message says why.
      OSError: a resource (descriptors, memory) ran out.
    """
    if seed is None:
        seed = sim_seed() if name == "sim" else 0
    options, _keep = _options(faults, seed, virtual_time)
    out = ffi.new("lio_backend **")
    code = lib.lio_create(name.encode(), options, out)
    if code == -errno.EINVAL:
        _unknown_capability()
    if code != 0:
        raise_unavailable(name, code)
    return ffi.gc(out[0], lib.lio_destroy)


def unavailable(name: str, code: int) -> Exception:
    """Why a backend could not be made: ``code`` is a negative errno."""
    if -code in RESOURCE_ERRORS:
        return OSError(-code, f"cannot make the {name!r} backend: {os.strerror(-code)}")
    info = probe(name)
    reason = info.reason or os.strerror(-code)
    others = [b.name for b in available_backends() if b.available and b.name != name]
    remedy = f"; available here: {', '.join(others)}" if others else ""
    return BackendUnavailable(f"the backend {name!r} cannot run here: {reason}{remedy}")


def raise_unavailable(name: str, code: int) -> NoReturn:
    """Raises what `unavailable` says."""
    raise unavailable(name, code)


def os_error(number: int, detail: int = 0, *paths: str) -> OSError:
    """The error of an operation: its errno, and on Windows the Windows error it was made of
    (``lio_completion.detail``, above 0)."""
    path, path2 = (*paths, None, None)[:2]
    if detail > 0 and sys.platform == "win32":
        _, text = ffi.getwinerror(detail)
        return OSError(0, text, path, detail, path2)
    if path is None:
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), path, None, path2)


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
