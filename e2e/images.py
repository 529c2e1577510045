"""Valid and invalid images."""

from __future__ import annotations

import io
import json
import struct
import uuid
import zlib
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps, PngImagePlugin

from services import MODELS

# A 7 as strokes on a sheet of 1 × 1.
SEVEN = [(0.28, 0.22), (0.74, 0.22), (0.44, 0.82)]


@dataclass
class Sample:
    """One of a model's sample images, with the results of the training framework."""

    name: str
    image: bytes
    label: str
    probabilities: list[float]
    tolerance: float


def samples(model: str) -> list[Sample]:
    folder = MODELS / model / "samples"
    expected = json.loads((folder / "expected.json").read_text())
    return [
        Sample(name, (folder / name).read_bytes(), what["label"], what["probabilities"], expected["tolerance"])
        for name, what in expected["samples"].items()
    ]


def seven(side: int = 280) -> Image.Image:
    """Dark on light, as with a mouse."""
    sheet = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(sheet)
    points = [(x * side, y * side) for x, y in SEVEN]
    pen.line(points, fill=0, width=side // 14, joint="curve")
    for x, y in points:
        radius = side / 28
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    return sheet


def number(digits: str, side: int = 80, gap: int = 24) -> Image.Image:
    """The shipped samples of these digits in a line, dark on light."""
    sheet = Image.new("L", (len(digits) * (side + gap) + gap, side + 2 * gap), 255)
    for place, digit in enumerate(digits):
        sample = Image.open(MODELS / "mnist" / "samples" / f"digit-{digit}.png").convert("L").resize((side, side))
        sheet.paste(ImageOps.invert(sample), (gap + place * (side + gap), gap))
    return sheet


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def new_image(image: Image.Image | None = None) -> bytes:
    """A 7, or another image, as a file that is in no cache: it has a unique comment."""
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", uuid.uuid4().hex)
    return encode(image or seven(), pnginfo=note)


def reopened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def bomb(side: int = 20_000) -> bytes:
    """A correct PNG of some 50 kilobytes that unpacks to `side` × `side` pixels, black or white each."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def old_array(image: Image.Image) -> list:
    """What clients of the first MLServe send: shape (28, 28, 1), ink 1, paper 0."""
    small = image.convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    return [[[1 - small.getpixel((x, y)) / 255] for x in range(28)] for y in range(28)]
