"""Reading of uploads (multipart/form-data) within limits, into memory alone."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from rich.filesize import decimal
from starlette.types import Receive

from lift_jax.app.limits import Limits
from lift_jax.output.plain import printable

LONGEST_NAME = 200  # characters of a file's name

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its faults are answers here


class Refusal(Exception):
    """A request that is not answered: the HTTP status, and a sentence that says why."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass
class Upload:
    """A file that a client sent.

    Attributes:
        name: its name as plain text, only to be shown.
        content: its bytes; none if it is too large.
        error: why it is not looked at, else "".
    """

    name: str
    content: bytearray
    error: str = ""


def check(headers: Mapping[str, str], limits: Limits) -> bytes:
    """Returns the boundary of the parts of a request, as its headers state it.

    Raises Refusal if they state another kind of body, or one that is too large.
    """
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refusal(415, "Send the images as multipart/form-data.")
    length = headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > limits.request_bytes:
        raise _too_large(limits)
    return options[b"boundary"]


async def read(receive: Receive, boundary: bytes, limits: Limits) -> list[Upload]:
    """Returns the files in the body of a request, in their order.

    What is above a limit is dropped while it arrives. Raises Refusal for a body that is too large,
    too slow, cut off, not valid or without files.
    """
    parts = Parts(boundary, limits)
    try:
        async with asyncio.timeout(limits.upload_seconds):
            await _feed(parts, receive, limits)
    except TimeoutError as error:
        raise Refusal(408, "The upload takes too long.") from error
    if not parts.complete:
        raise Refusal(400, "The upload is cut off: its end is missing.")
    if not parts.uploads:
        raise Refusal(400, "The request holds no file: send images as multipart/form-data.")
    return parts.uploads


async def _feed(parts: "Parts", receive: Receive, limits: Limits) -> None:
    """Hands the body of a request on as it arrives."""
    size, more = 0, True
    while more:
        async with asyncio.timeout(limits.idle_seconds):
            message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "The client left before the end of its upload.")
        body, more = message.get("body", b""), message.get("more_body", False)
        size += len(body)
        if size > limits.request_bytes:
            raise _too_large(limits)
        try:
            parts.parser.write(body)
        except FormParserError as error:
            raise Refusal(400, "The request is no valid multipart/form-data.") from error


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"A request may hold {decimal(limits.request_bytes)}, not more.")


class Parts:
    """The parts of a body while it arrives.

    Attributes:
        uploads: the files so far.
        complete: True after the last boundary.
    """

    def __init__(self, boundary: bytes, limits: Limits):
        self.uploads: list[Upload] = []
        self.complete = False
        self._limits = limits
        self._field, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._current: Upload | None = None
        try:
            self.parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin, "on_part_data": self._data,
                    "on_header_field": self._header_field, "on_header_value": self._header_value,
                    "on_header_end": self._header_end, "on_headers_finished": self._opened,
                    "on_end": self._end,
                },
            )  # fmt: skip
        except FormParserError as error:
            raise Refusal(400, "The boundary of the multipart/form-data is not valid.") from error

    def _begin(self) -> None:
        self._headers, self._current = {}, None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _opened(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"filename")
        if not name:
            return  # a field, or an input without a file
        if len(self.uploads) == self._limits.files:
            raise Refusal(413, f"A request may hold {self._limits.files} images, not more.")
        text = printable(name.decode(errors="backslashreplace"))
        cut = text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..."
        self._current = Upload(cut, bytearray())
        self.uploads.append(self._current)

    def _data(self, data: bytes, start: int, end: int) -> None:
        upload = self._current
        if upload is None or upload.error:
            return
        if len(upload.content) + end - start > self._limits.file_bytes:
            upload.error = f"the file has more than {decimal(self._limits.file_bytes)}"
            upload.content = bytearray()
        else:
            upload.content += data[start:end]

    def _end(self) -> None:
        self.complete = True
