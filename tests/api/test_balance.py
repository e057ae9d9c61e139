"""`guildhall balance`: a kept routing trace against policies, and what stops it."""
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from cluster import BIN, SOURCE

TRACE = SOURCE / "tests/fuzz/corpus/routing_trace/skewed"
CONFIG = """
model: {path: no-checkpoint-is-read}
experts:
  workers:
    - {name: w0, address: "10.0.0.1:7000"}
    - {name: w1, address: "10.0.0.1:7001"}
    - {name: w2, address: "10.0.0.2:7000"}
    - {name: w3, address: "10.0.0.2:7001", speed: 1.5}
balance: {policy: incremental, redundant_experts: 4, interval: 100ms, min_gain: 0.01}
"""


class Balance(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="guildhall-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.config = self.folder / "guildhall.yaml"
        self.config.write_text(CONFIG)

    def balance(self, *arguments, trace=TRACE, code=0):
        ended = subprocess.run([BIN / "guildhall", "balance", "--trace", trace, "--config", self.config, *arguments],
                               capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, code, ended.stdout + ended.stderr)
        return ended.stdout if code == 0 else ended.stderr

    def rows(self, output):
        """policy -> [least balancedness, mean, decisions, changes, moves]"""
        return {m[1]: [float(x) for x in m[2].split()]
                for m in re.finditer(r"^(\w+) +((?:[\d.]+ +){5})[\d.]+ \w+ ", output, re.M)}

    def test_the_configurations_policy_is_compared_with_static(self):
        output = self.balance("--layers")
        rows = self.rows(output)
        self.assertEqual(list(rows), ["static", "incremental"], output)
        self.assertEqual(rows["static"][4], 0)
        self.assertGreater(rows["incremental"][4], 0)
        self.assertGreater(rows["incremental"][1], rows["static"][1])
        self.assertIn("5 of 6 layers have 16 experts top-2", output)
        self.assertIn("slots per layer: 20 =", output)
        self.assertRegex(output, r"(?m)^w3 +[\d.]+ MiB")
        self.assertRegex(output, r"(?m)^layer 5 +0\.\d+ +0\.\d+$")
        self.assertIn("incremental, the last decision:", output)

    def test_policies_are_chosen_and_drawn(self):
        page = self.folder / "out.html"
        output = self.balance("--policy", "eplb", "--policy", "eplb_node", "--policy", "activation", "--html", page)
        self.assertEqual(list(self.rows(output)), ["static", "eplb", "eplb_node", "activation"])
        html = page.read_text()
        self.assertIn("prefers-color-scheme: dark", html)
        self.assertEqual(html.count("<svg"), 8)  # layers and experts, before and after three policies
        self.assertEqual(html.count("<svg"), html.count("</svg>"))
        self.assertNotIn("http", html)  # nothing is loaded from elsewhere

    def test_what_is_wrong_is_named(self):
        self.assertIn("policy 'best' is not one of: static", self.balance("--policy", "best", code=2))
        self.assertIn("missing: cannot be opened", self.balance(trace=self.folder / "missing", code=1))
        cut = self.folder / "cut"
        cut.write_bytes(TRACE.read_bytes()[:-30])
        self.assertRegex(self.balance(trace=cut, code=1), r"cut: offset \d+: ")
        self.config.write_text(CONFIG.replace("min_gain: 0.01", "min_gain: 3"))
        self.assertIn("balance.min_gain: 3 is out of range; it must be from 0 to 1", self.balance(code=2))
        self.config.write_text(CONFIG.replace("name: w0", "name: w0, memory: 1KiB")
                               .replace("name: w1", "name: w1, memory: 1KiB").replace("name: w2", "name: w2, memory: 1KiB")
                               .replace("name: w3", "name: w3, memory: 1KiB"))
        self.assertIn("memory holds 0 experts", self.balance(code=1))

    def test_the_rate_of_moves_is_the_configurations_unless_given(self):
        slow = CONFIG.replace("policy:", "move_rate: 1KiB, move_slowdown: 100, policy:")
        self.config.write_text(slow)
        self.assertEqual(self.rows(self.balance())["incremental"][4], 0, "moves cost more than they save")
        self.assertGreater(self.rows(self.balance("--move-rate", "10"))["incremental"][4], 0)


if __name__ == "__main__":
    unittest.main()
