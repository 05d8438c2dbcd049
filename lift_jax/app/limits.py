"""The limits of what clients of the page may send, and how long they may take."""

from dataclasses import dataclass

MEGABYTE = 10**6
BATCH = 8  # images that the classifier takes at a time; the page sends as many in a request


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        file_bytes: of one file; a larger one is not answered, others of its request are.
        request_bytes: of all files of a request together with the text between them.
        files: images in a request.
        at_once: requests whose files are held in memory; further ones wait.
        connections: open connections; further ones get status 503.
        idle_seconds: without a byte of an upload, or before a request.
        upload_seconds: for a whole upload, and the longest wait for others.
        seconds: for a whole request with its answer.
    """

    file_bytes: int = 20 * MEGABYTE
    request_bytes: int = 100 * MEGABYTE
    files: int = 50
    at_once: int = 4
    connections: int = 64
    idle_seconds: float = 10
    upload_seconds: float = 120
    seconds: float = 600

    def __post_init__(self):
        assert self.file_bytes <= self.request_bytes
