"""Tensor parallelism in one router process: golden checkpoints over two ranks, a lost worker, an orderly end."""
import concurrent.futures
import json
import os
import signal
import subprocess
import time
import unittest

from cluster import BIN, DEMO, GOLDEN, Cluster
from test_golden import greedy, score
from test_replicas import metric

TWO = {"dense": "device: cpu, tensor_parallel: 2", "threads": 1}
CASES = ["qwen3_moe_bf16_128_experts", "deepseek_v3_f32"]


class Ranks(unittest.TestCase):
    def test_agrees_with_transformers_and_has_the_same_bits_in_a_crowd_and_over_any_transport(self):
        for case in CASES:
            with self.subTest(case):
                expected = json.loads((GOLDEN / case / "expected.json").read_text())
                tolerance = 1e-3 if expected["weights"] == "float32" else 2e-2
                prompts = expected["prompts"]
                with Cluster(GOLDEN / case, **TWO) as two:
                    alone = [[score(two, p["ids"]), greedy(two, p["ids"], 24)] for p in prompts]
                    for prompt, (got, _) in zip(prompts, alone):
                        for position in range(1, len(prompt["ids"])):
                            self.assertAlmostEqual(got[position], prompt["logprobs"][position], delta=tolerance)
                    with concurrent.futures.ThreadPoolExecutor(8) as pool:
                        crowd = list(pool.map(lambda p: greedy(two, p["ids"], 24), prompts * 3))
                    self.assertEqual(crowd, [tokens for _, tokens in alone] * 3)
                with Cluster(GOLDEN / case, num_workers=1, kind="loopback", **TWO) as loopback:
                    self.assertEqual([greedy(loopback, p["ids"], 24) for p in prompts],
                                     [tokens for _, tokens in alone])

    def test_a_worker_dies_in_the_middle_of_answers_and_their_text_is_the_same(self):
        with Cluster(DEMO, **TWO) as cluster:
            body = {"prompt": "And it came to pass", "max_tokens": 900, "temperature": 0, "ignore_eos": True}
            undisturbed = cluster.complete(**body)["choices"][0]["text"]
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                answers = [pool.submit(cluster.complete, **body) for _ in range(4)]
                while sum(metric(cluster, "replica_running").values()) < 4 and not any(a.done() for a in answers):
                    time.sleep(0.002)
                os.kill(cluster.worker_pid("w1"), signal.SIGKILL)  # `up` starts it again
                for answer in answers:
                    self.assertEqual(answer.result()["choices"][0]["text"], undisturbed)

    def test_stops_while_answering(self):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            with Cluster(DEMO, **TWO) as cluster:
                answers = [pool.submit(cluster.post, "/v1/completions", {"prompt": "In the beginning", "max_tokens": 200,
                                                                         "ignore_eos": True}) for _ in range(2)]
            # Leaving the cluster stops it, and checks that its end was orderly.
            for answer in answers:
                answer.exception()  # it ended, this way or that

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "needs two cores")
    def test_each_rank_keeps_to_cores_of_its_own(self):
        usable = sorted(os.sched_getaffinity(0))
        halves = [set(usable[:len(usable) // 2]), set(usable[len(usable) // 2:])]
        with Cluster(GOLDEN / "qwen3_moe_f32", **TWO) as cluster:
            threads = os.listdir(f"/proc/{cluster.worker_pid('r0')}/task")
            cores = [os.sched_getaffinity(int(thread)) for thread in threads]
        for half in halves:
            self.assertIn(half, cores)

    def test_config_check_shows_each_rank_and_refuses_too_many(self):
        cluster = Cluster(GOLDEN / "qwen3_moe_f32", **TWO)
        checked = subprocess.run([BIN / "guildhall", "config", "check", cluster.config], capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertRegex(checked.stdout, "# rank 0: cpu; 3 attention heads, weights [0-9.]+ KiB, KV cache 6[34].* MiB")
        self.assertIn("# rank 1: cpu; 3 attention heads", checked.stdout)
        cluster.config.write_text(cluster.config.read_text().replace("tensor_parallel: 2", "tensor_parallel: 7"))
        refused = subprocess.run([BIN / "guildhall", "config", "check", cluster.config], capture_output=True, text=True)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("router.dense.tensor_parallel: 7 ranks cannot share the model's 6 attention heads; largest that "
                      "works: 6", refused.stderr)
        cluster.log.close()


if __name__ == "__main__":
    unittest.main()
