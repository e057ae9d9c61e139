#!/usr/bin/env python3
"""Writes sampling_cases.json: logits, a history and a request's fields, and what transformers' own processors and
torch make of them: the edited logits, and the distribution that is drawn from. Needs torch and transformers (5.x).
    make_sampling_cases.py > sampling_cases.json"""
import json
import random

import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

VOCABULARY = 24
NEVER = -float("inf")


def random_case(rng):
    maybe = lambda value, otherwise: value if rng.random() < 0.5 else otherwise
    ids = lambda n: [rng.randrange(VOCABULARY) for _ in range(n)]
    return dict(
        logits=[round(rng.gauss(0, 3), 4) for _ in range(VOCABULARY)],
        prompt=ids(rng.randrange(1, 20)), output=ids(rng.randrange(0, 20)),
        repetition_penalty=maybe(rng.choice([0.7, 1.1, 1.3, 2.0]), 1.0),
        presence_penalty=maybe(rng.choice([-1.5, 0.3, 2.0]), 0.0),
        frequency_penalty=maybe(rng.choice([-0.4, 0.25, 1.0]), 0.0),
        logit_bias={str(i): rng.choice([-100.0, -1.5, 2.5, 4.0]) for i in maybe(set(ids(4)), set())},
        allowed_token_ids=sorted(maybe(set(ids(12)) | {0, 1, 2, 3}, set())),
        held_token_ids=sorted(set(ids(2))), min_tokens=maybe(10, 0),
        temperature=rng.choice([0.3, 0.8, 1.0, 1.7]), min_p=maybe(rng.choice([0.02, 0.1, 0.4]), 0.0),
        top_k=maybe(rng.choice([1, 3, 8]), 0), top_p=maybe(rng.choice([0.3, 0.7, 0.95]), 1.0))


def solve(case):
    scores = torch.tensor([case["logits"]], dtype=torch.float32)
    if case["allowed_token_ids"]:
        banned = torch.ones(VOCABULARY, dtype=torch.bool)
        banned[case["allowed_token_ids"]] = False
        scores[:, banned] = NEVER
    if len(case["output"]) < case["min_tokens"]:
        scores[:, case["held_token_ids"]] = NEVER
    for token, bias in case["logit_bias"].items():
        scores[:, int(token)] += bias
    history = torch.tensor([case["prompt"] + case["output"]])
    if case["repetition_penalty"] != 1:
        scores = RepetitionPenaltyLogitsProcessor(case["repetition_penalty"])(history, scores)
    counts = torch.bincount(torch.tensor(case["output"], dtype=torch.int64), minlength=VOCABULARY)
    scores = scores - case["frequency_penalty"] * counts - case["presence_penalty"] * (counts > 0)
    filters = LogitsProcessorList([TemperatureLogitsWarper(case["temperature"])])
    if case["min_p"] > 0:
        filters.append(MinPLogitsWarper(case["min_p"]))
    if case["top_k"] > 0:
        filters.append(TopKLogitsWarper(case["top_k"]))
    if case["top_p"] < 1:
        filters.append(TopPLogitsWarper(case["top_p"]))
    shares = filters(history, scores).softmax(-1)
    return dict(case, edited=[None if x == NEVER else round(x, 5) for x in scores[0].tolist()],
                shares=[round(x, 6) for x in shares[0].tolist()])


def main():
    rng = random.Random(17)
    print("[\n" + ",\n".join(json.dumps(solve(random_case(rng))) for _ in range(120)) + "\n]")


if __name__ == "__main__":
    main()
