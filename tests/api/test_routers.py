"""Two routers of one file that share two workers, both under load, answer with the bits of a router that has them
alone; `up` starts those of its host."""
import json
import subprocess
import threading
import time
import unittest

from cluster import BIN, GOLDEN, STARTUP_LIMIT_S, Cluster, free_ports
from test_golden import greedy, score

CASE = "qwen3_moe_bf16_128_experts"
ELSEWHERE = "203.0.113.7"  # reserved for documentation: no machine has it


def routers_yaml(*routers):
    return "routers:\n" + "".join(
        f'  - {{name: {name}, listen: "127.0.0.1:{port}", host: {host}}}\n' for name, port, host in routers)


class Router:
    """One more router of a cluster, in a process of its own or started by the cluster's `up`."""

    def __init__(self, host, port):
        self.host, self.port = host, port

    request, get, post, complete = Cluster.request, Cluster.get, Cluster.post, Cluster.complete

    def wait_ready(self, alive=lambda: True):
        deadline = time.monotonic() + STARTUP_LIMIT_S
        while time.monotonic() < deadline and alive():
            try:
                if self.get("/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        raise RuntimeError("the second router does not serve")


class UpElsewhere(Router):
    """`guildhall up` with a running cluster's file, on what that calls another host."""

    def __init__(self, cluster, port):
        super().__init__(cluster.host, port)
        self.log = open(cluster.folder / "second.log", "w")
        self.process = subprocess.Popen([BIN / "guildhall", "up", "--config", cluster.config, "--host", ELSEWHERE],
                                        stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self):
        try:
            return self.wait_ready(lambda: self.process.poll() is None)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(self, kind, value, trace):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


def answers(router, prompts):
    return json.dumps([[score(router, ids), greedy(router, ids, 32)] for ids in prompts])


class Routers(unittest.TestCase):
    def test_two_loaded_routers_have_the_bits_of_one(self):
        expected = json.loads((GOLDEN / CASE / "expected.json").read_text())
        prompts = [p["ids"] for p in expected["prompts"]]
        ports = free_ports(4)
        file = {"port": ports[0], "worker_ports": ports[2:],
                "extra": routers_yaml(("r0", ports[0], "127.0.0.1"), ("r1", ports[1], ELSEWHERE))}
        with Cluster(GOLDEN / CASE, num_workers=2, **file) as first:
            self.assertNotIn("r1 (pid", first.output(), "it belongs on another host")
            alone = answers(first, prompts)
            with UpElsewhere(first, ports[1]) as second:
                got = []
                threads = [threading.Thread(target=lambda r=router: got.append(answers(r, prompts)))
                           for router in (first, second) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                self.assertEqual(got, [alone] * len(threads))

    def test_up_starts_all_routers_of_its_host(self):
        ports = free_ports(3)
        file = {"port": ports[0], "worker_ports": ports[2:],
                "extra": routers_yaml(("r0", ports[0], "127.0.0.1"), ("r1", ports[1], "127.0.0.1"))}
        with Cluster(GOLDEN / CASE, num_workers=1, **file) as first:
            second = Router(first.host, ports[1]).wait_ready()
            for name in ("w0", "r0", "r1"):
                self.assertGreater(first.worker_pid(name), 0)
            ids = json.loads((GOLDEN / CASE / "expected.json").read_text())["prompts"][0]["ids"]
            self.assertEqual(answers(first, [ids]), answers(second, [ids]))
            unnamed = subprocess.run([BIN / "guildhall-router", "--config", first.config], capture_output=True,
                                     text=True, timeout=60)
            self.assertEqual(unnamed.returncode, 2)
            self.assertIn("several routers: r0, r1; choose one with --name", unnamed.stderr)


if __name__ == "__main__":
    unittest.main()
