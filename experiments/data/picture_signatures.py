"""Recognises files that Pillow cannot read by their first bytes, for error messages."""

_CONVERT = "convert it to PNG or JPEG"
_UNPACK = "unpack it"
_DOWNLOAD = "save the picture itself"

# First bytes of a file, its format, and what to do about it. The first match counts.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS", "run git lfs pull"),
    (b"\xff\x0a", "JPEG XL", _CONVERT),
    (b"\0\0\0\x0cJXL ", "JPEG XL", _CONVERT),
    (b"8BPS", "a Photoshop document", _CONVERT),
    (b"%PDF", "PDF", _CONVERT),
    (b"v/1\x01", "OpenEXR", _CONVERT),
    (b"II*\0\x10\0\0\0CR", "a camera's raw file (CR2)", _CONVERT),
    (b"PK\x03\x04", "a ZIP archive", _UNPACK),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video", "save a frame as PNG or JPEG"),
)
# Formats of ISO base media files, by one of their brands. The first match counts.
_BRANDS: tuple[tuple[bytes, str, str], ...] = (
    (b"avi", "AVIF that is damaged, or that this Pillow cannot decode", _CONVERT),
    (b"he", "HEIC", _CONVERT),
    (b"mif1", "HEIF", _CONVERT),
    (b"msf1", "HEIF", _CONVERT),
    (b"crx", "a camera's raw file (CR3)", _CONVERT),
)
_VIDEO = ("a video", "save a frame as PNG or JPEG")
HEAD_LENGTH = 1024  # comments may precede the first element of SVG and HTML


def describe(data: bytes) -> str | None:
    """Names the format of a file that cannot be read as a picture, and what to do about it.

    Args:
        data: the first bytes of the file, 1,024 or all of them.

    Returns:
        A text such as "HEIC: convert it to PNG or JPEG"; None for an unknown format.
    """
    what, advice = _kind(data[:HEAD_LENGTH]) or (None, None)
    return what and f"{what}: {advice}"


def _kind(data: bytes) -> tuple[str, str] | None:
    if not data:
        return "an empty file", "fetch it again"
    for start, what, advice in _SIGNATURES:
        if data.startswith(start):
            return what, advice
    if data[4:8] == b"ftyp":
        brands = data[8 : int.from_bytes(data[:4])]
        names = [brands[index : index + 4] for index in range(0, len(brands), 4) if index != 4]
        for start, what, advice in _BRANDS:
            if any(name.startswith(start) for name in names):
                return what, advice
        return _VIDEO
    if data.startswith(b"RIFF") and data[8:11] == b"AVI":
        return _VIDEO
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        if b"<svg" in text:
            return "SVG", _CONVERT
        if b"<html" in text or b"<!doctype html" in text:
            return "a web page", _DOWNLOAD
    return None
