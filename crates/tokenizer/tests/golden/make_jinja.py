"""Writes jinja.json: snippets of template code with what Jinja on Python renders, in Hugging Face's environment.

Needs the package jinja2 (made with 3.1.6). Run: python make_jinja.py > jinja.json
"""

import datetime
import json

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

VALUES = {
    "messages": [
        {"role": "system", "content": "  Be kind.\n"},
        {"role": "user", "content": "Hi <b>'you'</b> & \"me\""},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1, "a": [1.0, True, None]}}}]},
        {"role": "tool", "content": [{"type": "text", "text": "t1"}, {"type": "image"}]},
    ],
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "text": "Grüße, Jürgen ❤ 🦙\t\u00a0\u200b\x7f\x1c\\\"'",
    "padded": "\x1c \n\t a b  c\u3000\n",
    "lines": "a\r\nb\n\nc\rd\x0be\u2028f\n",
    "empty": "",
    "zero": 0,
    "big": 12345678901234567,
    "negative": -7,
    "floats": [0.1, 1.0, 1e16, 1e-5, -0.0, 123456789.123, 1e300, 3.14159],
    "yes": True,
    "none_value": None,
    "list": [3, 1, 2, 1],
    "names": ["b", "A", "c"],
    "map": {"z": 1, "a": {"n": None, "s": "é\n"}, "items": [1], "m": [], "e": {}},
    "nested": [[1, 2], [3, [4]]],
}

