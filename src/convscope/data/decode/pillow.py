"""One image from bytes, decoded by Pillow under guard: no file makes it raise, stall or fill the memory.

- The content decides the format (JPEG, PNG, WebP, GIF, BMP), not the name.
- The EXIF orientation is applied; a broken EXIF block is ignored and noted.
- Of an animation, the first frame is taken.
- Transparent pixels are laid over white.
- 16-bit gray v becomes round(v / 257); of 16-bit colour, the upper 8 bits are taken.
- CMYK and YCCK JPEGs are read as Adobe writes them, inverted on disk. Colour profiles are not applied.
- An image that does not decode to its last pixel is refused, unless `allow_truncated` says otherwise.

Pillow's module settings are left alone: `LOAD_TRUNCATED_IMAGES` would make every thread of the process accept
truncated images. Instead, a truncated JPEG gets its missing end marker (missing pixels are gray); of the other formats
we take what was decoded before the error (missing pixels are black, or the first palette colour).
"""

import io
import re
import struct
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from convscope.data.decode.formats import SUFFIXES, Format, exif_orientation, looks_cut, refusal, sniff, webp_pixels
from convscope.data.decode.turns import wait_for_turn
from convscope.data.names import printable
from convscope.results.prediction import Skipped

BACKGROUND = (255, 255, 255)
"""Colour under transparent pixels, RGB."""
MAX_EXTRA_BYTES = 16 * 2**20
"""Bytes that one image may have in chunks that are read whole and are not pixels: texts, profiles."""
MAX_READS = 500_000
"""Reads that one image may take; each costs Pillow about a microsecond of Python."""
TINY_BYTES = 2**14
TINY_PIXELS = 2**16
"""Limits of the fast path for small JPEGs."""
UNGUARDED_BYTES = 2**20
"""Smaller files are read without these limits: they are too short to do harm, and most images are."""
MAX_SCANNED_PIXELS = 3_000_000_000
"""Limit of pixels x scans of a JPEG: a progressive one may scan all its pixels any number of times, at 2 ns each."""

PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    MemoryError,
    ValueError,
    NotImplementedError,
    OverflowError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    EOFError,  # of WebP, where a frame is damaged
)
"""What Pillow raises on purpose for a bad file."""

_OPENERS: dict[Format, Callable[[io.BytesIO, str], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
# The classes are called directly, not Image.open: its limit of pixels is one number for the whole process.

_SCAN = re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e]")  # start of a scan of 1 to 4 components (ITU-T T.81, B.2.3)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _GuardedBytes(io.BytesIO):
    """Bytes that stop Pillow when a file is made to stall it or to fill the memory."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads_left = MAX_READS
        self.extra_left = MAX_EXTRA_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if size is not None and size > ImageFile.MAXBLOCK:  # pixels are read in blocks of at most this
            self.extra_left -= size
        if self.reads_left < 0 or self.extra_left < 0:
            raise OSError("too much in it besides pixels")
        return super().read(size)


class QuietPillow:
    """Silences Pillow's warnings while any thread decodes; a thread may enter it again.

    Warning filters belong to the process: the first thread to enter sets them, the last to leave restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._filters is not None:
                self._filters.__exit__(None, None, None)


quiet_pillow = QuietPillow()
"""The only instance: warning filters belong to the process."""


class _RefusedError(ValueError):
    """An image we refuse ourselves; its arguments are the reason and the remedy."""


@dataclass(frozen=True)
class DecodedImage:
    """An image in mode RGB, upright; `mode` is that of the file, and `notes` say what is odd about it."""

    image: Image.Image
    notes: tuple[str, ...]
    format: Format
    mode: str


def decode_image(content: bytes, name: str, max_pixels: int, allow_truncated: bool) -> DecodedImage | Skipped:
    """Return the image, or why there is none.

    Args:
        name: shown in the verdict; its suffix is compared with the format found. It need not be printable.
        max_pixels: an image with more is not decoded; its header says how many it has.
        allow_truncated: accept an image whose file is truncated, and note it.
    """
    kind = sniff(content)
    if kind is None:
        return Skipped(printable(name), *refusal(content))
    notes = []
    suffix = "" if name.lower().endswith(SUFFIXES[kind]) else PurePosixPath(name).suffix
    if suffix:
        notes.append(f"extension does not match: {kind} named {printable(suffix[:20])}")
    try:
        with quiet_pillow:
            try:
                decoded = _load(kind, content, max_pixels)
            except PILLOW_ERRORS as error:
                if not allow_truncated or _verdict_on(error, kind, content)[0] != "truncated":
                    raise
                decoded = _load_truncated(kind, content, max_pixels)
                notes.append("truncated: missing pixels are filled in")
            image = _flatten(decoded)
            image = _turn_upright(image, decoded.info.get("exif"), notes)
            if _is_animated(decoded):
                notes.append("animated: first frame taken")
    except PILLOW_ERRORS as error:
        return Skipped(printable(name), *_verdict_on(error, kind, content))
    return DecodedImage(image, tuple(notes), kind, decoded.mode)


def _load(kind: Format, content: bytes, max_pixels: int) -> Image.Image:
    """Return the image, decoded to its last pixel; raises PILLOW_ERRORS."""
    image = _load_tiny_jpeg(content, max_pixels) if kind == "JPEG" and len(content) <= TINY_BYTES else None
    if image is None:
        image = _open(kind, content, max_pixels)
        image.load()
    if kind == "JPEG" and _ends_early(image, content, max_pixels):
        raise OSError("image file is truncated: its end marker comes before its last pixel")
    return image


def _load_tiny_jpeg(content: bytes, max_pixels: int) -> Image.Image | None:
    """Return a small JPEG by handing it straight to Pillow's decoder, None where anything about it is unusual.

    Pillow reads the header in Python, which takes longer than decoding a thumbnail; all we need of it is the size, and
    that there is no Exif block.
    """
    if b"Exif" in content:
        return None
    position = 2
    while content[position : position + 1] == b"\xff" and len(content) >= position + 10:
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4])
        if marker in (0xC0, 0xC1, 0xC2):  # baseline, extended or progressive frame
            bits, height, width, channels = struct.unpack_from(">BHHB", content, position + 4)
            mode = {1: "L", 3: "RGB"}.get(channels)
            if mode is None or bits != 8 or not 0 < width * height <= min(max_pixels, TINY_PIXELS):
                return None
            try:
                return Image.frombytes(mode, (width, height), content, "jpeg", mode, "")
            except PILLOW_ERRORS:
                return None  # the usual path finds out why
        if not (0xE0 <= marker <= 0xEF or marker in (0xDB, 0xC4, 0xDD, 0xFE)):
            return None
        position += 2 + length
    return None


