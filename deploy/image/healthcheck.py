"""Ends with 0 if the service is alive, as /healthz says; for the image's HEALTHCHECK."""

import http.client
import os
import sys

port = int(os.environ.get("COORDSERVE_PORT", "8000"))
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
connection.request("GET", "/healthz")
sys.exit(connection.getresponse().status != 200)
