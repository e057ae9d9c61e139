#!/usr/bin/env python3
"""Make tiny random checkpoints and what transformers says about them.

    make_golden.py                                  every committed case, into data/
    make_golden.py --case qwen3_moe_f32             one of them
    make_golden.py --out DIR --case random --seed 7 --count 3
                                                    unseen dimensions, into DIR/random_7, ...

Each case is a folder: config.json, safetensors, a byte-level tokenizer.json, and expected.json (described in
README.md). The oracle reads the saved files back and computes in float32, whatever dtype they are stored in; of fp8
it reads a copy in float32 that holds codes times scales.
"""
import argparse
import json
import random
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, DeepseekV3Config, Qwen3MoeConfig
from transformers.models.deepseek_v3 import modeling_deepseek_v3

PROMPT_LENGTHS = (1, 2, 17, 95, 300)
GREEDY_TOKENS = 64
MAX_POSITION = 512
END_TOKEN = "<|end|>"
MERGES = [("t", "h"), ("i", "n"), ("a", "n"), ("th", "e"), ("Ġ", "the")]
BYTE_TOKENS = 256
# The smallest vocabulary that holds every byte, the merges and the end token.
MIN_VOCAB = BYTE_TOKENS + len(MERGES) + 1
# Of several seeds the one whose closest expert choice is the least close: a near-tie tests rounding, not the model.
SEED_TRIES = 6

DEFAULT_ROPE = dict(rope_type="default", rope_theta=10000.0)

CASES = {
    # Grouped gate with biases low enough that masking with 0 instead of -inf would pick wrong experts.
    "deepseek_v3_f32": dict(
        family="deepseek_v3", dtype="float32", bias=(-0.9, 0.1),
        config=dict(vocab_size=263, hidden_size=52, intermediate_size=44, moe_intermediate_size=12,
                    num_hidden_layers=3, num_attention_heads=3, n_shared_experts=1, n_routed_experts=12,
                    n_group=3, topk_group=2, num_experts_per_tok=3, q_lora_rank=21, kv_lora_rank=18,
                    qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=14, first_k_dense_replace=1,
                    rope_parameters=DEFAULT_ROPE)),
    "deepseek_v3_bf16_yarn_sharded": dict(
        family="deepseek_v3", dtype="bfloat16", shard="90KB", old_style=True, bias=(-0.1, 0.1),
        config=dict(vocab_size=389, hidden_size=72, intermediate_size=50, moe_intermediate_size=20,
                    num_hidden_layers=3, num_attention_heads=5, n_shared_experts=2, n_routed_experts=7,
                    n_group=1, topk_group=1, num_experts_per_tok=2, q_lora_rank=None, kv_lora_rank=33,
                    qk_nope_head_dim=13, qk_rope_head_dim=8, v_head_dim=11, first_k_dense_replace=2,
                    routed_scaling_factor=1.7,
                    rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=8.0, beta_fast=32,
                                         beta_slow=1, mscale=1.0, mscale_all_dim=0.8,
                                         original_max_position_embeddings=64))),
    # Rope in halves, biases, weights not normalised, tied embeddings, two experts per group.
    "deepseek_v3_bf16_tied_biased": dict(
        family="deepseek_v3", dtype="bfloat16", bias=(-0.2, 0.2),
        config=dict(vocab_size=301, hidden_size=41, intermediate_size=37, moe_intermediate_size=9,
                    num_hidden_layers=2, num_attention_heads=2, n_shared_experts=1, n_routed_experts=16,
                    n_group=8, topk_group=3, num_experts_per_tok=6, q_lora_rank=16, kv_lora_rank=24,
                    qk_nope_head_dim=16, qk_rope_head_dim=10, v_head_dim=8, first_k_dense_replace=0,
                    norm_topk_prob=False, routed_scaling_factor=1.0, rope_interleave=False,
                    attention_bias=True, tie_word_embeddings=True,
                    rope_parameters=dict(rope_type="default", rope_theta=50000.0))),
    "qwen3_moe_f32": dict(
        family="qwen3_moe", dtype="float32", old_style=True,
        config=dict(vocab_size=277, hidden_size=44, intermediate_size=35, moe_intermediate_size=13,
                    num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
                    num_experts=9, num_experts_per_tok=4, norm_topk_prob=True, mlp_only_layers=[1],
                    rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "qwen3_moe_bf16_tied_sharded": dict(
        family="qwen3_moe", dtype="bfloat16", shard="60KB",
        config=dict(vocab_size=517, hidden_size=63, intermediate_size=47, moe_intermediate_size=18,
                    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=12,
                    num_experts=5, num_experts_per_tok=2, norm_topk_prob=False, decoder_sparse_step=2,
                    attention_bias=True, tie_word_embeddings=True, rope_parameters=DEFAULT_ROPE)),
    "qwen3_moe_f32_one_expert": dict(
        family="qwen3_moe", dtype="float32",
        config=dict(vocab_size=262, hidden_size=40, intermediate_size=31, moe_intermediate_size=27,
                    num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=1, head_dim=16,
                    num_experts=1, num_experts_per_tok=1, norm_topk_prob=True,
                    rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0,
                                         original_max_position_embeddings=128))),
    "qwen3_moe_bf16_128_experts": dict(
        family="qwen3_moe", dtype="bfloat16",
        config=dict(vocab_size=331, hidden_size=56, intermediate_size=33, moe_intermediate_size=7,
                    num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=2, head_dim=8,
                    num_experts=128, num_experts_per_tok=8, norm_topk_prob=True,
                    rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0,
                                         high_freq_factor=4.0, original_max_position_embeddings=128))),
    "qwen3_moe_f32_all_dense": dict(
        family="qwen3_moe", dtype="float32",
        config=dict(vocab_size=271, hidden_size=46, intermediate_size=59, moe_intermediate_size=8,
                    num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, head_dim=14,
                    num_experts=4, num_experts_per_tok=2, mlp_only_layers=[0, 1],
                    rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0))),
    # Several blocks and partial ones in both directions; the dense layer's gate and up meet between two.
    "deepseek_v3_fp8": dict(
        family="deepseek_v3", dtype="bfloat16", fp8=True, bias=(-0.1, 0.1),
        config=dict(vocab_size=265, hidden_size=144, intermediate_size=128, moe_intermediate_size=132,
                    num_hidden_layers=2, num_attention_heads=4, n_shared_experts=1, n_routed_experts=4,
                    n_group=1, topk_group=1, num_experts_per_tok=2, q_lora_rank=40, kv_lora_rank=36,
                    qk_nope_head_dim=24, qk_rope_head_dim=8, v_head_dim=20, first_k_dense_replace=1,
                    rope_parameters=DEFAULT_ROPE)),
    # Gate and up of the dense layer meet inside a block.
    "qwen3_moe_fp8": dict(
        family="qwen3_moe", dtype="bfloat16", fp8=True,
        config=dict(vocab_size=263, hidden_size=136, intermediate_size=50, moe_intermediate_size=33,
                    num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=24,
                    num_experts=6, num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[0],
                    rope_parameters=DEFAULT_ROPE)),
}


