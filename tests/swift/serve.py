"""Serves a whole Swift from this one process: proxy, account, container and object server, each on a port of one address.

serve.py STATE ADDRESS PORT [CERTIFICATE KEY]

Objects, databases and rings lie below STATE. The proxy listens on PORT, with TLS where a certificate is given, and speaks Swift's API
(tempauth, TempURL) and S3's (s3api). The servers behind it are on the ports after it. STATE/access.log has a line for each request.
"""

import configparser
import os
import subprocess
import sys

import eventlet
import eventlet.patcher

eventlet.patcher.monkey_patch()

from swift.common import utils  # noqa: E402 (after the patch, as Swift does it)
from swift.common.wsgi import SwiftHttpProtocol, loadapp, wsgi  # noqa: E402

SERVERS = ["account", "container", "object"]


def rings(state, address, port):
    """One partition of one replica on the one device."""
    builder = os.path.join(os.path.dirname(sys.executable), "swift-ring-builder")
    for number, server in enumerate(SERVERS, 1):
        if os.path.exists(f"{state}/{server}.ring.gz"):
            continue
        file = f"{state}/{server}.builder"
        device = ["--region", "1", "--zone", "1", "--device", "disk", "--weight", "1"]
        device += ["--ip", address, "--port", str(port + number)]
        for words in (["create", "0", "1", "1"], ["add", *device], ["rebalance"]):
            # Status 1 is a warning.
            done = subprocess.run([sys.executable, builder, file, *words], capture_output=True, text=True)
            if done.returncode > 1:
                raise RuntimeError(f"swift-ring-builder {words}: {done.stdout}{done.stderr}")


def configuration(state, name):
    """The configuration of one server: that of the proxy is in proxy.conf, those behind it have none worth a file."""
    path = f"{state}/{name}.conf"
    config = configparser.RawConfigParser()
    config.read(f"{state}/proxy.conf" if name == "proxy" else [])
    config["DEFAULT"] = {
        "swift_dir": state, "devices": f"{state}/devices", "mount_check": "false", "fallocate_reserve": "0",
        "disable_fallocate": "true", "log_level": "WARNING", "user": "root", "workers": "0",
    }
    if name != "proxy":
        config["app:main"] = {"use": f"egg:swift#{name}"}
    with open(path + ".served", "w") as file:
        config.write(file)
    return path + ".served"


class Log:
    """A file for lines about requests, without their queries: these are secrets."""

    def __init__(self, path):
        self.file = open(path, "a", buffering=1)

    def __call__(self, application):
        def serve(environ, start_response):
            def answered(status, headers, *rest):
                self.file.write(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {status[:3]}\n")
                return start_response(status, headers, *rest)

            return application(environ, answered)

        return serve


def main(state, address, port, certificate=None, key=None):
    port = int(port)
    os.environ["TZ"] = "UTC+0"
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    os.makedirs(f"{state}/devices/disk", exist_ok=True)
    utils.HASH_PATH_SUFFIX = b"tests"
    rings(state, address, port)
    proxy = eventlet.listen((address, port))
    if certificate:
        proxy = eventlet.wrap_ssl(proxy, certfile=certificate, keyfile=key, server_side=True)
    behind = [(name, eventlet.listen((address, port + number))) for number, name in enumerate(SERVERS, 1)]
    served = []
    for name, listener in [*behind, ("proxy", proxy)]:
        application = loadapp(configuration(state, name), global_conf={"log_name": name})
        if name == "proxy":
            application = Log(f"{state}/access.log")(application)
        served.append(eventlet.spawn(
            wsgi.server, listener, application, utils.NullLogger(), protocol=SwiftHttpProtocol,
            capitalize_response_headers=False))
    print("serves", flush=True)
    for thread in served:
        thread.wait()


main(*sys.argv[1:])
