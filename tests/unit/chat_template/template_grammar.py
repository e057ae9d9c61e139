"""Random templates over what chat templates use, and random conversations for them. Everything follows from the seed.

What Python prints with an address (functions, generators) is never printed; integers stay small.
"""

WORDS = ["Hi", "What is 2 + 2?", "<think>a\nb</think>c", "  spaced  ", "", "naïve 😀 東京", 'quote " and \'', "a,b,,c", "line\nline\n", "\ttab\\", "<|end|>", "\u0001\u007f\u00a0\u2028", "True", "42", "x</think>y</think>z", "User: hello", "ÀÉÎ straße", "{{ not }} {% a %} {# b #}"]
ROLES = ["system", "user", "assistant", "tool"]
SCALARS = [0, 1, -7, 3.5, 1e16, 1e-7, 0.1, 123456789012, True, False, None, "text", "", "é\u0007"]


def value(rng, depth=0):
    kind = rng.random()
    if depth > 2 or kind < 0.6:
        return rng.choice(SCALARS + WORDS)
    if kind < 0.8:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["a", "b", "city", "units", "items", "名", "n m"]): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def message(rng):
    role = rng.choice(ROLES)
    content = rng.choice(WORDS)
    kind = rng.random()
    if kind < 0.1:
        content = None
    elif kind < 0.25:
        content = [{"type": "text", "text": rng.choice(WORDS)} for _ in range(rng.randrange(3))]
    made = {"role": role, "content": content}
    if kind > 0.95:
        del made["content"]
    if role == "assistant" and rng.random() < 0.5:
        arguments = {"city": rng.choice(WORDS), "n": rng.choice(SCALARS), "deep": value(rng)}
        made["tool_calls"] = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}]
    if role == "assistant" and rng.random() < 0.3:
        made["reasoning_content"] = rng.choice(WORDS)
    if role == "tool":
        made["name"] = "weather"
    return made


def context(rng):
    made = {
        "messages": [message(rng) for _ in range(rng.randrange(6))],
        "tools": None,
        "add_generation_prompt": rng.random() < 0.5,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "numbers": [rng.randrange(-3, 9) for _ in range(rng.randrange(6))],
        "strings": [rng.choice(WORDS) for _ in range(rng.randrange(5))],
        "data": value(rng),
        "table": {key: rng.choice(SCALARS) for key in rng.sample(["b", "a", "items", "x y", "Z"], rng.randrange(5))},
    }
    if rng.random() < 0.5:
        parameters = {"type": "object", "properties": {"city": {"type": "string", "enum": ["a", "b"]}}, "required": ["city"]}
        made["tools"] = [{"type": "function", "function": {"name": "weather", "description": rng.choice(WORDS), "parameters": parameters}}]
    if rng.random() < 0.5:
        made["enable_thinking"] = rng.random() < 0.5
    return made


