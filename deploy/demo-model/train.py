#!/usr/bin/env python3
"""Train the demo checkpoint on a few CPU cores within a fixed time.

    python3 train.py kjv.txt OUT_DIR --minutes 65

Reads config.json and tokenizer.json beside this file; writes
model.safetensors (every few minutes) and loss.csv into OUT_DIR. The learning
rate follows the wall clock, so the run ends annealed on a slow machine too.
"""
import argparse
import csv
import json
import os
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from model import DemoModel, Moe, checkpoint_tensors, load_checkpoint_tensors

HERE = Path(__file__).resolve().parent
BOS, EOS, USER, ASSISTANT, END_OF_TURN = 0, 1, 3, 4, 5
VALIDATE_EVERY = 50          # one chapter in 50 is kept out of training
CHAT_SHARE = 0.15            # sequences laid out as a conversation
BARE_SHARE = 0.2             # sequences without <|begin_of_text|>
SHORT, LONG, LONG_FROM = 256, 1024, 0.72    # context; share of time spent short
TOKENS_PER_STEP = {SHORT: 6144, LONG: 3072}
WARMUP_SHARE = 0.015
MUON_RATE, ADAM_RATE = 0.015, 0.003
MUON_DECAY = 0.1
BIAS_SPEED = 0.001
BIAS_FROZEN_FROM = 0.9
COLUMNS = ["step", "minutes", "tokens", "train_loss", "validation_loss",
           "smallest_expert_share", "largest_expert_share"]


def main():
    args = parse_arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    config = json.loads((HERE / "config.json").read_text())
    corpus = Corpus(args.text, Tokenizer.from_file(str(HERE / "tokenizer.json")),
                    seed=args.seed)
    model = DemoModel(config)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, "
          f"{len(corpus.train_ids)} training tokens", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    Run(model, corpus, args).train()


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("text")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--snapshot-minutes", type=float, default=5)
    parser.add_argument("--resume", action="store_true",
                        help="go on from the last snapshot in OUT_DIR")
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


