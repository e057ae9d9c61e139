"""Experts move while requests stream: texts stay what they are, nothing fails, and the file is read again on request."""
import concurrent.futures
import os
import signal
import time
import unittest

from cluster import DEMO, Cluster
from test_observe import metrics

LIMIT_S = 300
QUICK = "redundant_experts: 4, window_steps: 16, interval: 300ms, min_gain: 0.0, horizon: 24h"
PROMPTS = ["And it came to pass", "In the beginning", "The king said unto", "Seven years of"]
MOVED = 'guildhall_balance_moved_experts_total{kind="add"}'
OBSERVED = 'guildhall_balance_decisions_total{outcome="observed"}'
DONE = 'guildhall_balance_decisions_total{outcome="moved"}'


def balance(settings):
    return f"balance: {{{settings}}}\n"


def texts(cluster):
    """Of all prompts at once, each drawn with its own seed."""
    def one(i):
        reply = cluster.complete(prompt=PROMPTS[i], max_tokens=48, temperature=0.7, seed=i, ignore_eos=True)
        return reply["choices"][0]["text"]
    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as clients:
        return list(clients.map(one, range(len(PROMPTS))))


class Balancing(unittest.TestCase):
    def serve_until(self, cluster, expected, reached):
        """Requests go on, and have their texts, until `reached(metrics)`."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            self.assertEqual(texts(cluster), expected)
            told = metrics(cluster)
            if reached(told):
                return told
            self.assertLess(time.monotonic(), deadline, cluster.output()[-6000:])

    def status(self, cluster):
        code, body = cluster.get("/v1/cluster/balance")
        self.assertEqual(code, 200)
        return body

    @classmethod
    def setUpClass(cls):
        with Cluster(DEMO, num_workers=4, threads=1) as cluster:
            cls.expected = texts(cluster)
            cls.off = cluster.get("/v1/cluster/balance")[1]

    def test_a_static_cluster_has_nothing_to_tell(self):
        self.assertEqual((self.off["mode"], self.off["policy"], self.off["history"]), ("active", "static", []))

    def test_experts_move_while_requests_stream_and_texts_stay(self):
        for policy in ("eplb", "incremental"):
            with self.subTest(policy), Cluster(DEMO, num_workers=4, threads=1,
                                               extra=balance(f"policy: {policy}, {QUICK}")) as cluster:
                told = self.serve_until(cluster, self.expected, lambda m: m[DONE] >= 1)
                self.assertGreater(told[MOVED], 0)
                self.assertGreater(told["guildhall_balance_moved_bytes_total"], 0)
                self.serve_until(cluster, self.expected, lambda m: "guildhall_balance_gain_ratio" in str(m))
                status = self.status(cluster)
                self.assertEqual((status["mode"], status["policy"], status["alarms"]), ("active", policy, []))
                measured = [d for d in status["history"] if d["actual"]]
                self.assertTrue(measured, status)
                self.assertGreater(measured[0]["predicted"]["gain"], 0)
                self.assertIn("rebalanced number=", cluster.output())
                self.assertEqual(metrics(cluster)["guildhall_balance_missing_experts"], 0)

    def test_observing_moves_nothing_until_the_file_says_otherwise(self):
        with Cluster(DEMO, num_workers=4, threads=1,
                     extra=balance(f"policy: eplb, mode: observe, {QUICK}")) as cluster:
            told = self.serve_until(cluster, self.expected, lambda m: m[OBSERVED] >= 2)
            self.assertEqual(told[MOVED], 0)
            self.assertEqual(self.status(cluster)["mode"], "observe")

            text = cluster.config.read_text()
            cluster.config.write_text(text.replace("interval: 300ms", "interval: 300"))
            code, reply = cluster.post("/v1/cluster/reload", "")
            self.assertEqual(code, 400)
            self.assertEqual(reply["error"]["code"], "invalid_configuration")
            self.assertRegex(reply["error"]["message"], r"guildhall\.yaml:\d+: balance\.interval: ")
            cluster.config.write_text(text.replace("mode: observe", "mode: active").replace("64MiB", "65MiB"))
            code, reply = cluster.post("/v1/cluster/reload", "")
            self.assertEqual(code, 400)
            self.assertRegex(reply["error"]["message"],
                             r"guildhall\.yaml:\d+: router\.kv_cache\.memory: 64MiB -> 65MiB; this needs a restart")
            self.assertEqual(self.status(cluster)["mode"], "observe")

            cluster.config.write_text(text.replace("mode: observe", "mode: active").replace("eplb", "incremental"))
            os.kill(cluster.process.pid, signal.SIGHUP)
            cluster.wait_output("reloaded balance.mode: observe -> active")
            self.serve_until(cluster, self.expected, lambda m: m[DONE] >= 1)
            self.assertEqual(self.status(cluster)["policy"], "incremental")
            self.assertIsNone(cluster.process.poll(), "a hang-up ends nothing")

            cluster.config.write_text(text.replace("policy: eplb", "policy: static"))
            code, reply = cluster.post("/v1/cluster/reload", "")
            self.assertEqual(code, 200)
            self.assertEqual({c["key"] for c in reply["changes"]}, {"balance.policy", "balance.mode"})
            self.assertEqual(texts(cluster), self.expected)


if __name__ == "__main__":
    unittest.main()
