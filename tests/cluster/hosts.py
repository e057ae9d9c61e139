"""Several hosts on one machine: each is a network namespace, joined to the others by a bridge in one more namespace.
Nothing is made in the machine's own namespace, so nothing there can be disturbed or left behind."""
import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from cluster import BIN, STARTUP_LIMIT_S

STOP_LIMIT_S = 60
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*words):
    """Runs iproute2; a failure is the test's, with what `ip` said."""
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        raise AssertionError("these tests make network namespaces: install iproute2 and run them as root") from None
    if done.returncode != 0:
        raise AssertionError(f"these tests make network namespaces, as root with iproute2 (uid here: {os.getuid()}): "
                             f"`ip {' '.join(words)}` said: {done.stderr.strip()}")
    return done.stdout


class Host:
    """One namespace with an interface eth0. Its address is in a private network that only these namespaces have."""

    def __init__(self, namespace, switch, index):
        self.namespace, self.switch, self.port = namespace, switch, f"port{index}"
        self.address = f"10.77.0.{index + 1}"
        ip("netns", "add", namespace)

    def connect_to_switch(self):
        ip("-n", self.switch, "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        ip("-n", self.switch, "link", "set", self.port, "master", "bridge", "up")
        ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.namespace, "link", "set", device, "up")

    def unplug(self):
        """The cable is out, and both ends see it."""
        ip("-n", self.switch, "link", "set", self.port, "down")

    def plug(self):
        ip("-n", self.switch, "link", "set", self.port, "up")

    def swallow(self):
        """Frames get lost, and nobody is told."""
        ip("-n", self.switch, "link", "set", self.port, "nomaster")

    def deliver(self):
        ip("-n", self.switch, "link", "set", self.port, "master", "bridge")

    def bytes_carried(self):
        stats = json.loads(ip("-n", self.namespace, "-j", "-s", "link", "show", "eth0"))[0]["stats64"]
        return stats["rx"]["bytes"] + stats["tx"]["bytes"]

    def pids(self):
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    def dial(self, address, timeout):
        """A TCP connection from this host: only the calling thread visits its namespace."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.namespace}") as there:
            enter_namespace(there)
            try:
                return socket.create_connection(address, timeout)
            finally:
                enter_namespace(home)

    def request(self, method, port, path, body=None, timeout=120):
        """Status and JSON of a request to this host itself."""
        status, text = self.request_text(method, port, path, body, timeout)
        return status, json.loads(text) if text else None

    def request_text(self, method, port, path, body=None, timeout=120):
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        connection.sock = self.dial((self.address, port), timeout)
        try:
            connection.request(method, path, body and json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def enter_namespace(file):
    if LIBC.setns(file.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


class Network:
    """Hosts on one bridge. close() ends what still runs on them and takes them away; it may be called at any stage."""

    def __init__(self, num_hosts):
        self.hosts, self.switch = [], f"gh-{os.getpid()}-switch"
        try:
            ip("netns", "add", self.switch)
            ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
            ip("-n", self.switch, "link", "set", "bridge", "up")
            for index in range(num_hosts):
                self.hosts.append(Host(f"gh-{os.getpid()}-{index}", self.switch, index))
                self.hosts[-1].connect_to_switch()
        except BaseException:
            self.close()
            raise

    def close(self):
        for host in self.hosts:
            for pid in host.pids():
                with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                    os.kill(pid, signal.SIGKILL)
        for namespace in [host.namespace for host in self.hosts] + [self.switch]:
            if pathlib.Path("/run/netns", namespace).exists():
                ip("netns", "del", namespace)
        self.hosts = []


class Up:
    """`guildhall up` on one host."""

    def __init__(self, host, config, *options):
        self.host = host
        self.log = config.parent / f"log-{host.namespace}-{time.monotonic_ns()}"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", host.namespace, BIN / "guildhall", "up", "--config", config, *options],
                stdout=log, stderr=subprocess.STDOUT)

    def output(self):
        return self.log.read_text()

    def wait_for(self, words, limit_s=STARTUP_LIMIT_S):
        deadline = time.monotonic() + limit_s
        while words not in self.output():
            if self.process.poll() is not None:
                raise AssertionError(f"guildhall up ended with {self.process.returncode}:\n{self.output()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no '{words}' within {limit_s} s:\n{self.output()}")
            time.sleep(0.05)
        return self

    def interrupt(self):
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self, limit_s=STOP_LIMIT_S):
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"guildhall up still ran {limit_s} s later:\n{self.output()}") from None
