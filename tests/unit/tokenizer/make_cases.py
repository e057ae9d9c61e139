"""Trains small tokenizers with Hugging Face's `tokenizers` in the configurations that published models use, and
writes cases/<name>/tokenizer.json plus cases/<name>/cases.json: texts, and the ids and decodings to expect.

    python make_cases.py            # rewrites cases/; needs the packages `tokenizers` (0.23.3 made the committed ones)
"""

import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent

QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
DEEPSEEK_V3 = [
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]
# The letters class is a shortened stand-in for the published one, which lists every range of letters.
DEEPSEEK_V2 = [
    r"[\r\n]",
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0370-\u0373\u0400-\u0481]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
]
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

TRAINING_TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind; they've met before, haven't they?",
    "It was the best of times, it was the worst of times, it was the age of wisdom and of foolishness.",
    "Numbers: 1, 12, 123, 1234, 12345, 3.14159, 1999, 2024, 10,000,000. I'M SURE THAT'S WHAT WE'LL SAY.",
    "def main(argc, argv):\n    for i in range(10):\n        print(i, end='\\n')\n    return {'a': [1, 2, 3]}\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n\n\n#include <vector>  // a comment\n",
    "Der schnelle braune Fuchs springt über den faulen Hund. Größe, Straße, süß. Œuvre, naïve, café, élève.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Καλημέρα κόσμε, τι κάνεις;",
    "我们今天去北京看长城，天气很好。東京は日本の首都です。カタカナとひらがな。안녕하세요 세계, 오늘은 날씨가 좋아요.",
    "مرحبا بالعالم، كيف حالك اليوم؟ שלום עולם. नमस्ते दुनिया, आप कैसे हैं? สวัสดีชาวโลก",
    "Emoji: 😀 😃 👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ and symbols ∑ ∫ √ ≤ ≠ → € £ ¥ © ™ … — “quoted” ‘single’",
] * 4

TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\r\n\r\n", " \n \n ", "\t\t x", "a", " a", "a ", "   a   b   ", "Hello, world!", "Hello world Hello foxjumps",
    "The dog doesn't; DON'T! we'Ll they'VE I'm I'M it'S 'tis 'S 'ſ x'ſ", "'s's't're", "123456789012345678901234567890",
    "1 22 333 4444 55555", "x1y22z333", "٣٤٥ ½ ² Ⅷ 三 ௧௨௩", "3.14159e-10", "CamelCaseWordsHTTPServer iPhone XMLHttp ǅungla",
    "a" * 200, "ab" * 130, "=" * 100, " " * 130 + "x", " " * 65, "\n" * 70, "\t \t \n\t \r\n x", "a  \n  b", "a\u00a0b\u2003c\u3000d\u180ee\u1680f",
    "x\u0085y\u2028z\u2029w", "trailing spaces   ", "trailing newline\n", "line one \nline two  \n\n  line three\r\nend \r",
    "e\u0301 \u00e9 A\u030a \u00c5 \u212b o\u0302\u0323 q\u0307\u0323 \u0307\u0323\u0302", "\u0301leading mark", "Z" + "\u0300\u0316\u0301\u0317" * 20,
    "\u1112\u1161\u11ab \ud55c \u1100\u1161 \uac00\u11a8", "\ufb01 \uff21\uff22 \u2460 \u33a5 \ufdfa \u3300", "\u0958 \u0344 \u2126 \ufa0e \u1e9b\u0323 \u0130 \u0131 \u1e9e \u03a3\u03c2",
    "👨‍👩‍👧‍👦👍🏽🇩🇪❤️ 😀😃", "🧑🏿‍🚀 flag 🏴󠁧󠁢󠁥󠁮󠁧󠁿 keycap 1️⃣", "我们今天去北京。東京タワー、ひらがな！안녕하세요 ㄱㄴㄷ", "中文English混排123数字", "㐀𠀀 々〆〇 ー・",
    "مرحبا بالعالم، ١٢٣ ـــ لا", "שָׁלוֹם עוֹלָם", "नमस्ते दुनिया क्षत्रिय", "สวัสดีชาวโลก ทุกคน", "ქართული հայերեն አማርኛ ᏣᎳᎩ", "Ǆ ǅ ǆ ʰ ª º ㎏",
    "\x00", "a\x00b\x00\x00", "\x01\x02\x1b[0m\x7f\x80\x9f", "\x0b\x0c\x1c\x1d\x1e\x1f|", "\ufffd \ufffd\ufffd", "\ufeffBOM", "a\u200bb\u200cc\u200dd\u2060e", "\U0010ffff\ue000\uffff\U000e0001",
    "Ġ Ċ ĉ āĂ Ń ń ¡ÿ", "▁ ▁▁a b▁c", "<0x0A> <0xff>", "{\"key\": [1, 2.5, null], \"ü\": \"\\u00fc\"}", "def f(x):\n\treturn x**2  # comment\n\n\n", "https://example.org/a/b?c=d&e=f#g_h",
    "!!!???...---***", "//\n//\r\n/// x/y\n/", "“quotes” ‘single’ … — – ｢ｶﾅ｣ ！？。，", "$100 €5,00 £3 ¥ ₿ ± × ÷", "snake_case kebab-case __dunder__ a.b.c", "@user #tag a@b.c",
]
# Texts with added tokens; each configuration adds those it has.
ADDED_TEXTS = [
    "<s>", "<s></s>", "<s><s></s></s>x", " <s> ", "a<s>b", "a <s> b", "  <s>  \n</s>\t x", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_end|><|im_start|>", "<|im_start|", "<|im_<|im_start|>", "<think>\n\nhm\n\n</think>\n\nyes", "x<think>y", "<｜begin▁of▁sentence｜>a<｜end▁of▁sentence｜>",
    "a [L] b", "a  \n[L]b [L] [L]", "[L][L]", "a [R] b", "a[R]  \n b[R]", "[R] [R] [L] [R][L]", "[R]   [L]", "[LR]", " [LR] [LR] x", "x [W] y", "x[W]", "[W]x", "[W]", " [W]é [W]\u0301 ·[W]·", "[W][W] [W]_",
    "ÀÉ\u00e9 \u00c0\u0301", "<Norm> <norm> <NORM>", "caf\u00e9 cafe\u0301 CAFE\u0301", "[AB", "[ABC] [AB] [A]", "[ABC[AB]", "two words  two words", "twowords two words.",
    "[R] \u00a0\u2003x", "a\u3000[L]", "<0x41>", "é[É]é", "end<s>",
]