def _load_truncated(kind: Format, content: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Return what can be decoded of a truncated image; raises PILLOW_ERRORS."""
    if kind == "JPEG":
        image = _open(kind, content + b"\xff\xd9", max_pixels)
    else:
        image = _open(kind, content, max_pixels)
        with suppress(*PILLOW_ERRORS):
            image.load()
        image.tile = []  # nothing left to decode: keeps what was decoded before the error
    image.load()
    return image


def _open(kind: Format, content: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """Return the image with its header read and checked; its pixels are not decoded yet."""
    if kind == "WEBP":
        if not WebPImagePlugin.SUPPORTED:
            raise _RefusedError("format not enabled; convert with dwebp (WebP)", "install a Pillow built with WebP")
        _check_pixels(webp_pixels(content), max_pixels)
        wait_for_turn(webp_pixels(content))
    stream = io.BytesIO(content) if len(content) <= UNGUARDED_BYTES else _GuardedBytes(content)
    image = _OPENERS[kind](stream, "")
    pixels = image.width * image.height
    _check_pixels(pixels, max_pixels)
    wait_for_turn(pixels)
    if kind == "JPEG" and len(_SCAN.findall(content)) * pixels > MAX_SCANNED_PIXELS:
        raise _RefusedError("too many scans for its size", "save it again as an ordinary JPEG")
    return image


def _check_pixels(pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise _RefusedError(
            f"too many pixels ({pixels} > {max_pixels}); raise --max-pixels",
            f"shrink it, or give --max-pixels {pixels} if you trust it",
        )


def _verdict_on(error: BaseException, kind: Format, content: bytes) -> tuple[str, str]:
    """Return (reason, remedy) for what Pillow or we raised."""
    if isinstance(error, _RefusedError):
        reason, remedy = error.args
        return reason, remedy
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels for Pillow", "save it smaller, or in another format"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it", "shrink it"
    detail = str(error)
    if "truncated" in detail.lower() or looks_cut(kind, content):
        return "truncated", "get the file again from where it came, or accept it with --allow-truncated"
    return f"broken {kind} ({printable(detail)[:120]})", "get the file again from where it came, or save it again"


def _ends_early(image: Image.Image, content: bytes, max_pixels: int) -> bool:
    """Return whether the end marker of a JPEG comes before its last pixels, which libjpeg then silently makes gray.

    The test decodes again only when the last pixel is that gray. Bytes inserted before the marker change the image if
    and only if pixels are missing: a complete scan does not read them.
    """
    if image.getpixel((image.width - 1, image.height - 1)) not in (128, (128, 128, 128)):
        return False
    end = content.rfind(b"\xff\xd9")
    probe = _open("JPEG", content[:end] + bytes(range(1, 255)) + content[end:], max_pixels)
    probe.load()
    return ImageChops.difference(image, probe).getbbox() is not None


def _flatten(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB: 16 bits scaled to 8, transparency laid over BACKGROUND."""
    if image.mode.startswith("I"):  # 16-bit gray: I;16, or I with values 0..65535
        values = np.asarray(image).astype(np.uint32)
        gray = ((values * 255 + 32767) // 65535).astype(np.uint8)  # round(v / 257)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            gray[values == transparent] = BACKGROUND[0]
        return Image.fromarray(gray).convert("RGB")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        flat = Image.new("RGB", image.size, BACKGROUND)
        flat.paste(over, mask=over)
        return flat
    return image if image.mode == "RGB" else image.convert("RGB")


def _turn_upright(image: Image.Image, exif: object, notes: list[str]) -> Image.Image:
    """Return the image turned by its EXIF orientation; a broken block is ignored and noted."""
    if not isinstance(exif, bytes):
        return image
    try:
        orientation = exif_orientation(exif)
    except ValueError:
        notes.append("EXIF broken: orientation ignored")
        return image
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def _is_animated(image: Image.Image) -> bool:
    """Return whether more frames follow the first; at most the header of the second is read."""
    try:
        return bool(getattr(image, "is_animated", False))
    except (*PILLOW_ERRORS, IndexError, TypeError, struct.error):
        return True  # GIF: something follows, and it is damaged
