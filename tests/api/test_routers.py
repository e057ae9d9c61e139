"""Two routers that share two workers, both under load, answer with the bits of a router that has them alone."""
import json
import subprocess
import threading
import time
import unittest

from cluster import BIN, GOLDEN, STARTUP_LIMIT_S, Cluster, free_ports
from test_golden import greedy, score

CASE = "qwen3_moe_bf16_128_experts"


class SecondRouter:
    """Another router of a running cluster: the same file but for the router's name and port."""

    def __init__(self, cluster):
        self.port, self.host = free_ports(1)[0], cluster.host
        config = cluster.folder / "second.yaml"
        text = cluster.config.read_text().replace(f"{cluster.host}:{cluster.port}", f"{self.host}:{self.port}")
        config.write_text(text.replace("router:\n", "router:\n  name: r1\n", 1))
        self.log = open(cluster.folder / "second.log", "w")
        self.process = subprocess.Popen([BIN / "guildhall-router", "--config", config, "--name", "r1"],
                                        stdout=self.log, stderr=subprocess.STDOUT)

    request, get, post, complete = Cluster.request, Cluster.get, Cluster.post, Cluster.complete

    def __enter__(self):
        deadline = time.monotonic() + STARTUP_LIMIT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.get("/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        self.__exit__(None, None, None)
        raise RuntimeError("the second router does not serve")

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
        with Cluster(GOLDEN / CASE, num_workers=2) as first:
            alone = answers(first, prompts)
            with SecondRouter(first) as second:
                got = []
                threads = [threading.Thread(target=lambda r=router: got.append(answers(r, prompts)))
                           for router in (first, second) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                self.assertEqual(got, [alone] * len(threads))


if __name__ == "__main__":
    unittest.main()