def byte_level(use_regex=False, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def trained(normalizer, pre_tokenizer, added=(), vocab=600, byte_alphabet=True, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_alphabet else [],
        special_tokens=["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)] if not byte_alphabet else [],
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    if not byte_alphabet:  # training makes them special, which published files do not
        text = json.loads(tokenizer.to_str())
        text["added_tokens"] = [{**token, "special": True} for token in text["added_tokens"][:1]]
        tokenizer = Tokenizer.from_str(json.dumps(text))
    specials = [token for token in added if token.special]
    others = [token for token in added if not token.special]
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens(others)
    return tokenizer


def special(content, **flags):
    return AddedToken(content, special=True, **{"normalized": False, **flags})


def plain(content, **flags):
    return AddedToken(content, special=False, **{"normalized": False, **flags})


CHATML = [special("<|im_start|>"), special("<|im_end|>"), plain("<think>"), plain("</think>")]
BOS = [special("<s>"), special("</s>")]
FLAGS = BOS + [
    special("[L]", lstrip=True), special("[R]", rstrip=True), special("[LR]", lstrip=True, rstrip=True), plain("[W]", single_word=True),
    plain("<Norm>", normalized=True), plain("cafe\u0301", normalized=True), plain("[AB]"), plain("[ABC]", normalized=True), plain("[A"),
    plain("two words", normalized=True, single_word=True, lstrip=True), plain("[\u00c9]", normalized=True), plain(" \n[", rstrip=True),
]


def qwen2():
    return trained(normalizers.NFC(), pre_tokenizers.Sequence([split(QWEN2), byte_level()]), CHATML)


def llama3():
    content = json.loads(trained(None, pre_tokenizers.Sequence([split(LLAMA3), byte_level()]), ignore_merges=True).to_str())
    vocab = content["model"]["vocab"]
    for word in ["Hello", "Ġworld", "foxjumps"]:  # which no merges make: only ignore_merges finds them
        vocab.setdefault(word, len(vocab))
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens(BOS + CHATML[:2])
    tokenizer.add_tokens(CHATML[2:])
    ids = [("<s>", tokenizer.token_to_id("<s>"))]
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=ids)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def deepseek_v3():
    added = [special("<｜begin▁of▁sentence｜>"), special("<｜end▁of▁sentence｜>"), plain("<think>", normalized=True)]
    return trained(normalizers.Sequence([]), pre_tokenizers.Sequence([split(p) for p in DEEPSEEK_V3] + [byte_level()]), added)


def deepseek_v2():
    steps = [split(p) for p in DEEPSEEK_V2] + [pre_tokenizers.Digits(individual_digits=True), byte_level()]
    return trained(normalizers.Sequence([]), pre_tokenizers.Sequence(steps), [special("<｜begin▁of▁sentence｜>")])


def gpt2():
    tokenizer = trained(None, byte_level(use_regex=True), [special("<s>")])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def gpt2_prefix_space():
    tokenizer = trained(normalizers.Lowercase(), byte_level(use_regex=True, add_prefix_space=True), FLAGS)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s>:0 $A:0 </s>:0", pair="<s> $A $B", special_tokens=ids)
    return tokenizer


def o200k():
    return trained(None, pre_tokenizers.Sequence([split(O200K), byte_level()]), CHATML)


def nfkc_flags():
    return trained(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]), pre_tokenizers.Sequence([split(QWEN2), byte_level()]), FLAGS)