class Grammar:
    def __init__(self, rng):
        self.rng = rng
        self.names = []  # variables that may be set
        self.macros = []  # (name, parameters)
        self.loops = 0
        self.depth = 0

    def pick(self, *choices):
        return self.rng.choice(choices)

    def chance(self, p):
        return self.rng.random() < p

    # Expressions, by what they should give; now and then it is something else.

    def text(self, d=0):
        r = self.rng
        if self.chance(0.02):
            return self.any(d + 1)
        if d > 2 or self.chance(0.35):
            return self.pick("'a'", '"b c"', "''", "'\\n'", "'x' 'y'", "bos_token", "eos_token", "'<think>'", "'é\\u00e9\\x41'", "message.content", "message['role']", "messages[0].role", "messages[-1]['content']", "strings[0]", self.name())
        d += 1
        return r.choice(
            [
                lambda: f"{self.text(d)} + {self.text(d)}",
                lambda: f"{self.text(d)} ~ {self.any(d)}",
                lambda: f"({self.any(d)} | string)",
                lambda: f"{self.text(d)} | {self.pick('trim', 'upper', 'lower', 'capitalize', 'title', 'string', 'trim | upper', 'length | string')}",
                lambda: f"{self.any(d)} | tojson{self.pick('', '', '(indent=2)', '(ensure_ascii=true)', '(indent=4, sort_keys=true)', '(separators=(chr, chr))'.replace('chr', repr(',')))}",
                lambda: f"{self.list(d)} | join({self.pick(repr(', '), repr(''), repr('-'))})",
                lambda: f"({self.text(d)}).{self.pick('strip()', 'lstrip()', 'rstrip()', 'strip(chr)'.replace('chr', repr('a<>')), 'upper()', 'lower()', 'title()', 'capitalize()')}",
                lambda: f"({self.text(d)}).split({self.pick(repr('</think>'), repr(','), '', repr(',') + ', 1', repr('a'))})[{self.pick('0', '-1', '1')}]",
                lambda: f"({self.text(d)})[{self.pick('1:', ':3', '::-1', '-2:', '0', '-1', ':-1', '1:4:2', '99', '5:2')}]",
                lambda: f"({self.text(d)} if {self.bool(d)} else {self.text(d)})",
                lambda: f"({self.text(d)} or {self.text(d)})",
                lambda: f"({self.text(d)}) | replace({self.pick(repr('a'), repr('l'), repr(' '))}, {self.pick(repr('ZZ'), repr(''))})",
                lambda: f"({self.text(d)}).replace('e', '3')",
                lambda: f"{self.any(d)} | default({self.text(d)}{self.pick('', ', true', ', boolean=true')})",
                lambda: f"({self.text(d)} * {self.pick('0', '2', '3', '-1')})",
                lambda: f"('%s-%d' % ({self.text(d)}, {self.int(d)}))",
                lambda: f"strftime_now({self.pick(repr('%Y-%m-%d'), repr('%d %b %Y'), repr('%H:%M:%S %j'))})",
                lambda: f"{self.text(d)} | indent({self.pick('2', '', '4, true', 'first=true')})",
                lambda: self.call(d),
                lambda: f"{self.dict(d)}.get({self.pick(repr('role'), repr('content'), repr('a'))}, {self.text(d)})",
                lambda: f"({self.text(d)} | safe)" if self.chance(0.3) else "'s'",
            ]
        )()

    def int(self, d=0):
        if d > 2 or self.chance(0.4):
            return self.pick("0", "1", "2", "-3", "7", "0x1f", "1_0", "loop.index", "loop.index0", "numbers[0]", "messages | length", "loop.revindex", "loop.length", self.name())
        d += 1
        return self.rng.choice(
            [
                lambda: f"({self.int(d)} {self.pick('+', '-', '*', '%', '//', '/')} {self.int(d)})",
                lambda: f"{self.list(d)} | length",
                lambda: f"{self.text(d)} | length",
                lambda: f"{self.text(d)} | int",
                lambda: f"(-{self.int(d)})",
                lambda: f"{self.list(d)} | {self.pick('first', 'last', 'max', 'min', 'sum', 'count')}",
                lambda: f"({self.pick('2', '3', '7.5', '1e3', '0.25')} {self.pick('**', '*', '-', '//', '%')} {self.pick('2', '3', '0.5')})",
                lambda: f"{self.int(d)} | {self.pick('abs', 'int', 'float', 'string')}",
                lambda: f"({self.text(d)}).{self.pick('find', 'count')}('a')",
            ]
        )()

    def bool(self, d=0):
        if d > 2 or self.chance(0.2):
            return self.pick("true", "false", "True", "none", "loop.first", "loop.last", "add_generation_prompt", "enable_thinking", "tools", "ns.flag", self.name())
        d += 1
        return self.rng.choice(
            [
                lambda: f"{self.text(d)} {self.pick('==', '!=', 'in', 'not in', '<')} {self.text(d)}",
                lambda: f"{self.int(d)} {self.pick('==', '!=', '<', '>', '<=', '>=')} {self.int(d)}",
                lambda: f"{self.int(d)} < {self.int(d)} <= {self.int(d)}",
                lambda: f"{self.any(d)} is {self.pick('', 'not ')}{self.pick('defined', 'none', 'string', 'mapping', 'iterable', 'false', 'true', 'undefined', 'number', 'integer', 'float', 'boolean', 'sequence')}",
                lambda: f"{self.int(d)} is {self.pick('odd', 'even', 'divisibleby 3', 'divisibleby(2)', 'eq 2', 'gt 1')}",
                lambda: f"({self.bool(d)} {self.pick('and', 'or')} {self.bool(d)})",
                lambda: f"not {self.bool(d)}",
                lambda: f"{self.text(d)} in {self.pick('message', 'messages', 'strings', 'table', '[1, 2]', repr('abc'))}",
                lambda: f"({self.text(d)}).{self.pick('startswith', 'endswith')}({self.pick(repr('<'), repr('a'), '(' + repr('a') + ', ' + repr('U') + ')')})",
                lambda: f"{self.any(d)} == {self.any(d)}",
                lambda: f"message.{self.pick('content', 'tool_calls', 'name', 'missing')} is {self.pick('defined', 'string', 'not none')}",
                lambda: f"{self.any(d)} is in {self.list(d)}",
            ]
        )()

    def list(self, d=0):
        if d > 2 or self.chance(0.35):
            return self.pick("messages", "strings", "numbers", "tools", "[]", "[1, 2, 3]", "['a', 'b']", "(1, 'x')", "range(3)", "range(4, 0, -1)", "message.tool_calls", self.name())
        d += 1
        return self.rng.choice(
            [
                lambda: f"{self.list(d)}[{self.pick('1:', ':2', '::-1', '-2:', ':-1', '::2')}]",
                lambda: f"[{self.any(d)}, {self.any(d)}]",
                lambda: f"({self.any(d)}, {self.any(d)})",
                lambda: f"{self.list(d)} | {self.pick('list', 'reverse | list', 'sort', 'unique | list', 'sort(reverse=true)')}",
                lambda: f"messages | {self.pick('select', 'reject')}attr('role', {self.pick(repr('equalto'), repr('=='), repr('in'))}, {self.pick(repr('user'), repr('system'), repr('usertool'))}) | list",
                lambda: f"messages | map(attribute='{self.pick('role', 'content', 'tool_calls.0.function.name')}'{self.pick('', ', default=9')}) | list",
                lambda: f"{self.list(d)} | map('{self.pick('string', 'upper', 'length', 'tojson', 'trim')}') | list",
                lambda: f"{self.list(d)} | {self.pick('reject', 'select')}('{self.pick('equalto', 'ne', 'in')}', {self.pick('1', repr('a'))}) | list",
                lambda: f"{self.list(d)} | {self.pick('select', 'reject')}('{self.pick('string', 'none', 'mapping', 'odd')}') | list",
                lambda: f"({self.text(d)}).split({self.pick('', repr(','), repr(' '), repr('l') + ', 1')})",
                lambda: f"{self.dict(d)}.{self.pick('items', 'keys', 'values')}() | list",
                lambda: f"{self.dict(d)} | {self.pick('items | list', 'list', 'dictsort')}",
                lambda: f"{self.list(d)} + {self.list(d)}",
                lambda: f"({self.list(d)} * 2)",
                lambda: f"({self.list(d)} if {self.bool(d)} else {self.list(d)})",
                lambda: f"({self.list(d)} or [])",
                lambda: f"({self.text(d)}) | list",
            ]
        )()

    def dict(self, d=0):
        if d > 2 or self.chance(0.5):
            return self.pick("message", "messages[0]", "table", "{}", "{'a': 1, 'b': [2]}", "data", "tools[0].function", "message.tool_calls[0].function.arguments")
        d += 1
        return self.rng.choice(
            [
                lambda: "{" + f"'role': {self.any(d)}, 'content': {self.text(d)}" + "}",
                lambda: "{" + f"{self.pick('1', 'true', 'none', repr('k'))}: {self.any(d)}, {self.pick('2', '1', repr('k'))}: {self.any(d)}" + "}",
                lambda: f"dict(a={self.any(d)}, role={self.text(d)})",
                lambda: f"{self.list(d)} | first",
            ]
        )()

    def any(self, d=0):
        if self.chance(0.03):
            return self.pick("missing", "message.missing", "missing.x", "none", "data.a", "data['b']", "table.items()", "table['a']", "3.0", "1.5e300 * 10") if self.chance(0.8) else "data.items() | list"
        return self.rng.choice([self.text, self.text, self.int, self.bool, self.list, self.dict])(d + 1)

    def name(self):
        return self.rng.choice(self.names) if self.names else "data"

    def call(self, d):
        if not self.macros:
            return "'m'"
        name, parameters = self.rng.choice(self.macros)
        args = [self.any(d + 1) for _ in range(self.rng.randrange(len(parameters) + 1))]
        if len(args) < len(parameters) and self.chance(0.5):
            args.append(f"{parameters[len(args)]}={self.any(d + 1)}")
        return f"{name}({', '.join(args)})"

    # Statements.

    def data(self):
        return self.rng.choice(["", "\n", " ", "  ", "\n  ", " \n\n", "text", "a\n", "User: ", "  <|im_start|>", "é\n\t", "}", "{ ", "%}", " # ", "\n\n", "\r\n", "end\n"])

    def tag(self, inside):
        return "{%" + self.pick("", "", "", "-", "+") + " " + inside + self.pick(" ", "\n ") + self.pick("", "", "", "-", "+") + "%}"

    def print(self):
        return "{{" + self.pick("", "", "-", " ") + " " + self.any(0) + " " + self.pick("", "", "-") + "}}"

    def body(self):
        self.depth += 1
        count = self.rng.randrange(1, 3) if self.depth < 3 else 1
        made = "".join(self.data() + self.statement() for _ in range(count)) + self.data()
        self.depth -= 1
        return made

    def statement(self):
        kind = self.rng.random()
        if self.depth > 3 or kind < 0.34:
            return self.print()
        if kind < 0.50:
            made = self.tag("if " + self.bool()) + self.body()
            if self.chance(0.3):
                made += self.tag("elif " + self.bool()) + self.body()
            if self.chance(0.5):
                made += self.tag("else") + self.body()
            return made + self.tag("endif")
        if kind < 0.68:
            return self.loop()
        if kind < 0.80:
            name = self.pick("x", "y", "z", "content")
            self.names.append(name)
            return self.tag(f"set {name} = {self.any()}")
        if kind < 0.84:
            return self.tag(self.pick(f"set ns.flag = {self.bool()}", f"set ns.count = ns.count + {self.int()}", f"set a, b = {self.any()}, {self.any()}", f"set ns.text = ns.text ~ {self.text()}")) + self.pick("{{ ns.count }}", "{{ a }}{{ b }}", "{{ ns.flag }}{{ ns.text }}")
        if kind < 0.87:
            self.names.append("z")
            return self.tag("set z" + self.pick("", " | trim", " | upper")) + self.body() + self.tag("endset")
        if kind < 0.92 and self.depth < 3:
            return self.macro()
        if kind < 0.95:
            return self.pick("{# a comment #}", "{#- a {{ comment }} -#}", "{#\n more\n#}", "{#+ plus +#}")
        if kind < 0.97:
            return self.pick("{% raw %}{{ raw }} {% if %}\n{% endraw %}", "{%- raw -%} a {{ {%- endraw -%}", "{% generation %}" + self.print() + "\n{% endgeneration %}")
        if self.loops and kind < 0.99:
            return self.tag("if " + self.bool()) + self.tag(self.pick("break", "continue")) + self.tag("endif")
        return self.tag("if " + self.bool()) + "{{ raise_exception('no: ' ~ " + self.text() + ") }}" + self.tag("endif")

    def loop(self):
        self.loops += 1
        kind = self.rng.random()
        if kind < 0.5:
            head = f"for message in {self.pick('messages', 'messages', 'messages[1:]', 'messages | reverse', self.list())}"
        elif kind < 0.65:
            head = f"for k, v in {self.dict()}{self.pick('.items()', ' | items', ' | dictsort')}"
            self.names += ["k", "v"]
        else:
            head = f"for {self.pick('x', 'item', 'message')} in {self.list()}"
            self.names += ["x", "item"]
        if self.chance(0.2):
            head += f" if {self.bool(2)}"
        made = self.tag(head) + self.body()
        if self.chance(0.3):
            made += self.pick("{{ loop.index }}/{{ loop.length }}", "{{ loop.previtem }}", "{{ loop.nextitem is defined }}", "{{ loop.cycle('a', 'b') }}", "{% if not loop.last %}, {% endif %}")
        self.loops -= 1
        if self.chance(0.2):
            made += self.tag("else") + self.body()
        return made + self.tag("endfor")

    def macro(self):
        name = f"m{len(self.macros)}"
        parameters = self.rng.sample(["p", "q", "message"], self.rng.randrange(1, 4))
        first_default = self.rng.randrange(len(parameters) + 1)
        written = [p if i < first_default else f"{p}={self.any(2)}" for i, p in enumerate(parameters)]
        loops, self.loops = self.loops, 0
        names = list(self.names)
        self.names += parameters
        made = self.tag(f"macro {name}({', '.join(written)})") + self.body() + self.tag("endmacro")
        self.names = names
        self.loops = loops
        self.macros.append((name, parameters))
        return made

    def template(self):
        head = self.tag("set ns = namespace(flag=false, count=0, text='')")
        return head + self.body() + (self.print() if self.chance(0.5) else "") + self.pick("", "\n", "\n\n")
