"""What the Visdom server of a run answers: its own page and its own run, to who knows the key.

Visdom's page and window format are used as they are; of its handlers only the four that the page
and our client need. The page's one word back is where its sliders stand. Nothing is read from or
written to the disk but the page's own scripts. The installed files of visdom stay as they are.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import urllib.parse
from collections.abc import Hashable
from typing import Any

import tornado.httpserver
import tornado.httputil
import tornado.ioloop
import tornado.netutil
import tornado.web
import tornado.websocket
from visdom.server.app import tornado_settings
from visdom.server.handlers.socket_handlers import SocketHandler
from visdom.server.handlers.web_handlers import CompareHandler, EnvHandler, PostHandler
from visdom.utils.server_utils import compare_envs, load_env

from eyescream_py.plots.client import LOCKED
from eyescream_py.plots.sliders import move_message, pane, read_move, read_sliders

ADDRESS = "127.0.0.1"
NAME = r"[\w.-]{1,128}"
_MAX_BODY = 16 << 20  # bytes of one message; a window of 100 pictures has 0.5 MB
_MAX_HEADER = 64 << 10
_BODY_S, _IDLE_S = 30.0, 3600.0
_MAX_ENVS, _MAX_WINDOWS = 100, 200
_MAX_LISTENERS = 20
_DRAWN = ("scatter", "image")  # what our client sends; text would be shown as HTML
_PICTURE = "data:image/png;base64,"


class Page(tornado.web.Application):
    """The state that visdom's handlers ask for, and the guard in front of every one of them."""

    env_path = None  # environments live in memory
    login_enabled = False
    readonly = True  # the page's socket takes no orders
    wrap_socket = False
    layouts = ""

    def __init__(self, port: int, key: str) -> None:
        self.port, self.key = port, key
        self.state: dict[str, Any] = {"main": {"jsons": {}, "reload": {}}}
        self.subs: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        self.listeners: set[_Moves] = set()
        self._hosts = {f"{host}:{port}" for host in (ADDRESS, "localhost", "[::1]")}
        us, names = {"app": self}, rf"{NAME}(?:\+{NAME})*"
        routes: list[Any] = [
            (rf"/{key}/events", _Events, us),
            (rf"/{key}/socket", _Socket, us),
            (rf"/{key}/moves", _Moves, us),
            (rf"/{key}/env/({NAME})", _Environment, us),
            (rf"/{key}/compare/({names})", _Comparison, us),
            (rf"/{key}/?", tornado.web.RedirectHandler, {"url": f"/{key}/env/main"}),
        ]
        settings = {k: tornado_settings[k] for k in ("autoescape", "static_path", "template_path")}
        super().__init__(
            routes, static_url_prefix=f"/{key}/static/", websocket_max_message_size=1 << 20,
            **settings,
        )  # fmt: skip

    def find_handler(self, request: tornado.httputil.HTTPServerRequest, **more: Any) -> Any:
        refusal = self._refusal(request)
        if refusal:
            return self.get_handler_delegate(request, _Refused, {"why": refusal})
        return super().find_handler(request, **more)

    def _refusal(self, request: tornado.httputil.HTTPServerRequest) -> str:
        """Why a request is not answered; empty where it may be."""
        host = request.headers.get("Host", "").lower()
        if host not in self._hosts:  # a stranger's name that was made to lead here (rebinding)
            return f"this server is http://{ADDRESS}:{self.port}, not {host!r}"
        origin = request.headers.get("Origin", f"http://{host}").lower()
        if origin != f"http://{host}":
            return "this page belongs to another site"
        site = request.headers.get("Sec-Fetch-Site", "none")
        by_hand = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("none", "same-origin") and not by_hand:
            return "the request comes from another site's page"
        key = request.path.lstrip("/").partition("/")[0]
        if not hmac.compare_digest(key.encode(), self.key.encode()):
            return "open the whole address that the run printed, with its key"
        return ""


class _Guarded(tornado.web.RequestHandler):
    """Headers under which other sites can neither frame the page nor learn its address."""

    def set_default_headers(self) -> None:
        here = self.request.host
        allowed = f"'self' 'unsafe-inline' 'unsafe-eval' data: blob: ws://{here}"
        self.set_header("Content-Security-Policy", f"default-src {allowed}; frame-ancestors 'none'")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")


class _Refused(_Guarded):
    def initialize(self, why: str) -> None:
        self.why = why

    def prepare(self) -> None:
        self.set_status(403)
        self.set_header(LOCKED, "locked")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"visdom of eyescream_py: {self.why}\n")


class _Environment(_Guarded, EnvHandler):
    def get(self, name: str) -> None:
        """The page. Whoever opens a run's address before its first window waits there for it:
        Visdom leads to an empty "main" instead, for good, where an environment is not known yet."""
        if len(self.state) < _MAX_ENVS and name[0] != ".":
            self.state.setdefault(name, {"jsons": {}, "reload": {}})
        super().get(name)

    def post(self, name: str) -> None:
        """The page asks for an environment's windows; they come over its socket."""
        subscriber = self.subs.get(_message(self).get("sid"))
        if subscriber is not None:
            load_env(self.state, name, subscriber, env_path=None)


class _Comparison(_Guarded, CompareHandler):
    def post(self, names: str) -> None:
        known = [name for name in names.split("+") if name in self.state]
        subscriber = self.subs.get(_message(self).get("sid"))
        if subscriber is not None and known:
            compare_envs(self.state, known, subscriber, None)


