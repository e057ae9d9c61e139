"""Writes cases/: templates, conversations, and what Jinja makes of them (null: it fails).

    python make_cases.py            # rewrites cases/; needs jinja2 (3.1.6 made the committed ones)

generated.json  random templates, each with its own conversation
shapes.json     templates/*.jinja, written in the ways that published model families write theirs, with random
                conversations
mutable.json    what changes lists, by a sandbox that allows it
"""

import json
import pathlib
import random

import jinja_oracle
import template_grammar

HERE = pathlib.Path(__file__).parent
NUM_GENERATED = 2400
NUM_CONVERSATIONS = 60  # per hand-written template
MUTABLE = [
    "{% set l = [] %}{% for m in messages %}{% set _ = l.append(m.role) %}{% endfor %}{{ l }}{{ l.pop() }}{{ l.pop(0) }}{{ l }}",
    "{% set l = [1, 2, 3, 4] %}{{ l.pop(1) }}{{ l.pop(-1) }}{{ l }}{{ l.append(9) }}{{ l }}",
    "{% set first = messages.pop(0) %}{{ first.content }}|{{ messages | length }}",
    "{% set l = [] %}{{ l.pop() }}",
    "{% set l = [1] %}{{ l.pop(1) }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(5) %}{% if i is odd %}{{ ns.l.append(i) or '' }}{% endif %}{% endfor %}{{ ns.l | join('+') }}",
    "{% set a = [1] %}{% set b = a %}{{ b.append(2) }}{{ a }}{{ a == b }}",
]


def write(name, cases):
    rows = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    (HERE / "cases" / name).write_text(f"[\n{rows}\n]\n")
    failing = sum(case["text"] is None for case in cases)
    print(f"{name}: {len(cases)} cases, of which Jinja fails on {failing}")


def case(env, template, context):
    return {"template": template, "context": context, "text": jinja_oracle.render(env, template, context)}


def main():
    env = jinja_oracle.environment()
    generated = []
    seed = 0
    while len(generated) < NUM_GENERATED:
        rng = random.Random(f"case/{seed}")
        seed += 1
        context = template_grammar.context(rng)
        made = case(env, template_grammar.Grammar(rng).template(), context)
        # Most templates that fail do so for dull reasons, and those that print next to nothing show little.
        dull = made["text"] is None or len(made["text"]) < 8
        if (not dull or seed % 4 == 0) and len(json.dumps(made)) < 3000:
            generated.append(made)
    write("generated.json", generated)

    shapes = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        for i in range(NUM_CONVERSATIONS):
            rng = random.Random(f"{path.stem}/{i}")
            context = template_grammar.context(rng)
            for name in ("numbers", "strings", "data", "table"):
                del context[name]
            for message in context["messages"]:
                if rng.random() < 0.8 and not isinstance(message.get("content"), str):
                    message["content"] = rng.choice(template_grammar.WORDS)
            if rng.random() < 0.3:
                context["messages"] = [m for m in context["messages"] if m["role"] in ("user", "assistant")]
            made = case(env, path.read_text(), context)
            made["template"] = path.name
            shapes.append(made)
    write("shapes.json", shapes)

    mutable = jinja_oracle.environment(mutable=True)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write("mutable.json", [case(mutable, template, {"messages": messages}) for template in MUTABLE])


if __name__ == "__main__":
    main()