class Run:
    def __init__(self, model, corpus, args):
        self.model, self.corpus, self.args = model, corpus, args
        self.optimizers = make_optimizers(model)
        self.base_rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        rows = self.resume() if args.resume else [COLUMNS]
        self.log = csv.writer(open(args.out / "loss.csv", "w", buffering=1),
                              lineterminator="\n")
        self.log.writerows(rows)
        self.step, minutes, self.tokens = map(float, rows[-1][:3]) if args.resume else (0, 0, 0)
        self.step, self.tokens = int(self.step), int(self.tokens)
        self.first_step = self.step
        self.start = time.monotonic() - 60 * minutes

    def resume(self):
        """Load the last snapshot; return the log up to it. The optimizers'
        momentum is not kept: it builds up again during a short warm-up."""
        load_checkpoint_tensors(self.model, load_file(self.args.out / "model.safetensors"))
        rows = list(csv.reader(open(self.args.out / "loss.csv")))
        while not rows[-1][COLUMNS.index("validation_loss")]:
            rows.pop()
        return rows

    def train(self):
        next_snapshot = self.minutes() + self.args.snapshot_minutes
        recent = []
        while self.progress() < 1:
            loss, shares = self.train_step(self.progress())
            recent.append(loss)
            at_snapshot = self.minutes() >= next_snapshot
            if at_snapshot:
                self.save()
                next_snapshot += self.args.snapshot_minutes
            if self.step % 20 == 0 or at_snapshot:
                self.report(sum(recent) / len(recent), shares, at_snapshot)
                recent.clear()
        self.save()
        self.report(sum(recent) / max(1, len(recent)), shares, True)

    def train_step(self, progress):
        length = SHORT if progress < LONG_FROM else LONG
        ids_bt = self.corpus.batch(TOKENS_PER_STEP[length] // length, length + 1)
        warmup = min(1.0, progress / WARMUP_SHARE, (self.step - self.first_step + 1) / 8)
        self.set_rate(warmup * (1 - progress))
        loss = next_token_loss(self.model, ids_bt)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        speed = BIAS_SPEED if progress < BIAS_FROZEN_FROM else 0.0
        shares = [moe.steer_bias(speed) for moe in self.model.moe_layers()]
        self.step += 1
        self.tokens += ids_bt.shape[0] * length
        return loss.item(), shares

    def set_rate(self, factor):
        for optimizer, rates in zip(self.optimizers, self.base_rates):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * factor

    def report(self, loss, shares, validate):
        validation = f"{self.validation_loss():.4f}" if validate else ""
        row = [self.step, f"{self.minutes():.2f}", self.tokens, f"{loss:.4f}", validation,
               f"{min(s.min().item() for s in shares):.4f}",
               f"{max(s.max().item() for s in shares):.4f}"]
        self.log.writerow(row)
        print(*row, flush=True)

    @torch.no_grad()
    def validation_loss(self):
        self.model.eval()
        losses = [next_token_loss(self.model, ids_bt).item()
                  for ids_bt in self.corpus.validation_batches(SHORT + 1)]
        self.model.train()
        return sum(losses) / len(losses)

    def save(self):
        path = self.args.out / "model.safetensors"
        save_file(checkpoint_tensors(self.model), str(path) + ".new", {"format": "pt"})
        os.chmod(str(path) + ".new", 0o644)
        os.replace(str(path) + ".new", path)

    def minutes(self):
        return (time.monotonic() - self.start) / 60

    def progress(self):
        return self.minutes() / self.args.minutes


def next_token_loss(model, ids_bt):
    logits_btv = model(ids_bt[:, :-1])
    return F.cross_entropy(logits_btv.flatten(0, 1), ids_bt[:, 1:].flatten())


class Corpus:
    def __init__(self, path, tokenizer, seed):
        self.tokenizer, self.random = tokenizer, random.Random(seed)
        chapters = Path(path).read_text().strip().split("\n\n")
        held_out = chapters[VALIDATE_EVERY - 1::VALIDATE_EVERY]
        kept = [c for i, c in enumerate(chapters) if (i + 1) % VALIDATE_EVERY]
        self.verses = [chapter.split("\n")[1:] for chapter in kept]
        self.train_ids, self.line_starts = self.encode_chapters(kept)
        self.validation_ids, _ = self.encode_chapters(held_out)

    def encode_chapters(self, chapters):
        ids, line_starts = [], []
        for chapter in chapters:
            ids.append(BOS)
            lines = chapter.split("\n")
            for number, line in enumerate(lines):
                line_starts.append(len(ids))
                last = number == len(lines) - 1
                ids += self.encode(line if last else line + "\n")
            ids.append(EOS)
        return ids, line_starts

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def batch(self, count, length):
        return torch.tensor([self.sequence(length) for _ in range(count)])

    def sequence(self, length):
        draw = self.random.random()
        if draw < CHAT_SHARE:
            return self.conversation(length)
        prefix = [] if draw < CHAT_SHARE + BARE_SHARE else [BOS]
        while True:
            start = self.random.choice(self.line_starts)
            if start + length <= len(self.train_ids):
                return (prefix + self.train_ids[start:start + length])[:length]

    def conversation(self, length):
        """One side quotes a verse or its opening, the other goes on."""
        ids = []
        while len(ids) < length:
            ids += [BOS] + self.dialogue(self.random.choice(self.verses))
        return ids[:length]

    def dialogue(self, verses):
        ids, at = [], self.random.randrange(len(verses))
        while at < len(verses) and len(ids) < LONG:
            prompt, reply = self.cut(verses[at])
            count = self.random.randint(0 if reply else 1, 3)
            reply = "\n".join([reply] * bool(reply) + verses[at + 1:at + 1 + count])
            if not reply:
                break
            ids += [USER, *self.encode(prompt), END_OF_TURN,
                    ASSISTANT, *self.encode(reply), END_OF_TURN]
            at += 1 + count
        return ids or [USER, *self.encode(verses[-1]), END_OF_TURN]

    def cut(self, verse):
        words = verse.split(" ")
        if len(words) < 4 or self.random.random() < 0.4:
            return verse, ""
        count = self.random.randint(2, min(12, len(words) - 1))
        return " ".join(words[:count]), " ".join(words[count:])

    def validation_batches(self, length, count=24):
        ids = torch.tensor(self.validation_ids)
        ids_bt = ids[:len(ids) // length * length].view(-1, length)
        return ids_bt.split(count)


def make_optimizers(model):
    gates = {id(m.gate.weight) for m in model.modules() if isinstance(m, Moe)}
    embedding = id(model.embed_tokens.weight)
    matrices = [p for p in model.parameters()
                if p.dim() >= 2 and id(p) not in gates and id(p) != embedding]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [Muon(matrices, MUON_RATE, MUON_DECAY),
            torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01,
                              fused=True)]


class Muon(torch.optim.Optimizer):
    """Momentum whose step is replaced by the nearest orthogonal matrix.
    Matrices of one shape, experts included, are orthogonalized together."""

    def __init__(self, parameters, lr, weight_decay, momentum=0.95):
        super().__init__(parameters, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for weight in group["params"]:
                wide = weight.shape[-2:] if weight.shape[-2] <= weight.shape[-1] \
                    else weight.shape[:-3:-1]
                by_shape.setdefault(tuple(wide), []).append(weight)
            for wide, weights in by_shape.items():
                self.step_shape(group, wide, weights)

    def step_shape(self, group, wide, weights):
        moves = [self.momentum_of(w, group["momentum"]).reshape(-1, *w.shape[-2:])
                 for w in weights]
        flipped = [m.shape[-2:] != wide for m in moves]
        moves = [m.transpose(1, 2) if f else m for m, f in zip(moves, flipped)]
        counts = [m.shape[0] for m in moves]
        steps = orthogonalize(torch.cat(moves)).split(counts)
        for weight, step, flip in zip(weights, steps, flipped):
            step = step.transpose(1, 2) if flip else step
            rows, columns = weight.shape[-2:]
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(step.reshape(weight.shape),
                        alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def momentum_of(self, weight, factor):
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - factor)
        return weight.grad.lerp(state["momentum"], factor)


def orthogonalize(x_brc, rounds=5):
    """Newton-Schulz iteration: drives all singular values to about one."""
    x_brc = x_brc / (x_brc.norm(dim=(1, 2), keepdim=True) + 1e-12)
    for _ in range(rounds):
        square_brr = x_brc @ x_brc.mT
        mix_brr = torch.baddbmm(square_brr, square_brr, square_brr, beta=-4.7750, alpha=2.0315)
        x_brc = torch.baddbmm(x_brc, mix_brr, x_brc, beta=3.4445)
    return x_brc


if __name__ == "__main__":
    main()
