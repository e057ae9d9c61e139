"""What keeps a cluster from starting: each case ends with a clear message and the right exit code."""
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from cluster import BIN, GOLDEN, Cluster, config_text

CASE = GOLDEN / "qwen3_moe_bf16_tied_sharded"


class Startup(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.model = self.folder / "model"
        shutil.copytree(CASE, self.model)

    def write(self, text):
        path = self.folder / "guildhall.yaml"
        path.write_text(text)
        return path

    def expect_failure(self, text, *words, code=1):
        ended = subprocess.run([BIN / "guildhall", "up", "--config", self.write(text)], capture_output=True, text=True,
                               timeout=60)
        output = ended.stdout + ended.stderr
        self.assertEqual(ended.returncode, code, output)
        for word in words:
            self.assertIn(word, output)

    def edit_model_config(self, **changes):
        path = self.model / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def shards(self):
        return sorted(self.model.glob("*.safetensors"))

    def test_missing_shard_is_named(self):
        self.shards()[1].unlink()
        self.expect_failure(config_text(self.model)[1], self.shards()[0].name.replace("00001", "00002"))

    def test_truncated_shard_is_named(self):
        shard = self.shards()[2]
        shard.write_bytes(shard.read_bytes()[:-100])
        self.expect_failure(config_text(self.model)[1], shard.name)

    def test_tensor_of_another_shape_is_named(self):
        self.edit_model_config(moe_intermediate_size=json.loads((self.model / "config.json").read_text())
                               ["moe_intermediate_size"] + 1)
        self.expect_failure(config_text(self.model)[1], "mlp.experts", "shape")

    def test_unknown_model_type_lists_the_known_ones(self):
        self.edit_model_config(model_type="mamba")
        self.expect_failure(config_text(self.model)[1], "mamba", "deepseek_v3", "qwen3_moe")

    def test_configuration_typo_names_file_line_and_key(self):
        self.expect_failure(config_text(self.model)[1] + "balanse: {}\n", "guildhall.yaml:", "balanse", code=2)

    def test_port_in_use_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.expect_failure(config_text(self.model, port=port)[1], str(port), "in use")

    def test_workers_port_in_use_is_named(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.expect_failure(config_text(self.model, num_workers=1, worker_ports=[port])[1], str(port), "in use")

    def test_unreachable_worker_is_named_within_the_limit(self):
        _, text = config_text(self.model, extra="")
        text = text.replace("transport: {kind: ucx}", "transport: {kind: ucx, startup_timeout: 1s}")
        ended = subprocess.run([BIN / "guildhall-router", "--config", self.write(text)], capture_output=True, text=True,
                               timeout=30)
        self.assertEqual(ended.returncode, 1, ended.stderr)
        self.assertIn("w0", ended.stderr)

    def test_context_that_does_not_fit_says_what_does(self):
        _, text = config_text(self.model)
        text = text.replace("name: test-model", "name: test-model, max_model_len: 512").replace("64MiB", "64KiB")
        self.expect_failure(text, "largest context that fits")

    def test_health_tells_progress_while_loading(self):
        port, text = config_text(self.model, num_workers=1)
        router = subprocess.Popen([BIN / "guildhall-router", "--config", self.write(text)], stderr=subprocess.PIPE)
        probe = Cluster(self.model)
        probe.port = port
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    status, body = probe.get("/health")
                    break
                except OSError:
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)
            self.assertEqual(status, 503)
            self.assertEqual(body["state"], "loading")
            self.assertEqual(body["workers"][0]["name"], "w0")
            self.assertEqual(probe.get("/live")[0], 200)
            self.assertEqual(probe.post("/v1/completions", {"prompt": "x"})[0], 503)
        finally:
            router.send_signal(signal.SIGTERM)
            self.assertEqual(router.wait(30), 0)
            router.stderr.close()
            probe.log.close()
            shutil.rmtree(probe.folder)

    def test_config_check_prints_what_the_daemons_would_use(self):
        checked = subprocess.run([BIN / "guildhall", "config", "check", self.write(config_text(self.model)[1])],
                                 capture_output=True, text=True, timeout=30)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertIn("block_size: 16", checked.stdout)
        self.assertIn("# worker w1:", checked.stdout)

    def test_config_check_says_what_each_router_would_run_on(self):
        text = config_text(self.model)[1] + (
            'routers:\n'
            '  - {name: r0, listen: "127.0.0.1:7981", device: cpu}\n'
            '  - {name: r1, listen: "127.0.0.1:7982"}\n')
        checked = subprocess.run([BIN / "guildhall", "config", "check", self.write(text)],
                                 capture_output=True, text=True, timeout=30)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertIn("# routers[0].device (r0): cpu: cpu, ", checked.stdout)
        self.assertIn("# router.dense.device: auto: ", checked.stdout)


if __name__ == "__main__":
    unittest.main()