def nfc_flags():
    return trained(normalizers.NFC(), pre_tokenizers.Sequence([split(QWEN2), byte_level()]), FLAGS)


def nfd_behaviors():
    steps = [
        split(r"[aeiou]", "merged_with_previous"), split(r"[bcd]+", "merged_with_next"), split(r"\s+", "contiguous"),
        pre_tokenizers.Split("-", "removed"), split(r"\w+|[^\w\s]+|\s+", "removed", invert=True),
        pre_tokenizers.Digits(individual_digits=False), byte_level(),
    ]
    return trained(normalizers.Sequence([normalizers.NFD(), normalizers.Replace(Regex(r"\s{3,}"), "  "), normalizers.Replace("ß", "ss")]), pre_tokenizers.Sequence(steps), BOS)


def nfkd_contiguous():
    steps = [split(r"[xyz]", "contiguous"), split(r"o", "merged_with_previous", invert=True), split(r"(?=[A-Z])|\d*", "isolated"), byte_level()]
    return trained(normalizers.NFKD(), pre_tokenizers.Sequence(steps), BOS)


def mixtral_legacy():
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = trained(normalizer, None, BOS, vocab=700, byte_alphabet=False, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    ids = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=ids)
    return tokenizer


def metaspace():
    tokenizer = trained(None, pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False), BOS, vocab=700, byte_alphabet=False, byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def metaspace_split_unknown():
    tokenizer = trained(normalizers.NFC(), pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True), BOS, vocab=560, byte_alphabet=False, byte_fallback=False, fuse_unk=False, unk_token="<unk>")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always", split=True)
    return tokenizer


CONFIGURATIONS = [
    qwen2, llama3, deepseek_v3, deepseek_v2, gpt2, gpt2_prefix_space, o200k, nfkc_flags, nfc_flags, nfd_behaviors,
    nfkd_contiguous, mixtral_legacy, metaspace, metaspace_split_unknown,
]


def expected(tokenizer, text):
    tokenizer.encode_special_tokens = True
    unparsed = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return [
        text, ids, tokenizer.encode(text, add_special_tokens=True).ids, unparsed,
        tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids, skip_special_tokens=True),
    ]


def odd_decodings(tokenizer):
    """Ids in an order no text gives: cut UTF-8 sequences, runs of bytes, special tokens in between."""
    size = tokenizer.get_vocab_size()
    rows = []
    state = 12345
    for length in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] * 3:
        ids = []
        for _ in range(length):
            state = (state * 1103515245 + 12345) % 2**31
            ids.append(state // 65536 % size)
        rows.append([ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids, skip_special_tokens=True)])
    return rows


def main():
    for configuration in CONFIGURATIONS:
        tokenizer = configuration()
        content = json.loads(tokenizer.to_str())
        if configuration in (llama3, gpt2):  # the older spelling of merges, which many files still have
            content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]
        folder = HERE / "cases" / configuration.__name__
        folder.mkdir(parents=True, exist_ok=True)
        dump = dict(ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(json.dumps(content, **dump) + "\n", newline="\n")
        cases = {"encode": [expected(tokenizer, t) for t in TEXTS + ADDED_TEXTS], "decode": odd_decodings(tokenizer)}
        (folder / "cases.json").write_text(json.dumps(cases, ensure_ascii=True, separators=(",", ":")) + "\n")
        print(configuration.__name__, tokenizer.get_vocab_size(), file=sys.stderr)


if __name__ == "__main__":
    main()
