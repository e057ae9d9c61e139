"""`guildhall plan`: what fits, what would, and what cannot be read; for the demo, and for a model of 671 B parameters of
which there is only a config.json."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from cluster import BIN, DEMO, SOURCE

TRACE = SOURCE / "tests/fuzz/corpus/routing_trace/skewed"  # 6 layers, 5 of them with 16 experts top-2
GIB = 1 << 30
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_act": "silu", "torch_dtype": "bfloat16", "hidden_size": 7168,
    "num_hidden_layers": 61, "first_k_dense_replace": 3, "moe_layer_freq": 1, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256,
    "num_experts_per_tok": 8, "n_shared_experts": 1, "n_group": 8, "topk_group": 4, "scoring_func": "sigmoid",
    "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "vocab_size": 129280,
    "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "attention_bias": False, "eos_token_id": 1,
    "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096},
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128],
                            "activation_scheme": "dynamic"}}
EXPERT_WEIGHTS = 58 * 256 * 3 * 2048 * 7168  # one byte each, and a scale of 4 for 16384


class Plan(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.config = self.folder / "cluster.yaml"

    def write(self, text):
        self.config.write_text(text)

    def model(self, **changes):
        """A folder with nothing but DeepSeek-V3's config.json, changed."""
        model = self.folder / "DeepSeek-V3"
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text(json.dumps({**DEEPSEEK_V3, **changes}))
        return model

    def big_cluster(self, num_workers=8, device="cuda", more=""):
        workers = "".join(f'    - {{name: w{i}, address: "10.0.0.{i + 10}:7000"}}\n' for i in range(num_workers))
        self.write(f"model: {{path: {self.model()}, max_model_len: 32768}}\n"
                   f"router:\n  host: 10.0.0.9\n  http: {{listen: \"10.0.0.9:8000\"}}\n  dense: {{device: {device}}}\n"
                   f"  kv_cache: {{memory: 20GiB, dtype: bf16}}\n"
                   f"experts:\n  device: {device}\n  workers:\n{workers}{more}")

    def run_plan(self, *arguments, code=0):
        ended = subprocess.run([BIN / "guildhall", "plan", *map(str, arguments)], capture_output=True, text=True,
                               timeout=60)
        self.assertEqual(ended.returncode, code, ended.stdout + ended.stderr)
        return ended.stderr if code == 2 else ended.stdout

    def plan(self, *arguments, code=0):
        return self.run_plan("--config", self.config, *arguments, code=code)

    def json_plan(self, *arguments, code=0):
        return json.loads(self.plan("--json", *arguments, code=code))

    def items(self, plan, process, where):
        return {item["what"]: item["bytes"] for need in plan["memory"] for item in need["items"]
                if need["process"] == process and need["where"] == where}

    def test_a_model_of_671_billion_parameters_is_added_up_from_its_config(self):
        self.big_cluster()
        plan = self.json_plan("--worker-memory", "141GiB", "--router-memory", "141GiB")
        self.assertTrue(plan["fits"])
        self.assertEqual(plan["model"]["moe_layers"], 58)
        self.assertGreater(plan["model"]["all_experts_bytes"], EXPERT_WEIGHTS)  # 653.9 GB
        self.assertLess(plan["model"]["all_experts_bytes"], EXPERT_WEIGHTS * 1.001)  # with scales
        each = plan["model"]["expert_bytes"]
        self.assertEqual(each * 58 * 256, plan["model"]["all_experts_bytes"])
        # A worker: an eighth of the experts, a tenth of the GPU free, slots at the host.
        gpu = self.items(plan, "w3", "GPU")
        self.assertEqual(gpu["experts"], 58 * 32 * each)
        self.assertEqual([size for what, size in gpu.items() if what.startswith("margin")], [int(141 * GIB * 0.1)])
        self.assertEqual(self.items(plan, "w3", "host")["receive slots"], 4 * 2 << 20)
        # The router: q_a, q_b, kv_a, o, dense and shared MLPs in fp8; embeddings and kv_b in bf16; gates in f32.
        fp8 = 61 * (1536 * 7168 + 128 * 192 * 1536 + 576 * 7168 + 7168 * 128 * 128) \
            + 3 * 3 * 7168 * 18432 + 58 * 3 * 7168 * 2048
        dense = fp8 + 2 * 2 * 129280 * 7168 + 61 * 2 * 128 * 256 * 512 + 58 * 4 * 256 * 7168
        self.assertAlmostEqual(self.items(plan, "r0", "GPU")["dense weights"] / dense, 1, delta=0.002)
        # MLA's latent cache: 576 values of bf16 in 61 layers.
        self.assertEqual(plan["routers"][0]["kv_bytes_per_token"], 70272)
        self.assertEqual(plan["routers"][0]["kv_capacity_tokens"], 20 * GIB // (16 * 70272) * 16)
        # Experts that fit beyond one of each, and estimates.
        most = int(141 * GIB - int(141 * GIB * 0.1)) // (58 * each)
        self.assertEqual(plan["advice"]["redundant_fit"], 8 * most - 256)
        decode = {read["tokens"]: read for read in plan["estimates"]["reads"]}
        self.assertAlmostEqual(decode[1]["bytes"], 8 * 58 * each)
        self.assertAlmostEqual(decode[32]["experts_per_layer"], 256 * (1 - (31 / 32) ** 32))
        self.assertAlmostEqual(plan["estimates"]["workers_per_token"], 5.3, delta=0.05)
        f32 = plan["estimates"]["wire_bytes_per_token_layer"][0]
        self.assertTrue(f32["configured"])
        self.assertAlmostEqual(f32["back_exact"], 8 * 4 * 7168)

    def test_many_workers_are_planned_as_few_are(self):
        self.big_cluster(256)
        output = self.plan("--worker-memory", "24GiB", "--router-memory", "80GiB")
        self.assertIn("w0, w1, w2 and 253 more, GPU, each", output)

    def test_what_does_not_fit_says_so_and_what_would(self):
        self.big_cluster()
        output = self.plan("--worker-memory", "80GiB", "--router-memory", "80GiB", code=1)
        self.assertIn("Does not fit:", output)
        self.assertIn("w0, w1, w2 and 5 more, GPU, each", output)
        self.assertRegex(output, r"w0 GPU, w1 GPU, w2 GPU and 5 more: experts 76\.\d GiB \+ margin .* 8\.0 GiB = 84\.\d "
                                 r"GiB; there are 80\.0 GiB \(--worker-memory\)")
        self.assertIn("holds 30 experts of each of 58 layers: 9 such workers hold all", output)
        self.assertIn("240 of 256 of each layer stay in the workers' memory (93.8%)", output)
        self.assertTrue(json.loads(self.plan("--json", "--workers", 9, "--worker-memory", "80GiB", "--router-memory",
                                             "80GiB"))["fits"])

    def test_a_router_too_small_says_what_context_fits(self):
        self.big_cluster()
        output = self.plan("--worker-memory", "141GiB", "--router-memory", "32GiB", code=1)
        self.assertRegex(output, r"r0 GPU: dense weights 1\d\.\d GiB \+ KV cache 20\.0 GiB .* there are 32\.0 GiB \(--router-memory\)")
        self.assertRegex(output, r"r0: room for \d\.\d GiB of KV cache: \d+ tokens at 68\.6 KiB each")

    def test_redundant_experts_are_counted(self):
        self.big_cluster(more="balance: {policy: eplb, redundant_experts: 32}\n")
        plan = self.json_plan("--worker-memory", "141GiB", "--router-memory", "141GiB")
        self.assertEqual(self.items(plan, "w0", "GPU")["redundant slots"], 58 * 4 * plan["model"]["expert_bytes"])
        output = self.plan("--worker-memory", "90GiB", "--router-memory", "141GiB", code=1)
        self.assertIn("balance.redundant_experts: 32 asked for, 16 fit", output)

    def test_a_suggestion_fits_and_is_read_back(self):
        model = self.model()
        arguments = ("--worker-memory", "141GiB", "--router-memory", "80GiB")
        yaml = self.run_plan("--model", model, "--workers", 8, "--suggest", *arguments)
        self.assertIn("# guildhall plan --suggest: fits", yaml)
        self.assertIn("max_model_len: 163840", yaml)
        self.write(yaml)
        self.assertIn("Fits.", self.plan(*arguments))
        yaml = self.run_plan("--model", model, "--workers", 8, "--device", "cuda", "--suggest", *arguments)
        self.assertIn("device: cuda", yaml)
        self.write(yaml)
        self.assertRegex(self.plan(*arguments), r"w0, w1, w2 and 5 more, GPU, each")
        self.big_cluster()
        yaml = self.plan("--suggest", *arguments)
        self.assertIn("redundant_experts: 32", yaml)
        self.assertIn("memory_fraction: 0.9", yaml)
        self.write(yaml)
        self.assertIn("Fits.", self.plan(*arguments))
        self.assertEqual(self.json_plan("--suggest", *arguments)["suggested_config"].count("max_model_len: 32768"), 1)

    def test_the_demo_fits_here_with_its_weights_headers(self):
        plan = json.loads(self.run_plan("--config", SOURCE / "deploy/demo.yaml", "--json"))
        self.assertTrue(plan["fits"])
        self.assertEqual(plan["notes"], [])
        self.assertEqual(plan["pools"][0]["name"], "this host")
        output = self.run_plan("--config", SOURCE / "deploy/demo.yaml")
        self.assertRegex(output, r"this host: .* together  of .* GiB \(this host\)")
        self.assertRegex(output, r"(?m)^Fits\.$")

    def trace_model(self):
        model = self.model(num_hidden_layers=6, first_k_dense_replace=1, n_routed_experts=16, num_experts_per_tok=2,
                           n_group=1, topk_group=1, hidden_size=128, moe_intermediate_size=128, intermediate_size=128)
        self.write(f"model: {{path: {model}}}\nrouter: {{kv_cache: {{memory: 64MiB, dtype: bf16}}}}\nexperts:\n  workers:\n" +
                   "".join(f'    - {{name: w{i}, memory: 800KiB, address: "10.0.0.{i + 10}:7000"}}\n' for i in range(4)))

    def test_a_trace_tells_how_often_the_hottest_experts_would_be_hit(self):
        self.trace_model()
        plan = self.json_plan("--trace", TRACE, code=1)
        self.assertEqual(plan["advice"]["resident_per_layer"], 4 * 3)  # 4 of each layer do not fit
        self.assertGreater(plan["trace"]["resident_choices"], 12 / 16)  # they are the hottest
        self.assertLess(plan["trace"]["resident_choices"], 1)
        self.assertLessEqual(plan["trace"]["balancedness_even"], plan["trace"]["balancedness_packed"])
        self.assertLessEqual(plan["trace"]["balancedness_packed"], plan["trace"]["balancedness_redundant"])
        self.assertRegex(self.plan("--trace", TRACE, code=1), r"hottest experts in memory: \d\d\.\d% of choices")

    def test_what_is_wrong_is_named(self):
        self.assertIn("missing.yaml", self.run_plan("--config", self.folder / "missing.yaml", code=2))
        self.assertIn("give either --config FILE or --model FOLDER", self.run_plan(code=2))
        self.assertIn("--model needs --workers", self.run_plan("--model", self.model(), code=2))
        self.assertIn("config.json", self.run_plan("--model", self.folder / "none", "--workers", 2, code=2))
        self.write("model: {path: x}\nexperts:\n  wrokers: []\n")
        self.assertRegex(self.plan(code=2), r"cluster\.yaml:3: experts\.wrokers: .*workers")
        self.big_cluster()
        self.assertIn("--worker-memory: '80Gi' is not a size such as 80GiB", self.plan("--worker-memory", "80Gi", code=2))
        self.assertIn("--router-memory: '0' is not a size", self.plan("--router-memory", "0", code=2))
        self.plan("--workers", 0, code=2)
        self.assertIn("--trace", self.plan("--trace", self.folder / "none", code=2))
        self.assertIn("it is of", self.plan("--trace", TRACE, code=2))
        cut = self.folder / "cut"
        cut.write_bytes(TRACE.read_bytes()[:-30])
        self.trace_model()
        self.assertRegex(self.plan("--trace", cut, code=2), r"cut: offset \d+: ")
        self.model(hidden_size=None)
        self.assertRegex(self.plan(code=2), r"config\.json.*hidden_size")
        self.write(f"model: {{path: {DEMO}}}\nrouter: {{dense: {{device: cpu}}, kv_cache: {{memory_fraction: 0.5}}}}\n"
                   "experts: {workers: [{name: w0, address: \"10.0.0.2:7000\"}]}\n")
        self.assertIn("router.kv_cache.memory_fraction", self.plan(code=2))


if __name__ == "__main__":
    unittest.main()
