"""The echo server in C on a bare io_uring: what the kernel alone costs."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

from trio_lio._native import ffi, lib


def end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(json.dumps({"port": listener.getsockname()[1], "backend": "C"}), flush=True)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    code = lib.lio_floor_serve(listener.fileno(), 65536, ffi.new("uint32_t *"))
    sys.exit(f"the echo server in C ended: {os.strerror(-code)}")
