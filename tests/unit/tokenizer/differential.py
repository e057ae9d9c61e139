"""Compares the tokenizer with Hugging Face's on random texts, for every folder of cases/ or those given.

    python differential.py TOOL [--count 5000] [--seed 1] [FOLDER with tokenizer.json ...]

TOOL is the built tokenizer_tool. Exit status 1 if anything differs; prints the first differences of each folder.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import unicodedata

import tokenizers

HERE = pathlib.Path(__file__).parent
WORDS = (
    "the quick brown fox isn't I'M we'LL they'Ve 's 'T 1999 42 3.14 ½ Ⅷ über Straße naïve café cafe\u0301 CAFÉ Съешь κόσμε ς Σ İ 我们 東京 カタカナ "
    "안녕 \u1112\u1161\u11ab مرحبا ١٢٣ नमस्ते สวัสดี 😀 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ … — “q” // /* */ => != {} [] ((( === __ \ufb01 ａｂ ﷺ ㎏ \u212b q\u0307\u0323 \u0301 "
    "<s> </s> <|im_start|> <|im_end|> <think> </think> <｜begin▁of▁sentence｜> [L] [R] [LR] [W] [AB] [ABC] [A <Norm> <norm> two\u0020words ▁ ▁▁ <0x41> "
    "Hello world foxjumps \ufffd \u0000 \u0085 \u180e \u200b \u200c \u200d \u2028 \ufeff x-y-z ſ \u017f's K"
).split(" ")
SPACES = [" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\x0b", "\x0c", "\x1c", "", "", ""]


def random_char(rng):
    kind = rng.random()
    if kind < 0.4:
        return chr(rng.randrange(0x20, 0x7F))
    if kind < 0.5:
        return chr(rng.randrange(0, 0x20))
    if kind < 0.8:
        code = rng.choice([rng.randrange(0x80, 0x3100), rng.randrange(0x3000, 0xD7A4), rng.randrange(0xF900, 0xFFFE)])
    else:
        code = rng.choice([rng.randrange(0x10000, 0x11FFF), rng.randrange(0x1D000, 0x1FBFF), rng.randrange(0x20000, 0x2FA20)])
    return chr(code)


def known_everywhere(char):
    # Characters added to Unicode lately are letters to one library and unassigned to the other; and so are surrogates.
    return unicodedata.ucd_3_2_0.category(char) not in ("Cn", "Cs")


def random_text(rng, everything):
    parts = []
    for _ in range(rng.randrange(1, 24)):
        kind = rng.random()
        if kind < 0.55:
            parts.append(rng.choice(WORDS) + rng.choice(SPACES))
        elif kind < 0.65:
            parts.append(rng.choice(SPACES) * rng.randrange(1, 6))
        elif kind < 0.7:
            parts.append(rng.choice("aA1 =-\n/'ßé我") * rng.randrange(1, 90))
        else:
            chars = [random_char(rng) for _ in range(rng.randrange(1, 6))]
            parts.append("".join(c for c in chars if everything or known_everywhere(c)))
    return "".join(parts)


def expected(tokenizer, text, add_special, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    ids = tokenizer.encode(text, add_special_tokens=add_special).ids
    return ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids, skip_special_tokens=True)


def compare(tool, folder, count, seed, everything):
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    rng = random.Random(f"{seed} {folder.name}")
    texts = [random_text(rng, everything) for _ in range(count)]
    flags = [(rng.random() < 0.5, rng.random() < 0.7) for _ in texts]
    lines = [f"{add:d}{parse:d} {text.encode().hex()}\n" for text, (add, parse) in zip(texts, flags)]
    # Only tokenizer.json is compared: the tool also reads tokenizer_config.json, which `tokenizers` does not know.
    answers = subprocess.run([tool, folder], input="".join(lines), capture_output=True, text=True, check=True).stdout.split("\n")
    streams_equal = '"ByteLevel"' in (folder / "tokenizer.json").read_text().split('"decoder":')[1][:40]
    wrong = 0
    for text, (add, parse), answer in zip(texts, flags, answers):
        ids, plain, skipped = expected(tokenizer, text, add, parse)
        fields = answer.split(" ")
        got_ids = [int(i) for i in fields[0].split(",") if i]
        got = [bytes.fromhex(field[1:]).decode() for field in fields[1:4]]
        want = [plain, skipped] + ([plain] if streams_equal else [])
        if got_ids == ids and got[: len(want)] == want:
            continue
        wrong += 1
        if wrong <= 5:
            where = next((i for i, (a, b) in enumerate(zip(ids, got_ids)) if a != b), min(len(ids), len(got_ids)))
            show = [tokenizer.id_to_token(i) for i in ids[max(0, where - 2) : where + 4]]
            print(f"  {folder.name}: add={add} parse={parse} {text!r}\n    ids differ at {where} of {len(ids)}: want {show} got "
                  f"{[tokenizer.id_to_token(i) for i in got_ids[max(0, where - 2):where + 4]]}\n    want {want!r}\n    got  {got!r}")
    print(f"{folder.name}: {count} texts, {wrong} differ")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--everything", action="store_true", help="also characters the libraries' Unicode versions disagree on")
    args = parser.parse_args()
    folders = args.folders or sorted(path.parent for path in HERE.glob("cases/*/tokenizer.json"))
    return 1 if sum(compare(args.tool, folder, args.count, args.seed, args.everything) for folder in folders) else 0


if __name__ == "__main__":
    sys.exit(main())
