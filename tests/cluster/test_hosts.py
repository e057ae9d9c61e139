"""`guildhall up` with one file on every host of a cluster: a router's host and two workers' hosts, frames over TCP."""
import concurrent.futures
import pathlib
import re
import shutil
import tempfile
import time
import unittest

from cluster import DEMO, Cluster
from hosts import Network, Up

PORT = 8000
SHORT = {"prompt": "In the beginning", "max_tokens": 40, "temperature": 0.7, "seed": 5}
# Long enough to be under way when something happens to a worker; several, so that one that ends early is no matter.
LONG = [{"prompt": prompt, "max_tokens": 700, "temperature": 0.9, "seed": seed}
        for seed, prompt in enumerate(("And the king said", "There was a", "In those days", "The people"))]
HEARTBEAT_LIMIT_S = 1.0  # ten heartbeats of those below
ANSWER_LIMIT_S = 60      # "in bounded time", on a busy machine


def text_of(reply):
    return reply["choices"][0]["text"]


class Hosts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.network = Network(4)
        cls.addClassCleanup(cls.network.close)
        cls.router_host, *cls.worker_hosts, cls.spare_host = cls.network.hosts
        with Cluster(DEMO, kind="loopback") as one_process:
            cls.expected = text_of(one_process.complete(**SHORT))
            cls.expected_long = [text_of(one_process.complete(**request)) for request in LONG]

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(self.stop_all)
        self.ups = []
        self.config = self.write("guildhall.yaml", "", "", "")

    def stop_all(self):
        for up in self.ups:
            if up.process.poll() is None:
                up.process.kill()
                up.process.wait()
        self.expect_nothing_left()

    def expect_nothing_left(self):
        deadline = time.monotonic() + 15  # a child of a killed `up` ends by itself
        for host in self.network.hosts:
            while host.pids():
                self.assertLess(time.monotonic(), deadline, f"processes left on {host.address}: {host.pids()}")
                time.sleep(0.05)

    def write(self, name, *process_hosts):
        """The file; `process_hosts` are values of the router's and the workers' `host` keys."""
        path = self.folder / name
        named = [f"host: {host}, " if host else "" for host in process_hosts]
        workers = "".join(f'    - {{{host}name: w{i}, address: "{at.address}:7000"}}\n'
                          for i, (host, at) in enumerate(zip(named[1:], self.worker_hosts)))
        path.write_text(f"model: {{path: {DEMO}, name: test-model}}\n"
                        f"router:\n  host: {process_hosts[0] or self.router_host.address}\n"
                        f'  http: {{listen: "0.0.0.0:{PORT}"}}\n  kv_cache: {{memory: 64MiB}}\n'
                        f"experts:\n  workers:\n{workers}"
                        f"transport: {{heartbeat: 100ms, recovery_timeout: 40s, ucx: {{tls: tcp}}}}\n")
        return path

    def up(self, host, *options, config=None):
        self.ups.append(Up(host, config or self.config, *options))
        return self.ups[-1]

    def start_everywhere(self, workers_first=True):
        hosts = [*self.worker_hosts, self.router_host] if workers_first else [self.router_host, *self.worker_hosts]
        ups = {host: self.up(host) for host in hosts}
        ups[self.router_host].wait_for("curl ")
        return ups[self.router_host], [ups[host] for host in self.worker_hosts]

    def complete(self, request, timeout=ANSWER_LIMIT_S):
        return self.router_host.request("POST", PORT, "/v1/completions", request, timeout)

    def expect_right_answer(self):
        status, reply = self.complete(SHORT)
        self.assertEqual(status, 200, reply)
        self.assertEqual(text_of(reply), self.expected)

    def wait_until_ready(self, limit_s):
        deadline = time.monotonic() + limit_s
        while True:
            status, health = self.router_host.request("GET", PORT, "/health")
            if status == 200 and all(worker["state"] == "ready" for worker in health["workers"]):
                return
            self.assertLess(time.monotonic(), deadline, health)
            time.sleep(0.1)

    def wait_until_running(self, replies):
        """All at once, or one has ended already."""
        while not any(reply.done() for reply in replies):
            _, metrics = self.router_host.request_text("GET", PORT, "/metrics")
            running = re.search(r"^guildhall_replica_running\{.*\} (\d+)", metrics, re.MULTILINE)
            if running and int(running[1]) == len(replies):
                return
            time.sleep(0.01)

    def interrupt_all(self):
        for up in self.ups:
            if up.process.poll() is None:
                self.assertEqual(up.interrupt(), 0, up.output())
        self.expect_nothing_left()

    def test_each_host_starts_what_belongs_there_and_frames_cross_the_wire(self):
        router, workers = self.start_everywhere()
        for i, worker in enumerate(workers):
            worker.wait_for(f"{self.worker_hosts[i].address}:7000")
            self.assertIn(f"started w{i} (pid ", worker.output())
            self.assertEqual(len(self.worker_hosts[i].pids()), 2, "`up` and one worker")
        self.assertIn("started r0 (pid ", router.output())
        self.assertEqual(len(self.router_host.pids()), 2, "`up` and the router")
        summary = router.output().splitlines()
        for i, host in enumerate(self.worker_hosts):
            line = next(line for line in summary if line.startswith(f"  w{i} "))
            self.assertRegex(line, rf"{host.address}:7000 +24 experts +4\.5 MiB +ucx tcp/eth0")
        self.assertRegex(router.output(), r"KV cache: \d+ tokens")
        self.assertIn(f"http://{self.router_host.address}:{PORT}/v1", router.output())

        before = [host.bytes_carried() for host in self.network.hosts]
        self.expect_right_answer()
        carried = [host.bytes_carried() - b for host, b in zip(self.network.hosts, before)]
        for worker_bytes in carried[1:3]:
            self.assertGreater(worker_bytes, 100_000, "rows of 40 tokens and their answers")
        self.assertGreater(carried[0], sum(carried[1:3]) * 0.9)
        self.interrupt_all()

    def test_router_first(self):
        self.start_everywhere(workers_first=False)
        self.expect_right_answer()
        self.interrupt_all()

    def test_host_option_picks_by_host_or_process_name(self):
        config = self.write("named.yaml", "alpha", "beta", "gamma")
        self.up(self.worker_hosts[0], "--host", "beta", config=config)
        self.up(self.worker_hosts[1], "--host", "w1", config=config)
        self.up(self.router_host, "--host", "alpha", config=config).wait_for("curl ")
        self.expect_right_answer()
        self.interrupt_all()

    def test_host_without_a_process_is_told_the_hosts_there_are(self):
        for options, named in (((), self.spare_host.address), (("--host", "delta"), "delta")):
            up = self.up(self.spare_host, *options)
            self.assertEqual(up.end(), 1, up.output())
            for words in (named, *(host.address for host in self.network.hosts[:3]), "w0", "w1", "r0"):
                self.assertIn(words, up.output())

    def test_second_up_on_a_host_names_the_port_and_leaves_the_first_alone(self):
        self.start_everywhere()
        for host, port in ((self.router_host, PORT), (self.worker_hosts[0], 7000)):
            second = self.up(host)
            self.assertEqual(second.end(), 1, second.output())
            self.assertIn(f":{port}: the port is in use", second.output())
            self.assertNotIn("Serving", second.output())
        self.expect_right_answer()
        self.interrupt_all()

    def test_killed_worker_host_comes_back_to_requests_that_waited(self):
        _, workers = self.start_everywhere()
        with concurrent.futures.ThreadPoolExecutor(len(LONG)) as clients:
            replies = [clients.submit(self.complete, request) for request in LONG]
            self.wait_until_running(replies)
            workers[0].process.kill()
            workers[0].process.wait()
            while self.worker_hosts[0].pids():
                time.sleep(0.05)
            self.up(self.worker_hosts[0])
            for reply, expected in zip(replies, self.expected_long):
                status, body = reply.result()
                self.assertEqual(status, 200, body)
                self.assertEqual(text_of(body), expected)
        self.wait_until_ready(ANSWER_LIMIT_S)
        self.expect_right_answer()
        self.interrupt_all()

    def expect_service_after(self, cut, mend):
        """The wire to a worker fails for longer than the heartbeat limit: answers are right or OpenAI's errors."""
        with concurrent.futures.ThreadPoolExecutor(len(LONG) + 1) as clients:
            replies = [clients.submit(self.complete, request) for request in LONG]
            self.wait_until_running(replies)
            cut()
            during = clients.submit(self.complete, SHORT)
            time.sleep(3 * HEARTBEAT_LIMIT_S)
            mend()
            for reply, expected in zip([*replies, during], [*self.expected_long, self.expected]):
                status, body = reply.result()
                if status == 200:
                    self.assertEqual(text_of(body), expected)
                else:
                    self.assertEqual(status, 503, body)
                    self.assertEqual(set(body["error"]), {"message", "type", "param", "code"}, body)
        self.wait_until_ready(ANSWER_LIMIT_S)
        self.expect_right_answer()

    def test_service_recovers_from_a_cut_wire(self):
        self.start_everywhere()
        host = self.worker_hosts[0]
        for name, cut, mend in (("unplugged", host.unplug, host.plug), ("frames lost", host.swallow, host.deliver)):
            with self.subTest(name):
                self.addCleanup(mend)
                self.expect_service_after(cut, mend)
        self.interrupt_all()


if __name__ == "__main__":
    unittest.main()
