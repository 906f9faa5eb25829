"""The application of web.py behind TLS, for clients that have a certificate."""

from __future__ import annotations

import signal
import ssl
import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from web import app


async def main(authority: str, certificate: str) -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.certfile = config.keyfile = certificate
    config.ca_certs = authority
    config.verify_mode = ssl.CERT_REQUIRED
    config.graceful_timeout = 1.0  # for clients that left and did not say so
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        await serve(app, config, shutdown_trigger=signals.__anext__)


trio.run(main, *sys.argv[1:])