SNIPPETS = r"""
{{ none_value }}|{{ yes }}|{{ zero }}|{{ big }}|{{ negative }}|{{ floats }}
{{ missing }}|{{ missing is defined }}|{{ missing is none }}|{{ missing == none }}
{{ missing.attr }}
{{ missing['x'] }}
{{ map.missing }}|{{ map.missing is undefined }}|{{ map['zz'] is defined }}
{{ map.missing.deeper }}
{{ missing() }}
{{ missing + 'a' }}
{{ 'a' + missing }}
{{ missing ~ 'a' }}
{{ none_value ~ 'a' ~ 1 ~ 1.0 ~ yes }}
{{ 'a' + 1 }}
{{ 1 + 1.0 }}|{{ 7 // 2 }}|{{ 7 / 2 }}|{{ 6 / 2 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}
{{ 1 / 0 }}
{{ '%s and %d' % ('a', 3) }}
{{ '%s' % 'x' }}|{{ '%.2f' % 3.14159 }}
{{ 'a' * 3 }}|{{ [1] * 2 }}|{{ 3 * 'b' }}
{{ map }}
{{ nested }}|{{ names }}|{{ (1, 2) }}|{{ (1,) }}|{{ () }}
{{ text }}
{{ [text] }}
{{ {'k': text} }}
{{ text|tojson }}
{{ map|tojson }}
{{ map|tojson(indent=2) }}
{{ map|tojson(indent=4, sort_keys=True) }}
{{ map|tojson(separators=(',', ':')) }}
{{ map|tojson(ensure_ascii=True) }}
{{ text|tojson(ensure_ascii=true) }}
{{ map|tojson(sort_keys=true) }}
{{ nested|tojson(indent=1) }}
{{ nested|tojson(indent=0) }}
{{ floats|tojson }}|{{ [none_value, yes, big]|tojson }}
{{ missing|tojson }}
{{ {1: 2, none: 3, true: 4, 1.5: 6}|tojson }}
{{ (1, 2)|tojson }}
{{ range(3)|tojson }}
{{ range(3)|list|tojson }}
{{ map.items()|tojson }}
{{ map.keys()|list }}|{{ map.values()|list }}|{{ map.items()|list }}
{{ map.get('z') }}|{{ map.get('q') }}|{{ map.get('q', 'd') }}|{{ map['items'] }}
{{ map|items|list }}|{{ map|dictsort }}|{{ map|list }}|{{ map|length }}
{% for k, v in map.items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in map|dictsort %}{{ k }};{% endfor %}
{% for k in map %}{{ k }};{% endfor %}
{% for x in none_value %}x{% endfor %}
{% for x in missing %}x{% else %}none{% endfor %}
{% for x in 5 %}x{% endfor %}
{% for c in 'aé🦙' %}{{ c }}.{% endfor %}
{% for x in list if x > 1 %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}
{% for x in list %}{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}:{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}
{% for x in list %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in list %}{{ loop.cycle('a', 'b') }}{{ loop.changed(x) }}{% endfor %}
{% for row in nested %}{% for x in row %}{{ loop.index }}{{ x }}{% endfor %}{% endfor %}
{% for m in messages %}{% if m.content is string %}s{% elif m.content is mapping %}m{% elif m.content is iterable %}i{% elif m.content is none %}n{% endif %}{% endfor %}
{% set x = 1 %}{% for i in list %}{% set x = i %}{% endfor %}{{ x }}
{% set ns = namespace(x=1, y='a') %}{% for i in list %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}
{% set ns = namespace(l=[]) %}{% for i in list %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% set block %}  x {{ yes }}{% endset %}[{{ block }}]{{ block|length }}
{% set up | upper %}abc{% endset %}{{ up }}
{% macro m(a, b='d') %}{{ a }}-{{ b }}-{{ caller is defined }}{% endmacro %}{{ m(1) }} {{ m(1, 2) }} {{ m(b=3, a=4) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m() }}|{{ m(1)|trim }}|{{ m('x') ~ 'y' }}
{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(3) }}
{% macro outer() %}<{{ caller() }}>{% endmacro %}{% call outer() %}in{% endcall %}
{% macro kw() %}{{ kwargs }}{{ varargs }}{% endmacro %}{{ kw(1, a=2) }}
{% filter upper %}abc{{ 'd' }}{% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}
{% if list and not empty or missing %}t{% else %}f{% endif %}
{% if zero %}a{% elif yes %}b{% endif %}
{{ 'x' if yes else 'y' }}|{{ 'x' if zero }}|{{ 'x' if zero else 'y' if empty else 'z' }}
{{ list[0] }}|{{ list[-1] }}|{{ list[1:] }}|{{ list[:-1] }}|{{ list[::-1] }}|{{ list[::2] }}|{{ list[10] }}
{{ text[0] }}|{{ text[1:4] }}|{{ text[-2:] }}|{{ 'abc'[::-1] }}|{{ 'abc'[5:] }}
{{ list[10].x }}
{{ messages[0]['role'] }}|{{ messages[0].role }}|{{ messages[-1].content[0].text }}|{{ messages[0]['content']|trim }}
{{ list.0 }}
{{ 'a' in 'abc' }}|{{ 1 in list }}|{{ 'z' in map }}|{{ 'x' not in 'abc' }}|{{ 'a' in missing }}
{{ 'a' in none_value }}
{{ list == [3, 1, 2, 1] }}|{{ 1 == 1.0 }}|{{ 1 == true }}|{{ '1' == 1 }}|{{ none_value == false }}|{{ map == {} }}
{{ 1 < 2 < 3 }}|{{ 'a' < 'b' }}|{{ [1] < [2] }}
{{ 'a' < 1 }}
{{ not missing }}|{{ not none_value }}|{{ not [] }}|{{ not {} }}|{{ not 0.0 }}|{{ not ' ' }}
{{ missing or 'd' }}|{{ empty or none_value }}|{{ yes and 'v' }}|{{ zero and 'v' }}
{{ missing|default('d') }}|{{ empty|default('d') }}|{{ empty|default('d', true) }}|{{ none_value|default('d') }}|{{ none_value|default('d', boolean=true) }}|{{ missing|d }}
{{ 'Hello World'|upper }}|{{ 'Hello World'|lower }}|{{ 'hello WORLD'|title }}|{{ 'hello WORLD'|capitalize }}
{{ padded|trim }}|{{ '  x '|trim }}|{{ 'xxaxx'|trim('x') }}
{{ padded.strip() }}|{{ padded.lstrip() }}|{{ padded.rstrip() }}|{{ 'xyaxy'.strip('yx') }}|{{ 'aab'.lstrip('a') }}
{{ padded.split() }}|{{ 'a,b,,c'.split(',') }}|{{ 'a,b,c'.split(',', 1) }}|{{ ''.split() }}|{{ ''.split(',') }}|{{ ' a  b '.split(' ') }}
{{ 'a b c'.rsplit(' ', 1) }}|{{ ' a  b c '.rsplit(none, 1) }}|{{ 'a b c'.split(none, 1) }}|{{ ' a  b  c '.split(maxsplit=1) }}
{{ 'a'.split('') }}
{{ lines.splitlines() }}|{{ lines.splitlines(true) }}|{{ ''.splitlines() }}
{{ 'a-b-c'.partition('-') }}|{{ 'a-b-c'.rpartition('-') }}|{{ 'abc'.partition('-') }}|{{ 'abc'.rpartition('-') }}
{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'c')) }}|{{ 'abc'.startswith(('x', 'y')) }}|{{ 'abc'.startswith('') }}
{{ 'abc'.startswith(1) }}
{{ 'abcabc'.replace('b', 'X') }}|{{ 'abcabc'.replace('b', 'X', 1) }}|{{ 'abc'|replace('b', 'X') }}|{{ 'aaa'|replace('a', 'b', 2) }}
{{ 'abc'.find('c') }}|{{ 'abc'.find('z') }}|{{ 'abcb'.rfind('b') }}|{{ 'éa'.find('a') }}|{{ 'abab'.count('ab') }}|{{ 'abc'.index('c') }}
{{ 'abc'.index('z') }}
{{ 'abc'.upper() }}|{{ 'ABC'.lower() }}|{{ 'hello world'.title() }}|{{ 'hELLO'.capitalize() }}|{{ "it's a dog's".title() }}
{{ 'ab'.removeprefix('a') }}|{{ 'ab'.removesuffix('b') }}|{{ 'ab'.removeprefix('x') }}
{{ '12'.isdigit() }}|{{ 'a1'.isalnum() }}|{{ 'ab'.isalpha() }}|{{ ' '.isspace() }}|{{ 'AB'.isupper() }}|{{ 'ab'.islower() }}|{{ ''.isdigit() }}
{{ '-'.join(['a', 'b']) }}|{{ ', '.join(names) }}
{{ '-'.join([1]) }}
{{ '{} {}'.format('a', 1) }}|{{ '{1}{0}'.format('a', 'b') }}|{{ '{x}'.format(x=5) }}|{{ '{:.2f}'.format(3.14159) }}|{{ '{:>5}'.format('ab') }}
{{ '{}'.format(none_value) }}|{{ '{}'.format(yes) }}|{{ '{}'.format(1.0) }}|{{ '{}'.format([1, 'a']) }}
{{ 'abc'.unknown_method() }}
{{ list.append(1) }}
{{ map.update({'x': 1}) }}
{{ map.pop('z') }}
{{ list.index(2) }}|{{ list.count(1) }}|{{ list.copy() }}|{{ map.copy() == map }}
{{ list|join }}|{{ list|join(', ') }}|{{ names|join('-') }}|{{ messages|join(',', attribute='role') }}|{{ [none_value, yes, 1.0]|join(' ') }}
{{ none_value|join(',') }}
{{ list|length }}|{{ 'é🦙'|length }}|{{ map|count }}|{{ missing|length }}
{{ none_value|length }}
{{ 5|length }}
{{ list|first }}|{{ list|last }}|{{ []|first }}|{{ 'abc'|first }}|{{ 'abc'|last }}|{{ list|min }}|{{ list|max }}|{{ list|sum }}
{{ list|sort }}|{{ names|sort }}|{{ names|sort(reverse=true) }}|{{ names|sort(case_sensitive=true) }}|{{ messages|sort(attribute='role')|map(attribute='role')|list }}
{{ list|reverse|list }}|{{ 'abc'|reverse }}|{{ list|unique|list }}
{{ list|map('string')|list }}|{{ names|map('upper')|join }}|{{ messages|map(attribute='role')|list }}|{{ messages|map(attribute='nope', default='d')|list }}
{{ messages|map(attribute='role')|tojson }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }}|{{ messages|selectattr('role', 'eq', 'user')|map(attribute='content')|first }}
{{ messages|selectattr('tool_calls', 'defined')|list|length }}|{{ messages|rejectattr('content')|list|length }}|{{ messages|selectattr('content')|list|length }}
{{ list|select('odd')|list }}|{{ list|reject('odd')|list }}|{{ list|select|list }}|{{ [0, 1, none]|select|list }}|{{ list|select('>', 1)|list }}
{{ messages|groupby('role')|map('first')|list }}
{% for g, l in messages|groupby('role') %}{{ g }}{{ l|length }};{% endfor %}
{{ list|batch(2)|list }}|{{ list|slice(2)|list }}|{{ list|batch(3, 0)|list }}
{{ '3'|int }}|{{ '3.9'|int }}|{{ 'x'|int }}|{{ 'x'|int(5) }}|{{ 3.9|int }}|{{ '3.5'|float }}|{{ 'x'|float }}|{{ none_value|int }}|{{ yes|int }}
{{ 3.14159|round(2) }}|{{ 2.5|round }}|{{ 3.7|round(0, 'floor') }}|{{ -3|abs }}|{{ 3.2|round(1, 'ceil') }}
{{ 3|string }}|{{ none_value|string }}|{{ [1, 'a']|string }}|{{ 1.0|string }}|{{ missing|string }}|{{ yes|string }}
{{ 'abc'|list }}|{{ (1, 2)|list }}|{{ missing|list }}
{{ none_value|list }}
{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2) }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(2, blank=true) }}|{{ 'a\nb'|indent(width=3, first=true) }}
{{ '<b>"x"&\'y\''|e }}|{{ '<b>'|escape }}|{{ '<b>'|safe }}
{{ '%s-%s'|format('a', 1) }}
{{ 'a b'|urlencode }}
{{ text|pprint }}
{{ 'abc'|unknown_filter }}
{{ 1 is unknown_test }}
{{ 1 is number }}|{{ 1.0 is float }}|{{ 1 is integer }}|{{ yes is integer }}|{{ yes is boolean }}|{{ yes is number }}|{{ 'a' is string }}|{{ none_value is none }}
{{ list is iterable }}|{{ list is sequence }}|{{ 'a' is iterable }}|{{ 'a' is sequence }}|{{ map is iterable }}|{{ map is sequence }}|{{ none_value is iterable }}|{{ none_value is sequence }}|{{ 1 is iterable }}|{{ missing is iterable }}|{{ missing is sequence }}|{{ missing is mapping }}|{{ missing is string }}
{{ map is mapping }}|{{ list is mapping }}|{{ (1, 2) is sequence }}|{{ map.items() is sequence }}|{{ map.items() is iterable }}
{{ 3 is odd }}|{{ 4 is even }}|{{ 6 is divisibleby 3 }}|{{ 'a' is in 'abc' }}|{{ 1 is in list }}|{{ true is true }}|{{ 1 is true }}|{{ false is false }}|{{ 1 is eq 1 }}|{{ 2 is gt 1 }}|{{ 2 is lessthan 1 }}|{{ 'a' is lower }}|{{ 'A' is upper }}
{{ none is none }}|{{ None is none }}|{{ True }}|{{ False }}|{{ None }}|{{ x is not defined }}
{{ range is callable }}
{{ list is sameas list }}
{{ range(5)|list }}|{{ range(1, 4)|list }}|{{ range(5, 0, -2)|list }}|{{ range(0)|list }}|{{ range(3)[1] }}|{{ range(3)|length }}
{{ range(10 ** 9)|length }}
{{ dict(a=1, b=2) }}|{{ map is mapping }}
{{ cycler('a', 'b').next() }}
{% set j = joiner(', ') %}{% for x in list %}{{ j() }}{{ x }}{% endfor %}
{{ lipsum is defined }}
{{ strftime_now('%d %B %Y %H:%M') }}|{{ strftime_now('%Y-%m-%d') }}
{{ raise_exception('no ' ~ 'way') }}
{{ raise_exception(none_value) }}
a  {%- if yes -%}  b  {%- endif -%}  c
  {% if yes %}
  x
  {% endif %}
y
{% if yes -%}
   x
{%- endif %}
z
{{- ' a ' -}}   b
line{# comment #} end
{#- trimmed -#}  x
    {# indented comment #}
x
{% raw %}{{ x }}{% y %}{% endraw %}
{% generation %}a{% set q = 1 %}{% endgeneration %}{{ q is defined }}
{{ "a\tb\\n\"'" }}|{{ 'a\'b' }}|{{ "é" }}|{{ 'a\x41\u00e9' }}
{{ "a" "b" }}
{{ 1_000 }}|{{ 0x1f }}|{{ 1e3 }}|{{ 1.5e-3 }}|{{ 0b11 }}
{{ [1, 2,] }}|{{ {'a': 1,} }}|{{ (1, 2,) }}
{{ {'a': 1}.a }}|{{ {'a': {'b': 2}}['a']['b'] }}|{{ {**{}} }}
{{ [*list] }}
{{ messages[2].tool_calls[0].function.arguments|tojson }}|{{ messages[2].tool_calls[0]['function']['arguments'].items()|list }}
{{ messages[3].content|selectattr('type', 'equalto', 'text')|map(attribute='text')|join('') }}
{%- for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}{%- if not loop.last %},{% endif %}{% endfor %}
{{ messages|length - 1 }}|{{ -list|first }}|{{ 2 + 3 * 4 }}|{{ (2 + 3) * 4 }}|{{ 'a' ~ 'b'|upper }}
{{ not yes is none }}|{{ yes is not none }}|{{ yes is defined and list is defined }}
{{ messages.0.role }}
{{ ''.__class__ }}
{{ list.__len__() }}
{{ list.sort() }}
{{ list|tojson|length }}|{{ list|tojson is string }}|{{ (list|tojson)[0] }}
{{ nested|sum(start=[]) }}
{{ {'a': 1} == {'a': 1.0} }}|{{ [1, 2] + [3] }}|{{ [1] + (2,) }}
{{ (1, 2) + (3,) }}
{{ map | length > 2 and 'many' }}
{{ 'x' * 0 }}|{{ 'x' * -1 }}
{{ floats[0] + 0.2 }}|{{ 10 / 4 }}|{{ 1e22 }}|{{ 5 % 3.0 }}|{{ 2 ** 0.5 }}|{{ 10 ** 20 }}
{{ '٣'.isdigit() }}|{{ 'ß'.upper() }}|{{ 'İ'.lower()|length }}|{{ 'ǆ'|title }}
{% include 'other' %}
{% import 'other' as o %}
{% extends 'other' %}
{% block b %}x{% endblock %}{{ self.b() }}
{% do list %}
{% for x in list recursive %}{{ x }}{% endfor %}
{% for x in nested recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}
{% for x in [] %}{% else %}empty{% endfor %}
{% for x in list %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}
{{ loop is defined }}
{% unknown %}
{{ 'unclosed }}
{% if yes %}
{{ }}
{{ list[1:2:0] }}
{{ list['a'] }}|{{ map[0] }}|{{ 'abc'['x'] }}
{{ none_value.x }}|{{ none_value['x'] }}
{{ none_value.x.y }}
{{ none_value.strip() }}
{{ yes + 1 }}|{{ -yes }}
{{ +zero }}
{{ 3 | float }}|{{ 3.0 | int }}|{{ '1e3' | float }}|{{ ' 7 ' | int }}
"""


