"""Two replicas in one router: the bits of one, alone and in a crowd; spread, a lost worker, a cancelled stream, drain."""
import concurrent.futures
import http.client
import json
import os
import signal
import time
import unittest
import urllib.request

from cluster import DEMO, GOLDEN, Cluster
from test_golden import greedy, score

CASES = ["qwen3_moe_bf16_128_experts", "deepseek_v3_f32"]
TWO = {"dense": "data_parallel: 2"}
NAMES = ("r0/0", "r0/1")


def metric(cluster, family):
    """The samples of a family by their label's value."""
    with urllib.request.urlopen(cluster.url + "/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if line.startswith("guildhall_" + family + "{"))
    return {name.split('"')[1]: float(value) for name, value in samples}


def answers(cluster, prompts):
    return [json.dumps([score(cluster, ids), greedy(cluster, ids, 32)]) for ids in prompts]


class Replicas(unittest.TestCase):
    def wait_for(self, what, is_so):
        deadline = time.monotonic() + 60
        while not is_so():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.05)

    def test_bits_of_one_alone_and_in_a_crowd(self):
        for case in CASES:
            with self.subTest(case):
                prompts = [p["ids"] for p in json.loads((GOLDEN / case / "expected.json").read_text())["prompts"]]
                with Cluster(GOLDEN / case) as one:
                    expected = answers(one, prompts)
                for kind in ("ucx", "loopback"):
                    with Cluster(GOLDEN / case, kind=kind, **TWO) as two:
                        self.assertEqual(answers(two, prompts), expected)
                        crowd = prompts * 8
                        with concurrent.futures.ThreadPoolExecutor(16) as pool:
                            got = list(pool.map(lambda ids: answers(two, [ids])[0], crowd))
                        self.assertEqual(got, expected * 8)
                        generated = metric(two, "replica_generated_tokens_total")
                        self.assertEqual(set(generated), set(NAMES))
                        self.assertGreater(min(generated.values()), 0, "both had work")

    def test_health_and_up_show_replicas(self):
        with Cluster(DEMO, **TWO) as cluster:
            health = cluster.get("/health")[1]
            self.assertEqual([r["name"] for r in health["replicas"]], list(NAMES))
            self.assertEqual({r["state"] for r in health["replicas"]}, {"ready"})
            cluster.wait_output("replicas: r0/0 ready r0/1 ready")
            self.assertEqual(metric(cluster, "replica_up"), dict.fromkeys(NAMES, 1.0))
            choices = cluster.complete(prompt="And", n=4, max_tokens=8, seed=3)["choices"]
            self.assertEqual(len(choices), 4)
            self.assertEqual(sum(v > 0 for v in metric(cluster, "replica_generated_tokens_total").values()), 1)

    def test_a_client_that_leaves_frees_its_replica(self):
        with Cluster(DEMO, **TWO) as cluster:
            streams = []
            for _ in range(4):
                stream = http.client.HTTPConnection(cluster.host, cluster.port, timeout=60)
                stream.request("POST", "/v1/completions", json.dumps(
                    {"prompt": "And", "max_tokens": 900, "ignore_eos": True, "stream": True}), {"content-type": "application/json"})
                response = stream.getresponse()
                self.assertTrue(response.readline().startswith(b"data: "))
                streams.append((stream, response))
            for stream, response in streams:
                response.close()
                stream.close()
            self.wait_for("pages in use", lambda: not any(metric(cluster, "replica_kv_pages_used").values()))
            self.assertEqual(sum(metric(cluster, "replica_outstanding_tokens").values()), 0)

    def test_a_lost_worker_concerns_all_and_none_loses_its_requests(self):
        prompts = [f"{word} it came to pass" for word in ("And", "So", "Then", "Now", "Yet", "But", "For", "Lo")]
        body = {"max_tokens": 600, "temperature": 0, "ignore_eos": True}
        with Cluster(DEMO, **TWO) as cluster:
            expected = [cluster.complete(prompt=p, **body)["choices"][0]["text"] for p in prompts]
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                under_way = [pool.submit(cluster.complete, prompt=p, **body) for p in prompts]
                self.wait_for("both run", lambda: all(metric(cluster, "replica_running").values()) or
                              all(f.done() for f in under_way))
                os.kill(cluster.worker_pid("w1"), signal.SIGKILL)
                got = [f.result()["choices"][0]["text"] for f in under_way]
            self.assertEqual(got, expected)
            cluster.wait_output("worker_lost")  # seen by now, if they had all ended before
            self.wait_for("ready again", lambda: cluster.get("/health")[0] == 200)
            self.assertEqual(metric(cluster, "replica_up"), dict.fromkeys(NAMES, 1.0))


if __name__ == "__main__":
    unittest.main()
