#!/usr/bin/env python3
"""Check a trained checkpoint and print sample completions.

    python3 check.py model.safetensors [kjv.txt]

Loads the weights twice, into this folder's model.py and into transformers'
DeepseekV3ForCausalLM (both in float32), compares the logits on held-out text,
counts how often each expert is used, and lets transformers complete prompts.
"""
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, DeepseekV3ForCausalLM

from model import DemoModel, load_checkpoint_tensors

HERE = Path(__file__).resolve().parent
LIMIT = 1e-3
PROMPTS = ["In the beginning", "And the king said", "Blessed is the man that",
           "Thus saith the LORD", "And it came to pass, when the ships"]
CHAT = "The LORD is my shepherd;"


def main():
    weights = Path(sys.argv[1])
    tensors = load_file(weights)
    print(f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} values, "
          f"{weights.stat().st_size} bytes")
    ours = load_ours(tensors)
    theirs, tokenizer = load_theirs(weights)
    ids_bt = held_out_ids(tokenizer, sys.argv[2]) if len(sys.argv) > 2 else \
        torch.randint(0, 4096, (4, 512), generator=torch.Generator().manual_seed(1))
    worst = compare(ours, theirs, ids_bt)
    print_expert_shares(ours)
    print_samples(theirs, tokenizer)
    sys.exit(worst > LIMIT)


def load_ours(tensors):
    model = DemoModel(json.loads((HERE / "config.json").read_text()))
    load_checkpoint_tensors(model, tensors)
    return model


def load_theirs(weights):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("config.json", "generation_config.json",
                     "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(HERE / name, folder)
        shutil.copy(weights, Path(folder) / "model.safetensors")
        model, info = DeepseekV3ForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True)
        print({kind: names for kind, names in info.items() if names} or "all tensors matched")
        return model.eval(), AutoTokenizer.from_pretrained(folder)


def held_out_ids(tokenizer, path, length=512, count=8):
    chapters = Path(path).read_text().strip().split("\n\n")[49::50]
    text = tokenizer.bos_token.join(c + tokenizer.eos_token for c in chapters)
    ids = tokenizer(tokenizer.bos_token + text, add_special_tokens=False).input_ids
    return torch.tensor(ids[:length * count]).view(count, length)


@torch.no_grad()
def compare(ours, theirs, ids_bt):
    mine, reference = ours(ids_bt), theirs(ids_bt).logits
    worst = (mine - reference).abs().max().item()
    same = (mine.argmax(-1) == reference.argmax(-1)).float().mean().item()
    loss = torch.nn.functional.cross_entropy(
        reference[:, :-1].flatten(0, 1), ids_bt[:, 1:].flatten())
    print(f"largest logit difference {worst:.2e} (logits up to "
          f"{reference.abs().max().item():.1f}), same best token {same:.2%}, "
          f"loss on this text {loss:.3f}")
    return worst


@torch.no_grad()
def print_expert_shares(model):
    for number, moe in enumerate(model.moe_layers()):
        share_e = moe.load_e / moe.load_e.sum()
        print(f"expert layer {number}: shares {share_e.min():.3f} to {share_e.max():.3f}, "
              f"bias {moe.bias_e.min():+.3f} to {moe.bias_e.max():+.3f}")


def print_samples(model, tokenizer):
    torch.manual_seed(3)
    for prompt in PROMPTS:
        print("---\n" + prompt + " ..." + complete(model, tokenizer, tokenizer.bos_token + prompt))
    turn = tokenizer.apply_chat_template([{"role": "user", "content": CHAT}],
                                         tokenize=False, add_generation_prompt=True)
    print(f"--- (chat) {CHAT}\n{complete(model, tokenizer, turn)}")


def complete(model, tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=80, do_sample=True, temperature=0.7, top_p=0.95)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


if __name__ == "__main__":
    main()