class _Events(_Guarded, PostHandler):
    def post(self) -> None:
        """A window from a run, checked, then shown as visdom shows it."""
        fault = self._fault(_message(self))
        if fault:
            raise tornado.web.HTTPError(400, fault)
        super().post()

    def _fault(self, message: dict[str, Any]) -> str:
        name, window, data = message.get("eid"), message.get("win"), message.get("data")
        if not isinstance(name, str) or not re.fullmatch(NAME, name) or name[0] == ".":
            return "the environment's name is none"
        if not isinstance(window, str) or not 0 < len(window) <= 128:
            return "the window's name is none"
        if not isinstance(data, list) or not data:
            return "nothing to show"
        if not all(_is_drawn(part) for part in data) and not _are_sliders(window, name, data):
            return "neither curves, a picture nor sliders"
        if name not in self.state and len(self.state) >= _MAX_ENVS:
            return "too many environments"
        windows = self.state.get(name, {"jsons": {}})["jsons"]
        if window not in windows and len(windows) >= _MAX_WINDOWS:
            return "too many windows"
        return ""


def _is_drawn(part: Any) -> bool:
    if not isinstance(part, dict) or part.get("type") not in _DRAWN:
        return False
    if part["type"] == "scatter":
        return True
    content = part.get("content")
    return (
        isinstance(content, dict)
        and str(content.get("src", "")).startswith(_PICTURE)
        and content.get("caption") is None  # would be shown as HTML
    )


def _are_sliders(window: str, env: str, data: list[Any]) -> bool:
    """Whether a text is, letter for letter, what this package draws of the sliders beside it."""
    part = data[0]
    if len(data) != 1 or not isinstance(part, dict) or part.get("type") != "text":
        return False
    try:
        return bool(part.get("content") == pane(window, env, read_sliders(part.get("sliders"))))
    except ValueError:
        return False


class _Patient(tornado.websocket.WebSocketHandler):
    """A socket whose reader may sleep: of what it has not taken, the newest message of each `thing`
    (a window, say) waits and replaces the older ones. A tab left open over a long run would else
    fill the memory.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        self._waiting: dict[Hashable, str | dict[str, Any]] = {}
        self._sending = False
        super().__init__(*arguments, **more)

    def tell(self, thing: Hashable, message: str | dict[str, Any]) -> None:
        self._waiting.pop(thing, None)  # the newer one stands behind all that is said before it
        self._waiting[thing] = message
        if not self._sending:
            self._sending = True
            tornado.ioloop.IOLoop.current().add_callback(self._send)

    async def _send(self) -> None:
        try:
            while self._waiting:
                thing = next(iter(self._waiting))
                await super().write_message(self._waiting.pop(thing))
        except tornado.websocket.WebSocketClosedError:
            pass
        finally:
            self._sending = False


class _Socket(_Patient, SocketHandler):
    """The page's socket: what Visdom tells the page, and from the page only sliders' values."""

    def write_message(self, message: Any, binary: bool = False) -> Any:
        """Visdom's words to the page: windows are dicts with an id, all else is text."""
        self.tell(message["id"] if isinstance(message, dict) else ("text", message), message)

    def on_message(self, message: str | bytes) -> None:
        try:
            order = json.loads(message)
        except (ValueError, RecursionError):
            return
        if not isinstance(order, dict) or order.get("cmd") != "forward_to_vis":
            return
        move = read_move(order.get("data"))
        if move is None:
            return
        env, window, values = move
        windows = self.state.get(env, {"jsons": {}})["jsons"]
        if windows.get(window, {}).get("type") == "text":
            for listener in self.app.listeners:
                listener.tell((env, window), json.dumps(move_message(env, window, values)))


class _Moves(_Patient):
    """Tells a run where the page's sliders stand, of each window the newest values."""

    def initialize(self, app: Page) -> None:
        self.app = app

    def check_origin(self, origin: str) -> bool:
        return True  # the page's guard has looked at it, for every path

    def open(self, *_: str, **__: str) -> None:
        if len(self.app.listeners) >= _MAX_LISTENERS:
            self.close()
            return
        self.app.listeners.add(self)

    def on_message(self, message: str | bytes) -> None:
        """A listener has nothing to say."""

    def on_close(self) -> None:
        self.app.listeners.discard(self)


def _message(handler: tornado.web.RequestHandler) -> dict[str, Any]:
    try:
        message = json.loads(handler.request.body)
    except (ValueError, RecursionError) as error:
        raise tornado.web.HTTPError(400, "no JSON") from error
    if not isinstance(message, dict):
        raise tornado.web.HTTPError(400, "no table")
    return message


def listen(port: int, key: str) -> None:
    """Answer at 127.0.0.1:`port` from the running loop on. Raises OSError where it is taken."""
    os.environ.setdefault("LOGNAME", "user")  # visdom asks for it; a container's user has none
    sockets = tornado.netutil.bind_sockets(port, ADDRESS)
    server = tornado.httpserver.HTTPServer(
        Page(port, urllib.parse.quote(key, safe="")), max_buffer_size=_MAX_BODY,
        max_body_size=_MAX_BODY, max_header_size=_MAX_HEADER, body_timeout=_BODY_S,
        idle_connection_timeout=_IDLE_S,
    )  # fmt: skip
    server.add_sockets(sockets)
