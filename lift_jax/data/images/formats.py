"""Formats of image files: which are opened, and the endings by which folders are searched for them.

The content of a file decides how it is decoded, whatever its ending. Formats that run other
programs or hold pages, layers or measurements (EPS, PDF, PSD, FITS) are not opened.
"""

import functools

ENDINGS = {  # by Pillow's name of the format
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif", ".heics", ".heifs"),  # phones; by pillow-heif
}
FORMATS = tuple(ENDINGS)
SUFFIXES = tuple(ending for endings in ENDINGS.values() for ending in endings)


def openable(content: bytes) -> tuple[str, ...]:
    """Returns the formats that Pillow may open the bytes of a file as.

    HEIF is one of them if the bytes are in its container: then Pillow is given its plugin.
    """
    if content[4:8] != b"ftyp":
        return tuple(form for form in FORMATS if form != "HEIF")
    _register_heif()
    return FORMATS


@functools.cache
def _register_heif() -> None:
    import pillow_heif  # imported here because few files need it, in each worker process

    pillow_heif.register_heif_opener()
