"""Takes webhooks in a container of the deployment and prints each as a line of JSON."""

import base64
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        came = {"headers": dict(self.headers), "body": base64.b64encode(body).decode()}
        print(json.dumps(came), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # the first process of a container has no default for it
    ThreadingHTTPServer(("0.0.0.0", 9000), Handler).serve_forever()
