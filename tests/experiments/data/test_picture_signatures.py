import pytest

from experiments.data.pictures import open_picture
from experiments.engine.errors import InputError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"HEIC.* convert .*PNG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", r"HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1hevx", r"HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", r"AVIF"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", r"raw.*CR3"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", r"video.* frame"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", r"video"),
        (b"RIFF\x10\0\0\0AVI LIST", r"video"),
        (b"\x1aE\xdf\xa3\x01\0", r"video"),
        (b"<?xml version='1.0'?>\n<!-- by hand -->\n<svg width='1'/>", r"SVG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"SVG"),
        (b"\n<!DOCTYPE html><html><body>403</body></html>", r"web page"),
        (b"\xef\xbb\xbf<HTML><head>", r"web page"),
        (b"%PDF-1.7\n", r"PDF"),
        (b"8BPS\0\1", r"Photoshop"),
        (b"II*\0\x10\0\0\0CR\2\0", r"raw.*CR2"),
        (b"\xff\x0a\xfa\x7f", r"JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", r"JPEG XL"),
        (b"v/1\1\2\0\0\0", r"OpenEXR"),
        (b"PK\3\4\x14\0", r"ZIP.* unpack"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"Git LFS.* pull"),
        (b"", r"empty"),
    ],
)
def test_a_file_that_is_not_a_picture_is_named_with_advice(tmp_path, content, message):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^image x .* no picture.*{message}") as raised:
        open_picture(path, "image x")
    assert str(tmp_path) not in str(raised.value)


def test_an_unknown_format_is_reported_as_unknown(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^image x .* no picture of a known format$"):
        open_picture(tmp_path / "photo.jpg", "image x")
