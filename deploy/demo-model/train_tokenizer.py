#!/usr/bin/env python3
"""Train the byte-level BPE tokenizer of the demo checkpoint.

    python3 train_tokenizer.py kjv.txt .     (writes tokenizer.json,
                                              tokenizer_config.json)
"""
import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, trainers

VOCAB_SIZE = 4096
# Ids 0.. in this order; train.py and config.json rely on it.
SPECIAL_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>",
                  "<|user|>", "<|assistant|>", "<|end_of_turn|>", "<|system|>"]
# Contractions | a word with at most one leading non-letter | one digit |
# punctuation with its newlines | line ends | blanks before a word | blanks.
WORD_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
                r"|[^\r\n\p{L}\p{N}]?\p{L}+"
                r"|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+"
                r"|\s+(?!\S)"
                r"|\s+")
CHAT_TEMPLATE = ("{{ '<|begin_of_text|>' }}"
                 "{% for message in messages %}"
                 "{{ '<|' + message['role'] + '|>' + message['content'] | trim"
                 " + '<|end_of_turn|>' }}"
                 "{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")


def main():
    text_path, out_dir = sys.argv[1], Path(sys.argv[2])
    tokenizer = build_tokenizer()
    tokenizer.train([text_path], make_trainer())
    tokenizer.save(str(out_dir / "tokenizer.json"))
    write_config(out_dir / "tokenizer_config.json")
    print(f"{tokenizer.get_vocab_size()} tokens")


def build_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def make_trainer():
    return trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))


def write_config(path):
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": SPECIAL_TOKENS[3:],
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
        "chat_template": CHAT_TEMPLATE,
    }
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
