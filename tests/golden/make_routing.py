#!/usr/bin/env python3
"""Write routing.json beside each committed checkpoint's expected.json: the experts that transformers' gates choose.

    make_routing.py         every case whose weights transformers reads by itself (not fp8) and that has experts

Needs what make_golden.py needs. The experts are those of each position of a prompt and its greedy tokens but the
last: [position][layer with experts][top_k], ascending.
"""
import json
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

from make_golden import check_group_mask

DATA = Path(__file__).parent / "data"
ROUTED_LENGTHS = (17, 95)
TOLERANCE = {"float32": 1e-3}  # of a log-probability, as the tests have it
ROUNDED_TOLERANCE = 2e-2


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    check_group_mask()
    for folder in sorted(DATA.iterdir()):
        expected = json.loads((folder / "expected.json").read_text())
        if expected["weights"] == "fp8" or expected["min_gate_margin"] is None:
            continue
        routing = dict(transformers=transformers.__version__, prompts=route(folder, expected))
        (folder / "routing.json").write_text(json.dumps(routing, separators=(",", ":")) + "\n")
        print(folder.name)


@torch.no_grad()
def route(folder, expected):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager").eval()
    chosen = watch_choices(model)
    prompts = []
    for index, prompt in enumerate(expected["prompts"]):
        if len(prompt["ids"]) not in ROUTED_LENGTHS:
            continue
        ids = prompt["ids"] + prompt["greedy"]["ids"][:-1]
        chosen.clear()
        logprobs = model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
        check_same_model(logprobs, prompt, TOLERANCE.get(expected["weights"], ROUNDED_TOLERANCE))
        by_position = [[layer[position] for layer in chosen] for position in range(len(ids))]
        prompts.append(dict(index=index, experts=by_position))
    return prompts


def watch_choices(model):
    """A list that collects, gate by gate, each position's experts."""
    chosen = []

    def hook(_router, _inputs, outputs):
        # Of logits, weights and indices, the indices are those that are whole numbers.
        indices = next(part for part in outputs if not part.is_floating_point())
        chosen.append([sorted(row) for row in indices.tolist()])

    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(hook)
    return chosen


def check_same_model(logprobs, prompt, tolerance):
    for position, (token, known) in enumerate(zip(prompt["ids"][1:], prompt["logprobs"][1:])):
        if abs(logprobs[position][token].item() - known) > tolerance:
            raise SystemExit("this transformers computes other log-probabilities than expected.json has")


if __name__ == "__main__":
    main()