def main():
    args = parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    check_group_mask()
    if args.case == "random":
        for seed in range(args.seed, args.seed + args.count):
            make_case(args.out / f"random_{seed}", random_case(seed), seed, tries=1)
        return
    for name in [args.case] if args.case else CASES:
        make_case(args.out / name, CASES[name], args.seed, SEED_TRIES)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", choices=[*CASES, "random"])
    parser.add_argument("--count", type=int, default=1, help="how many random cases, of consecutive seeds")
    return parser.parse_args()


def check_group_mask():
    """Some transformers versions mask the other groups with 0, which wins over negative scores."""
    config = DeepseekV3Config(hidden_size=4, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2)
    router = modeling_deepseek_v3.DeepseekV3TopkRouter(config)
    router.e_score_correction_bias.copy_(torch.tensor([-5.0, -5.0, -9.0, -9.0]))
    chosen = set(router(torch.zeros(1, 4))[2].flatten().tolist())
    if chosen != {0, 1}:
        raise SystemExit(f"transformers {transformers.__version__} picks experts {chosen} outside the best group: "
                         "use a version that masks with -inf")


def make_case(folder, case, seed, tries):
    best = None
    for attempt in range(tries):
        expected = build_and_ask(folder, case, seed + 1000 * attempt)
        if best is None or expected["min_gate_margin"] > best["min_gate_margin"]:
            best = expected
        if best["min_gate_margin"] is None or best["min_gate_margin"] > 1e-4:
            break
    if best["seed"] != expected["seed"]:
        best = build_and_ask(folder, case, best["seed"])
    (folder / "expected.json").write_text(json.dumps(best, separators=(",", ":")) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{folder.name}: {size} bytes, seed {best['seed']}, closest expert choice {best['min_gate_margin']}")


def build_and_ask(folder, case, seed):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_checkpoint(folder, case, seed)
    write_tokenizer(folder, case["config"]["vocab_size"])
    with tempfile.TemporaryDirectory() as plain:
        if case.get("fp8"):
            shutil.copytree(folder, plain, dirs_exist_ok=True)
            quantise_fp8(folder, Path(plain))
        model = AutoModelForCausalLM.from_pretrained(plain if case.get("fp8") else folder, dtype=torch.float32,
                                                     attn_implementation="eager",
                                                     experts_implementation="eager").eval()
    if case.get("old_style"):
        rewrite_config_old_style(folder / "config.json")
    margins = watch_gates(model)
    rng = random.Random(seed)
    prompts = [ask(model, [rng.randrange(model.config.vocab_size) for _ in range(length)])
               for length in PROMPT_LENGTHS]
    return dict(seed=seed, weights="fp8" if case.get("fp8") else case["dtype"], transformers=transformers.__version__,
                min_gate_margin=min(margins) if margins else None, prompts=prompts)


def save_checkpoint(folder, case, seed):
    fields = dict(case["config"], max_position_embeddings=MAX_POSITION, bos_token_id=None, eos_token_id=None,
                  dtype=case["dtype"])
    if case["family"] == "deepseek_v3":
        fields.update(num_key_value_heads=fields["num_attention_heads"])
        config = DeepseekV3Config(**fields)
    else:
        config = Qwen3MoeConfig(**fields)
    model = AutoModelForCausalLM.from_config(config)
    fill_weights(model, torch.Generator().manual_seed(seed), case.get("bias", (0.0, 0.0)))
    model = model.to(getattr(torch, case["dtype"]))
    model.save_pretrained(folder, max_shard_size=case.get("shard", "1GB"))


def quantise_fp8(folder, plain):
    """Makes the checkpoint one of block-scaled fp8 as DeepSeek-V3 publishes it, and `plain` the same in float32."""
    stored, values = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        stored[name] = tensor
        if tensor.dim() == 2 and not any(part in name for part in ("embed_tokens", "lm_head", "mlp.gate.")):
            stored[name], stored[name + "_scale_inv"], tensor = quantise_blocks(tensor.float())
        values[name] = tensor.float().contiguous()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(values, plain / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(quant_method="fp8", fmt="e4m3", weight_block_size=[128, 128],
                                         activation_scheme="dynamic")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def quantise_blocks(matrix, size=128):
    """Codes, one scale per block, and what both are worth."""
    rows, cols = matrix.shape
    scales = torch.stack([torch.stack([block.abs().amax() / 448 for block in band.split(size, dim=1)])
                          for band in matrix.split(size)])
    spread = scales.repeat_interleave(size, 0)[:rows].repeat_interleave(size, 1)[:, :cols]
    codes = (matrix / spread).to(torch.float8_e4m3fn)
    return codes, scales, codes.float() * spread


@torch.no_grad()
def fill_weights(model, generator, bias_range):
    """Larger than the usual 0.02, so that attention and experts matter and logits are spread."""
    tied = model.config.tie_word_embeddings
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith("e_score_correction_bias"):
            tensor.uniform_(*bias_range, generator=generator)
        elif "norm" in name:
            tensor.normal_(1.0, 0.1, generator=generator)
        elif name.endswith(".bias"):
            tensor.normal_(0.0, 0.1, generator=generator)
        elif "embed_tokens" in name:
            tensor.normal_(0.0, 0.25 if tied else 0.6, generator=generator)
        elif name.endswith("weight") or "experts" in name:
            tensor.normal_(0.0, 1.2 / tensor.shape[-1] ** 0.5, generator=generator)


def rewrite_config_old_style(path):
    """As checkpoints published before transformers 5 have it."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    if "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    if config["model_type"] == "deepseek_v3":
        config.update(scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_tokenizer(folder, vocab_size):
    """Every byte, a few merges, one special token; ids above them are the model's padding."""
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in MERGES]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_TOKEN])
    assert tokenizer.get_vocab_size() <= vocab_size
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text('{"add_bos_token": false}\n')


