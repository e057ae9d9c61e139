"""Cold pages of the KV cache in a file, through real processes: prompts come back from it, and what operators see."""
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from cluster import BIN, GOLDEN, Cluster
from test_observe import metrics

PROMPT_LEN = 40


def prompt(n):
    return [1 + (7 * i + 11 * n) % 200 for i in range(PROMPT_LEN)]


class Spill(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-test-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def cluster(self, spill=True, case="qwen3_moe_f32", **options):
        """A cache that holds few prompts."""
        cluster = Cluster(GOLDEN / case, num_workers=1, **options)
        keys = "memory: 128KiB" + (f", spill: {{path: {self.folder}, size: 16MiB}}" if spill else "")
        text = cluster.config.read_text().replace("memory: 64MiB", keys).replace("name: test-model",
                                                                                 "name: test-model, max_model_len: 64")
        cluster.config.write_text(text)
        return cluster

    def ask(self, cluster, n):
        choice = cluster.complete(prompt=prompt(n), max_tokens=8, temperature=0, ignore_eos=True, logprobs=2)["choices"][0]
        return choice["text"], choice["logprobs"]

    def test_prompts_that_were_pushed_out_come_back_from_the_file_with_the_same_text(self):
        with self.cluster(spill=False) as cluster:
            expected = [self.ask(cluster, n) for n in range(12)]
        with self.cluster() as cluster:
            for _ in range(20):  # which of the two is faster is measured: now and then the file is read
                self.assertEqual([self.ask(cluster, n) for n in range(12)], expected)
                told = metrics(cluster)
                if told["guildhall_kv_spill_hits_total"] > 0:
                    break
            self.assertGreater(told["guildhall_kv_spill_hits_total"], 0)
            self.assertGreater(told['guildhall_kv_spill_pages{state="used"}'], 0)
            self.assertGreater(told['guildhall_kv_spill_bytes_total{direction="written"}'], 0)
            self.assertGreater(told['guildhall_kv_spill_bytes_total{direction="read"}'], 0)
            self.assertGreater(told['guildhall_kv_spill_pages_total{outcome="read"}'], 0)
            self.assertEqual(told['guildhall_kv_spill_pages_total{outcome="damaged"}'], 0)
            self.assertEqual(list(self.folder.iterdir()), [], "the file has no name")

    def test_config_check_shows_it_and_names_the_line_of_a_bad_path(self):
        cluster = self.cluster()
        self.addCleanup(cluster.log.close)
        checked = self.check(cluster)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        self.assertRegex(checked.stdout, rf"; spill: \d+ tokens in a file of 16(\.0)? MiB in {self.folder}\n")
        good = cluster.config.read_text()
        number = 1 + good[:good.index("kv_cache")].count("\n")
        for folder, reason in [(f"{self.folder}/none", "No such file or directory"), (cluster.config, "Not a directory")]:
            cluster.config.write_text(good.replace(f"path: {self.folder}", f"path: {folder}"))
            expected = f"{cluster.config}:{number}: router.kv_cache.spill.path: no file can be made in {folder}: {reason}"
            refused = self.check(cluster)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(expected, refused.stderr)
            daemon = subprocess.run([BIN / "guildhall-router", "--config", cluster.config], capture_output=True, text=True)
            self.assertEqual(daemon.returncode, 2)
            self.assertIn(expected, daemon.stderr)

    def check(self, cluster):
        return subprocess.run([BIN / "guildhall", "config", "check", cluster.config], capture_output=True, text=True)

    def test_a_file_that_does_not_fit_is_left_out_with_a_line_in_the_log(self):
        cluster = self.cluster()
        cluster.config.write_text(cluster.config.read_text().replace("size: 16MiB", "size: 1024TiB"))
        with cluster:
            cluster.wait_output("spill_off replica=r0")
            self.assertEqual(self.ask(cluster, 0), self.ask(cluster, 0))
            self.assertEqual(metrics(cluster)['guildhall_kv_spill_pages{state="free"}'], 0)


if __name__ == "__main__":
    unittest.main()
