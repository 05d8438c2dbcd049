"""The addresses of the server: the page, its answers as JSON, and small training images."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from lift_jax.app import page, uploads
from lift_jax.app.answerer import Answerer
from lift_jax.app.guard import Guard, error_response, json_response
from lift_jax.app.limits import Limits
from lift_jax.app.uploads import Refusal
from lift_jax.errors import UserError

READERS = 2  # training images that are read at a time


class Web:
    """The answers to requests, whose classifier works in a thread of its own, one at a time.

    So the event loop is never blocked, and simultaneous requests are answered in turn.
    """

    def __init__(self, answerer: Answerer, title: str, limits: Limits):
        self._answerer, self._limits = answerer, limits
        self._page = page.render(answerer, title, limits)
        self._slots = asyncio.Semaphore(limits.at_once)
        self._classifier = ThreadPoolExecutor(1, "classifier")
        self._readers = ThreadPoolExecutor(READERS, "training-images")

    async def show(self, request: Request) -> Response:
        """Returns the page."""
        headers = {"Content-Security-Policy": self._page.policy}
        return Response(self._page.html, headers=headers, media_type="text/html")

    async def predict(self, request: Request) -> Response:
        """Returns the answers to the images of a request."""
        try:
            boundary = uploads.check(request.headers, self._limits)
            await self._turn()
            try:
                images = await uploads.read(request.receive, boundary, self._limits)
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._classifier, self._answerer.answer, images)
            finally:
                self._slots.release()
        except Refusal as refusal:
            return error_response(refusal.status, refusal.reason)
        return json_response(found)

    async def _turn(self) -> None:
        """Waits until the files of one more request may be held in memory."""
        try:
            async with asyncio.timeout(self._limits.upload_seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Refusal(503, "Too many requests wait here: try again.") from error

    async def training(self, request: Request) -> Response:
        """Returns a small training image; its number is all that a request can choose."""
        number = request.path_params["number"]
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            return error_response(404, "A training image has a number.")
        loop = asyncio.get_running_loop()
        try:
            small = await loop.run_in_executor(
                self._readers, self._answerer.training.thumbnail, int(number)
            )
        except UserError:  # its message may hold a path, which clients must not see
            return error_response(404, "This training image cannot be shown.")
        return Response(small, media_type="image/jpeg")


def application(
    answerer: Answerer,
    title: str,
    host: str,
    limits: Limits = Limits(),  # noqa: B008
) -> Guard:
    """Returns the ASGI application of a run.

    Args:
        answerer: the run.
        title: its name on the page.
        host: the address at which the server listens.
    """
    web = Web(answerer, title, limits)
    router = Router(
        [
            Route("/", web.show),
            Route("/api/predict", web.predict, methods=["POST"]),
            Route("/training/{number}", web.training),
        ],
        redirect_slashes=False,
    )
    return Guard(router, host)
