"""What two routers of one cluster tell of its experts, and a routing trace from the first request to a table of
`guildhall balance`."""
import json
import pathlib
import subprocess
import unittest

from cluster import BIN, GOLDEN, Cluster, free_ports
from test_observe import metrics
from test_routers import Router, routers_yaml

MODEL = GOLDEN / "qwen3_moe_bf16_128_experts"
SPEC = json.loads((MODEL / "config.json").read_text())
TOP_K, NUM_EXPERTS = SPEC["num_experts_per_tok"], SPEC["num_local_experts"]
PROMPT = [5, 9, 2, 77, 31, 8, 8, 1, 4, 100, 3]
NUM_GENERATED = 12
# What one request makes: its prompt, and every token of its answer but the last, which is not computed.
PREFILL, DECODE = len(PROMPT) * TOP_K, (NUM_GENERATED - 1) * TOP_K


def ask(router, salt):
    router.complete(prompt=PROMPT, max_tokens=NUM_GENERATED, temperature=0, ignore_eos=True, cache_salt=salt)


def totals(layer):
    return sum(e["prefill_tokens"] for e in layer["experts"]), sum(e["decode_tokens"] for e in layer["experts"])


class Experts(unittest.TestCase):
    def experts(self, router, query=""):
        status, body = router.get("/v1/cluster/experts" + query)
        self.assertEqual(status, 200, body)
        return body

    def test_two_routers_are_summed_and_one_records_what_balance_replays(self):
        ports = free_ports(4)
        extra = (routers_yaml(("r0", ports[0], "127.0.0.1"), ("r1", ports[1], "127.0.0.1")) +
                 "balance: {interval: 1ms, trace: {folder: traces}}\n")
        with Cluster(MODEL, num_workers=2, port=ports[0], worker_ports=ports[2:], extra=extra) as first:
            second = Router(first.host, ports[1]).wait_ready()
            self.check_loads(first, second)
            self.check_trace(first)

    def check_loads(self, first, second):
        ask(first, "a")
        ask(second, "b")
        ask(second, "c")
        # Wherever requests were forwarded to, the sum is of all three.
        all_routers = self.experts(first)
        self.assertEqual(all_routers["routers"], ["r0", "r1"])
        self.assertEqual(all_routers["missing"], [])
        own = [self.experts(router, "?scope=router") for router in (first, second)]
        self.assertEqual([o["routers"] for o in own], [["r0"], ["r1"]])
        self.assertEqual(all_routers["window"]["steps"], sum(o["window"]["steps"] for o in own))
        self.assertEqual(len(all_routers["layers"]), SPEC["num_hidden_layers"])
        for i, layer in enumerate(all_routers["layers"]):
            self.assertEqual(totals(layer), (3 * PREFILL, 3 * DECODE))
            for e, expert in enumerate(layer["experts"]):
                self.assertEqual(expert["decode_tokens"], sum(o["layers"][i]["experts"][e]["decode_tokens"] for o in own))
                self.assertEqual(expert["bytes"], expert["activations"] * all_routers["expert_bytes"])
                self.assertEqual(len(expert["workers"]), 1)
            pairs = [w["pairs"] for w in layer["workers"]]
            self.assertEqual(sum(pairs), 3 * (PREFILL + DECODE))
            self.assertAlmostEqual(layer["balancedness"], sum(pairs) / 2 / max(pairs), places=4)
        workers = all_routers["workers"]
        self.assertEqual([w["name"] for w in workers], ["w0", "w1"])
        self.assertEqual(sum(w["experts"] for w in workers), NUM_EXPERTS * len(all_routers["layers"]))
        self.assertAlmostEqual(sum(w["share"] for w in workers), 1, places=4)
        for worker in workers:
            self.assertGreater(worker["memory_bytes"], 0)
            self.assertGreater(worker["answer_ms"], 0)
            self.assertGreater(min(worker["bytes_sent"], worker["bytes_received"]), 0)
        self.assertNotIn("experts", self.experts(first, "?format=summary&layers=0-0")["layers"][0])
        told = metrics(first)
        self.assertEqual(told['guildhall_expert_pairs_total{phase="prefill"}'],
                         sum(totals(layer)[0] for layer in own[0]["layers"]))
        self.assertEqual(told["guildhall_expert_window_steps"], own[0]["window"]["steps"])
        self.assertGreater(told['guildhall_expert_layer_balancedness{layer="0"}'], 0)
        self.assertFalse([name for name in told if "expert=" in name])

    def check_trace(self, router):
        def trace(**body):
            return router.post("/v1/cluster/trace", body)
        self.assertEqual(trace(action="start", name="../escape")[0], 400)
        status, started = trace(action="start", name="run")
        self.assertEqual((status, started["state"]), (200, "recording"))
        for i in range(4):
            ask(router, f"trace {i}")
        status, stopped = trace(action="stop")
        self.assertEqual((status, stopped["state"]), (200, "finished"))
        file = pathlib.Path(stopped["file"])
        self.assertEqual(file, router.folder / "traces/run-r0.ghtr")
        self.assertEqual(file.stat().st_size, stopped["bytes"])
        self.assertGreater(stopped["steps"], 0)
        ended = subprocess.run([BIN / "guildhall", "balance", "--trace", file, "--config", router.config, "--policy",
                                "eplb"], capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertIn(f"have {NUM_EXPERTS} experts top-{TOP_K}", ended.stdout)
        self.assertIn(f"{stopped['steps']} steps in", ended.stdout)
        self.assertRegex(ended.stdout, r"(?m)^static +\d")
        self.assertRegex(ended.stdout, r"(?m)^eplb +\d")

    def test_a_router_that_is_silent_is_named(self):
        ports = free_ports(4)
        extra = routers_yaml(("r0", ports[0], "127.0.0.1"), ("r1", ports[1], "203.0.113.7"))  # is on no host of ours
        with Cluster(MODEL, num_workers=1, port=ports[0], worker_ports=ports[2:3], extra=extra) as first:
            ask(first, "a")
            body = self.experts(first)
            self.assertEqual((body["routers"], body["missing"]), (["r0"], ["r1"]))
            self.assertEqual(totals(body["layers"][0]), (PREFILL, DECODE))
            status, refused = first.post("/v1/cluster/trace", {"action": "start", "name": "a"})
            self.assertEqual(status, 400)
            self.assertIn("balance.trace.folder", refused["error"]["message"])


if __name__ == "__main__":
    unittest.main()
