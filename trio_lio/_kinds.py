"""What becomes of a completion: the kinds of operations, as the manager tells them apart."""

from __future__ import annotations

# Those below KIND_WRITE count as waiting to read.
KIND_RECEIVE = 0  # bytes, from the pool
KIND_RECEIVE_OWN = 1  # bytes, from a buffer of the operation's own
KIND_RECEIVE_INTO = 2  # int
KIND_RECEIVE_FROM = 3  # (bytes, address)
KIND_RECEIVE_FROM_OWN = 4
KIND_RECEIVE_FROM_INTO = 5  # (int, address)
KIND_RECEIVE_MESSAGE = 6  # (bytes, ancillary data, flags, address)
KIND_RECEIVE_MESSAGE_OWN = 7
KIND_RECEIVE_MESSAGE_INTO = 8  # (int, ancillary data, flags, address)
KIND_ACCEPT = 9  # (stdlib socket, address)
KIND_POLL_READ = 10
KIND_WRITE = 11  # int
KIND_SEND_ALL = 12  # int; all of it or an error
KIND_POLL_WRITE = 13
KIND_OTHER = 14  # int; waits neither to read nor to write
KIND_ANY = 15  # what `Op` says of it
KIND_KEVENTS = 16  # of no task's: the kqueue that programs use has events
