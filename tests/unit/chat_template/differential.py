"""Compares our templates with Jinja on random ones: both give the same text, or both fail.

    python differential.py TOOL [--count 5000] [--seed 1]

TOOL is the built chat_template_tool; needs jinja2. Exit status 1 if anything differs; prints the first differences.
"""

import argparse
import json
import random
import subprocess
import sys

import jinja_oracle
import template_grammar


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    env = jinja_oracle.environment()
    cases = []
    for i in range(args.count):
        rng = random.Random(f"{args.seed}/{i}")
        context = template_grammar.context(rng)
        cases.append((template_grammar.Grammar(rng).template(), context))
    lines = "".join(json.dumps({"template": t, "context": c}) + "\n" for t, c in cases)
    out = subprocess.run([args.tool], input=lines, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    failed = differ = 0
    for (template, context), line in zip(cases, out, strict=True):
        ours = json.loads(line)
        theirs = jinja_oracle.render(env, template, context)
        failed += theirs is None
        if ours.get("text") == theirs:
            continue
        differ += 1
        if differ <= 5:
            try:
                env.from_string(template).render(**context)
            except Exception as error:
                theirs = f"{type(error).__name__}: {error}"
            print(f"--- template\n{template}\n--- context\n{json.dumps(context)}\n--- ours\n{ours}\n--- Jinja\n{theirs!r}\n")
    print(f"{args.count} cases, of which Jinja fails on {failed}; {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
