"""The page itself: HTML with its own style and script inside, which asks no other address."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.filesize import decimal

from lift_jax.app.answerer import Answerer
from lift_jax.app.limits import BATCH, Limits
from lift_jax.data.images.formats import SUFFIXES
from lift_jax.output.plain import printable

HERE = Path(__file__).with_name("templates")
REPORTS = Path(__file__).parent.parent / "reports" / "templates"  # style.css, the look of both


@dataclass(frozen=True)
class Page:
    """A page and its Content-Security-Policy, by which nothing else in it can run."""

    html: str
    policy: str


def render(answerer: Answerer, title: str, limits: Limits) -> Page:
    """Returns the page of a run."""
    environment = Environment(
        loader=FileSystemLoader([HERE, REPORTS]), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = "\n".join(environment.get_template(f).render() for f in ("style.css", "app.css"))
    script = environment.get_template("app.js").render()
    about, classes = answerer.about(), len(answerer.predictor.class_names)
    html = environment.get_template("app.html").render(
        title=printable(title), classes=f"{classes:,}", notes=about["notes"],
        calibrated=about["calibrated"], accept=",".join(("image/*", *SUFFIXES)),
        limits=limits, file_size=decimal(limits.file_bytes),
        batch=min(BATCH, limits.files), style=Markup(style), script=Markup(script),
    )  # fmt: skip
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Page(html, policy)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
