"""Two routers of two replicas each as peers: load is spread, any router answers, and one killed under load takes none of
the other's requests with it."""
import concurrent.futures
import http.client
import os
import signal
import time
import unittest

from cluster import DEMO, Cluster, free_ports
from test_replicas import metric
from test_routers import Router, routers_yaml

BODY = {"max_tokens": 300, "temperature": 0, "ignore_eos": True}
PROMPTS = [f"{number}. And it came to pass" for number in range(16)]


def text(router, prompt):
    return router.complete(prompt=prompt, **BODY)["choices"][0]["text"]


def ask_who_may_die(router, prompt):
    try:
        router.post("/v1/completions", {"prompt": prompt, **BODY})
    except (OSError, http.client.HTTPException, ValueError):
        pass


class Peers(unittest.TestCase):
    def wait_for(self, what, is_so):
        deadline = time.monotonic() + 60
        while not is_so():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)

    def peers_answer(self, router):
        return all(p["state"] == "ready" for p in router.get("/health")[1]["peers"])

    def test_one_of_two_loaded_routers_is_killed(self):
        ports = free_ports(4)
        file = {"port": ports[0], "worker_ports": ports[2:], "dense": "data_parallel: 2",
                "extra": routers_yaml(("r0", ports[0], "127.0.0.1"), ("r1", ports[1], "127.0.0.1"))}
        with Cluster(DEMO, num_workers=2, **file) as first:
            second = Router(first.host, ports[1]).wait_ready()
            self.wait_for("peers", lambda: self.peers_answer(first) and self.peers_answer(second))
            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                expected = list(pool.map(lambda p: text(first, p), PROMPTS))
                sent = metric(first, "peer_requests_total")
                self.assertEqual(set(sent), {"r1"})
                self.assertGreater(sent["r1"], 0, "a crowd at one router is spread over both")

                kept = [pool.submit(text, first, p) for p in PROMPTS]
                lost = [pool.submit(ask_who_may_die, second, p) for p in PROMPTS]
                self.wait_for("work", lambda: any(metric(first, "replica_running").values()) or
                              all(f.done() for f in kept))
                os.kill(first.worker_pid("r1"), signal.SIGKILL)
                self.assertEqual([f.result() for f in kept], expected)
                for future in lost:
                    future.result()
                self.assertEqual(text(first, PROMPTS[0]), expected[0])
                second.wait_ready()  # `up` has started it again
                self.wait_for("peers", lambda: self.peers_answer(first) and self.peers_answer(second))
                self.assertEqual(text(second, PROMPTS[1]), expected[1])


if __name__ == "__main__":
    unittest.main()
