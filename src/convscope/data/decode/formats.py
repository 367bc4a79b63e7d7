"""What the bytes of a file say before anything decodes them: its format, or why it is not an image.

Five formats are enabled: JPEG, PNG, WebP, GIF and BMP. The first bytes of a file decide, not its name.
"""

import struct
from typing import Literal

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP"]

SUFFIXES: dict[Format, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
}
"""Name endings that go with each format, in lower case."""

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
_SPOILED: tuple[bytes, ...] = (
    *(b"\x89PNG\n\x1a\n", b"\x89PNG\r\r\n\x1a\r\n", b"\x89PNG\r\x1a", b"\tPNG\r\n"),
    *(mark + b"PNG" for mark in (b"\xc2\x89", b"\xef\xbf\xbd", b"?")),
    *(b"\xc3\xbf\xc3\x98", b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"),
)
"""How a PNG and a JPEG begin after a program took them for text: line ends changed, the eighth bit lost, or UTF-8."""
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)
"""Sizes of the second BMP header; "BM" alone could begin a text."""

_NOT_ENABLED: tuple[tuple[bytes, str, str], ...] = (
    (b"II*\0", "TIFF", "magick image.tif image.png"),
    (b"MM\0*", "TIFF", "magick image.tif image.png"),
    (b"II+\0", "BigTIFF", "magick image.tif image.png"),
    (b"MM\0+", "BigTIFF", "magick image.tif image.png"),
    (b"8BPS", "PSD", "magick 'image.psd[0]' image.png"),
    (b"%!PS", "EPS", "gs -sDEVICE=png16m -o image.png image.eps"),
    (b"\xc5\xd0\xd3\xc6", "EPS", "gs -sDEVICE=png16m -o image.png image.eps"),
    (b"%PDF", "PDF", "pdftoppm -png document.pdf page"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000", "magick image.jp2 image.png"),
    (b"\xff\x4f\xff\x51", "JPEG 2000", "magick image.j2k image.png"),
    (b"\0\0\0\x0cJXL ", "JPEG XL", "djxl image.jxl image.png"),
    (b"\xff\x0a", "JPEG XL", "djxl image.jxl image.png"),
    (b"\0\0\1\0", "ICO", "magick 'image.ico[0]' image.png"),
)
_FTYP_BRANDS: dict[bytes, tuple[str, str]] = {
    **dict.fromkeys((b"avif", b"avis"), ("AVIF", "avifdec image.avif image.png")),
    **dict.fromkeys(
        (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"),
        ("HEIC", "heif-convert image.heic image.jpg"),
    ),
}
_VIDEOS: tuple[tuple[bytes, str], ...] = (
    (b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (b"\0\0\1\xba", "MPEG"),
    (b"\0\0\1\xb3", "MPEG"),
    (b"\x30\x26\xb2\x75", "Windows Media"),
    (b"FLV\1", "Flash"),
)
_ARCHIVES = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"7z\xbc\xaf\x27\x1c", b"Rar!")
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\f\r\x1b")) + b"\x7f"

TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of one value of each TIFF field type (TIFF 6.0, section 2; 13 is IFD of the supplement)."""


def sniff(content: bytes) -> Format | None:
    """Return the enabled format whose signature `content` begins with, None if there is none."""
    for magic, kind in _MAGIC:
        if content.startswith(magic):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content[:2] == b"BM" and len(content) >= 18 and struct.unpack_from("<I", content, 14)[0] in _BMP_HEADER_BYTES:
        return "BMP"
    return None


def refusal(content: bytes) -> tuple[str, str]:
    """Return (reason, remedy) for bytes that `sniff` does not recognize."""
    if not content:
        return "empty file", "delete it, or get it again from where it came"
    if content.startswith(_SPOILED):
        return "spoiled by a transfer as text", "get it again as a binary file; in git, mark it as binary"
    if any(magic.startswith(content) for magic, _ in _MAGIC):
        return "truncated", "get the file again from where it came"
    found = _not_enabled(content)
    if found:
        name, command = found
        tool = command.split()[0]
        return f"format not enabled; convert with {tool} ({name})", f"convert it to PNG or JPEG: {command}"
    video = _video(content)
    if video:
        return f"a video ({video})", "take images from it: ffmpeg -i video -vf fps=1 image-%04d.png"
    if looks_packed(content):
        return "nested archive", "unpack it into the class folders"
    if looks_like_text(content):
        return "not an image (looks like text)", "remove it from the folder of images"
    return "not an image (unknown format)", "convert it to PNG or JPEG, or remove it"


def looks_packed(content: bytes) -> bool:
    """Return whether bytes begin as an archive does."""
    return content.startswith(_ARCHIVES) or content[257:262] == b"ustar"


def looks_like_text(content: bytes) -> bool:
    """Return whether the first kilobyte reads as text: no control bytes and mostly ASCII, or a UTF-16 mark."""
    head = content[:1024]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    high = sum(byte > 127 for byte in head)
    return len(head.translate(None, _CONTROL_BYTES)) == len(head) and (high <= 0.3 * len(head) or _is_utf8(head))


def looks_cut(kind: Format, content: bytes) -> bool:
    """Return whether an image that did not decode lacks its end. A wrong guess only changes the reason shown."""
    if kind == "JPEG":
        return not content.rstrip(b"\0\r\n ").endswith(b"\xff\xd9")
    if kind == "PNG":
        return b"IEND" not in content[-64:]
    if kind == "GIF":
        return not content.rstrip(b"\0").endswith(b";")
    if kind == "WEBP":
        return len(content) < 12 or struct.unpack_from("<I", content, 4)[0] + 8 > len(content)
    return bool(struct.unpack_from("<I", content, 2)[0] > len(content))


def webp_pixels(content: bytes) -> int:
    """Return width x height from a WebP header, 0 where there is none; Pillow allocates before it reports a size.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    chunk = content[12:16]
    if chunk == b"VP8X" and len(content) >= 30:
        width, height = (int.from_bytes(content[start : start + 3], "little") + 1 for start in (24, 27))
    elif chunk == b"VP8L" and len(content) >= 25:
        bits = int.from_bytes(content[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 " and len(content) >= 30:
        width, height = (int.from_bytes(content[start : start + 2], "little") & 0x3FFF for start in (26, 28))
    else:
        return 0
    return width * height


def exif_orientation(exif: bytes) -> int:
    """Return the orientation 1..8 from an Exif block (1 = upright, also where none is given).

    Only the first directory is read, with every offset checked: Exif blocks are untrusted too.

    Raises:
        ValueError: the block is broken, so nothing in it can be trusted.

    Source: TIFF 6.0 section 2; CIPA DC-008 (Exif 2.32), tag 0x0112.
    """
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 14:
        raise ValueError("no TIFF header")
    start = struct.unpack_from(f"{order}I", data, 4)[0]
    if start + 2 > len(data):
        raise ValueError(f"directory at {start} of {len(data)} bytes")
    count = struct.unpack_from(f"{order}H", data, start)[0]
    if start + 2 + 12 * count > len(data):
        raise ValueError(f"directory of {count} entries ends after the block")
    orientation = 1
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, n, value = struct.unpack_from(f"{order}HHII", data, position)
        size = TIFF_TYPE_BYTES.get(kind, 0) * n
        if kind not in TIFF_TYPE_BYTES or (size > 4 and value + size > len(data)):
            raise ValueError(f"entry {tag:#06x} has type {kind} and {n} values at {value}")
        if tag in (0x8769, 0x8825) and kind not in (4, 13):
            raise ValueError(f"entry {tag:#06x} should point to a directory")
        if tag == 0x0112 and n > 0:
            layout = {1: "B", 3: "H"}.get(kind, "I")
            orientation = struct.unpack_from(f"{order}{layout}", data, position + 8)[0]
    return orientation if orientation in range(1, 9) else 1


def _not_enabled(content: bytes) -> tuple[str, str] | None:
    """Return (format, command that converts it) of an image in a format we do not decode."""
    for magic, name, command in _NOT_ENABLED:
        if content.startswith(magic):
            return name, command
    if content[4:8] == b"ftyp":
        brands = [content[start : start + 4] for start in range(8, min(64, len(content)), 4)]
        return next((_FTYP_BRANDS[brand] for brand in brands if brand in _FTYP_BRANDS), None)
    head = content[:1024]
    if b"<svg" in head and looks_like_text(head):
        return "SVG", "rsvg-convert -o image.png image.svg"
    return None


def _video(content: bytes) -> str | None:
    """Return the container format of a video; that of a format for images alone is in `_not_enabled`."""
    if content[4:8] == b"ftyp":
        return "QuickTime" if content[8:12] == b"qt  " else "MP4"
    if content[:4] == b"RIFF" and content[8:12] == b"AVI ":
        return "AVI"
    return next((name for magic, name in _VIDEOS if content.startswith(magic)), None)


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # the sample may end within a character
    return True
