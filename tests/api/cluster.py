"""A Guildhall cluster on loopback for tests: `guildhall up` with a configuration of its own, on free ports."""
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("GUILDHALL_BIN", SOURCE / "build/release/bin"))
GOLDEN = SOURCE / "tests/golden/data"
DEMO = SOURCE / "deploy/demo-model"
STARTUP_LIMIT_S = int(os.environ.get("GUILDHALL_STARTUP_LIMIT_S", 60))


def free_ports(count):
    """Ports in a row that were free a moment ago, below those that the system gives to outgoing connections."""
    for _ in range(100):
        first = random.randrange(10000, 30000 - count)
        ports = list(range(first, first + count))
        if all(is_free(port) for port in ports):
            return ports
    raise RuntimeError(f"no {count} free ports in a row")


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def config_text(model, num_workers=2, kind="ucx", port=None, worker_ports=None, router_host="127.0.0.1",
                worker_host="127.0.0.1", threads=0, transport="", dense="", extra=""):
    """A configuration file; `transport` and `dense` are more of those sections' YAML, `extra` is YAML appended at top
    level."""
    ports = free_ports(num_workers + 1)
    port = port or ports[0]
    worker_ports = worker_ports or ports[1:]
    workers = "".join(
        f"    - {{name: w{i}, threads: {threads}"
        + ("" if kind == "loopback" else f', address: "{worker_host}:{p}"') + "}\n"
        for i, p in enumerate(worker_ports))
    return port, (f"model: {{path: {model}, name: test-model}}\n"
                  f"router:\n"
                  f'  http: {{listen: "{router_host}:{port}"}}\n'
                  f"  dense: {{threads: {threads}{dense and ', ' + dense}}}\n"
                  f"  kv_cache: {{memory: 64MiB}}\n"
                  f"experts:\n  workers:\n{workers}"
                  f"transport: {{kind: {kind}{transport and ', ' + transport}}}\n{extra}")


class Cluster:
    """Use as a context manager; leaving it stops everything and checks that the end was orderly."""

    def __init__(self, model, router_host="127.0.0.1", **options):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-test-"))
        self.port, text = config_text(model, router_host=router_host, **options)
        self.config = self.folder / "guildhall.yaml"
        self.config.write_text(text)
        self.host, self.url = router_host, f"http://{router_host}:{self.port}"
        self.log = open(self.folder / "log", "w+")
        self.process = None

    def start(self):
        self.process = subprocess.Popen([BIN / "guildhall", "up", "--config", self.config],
                                        stdout=self.log, stderr=subprocess.STDOUT)
        return self

    def wait_ready(self):
        deadline = time.monotonic() + STARTUP_LIMIT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"guildhall up ended with {self.process.returncode}:\n{self.output()}")
            try:
                if self.get("/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"not ready within {STARTUP_LIMIT_S} s:\n{self.output()}")

    def __enter__(self):
        self.start()
        try:
            return self.wait_ready()
        except BaseException:
            self.stop(check=False)
            raise

    def __exit__(self, kind, value, trace):
        self.stop(check=kind is None)

    def stop(self, check=True):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        output = self.output()
        self.log.close()
        shutil.rmtree(self.folder)
        if check and code != 0:
            raise AssertionError(f"guildhall up ended with {code}:\n{output}")

    def output(self):
        self.log.flush()
        return (self.folder / "log").read_text()

    def wait_output(self, text, limit_s=60):
        deadline = time.monotonic() + limit_s
        while text not in self.output():
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} not found in:\n{self.output()}")
            time.sleep(0.05)

    def get(self, path, timeout=30):
        return self.request("GET", path, None, timeout)

    def post(self, path, body, timeout=120):
        return self.request("POST", path, body if isinstance(body, (bytes, str)) else json.dumps(body), timeout)

    def request(self, method, path, body, timeout):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def complete(self, **body):
        """A completion that must succeed."""
        status, reply = self.post("/v1/completions", body)
        assert status == 200, (status, reply)
        return reply

    def worker_pid(self, name):
        """The pid that `up` printed for a process it started."""
        for line in self.output().splitlines():
            if f"{name} (pid " in line:
                return int(line.split(f"{name} (pid ")[1].split(")")[0])
        raise KeyError(name)
