//! A template is code from a model file: what it uses up is bounded, and it reaches nothing outside.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokenizer::{ChatTemplate, ControlTexts, RenderInput, TemplateError};

/// Longest time that a hostile template may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1);

/// How much a render may add to the memory of the process.
const MEMORY_BYTES: u64 = 64 << 20;

fn render(source: &str, extra: &Map<String, Value>) -> Result<String, TemplateError> {
    let template = ChatTemplate::parse(source, BTreeMap::new(), ControlTexts::default())?;
    let messages = [json!({"role": "user", "content": "Hello"})];
    let input = RenderInput { messages: &messages, extra: Some(extra), ..RenderInput::default() };
    template.render(&input).map(|prompt| prompt.text().to_owned())
}

#[test]
fn hostile_templates_end_soon_with_an_error() {
    let cases = [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% for k in range(100000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * 10**8 }}",
        "{{ ('a' * 10**5) * 10**5 }}",
        "{{ [0] * 10**9 }}",
        "{{ [[0] * 10**5] * 10**5 }}",
        "{{ '%s'|format('a' * 10**9) }}",
        "{{ 'a'|center(10**9) }}",
        "{{ '{:>1000000000}'.format('a') }}",
        "{{ '{:1000000000.1000000f}'.format(1.5) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% macro m() %}{% call m() %}{% endcall %}{{ caller() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(l=[0]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l|length }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s|length }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = (ns.s ~ ns.s)|upper %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|string|length }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ [ns.l]|join }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l ~ 'a' }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == [] + ns.l }}{{ ns.l|sort }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ '{}'.format(ns.l) }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|pprint }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set big = 'a' * 10**6 %}{% for i in range(1000) %}{{ big.split('a')|length }}{% endfor %}",
        "{% set big = 'a' * 10**6 %}{% for i in range(1000) %}{{ big|tojson|length }}{% endfor %}",
        "{% set big = 'a' * 10**6 %}{% for i in range(1000) %}{{ big.count('b') }}{% endfor %}",
        "{% set big = 'a' * 10**6 %}{% for i in range(100000) %}{% if 'b' in big %}{% endif %}{% endfor %}",
        "{% set big = 'a' * 10**6 %}{% for i in range(100000) %}{{ big.find('b') }}{{ big.strip('a') }}{% endfor %}",
        "{% set big = 'a' * 10**6 %}{% for i in range(100000) %}{% if big == big ~ '' %}{% endif %}{% endfor %}",
        "{{ range(100000)|join('a' * 10**5) }}",
        "{{ (range(100000)|list).__class__ }}{{ range(100000)|map('string')|map('tojson')|map('tojson')|list|tojson(indent=64)|tojson|tojson }}{% include 'x' %}",
        "{{ 'a\\n' * 10**5|indent(10**9) }}",
        "{{ ('a\\n' * 10**5)|indent(10**6) }}",
        "{{ 1|tojson(indent=10**9) }}",
        "{{ cycler().next() }}",
        "{% include 'chat_template' %}",
        "{% include 'other' %}",
        "{% import 'chat_template' as x %}",
        "{% extends 'chat_template' %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ open('/etc/passwd') }}",
    ];
    let mut failures = Vec::new();
    for source in cases {
        let before = data::peak_memory_bytes();
        let start = Instant::now();
        let result = render(source, &Map::new());
        let (time, memory) = (start.elapsed(), data::peak_memory_bytes().saturating_sub(before));
        println!("{time:?} {} KiB {source}\n    {:?}", memory >> 10, result.as_ref().map(String::len));
        let long = matches!(&result, Err(error) if error.to_string().len() > 400);
        if result.is_ok() || long || time > PATIENCE || memory > MEMORY_BYTES {
            failures.push(format!("{source}: {:?}, {time:?}, {memory} bytes", result.map(|text| text.len())));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn deep_sources_are_refused_in_time() {
    let cases =
        [("{% if 1 %}", "x", "{% endif %}"), ("{{ (", "1", ") }}"), ("{{ [", "1", "] }}"), ("{{ -", "1", " }}")];
    for (open, middle, close) in cases {
        let depth = 20_000;
        let (start_mark, repeated) = open.split_at(if open.starts_with("{{") { 3 } else { 0 });
        let (repeated_close, end_mark) = close.split_at(close.find(" }}").unwrap_or(close.len()));
        let inner = format!("{}{middle}{}", repeated.repeat(depth), repeated_close.repeat(depth));
        let source = format!("{start_mark}{inner}{end_mark}");
        let start = Instant::now();
        let result = render(&source, &Map::new());
        assert!(start.elapsed() < PATIENCE, "{open} {:?}", start.elapsed());
        assert!(result.is_err(), "{open}: {result:?}");
    }
    let long = "x".repeat((1 << 20) + 1);
    assert!(matches!(
        render(&long, &Map::new()),
        Err(TemplateError::SourceTooLong { bytes: 1_048_577, limit: 1_048_576 })
    ));
    assert!(render(&long[1..], &Map::new()).is_ok());
}

#[test]
fn output_is_bounded_by_the_input() {
    let mut extra = Map::new();
    extra.insert("text".into(), json!("y".repeat(1_000_000)));
    assert_eq!(render("{{ text }}{{ text }}", &extra).unwrap().len(), 2_000_000);
    let error = render("{% for i in range(8) %}{{ text }}{% endfor %}", &extra).unwrap_err();
    assert!(matches!(error, TemplateError::OutputTooLong { limit } if limit > 5_000_000), "{error}");
}

#[test]
fn long_conversations_have_enough_budget() {
    let content = "Some words of a usual length, as people write them. ".repeat(4);
    let turn =
        |index: usize| json!({"role": if index.is_multiple_of(2) { "user" } else { "assistant" }, "content": content});
    let messages: Vec<Value> = (0..2000).map(turn).collect();
    let source = "{% for m in messages %}{% if m.content is string and m.content|trim %}<|{{ m.role }}|>{{ m.content.strip() }}\
        {% set last = messages[loop.index0 - 1] %}{% if last.role != m.role %}\n{% endif %}{% endif %}{% endfor %}";
    let template = ChatTemplate::parse(source, BTreeMap::new(), ControlTexts::default()).unwrap();
    let start = Instant::now();
    let prompt = template.render(&RenderInput { messages: &messages, ..RenderInput::default() }).unwrap();
    println!("{} bytes in {:?}", prompt.text().len(), start.elapsed());
    assert!(prompt.text().len() > 2000 * 150);
}

#[test]
fn reserved_names_cannot_be_replaced() {
    let special: BTreeMap<String, String> = [("bos_token".to_owned(), "<s>".to_owned())].into();
    let template = ChatTemplate::parse("{{ bos_token }}{{ x }}", special, ControlTexts::default()).unwrap();
    let render = |name: &str| {
        let extra = Map::from_iter([(name.to_owned(), json!("evil"))]);
        template.render(&RenderInput { extra: Some(&extra), ..RenderInput::default() })
    };
    assert_eq!(render("x").unwrap().text(), "<s>evil");
    for name in
        ["messages", "tools", "documents", "add_generation_prompt", "raise_exception", "bos_token", "strftime_now"]
    {
        assert_eq!(render(name).unwrap_err(), TemplateError::ReservedName(name.to_owned()));
    }
    assert_eq!(render("\0now").unwrap().text(), "<s>", "no name reaches the clock");
}

#[test]
fn deep_values_are_refused() {
    let mut value = json!("x");
    for _ in 0..200 {
        value = json!([value]);
    }
    let extra = Map::from_iter([("deep".to_owned(), value)]);
    assert!(matches!(render("{{ deep }}", &extra), Err(TemplateError::TooDeep { limit: 128 })));
}

#[test]
fn errors_say_what_and_where_on_one_line() {
    let error = |source: &str| render(source, &Map::new()).unwrap_err().to_string();
    assert_eq!(error("{{ raise_exception('no\nway') }}"), "the chat template refuses this conversation: no\nway");
    assert_eq!(error("\n\n{{ messages.x.y }}"), "chat template failed: undefined value (in chat_template:3)");
    assert!(error("{% if %}").starts_with("chat template is invalid: syntax error: "), "{}", error("{% if %}"));
    assert!(error("{{ 'a' * 10**9 }}").contains("budget of"), "{}", error("{{ 'a' * 10**9 }}"));
}