class Generation(Extension):
    """Prints its body, as Hugging Face's AssistantTracker does outside of training."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(line)

    def _support(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: datetime.datetime.fromisoformat("2026-01-02T03:04:05").strftime(fmt)
    return env


def snippets():
    """One a line, except that lines without a brace and those that start or end a block belong together."""
    multi = [
        "  {% if yes %}\n  x\n  {% endif %}\ny\n",
        "{% if yes -%}\n   x\n{%- endif %}\nz\n",
        "    {# indented comment #}\nx\n\n",
        "{%- set a = 1 -%}\n\n  {{ a }}\n\n{% if a %}\n\nb\n{% endif %}\n",
        "\t{% for x in list %}\n\t\t{{ x }}\n\t{% endfor %}\n",
        "{{ yes }}\n\n{%+ if yes %} x{% endif %}\n",
        "{% set a %}\n x\n{% endset %}[{{ a }}]",
        "{% macro m() %}\n  x\n{% endmacro %}\n[{{ m() }}]",
    ]
    single = [line for line in SNIPPETS.split("\n") if "{" in line and not line.startswith("  {% if")]
    return multi + single


def main():
    env = environment()
    cases = []
    for source in snippets():
        try:
            text = env.from_string(source).render(**VALUES)
        except Exception as error:  # noqa: BLE001: whatever is raised, we must fail too
            cases.append({"source": source, "error": type(error).__name__})
        else:
            cases.append({"source": source, "text": text})
    print(json.dumps({"now": "2026-01-02T03:04:05", "values": VALUES, "cases": cases}, ensure_ascii=True, indent=1))


main()