def watch_gates(model):
    """A list that collects how far each token's last chosen expert (or group) is ahead of the next one."""
    margins = []
    config = model.config

    def gap(scores, k):
        if k < scores.shape[-1]:
            best = scores.topk(k + 1, dim=-1).values
            margins.append((best[:, k - 1] - best[:, k]).min().item())

    def hook(router, _inputs, outputs):
        logits = outputs[0]
        if config.model_type == "qwen3_moe":
            return gap(logits, config.num_experts_per_tok)
        choice = logits.sigmoid() + router.e_score_correction_bias
        grouped = choice.view(len(choice), config.n_group, -1)
        if config.n_group > 1:
            scores = grouped.topk(2, dim=-1).values.sum(-1)
            gap(scores, config.topk_group)
            keep = torch.zeros_like(scores).scatter(1, scores.topk(config.topk_group).indices, 1.0).bool()
            choice = grouped.masked_fill(~keep[..., None], float("-inf")).flatten(1)
        return gap(choice, config.num_experts_per_tok)

    for name, module in model.named_modules():
        if name.endswith("mlp.gate"):
            module.register_forward_hook(hook)
    return margins


@torch.no_grad()
def ask(model, ids):
    output = model(torch.tensor([ids]), use_cache=True)
    logprobs = output.logits[0].double().log_softmax(-1)
    of_next = logprobs[:-1].gather(1, torch.tensor(ids[1:]).view(-1, 1)).flatten().tolist()
    top = logprobs[-1].topk(5)
    greedy = dict(ids=[], logprobs=[], margins=[])
    last = logprobs[-1]
    for _ in range(GREEDY_TOKENS):
        two = last.topk(2)
        greedy["ids"].append(two.indices[0].item())
        greedy["logprobs"].append(round(two.values[0].item(), 6))
        greedy["margins"].append(round((two.values[0] - two.values[1]).item(), 6))
        output = model(torch.tensor([greedy["ids"][-1:]]), past_key_values=output.past_key_values, use_cache=True)
        last = output.logits[0, -1].double().log_softmax(-1)
    return dict(ids=ids, logprobs=[None, *(round(x, 6) for x in of_next)],
                top5=dict(ids=top.indices.tolist(), logprobs=[round(x, 6) for x in top.values.tolist()]),
                greedy=greedy)


