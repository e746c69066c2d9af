#!/usr/bin/python3
"""Stand for a cluster's API server, as far as Prometheus asks it: list and watch one pod, and pass on what it is asked.

usage: api_server ADDRESS PORT CERTIFICATE KEY TOKEN POD_PORT
The pod `athena-model-proxy-0` of the namespace `athena` is what answers at POD_PORT of this host. Whoever has no token
gets 401; what the account may not do (another namespace, another verb) gets 403.
"""

import json
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ADDRESS, PORT, CERTIFICATE, KEY, TOKEN, POD_PORT = sys.argv[1:]
LABELS = {"app.kubernetes.io/name": "athena-model-proxy"}
POD = {
    "metadata": {
        "name": "athena-model-proxy-0",
        "namespace": "athena",
        "uid": "1",
        "resourceVersion": "1",
        "labels": LABELS,
    },
    "spec": {
        "containers": [
            {
                "name": "athena-model-proxy",
                "ports": [{"name": "main", "containerPort": int(POD_PORT), "protocol": "TCP"}],
            }
        ]
    },
    "status": {"phase": "Running", "podIP": "10.0.0.1", "hostIP": ADDRESS},
}
PODS = "/api/v1/namespaces/athena/pods"
PROXY = re.compile(rf"{PODS}/athena-model-proxy-0:{POD_PORT}/proxy(/.*)")


class ApiServer(BaseHTTPRequestHandler):
    """Answers as an API server does whose account may get, list and watch pods, and get pods/proxy, in `athena`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Tell of the pod, or ask it."""
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, b"{}")
        elif parts.path == PODS and query.get("watch"):
            self._watch(int(query.get("timeoutSeconds", "60")))
        elif parts.path == PODS:
            selected = query.get("labelSelector") == "app.kubernetes.io/name=athena-model-proxy"
            listed = {
                "kind": "PodList",
                "apiVersion": "v1",
                "metadata": {"resourceVersion": "1"},
                "items": [POD] if selected else [],
            }
            self._answer(200, json.dumps(listed).encode())
        elif asked := PROXY.fullmatch(parts.path):
            self._answer(*pod_says(asked[1]))
        else:
            self._answer(403, b"{}")

    def _watch(self, seconds: int) -> None:
        """Say nothing new for so long."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(seconds)
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def pod_says(path: str) -> tuple[int, bytes, str]:
    """Return what the pod answers: status, body and its kind; 502 where it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{POD_PORT}{path}", timeout=5) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read(), refusal.headers["Content-Type"]
    except OSError:
        return 502, b"{}", "application/json"


server = ThreadingHTTPServer((ADDRESS, int(PORT)), ApiServer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
