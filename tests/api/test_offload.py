"""Experts that do not fit into the workers' memory: offloaded, they give the same texts, as `guildhall plan` says."""
import json
import re
import subprocess
import unittest

from cluster import BIN, DEMO, Cluster, config_text
from test_observe import metrics

SPEC = json.loads((DEMO / "config.json").read_text())
PROMPTS = ["Once upon a time", "The quick brown fox jumps over the lazy dog", "0 1 2 3 4 5", "Guildhall"]


def plan(folder, text, *arguments):
    file = folder / "plan.yaml"
    file.write_text(text)
    return subprocess.run([BIN / "guildhall", "plan", "--config", file, *arguments], capture_output=True, text=True,
                          timeout=60)


def texts(cluster):
    return [cluster.complete(prompt=prompt, max_tokens=24, temperature=0.7, seed=5, ignore_eos=True)["choices"][0]["text"]
            for prompt in PROMPTS]


def held_bytes(cluster):
    """Of the worker that holds least."""
    return min(worker["memory_bytes"] for worker in cluster.get("/v1/cluster/experts?format=summary")[1]["workers"])


def with_memory(text, memory, section="  offload: {mode: disk}\n"):
    return re.sub(r"(name: w\d+,)", rf"\1 memory: {memory},", text).replace("experts:\n", "experts:\n" + section)


class Offloading(Cluster):
    """Of a configuration file's text."""

    def __init__(self, text, port):
        super().__init__(DEMO)
        self.port, self.url = port, f"http://{self.host}:{port}"
        self.config.write_text(text)


class Offload(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with Cluster(DEMO) as cluster:
            cls.expected, cls.held = texts(cluster), held_bytes(cluster)

    def check_serves(self, cluster):
        self.assertEqual(texts(cluster), self.expected)
        self.assertEqual(texts(cluster), self.expected)

    def check_told(self, cluster, memory):
        told = metrics(cluster)
        workers = cluster.get("/v1/cluster/experts?format=summary")[1]["workers"]
        self.assertEqual(len(workers), 2)
        self.assertGreater(sum(worker["offload"]["prefetched_used"] for worker in workers), 0)
        for worker in workers:
            offload, name = worker["offload"], worker["name"]
            self.assertGreater(offload["hits"], 0)
            self.assertGreater(offload["waits"], 0)
            self.assertGreater(offload["wait_ms"], 0)
            self.assertGreater(offload["evictions"], 0)
            self.assertGreater(offload["resident_experts"], 0)
            self.assertLessEqual(offload["resident_bytes"], memory)
            self.assertEqual(offload["load_errors"], 0)
            self.assertGreaterEqual(worker["experts"], 2 * offload["resident_experts"])
            needed = {outcome: told[f'guildhall_offload_experts_needed_total{{worker="{name}",outcome="{outcome}"}}']
                      for outcome in ("hit", "wait")}
            self.assertGreater(needed["hit"], 0)
            self.assertGreater(needed["wait"], 0)

    def test_workers_that_hold_four_times_their_memory_give_the_same_texts(self):
        for kind in ("ucx", "loopback"):
            with self.subTest(kind):
                port, text = config_text(DEMO, kind=kind)
                with Offloading(with_memory(text, self.held // 4), port) as cluster:
                    self.check_serves(cluster)
                    self.wait_told(cluster)
                    self.check_told(cluster, self.held // 4)

    def wait_told(self, cluster):
        """Workers tell once a second."""
        for _ in range(50):
            workers = cluster.get("/v1/cluster/experts?format=summary")[1]["workers"]
            if all(worker["offload"] and worker["offload"]["hits"] for worker in workers):
                return
            subprocess.run(["sleep", "0.1"], check=True)
        self.fail("workers told nothing of what they offload")

    def test_what_plan_prints_serves(self):
        with Cluster(DEMO) as cluster:
            folder = cluster.folder
            port, text = config_text(DEMO)
            small = with_memory(text, self.held // 3, section="")
            planned = plan(folder, small)
            self.assertNotEqual(planned.returncode, 0)
            section = planned.stdout[planned.stdout.index("experts:\n  offload:"):]
            section = section[:re.search(r"\n(?! )", section).start() + 1] if re.search(r"\n(?! )", section) else section
        start, end = small.index("experts:\n"), small.index("transport:")
        offloading = small[:start] + section + small[end:]
        with Offloading(offloading, port) as cluster:
            checked = subprocess.run([BIN / "guildhall", "config", "check", cluster.config], capture_output=True, text=True,
                                     timeout=60)
            self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
            self.assertIn("the others offloaded", checked.stdout)
            self.assertEqual(plan(cluster.folder, offloading).returncode, 0)
            self.check_serves(cluster)

    def test_memory_that_is_too_small_is_refused_with_what_would_do(self):
        port, text = config_text(DEMO, kind="loopback")
        cluster = Offloading(with_memory(text, 4096), port)
        cluster.start()
        try:
            cluster.wait_output("it must hold 2, one that is computed and one that is brought in meanwhile")
        finally:
            cluster.stop(check=False)

    def test_host_memory_is_refused_on_the_cpu(self):
        port, text = config_text(DEMO, kind="loopback")
        text = with_memory(text, self.held // 4, "  device: cpu\n  offload: {mode: host}\n")
        cluster = Offloading(text, port)
        cluster.start()
        try:
            cluster.wait_output("disk is what works there")
        finally:
            cluster.stop(check=False)


if __name__ == "__main__":
    unittest.main()
