"""Golden checkpoints through the API: agree with transformers, and give the same bits over every transport."""
import json
import unittest

from cluster import GOLDEN, Cluster

CASES = sorted(path.name for path in GOLDEN.iterdir())


def score(cluster, ids):
    """Log-probabilities of ids[1:], as lm-eval asks for them."""
    reply = cluster.complete(prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0)
    return reply["choices"][0]["logprobs"]["token_logprobs"][: len(ids)]


def greedy(cluster, ids, count):
    reply = cluster.complete(prompt=ids, max_tokens=count, logprobs=0, temperature=0, ignore_eos=True)
    choice = reply["choices"][0]
    return choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]


class Golden(unittest.TestCase):
    maxDiff = None

    def check_against_transformers(self, cluster, expected):
        tolerance = 1e-3 if expected["weights"] == "float32" else 2e-2
        for prompt in expected["prompts"]:
            ids = prompt["ids"]
            got = score(cluster, ids)
            self.assertIsNone(got[0])
            for position in range(1, len(ids)):
                self.assertAlmostEqual(got[position], prompt["logprobs"][position], delta=tolerance,
                                       msg=f"prompt of {len(ids)}, position {position}")
            _, logprobs = greedy(cluster, ids, len(prompt["greedy"]["ids"]))
            for step, (mine, theirs) in enumerate(zip(logprobs, prompt["greedy"]["logprobs"])):
                if abs(mine - theirs) > tolerance:
                    # Another token was taken: allowed only where the oracle was undecided, and then all bets are off.
                    self.assertLessEqual(prompt["greedy"]["margins"][step], tolerance, f"step {step}")
                    break

    def answers(self, cluster, expected):
        """What the cluster says, down to the last digit."""
        return json.dumps([[score(cluster, p["ids"]), greedy(cluster, p["ids"], 32)] for p in expected["prompts"]])

    def test_agrees_with_transformers_and_with_itself(self):
        for case in CASES:
            with self.subTest(case):
                expected = json.loads((GOLDEN / case / "expected.json").read_text())
                with Cluster(GOLDEN / case, num_workers=3) as three:
                    self.check_against_transformers(three, expected)
                    over_three = self.answers(three, expected)
                with Cluster(GOLDEN / case, num_workers=1) as one:
                    self.assertEqual(self.answers(one, expected), over_three)
                with Cluster(GOLDEN / case, num_workers=2, kind="loopback") as loopback:
                    self.assertEqual(self.answers(loopback, expected), over_three)


if __name__ == "__main__":
    unittest.main()
