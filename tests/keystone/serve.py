"""Serves Keystone's public API from this one process, over TLS when a certificate is given.

serve.py STATE ADDRESS PORT [CERTIFICATE KEY]

Each request leaves a line in STATE/access.log, so that a test can count what reached Keystone.
"""

import os
import sys

from werkzeug import serving


def main(state, address, port, certificate=None, key=None):
    os.environ["OS_KEYSTONE_CONFIG_FILES"] = os.path.join(state, "keystone.conf")
    # Keystone reads the command line as its own.
    sys.argv = ["keystone"]
    from keystone.server.wsgi import initialize_public_application

    application = initialize_public_application()
    log = open(os.path.join(state, "access.log"), "a", buffering=1)

    class Handler(serving.WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, code="-", size="-"):
            log.write(f"{self.command} {self.path} {int(code)}\n")

    server = serving.make_server(
        address, int(port), application, threaded=True, request_handler=Handler,
        ssl_context=(certificate, key) if certificate else None,
    )
    print("serves", flush=True)
    server.serve_forever()


main(*sys.argv[1:])