def random_case(seed):
    rng = random.Random(seed)
    layers = rng.randint(1, 4)
    config = dict(vocab_size=rng.randint(MIN_VOCAB, 700), hidden_size=rng.randint(16, 130),
                  intermediate_size=rng.randint(5, 150), moe_intermediate_size=rng.randint(4, 70),
                  num_hidden_layers=layers, norm_topk_prob=rng.random() < 0.5,
                  attention_bias=rng.random() < 0.3, tie_word_embeddings=rng.random() < 0.3,
                  rope_parameters=random_rope(rng))
    family = rng.choice(["deepseek_v3", "qwen3_moe"])
    if family == "deepseek_v3":
        groups = rng.choice([1, 1, 2, 4])
        per_group = rng.randint(2, 128 // groups)
        top_groups = rng.randint(1, groups)
        config.update(num_attention_heads=rng.randint(1, 7), n_shared_experts=rng.randint(1, 3),
                      n_routed_experts=groups * per_group, n_group=groups, topk_group=top_groups,
                      num_experts_per_tok=rng.randint(1, min(8, top_groups * per_group)),
                      q_lora_rank=rng.choice([None, rng.randint(4, 50)]), kv_lora_rank=rng.randint(4, 70),
                      qk_nope_head_dim=rng.randint(2, 30), qk_rope_head_dim=2 * rng.randint(1, 12),
                      v_head_dim=rng.randint(2, 30), first_k_dense_replace=rng.randint(0, layers - 1),
                      rope_interleave=rng.random() < 0.8, routed_scaling_factor=rng.choice([1.0, 2.5]))
    else:
        kv_heads = rng.randint(1, 4)
        experts = rng.choice([1, rng.randint(2, 9), rng.randint(9, 40), 128])
        config.update(num_attention_heads=kv_heads * rng.randint(1, 4), num_key_value_heads=kv_heads,
                      head_dim=2 * rng.randint(1, 20), num_experts=experts,
                      num_experts_per_tok=rng.randint(1, min(8, experts)),
                      decoder_sparse_step=rng.choice([1, 1, 2]),
                      mlp_only_layers=[i for i in range(layers) if rng.random() < 0.2])
    return dict(family=family, dtype=rng.choice(["float32", "bfloat16", "float16"]), config=config,
                old_style=rng.random() < 0.5, shard=rng.choice(["1GB", "100KB"]), bias=(-0.6, 0.2))


def random_rope(rng):
    rope = dict(rope_type=rng.choice(["default", "default", "linear", "yarn", "llama3"]),
                rope_theta=rng.choice([10000.0, 50000.0, 1000000.0]))
    if rope["rope_type"] != "default":
        rope.update(factor=rng.choice([2.0, 4.0, 40.0]))
    if rope["rope_type"] in ("yarn", "llama3"):
        rope.update(original_max_position_embeddings=rng.choice([64, 128]))
    if rope["rope_type"] == "yarn":
        rope.update(beta_fast=32, beta_slow=1, mscale=1.0)
        if rng.random() < 0.5:
            rope.update(mscale_all_dim=rng.choice([0.707, 1.0]))
    if rope["rope_type"] == "llama3":
        rope.update(low_freq_factor=1.0, high_freq_factor=4.0)
    return rope


if __name__ == "__main__":
    main()
