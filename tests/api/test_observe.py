"""What operators see of a cluster under way: /metrics, and the traces its processes write."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request

from cluster import GOLDEN, Cluster


def metrics(cluster):
    with urllib.request.urlopen(cluster.url + "/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def spans(path):
    events = json.loads(path.read_text())["traceEvents"]
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    return [{**e, "lane": lanes[e["tid"]]} for e in events if e["ph"] == "X"]


class Observe(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-test-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def cluster(self, micro_batches):
        cluster = Cluster(GOLDEN / "qwen3_moe_f32", num_workers=2, extra=f"trace: {{file: {self.folder}/t.json}}\n")
        text = cluster.config.read_text()
        cluster.config.write_text(text.replace("  kv_cache:", f"  batching: {{micro_batches: {micro_batches}}}\n  kv_cache:"))
        return cluster

    def test_two_micro_batches_over_ucx_show_in_metrics_and_traces(self):
        prompt = [5, 9, 2, 77, 31, 8, 8, 1, 4, 100, 3]
        body = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "n": 4}
        with self.cluster(1) as cluster:
            expected = [choice["text"] for choice in cluster.complete(**body)["choices"]]
            self.assertEqual(metrics(cluster)['guildhall_steps_total{micro_batches="2"}'], 0)
        for written in self.folder.iterdir():
            self.assertNotIn("forward x2", written.read_text())
            written.unlink()
        with self.cluster(2) as cluster:
            self.assertEqual([choice["text"] for choice in cluster.complete(**body)["choices"]], expected)
            told = metrics(cluster)
            self.assertGreater(told['guildhall_steps_total{micro_batches="2"}'], 0)
            self.assertEqual(told['guildhall_worker_up{worker="w0"}'], 1)
            self.assertGreater(told['guildhall_exchange_bytes_total{direction="received"}'], 0)
            os.kill(cluster.worker_pid("w1"), signal.SIGUSR2)
            self.wait_for(self.folder / "t-w1.json")
        router, workers = spans(self.folder / "t-r0.json"), [spans(self.folder / f"t-w{i}.json") for i in range(2)]
        engine = [s for s in router if s["lane"] == "engine"]
        self.assertLessEqual({"step", "forward x2", "attention", "gate", "dispatch", "combine", "logits", "sample"},
                             {s["name"] for s in engine})
        self.assertEqual({s["args"]["micro_batch"] for s in engine if s["name"] == "attention"}, {0, 1})
        begin, end = min(s["ts"] for s in engine), max(s["ts"] + s["dur"] for s in engine)
        for served in workers:
            experts = [s for s in served if s["name"] == "experts"]
            self.assertEqual({s["lane"] for s in experts}, {"serve"})
            self.assertEqual({s["args"]["micro_batch"] for s in experts}, {0, 1})
            # One clock: what a worker did lies within what the router did.
            self.assertTrue(all(begin <= s["ts"] and s["ts"] + s["dur"] <= end for s in experts))

    def test_the_metrics_are_as_prometheus_wants_them(self):
        with Cluster(GOLDEN / "qwen3_moe_f32", num_workers=1) as cluster:
            cluster.complete(prompt=[5, 9, 2, 77], max_tokens=6, temperature=0)
            self.assertEqual(cluster.post("/v1/completions", {"prompt": [5], "max_tokens": -1})[0], 400)
            with urllib.request.urlopen(cluster.url + "/metrics", timeout=30) as reply:
                text = reply.read()
            told = metrics(cluster)
        check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
        self.assertEqual((check.returncode, check.stdout + check.stderr), (0, b""))
        for name, value in {
            'guildhall_requests_finished_total{reason="length"}': 1,
            "guildhall_time_to_first_token_seconds_count": 1,
            "guildhall_inter_token_latency_seconds_count": 5,
            "guildhall_e2e_request_latency_seconds_count": 1,
            'guildhall_http_requests_total{endpoint="/v1/completions",status="400"}': 1,
        }.items():
            self.assertEqual(told[name], value, name)
        self.assertEqual(told['guildhall_load_bytes{process="w0",state="done"}'],
                         told['guildhall_load_bytes{process="w0",state="wanted"}'])

    def wait_for(self, path):
        deadline = time.monotonic() + 60
        while not path.exists():
            self.assertLess(time.monotonic(), deadline, f"{path} did not come")
            time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
