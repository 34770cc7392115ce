"""`ctrnn explore`: a page to play with, on this machine alone."""

from __future__ import annotations

import logging
import socket
import webbrowser
from pathlib import Path
from typing import Annotated

import jax
from typer import Option

from .._util import checks

_HOST = "127.0.0.1"


def explore(
    weights: Annotated[
        Path | None,
        Option(help="A saved network (.ctrnn) or a matrix A (n, n) in 1/s to begin with."),
    ] = None,
    port: Annotated[int, Option(help="Port of the page; 0: any that is free.")] = 5006,
    browser: Annotated[
        bool, Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Open a page with sliders: portrait, signals, spectra, drift, sound, and the code for them.

    On 127.0.0.1 alone, in float64; Ctrl-C ends it. It takes the extra explore: pip install
    "ctrnn-jax[explore]".
    """
    if not 0 <= port < 2**16:
        checks.fail("--port", "a port from 0 to 65535", port)
    checks.module("bokeh", extra="explore")
    jax.config.update("jax_enable_x64", True)
    from bokeh.application import Application
    from bokeh.application.handlers.function import FunctionHandler
    from bokeh.server.server import Server

    from .explore_network import Controls, changed
    from .explore_page import make_page

    controls = Controls()
    if weights is not None:
        controls = changed(controls, "file", str(weights))
    application = Application(FunctionHandler(make_page(controls)))
    try:
        with socket.create_server((_HOST, port)) as found:  # one that is free, for 0
            port = found.getsockname()[1]
        names = [f"{host}:{port}" for host in (_HOST, "localhost")]
        server = Server(application, port=port, address=_HOST, allow_websocket_origin=names)
    except OSError as error:
        checks.fail("--port", "a free port", f"{port}: {error.strerror or error}")
    # A page that is closed while a picture is on its way is no trouble.
    logging.getLogger("bokeh.server.views.ws").setLevel(logging.ERROR)
    server.start()
    url = f"http://{_HOST}:{port}/"
    print(f"{url} (Ctrl-C ends it)", flush=True)
    if browser:
        server.io_loop.add_callback(webbrowser.open, url)
    server.io_loop.start()
