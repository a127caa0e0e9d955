"""A page that asks a gateway for whatever a browser lets it, on a web server of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = """<!doctype html><title>Cute cats</title>
<iframe name="hidden"></iframe>
<form method="post" enctype="text/plain" target="hidden" action="%(url)s/v1/chat/completions">
<input name='{"x": "' value='", "model": "%(model)s", "prompt": "spam"}'></form>
<script>
const url = "%(url)s", spam = JSON.stringify(%(spam)s);
window.read = [];
async function attempt(what, path, options) {
    try {
        const response = await fetch(url + path, options);
        if (response.ok && await response.text()) window.read.push(what);
    } catch { /* not let read */ }
}
async function run() {
    for (const path of ["/v1/chat/completions", "/api/chat", "/v1/messages"]) {
        await attempt("blind " + path, path, { method: "POST", mode: "no-cors", body: spam });
        await attempt("text " + path, path, { method: "POST", body: spam });
        const headers = { "content-type": "application/json" };
        await attempt("json " + path, path, { method: "POST", headers, body: spam });
    }
    for (const path of ["/v1/models", "/p2pnet/v1/overview", "/p2pnet/v1/requests", "/api/tags", "/metrics", "/"])
        await attempt(path, path, {});
    document.forms[0].submit();
    await new Promise((loaded) => { document.querySelector("iframe").onload = loaded; });
    window.done = true;
}
run();
</script>"""


def evil_html(url: str, model: str) -> str:
    """What it asks is for the gateway at this URL."""
    spam = {
        "model": model,
        "messages": [{"role": "user", "content": "spam"}],
        "max_tokens": 3,
        "options": {"num_predict": 3},
    }
    return HTML % {"url": url, "model": model, "spam": json.dumps(spam)}


@contextmanager
def serving(html: str) -> Iterator[int]:
    """The port on which a web server of this machine shows it, whatever it is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
