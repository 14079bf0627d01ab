"""What stands between the explorer and strangers, and how it is served. Needs gradio.

Only uploaded files are read: no address is ever fetched and no other path opened. A request is small, a reply may load
nothing from elsewhere, and an error is a sentence.
"""

import html
import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.processing_utils import hash_bytes
from gradio.utils import get_upload_folder
from jaxtyping import UInt8
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import NamapError, UsageError
from ..files import atomic_file
from ..pictures import encode_png

MAX_UPLOAD = 10 * 1024 * 1024  # bytes
MAX_BODY = MAX_UPLOAD + 64 * 1024  # an upload, and what a form adds to it
API = "/gradio_api/"
POSTS = tuple(API + name for name in ("queue/join", "call/", "run/", "api/", "upload", "cancel", "reset"))
POLICY = (
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    b"frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)


class Guard:
    """ASGI middleware: bounds requests, closes what fetches or runs things, and keeps the page offline.

    `/api/NAME` becomes Gradio's own `/gradio_api/api/NAME`.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"].startswith("/api/"):
            path = API + scope["path"][1:]
            scope = {**scope, "path": path, "raw_path": path.encode()}
        refusal = _refusal(scope)
        if refusal is not None:
            return await refusal(scope, receive, send)

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", POLICY), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _refusal(scope: Scope) -> PlainTextResponse | None:
    """Why a request is refused, or None."""
    path, method = scope["path"], scope["method"]
    if "proxy=" in path or ("file=" in path and ":/" in path):
        return PlainTextResponse("addresses are not fetched; upload the file", 403)
    if method not in ("POST", "PUT", "PATCH"):
        return None
    if not path.startswith(POSTS):
        return PlainTextResponse("not served here", 404)
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or b"transfer-encoding" in headers:  # which would count in place of the length
        return PlainTextResponse("say the length of the request (Content-Length)", 411)
    if int(length) > MAX_BODY:
        return PlainTextResponse(f"uploads are limited to {MAX_UPLOAD // 1024**2} MB; send a smaller file", 413)
    return None


class Page(gr.Blocks):
    """Blocks that take no file but an uploaded one.

    Gradio fetches the address in any value that looks like a file, whatever the component, before the component sees
    it; its own guard refuses internal addresses only.
    """

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        """Gradio's own, after a look at every value.

        Raises:
            gr.Error: an address, a path that was not uploaded, or values that the page does not send.
        """
        refuse_addresses(inputs)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **options)
        except gr.Error:
            raise
        except Exception:  # of the many ways in which a hand-made request can be wrong
            message = "this request is not one that the page sends; files must be uploaded first"
            raise gr.Error(message, print_exception=False) from None


def refuse_addresses(values: Any) -> None:
    """Look through nested values for a file that is an address.

    Raises:
        gr.Error: there is one.
    """
    left = [values]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "://" in str(value.get("path", "")):
                raise gr.Error("addresses are not fetched; upload the file", print_exception=False)
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def picture(**options: Any) -> gr.Image:
    """A place for a picture, which gives the path of the upload.

    namap's own reader opens it, with its limits, and nothing else does. A subclass would make Gradio write a stub file
    beside this module, at import.
    """

    def path_of(payload: Any) -> str | None:
        return None if payload is None else payload.path

    component = gr.Image(format="png", **options)
    component.preprocess = path_of  # pyright: ignore[reportAttributeAccessIssue]
    return component


def spoken(handler: Callable) -> Callable:
    """An event handler whose errors are sentences on the page."""
    if inspect.isgeneratorfunction(handler):

        @wraps(handler)
        def stream(*values: Any, **named: Any) -> Iterator[Any]:
            with _sentences():
                yield from handler(*values, **named)

        return stream

    @wraps(handler)
    def answer(*values: Any, **named: Any) -> Any:
        with _sentences():
            return handler(*values, **named)

    return answer


@contextmanager
def _sentences() -> Iterator[None]:
    try:
        yield
    except NamapError as error:
        text = html.escape(str(error), quote=False)  # Gradio shows messages as HTML, and names come from strangers
        raise gr.Error(text, print_exception=False) from None
    except gr.Error:
        raise
    except Exception:  # the last line of defence: the cause goes to the server's terminal, not to the page
        traceback.print_exc()
        raise gr.Error("this did not work; the terminal of namap app says why", print_exception=False) from None


def start(page: gr.Blocks, host: str, port: int, css: str = "") -> str:
    """Serve a page in the background; return its address. `page.close()` ends it.

    Args:
        page: what to serve.
        host: address to listen on.
        port: to listen on; 0 for any that is free.
        css: of the page.

    Raises:
        UsageError: the port is taken, or the host is not one of this machine, or an address of IPv6.
    """
    if ":" in host:  # Gradio cannot
        raise UsageError(f"--host {host}: is not served; use 127.0.0.1 for this machine, 0.0.0.0 for every other")
    page.queue(default_concurrency_limit=4, max_size=256)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port or _free_port(host),
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=False,
            max_file_size=MAX_UPLOAD,
            allowed_paths=[],
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            footer_links=[],
            css=css,
            app_kwargs={"middleware": [Middleware(Guard)]},
            _frontend=False,  # skips Gradio's look at its own page, which on a busy machine gives up and blames a proxy
        )
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: cannot listen there ({error}); choose another") from None
    return url


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def kept(name: str, content: bytes) -> str:
    """The path of a file in Gradio's cache, which serves it and deletes it after a day.

    Gradio writes what it is given in place, over a file of the same content that another visitor may be reading.
    """
    path = Path(get_upload_folder()) / hash_bytes(content) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(content)
    return str(path)


def png_file(image: UInt8[np.ndarray, "c h w"], name: str = "image") -> str:
    """The path of an image as PNG in Gradio's cache."""
    return kept(f"{name}.png", encode_png(image))
