//! Pieces of template code render as Jinja on Python renders them (`golden/make_jinja.py` made the expectations).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizer::{ChatTemplate, ControlTexts, RenderInput, TemplateError};

/// Snippets that we render differently, with the reason.
const KNOWN_DIFFERENCES: &[(&str, &str)] = &[
    ("{{ '%s and %d' % ('a', 3) }}", "minijinja has no string formatting by `%`; we fail"),
    ("{{ '%s' % 'x' }}|{{ '%.2f' % 3.14159 }}", "the same"),
    (
        "{% macro kw() %}{{ kwargs }}{{ varargs }}{% endmacro %}{{ kw(1, a=2) }}",
        "macros take no further arguments; we fail",
    ),
    ("{{ 'a' < 1 }}", "values of different types have an order in minijinja"),
    ("{{ 'a b'|urlencode }}", "not in minijinja, and no prompt needs it; we fail"),
    ("{{ text|pprint }}", "minijinja escapes other characters"),
    ("{{ range is callable }}", "not in minijinja; we fail"),
    ("{{ cycler('a', 'b').next() }}", "not in minijinja; we fail"),
    ("{% set j = joiner(', ') %}{% for x in list %}{{ j() }}{{ x }}{% endfor %}", "not in minijinja; we fail"),
    ("{{ lipsum is defined }}", "not in minijinja"),
    ("{{ yes + 1 }}|{{ -yes }}", "booleans are no numbers in minijinja; we fail"),
    ("{{ +zero }}", "minijinja has no unary plus; we fail"),
];

fn render(source: &str, values: &Map<String, Value>, now: &str) -> Result<String, TemplateError> {
    let template = ChatTemplate::parse(source, BTreeMap::new(), ControlTexts::default())?;
    let mut extra = values.clone();
    let messages = extra.remove("messages").unwrap();
    let add_generation_prompt = extra.remove("add_generation_prompt").unwrap().as_bool().unwrap();
    extra.retain(|name, _| !["tools", "documents"].contains(&name.as_str()));
    let input = RenderInput {
        messages: messages.as_array().unwrap(),
        add_generation_prompt,
        extra: Some(&extra),
        now: Some(now.parse().unwrap()),
        ..RenderInput::default()
    };
    template.render(&input).map(|prompt| prompt.text().to_owned())
}

#[test]
fn snippets_render_as_in_python() {
    let golden: Value = serde_json::from_str(include_str!("golden/jinja.json")).unwrap();
    let values = golden["values"].as_object().unwrap();
    let now = golden["now"].as_str().unwrap();
    let mut unequal = Vec::new();
    let mut equal = 0;
    for case in golden["cases"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        let ours = render(source, values, now);
        match (case.get("text").and_then(Value::as_str), &ours) {
            (Some(text), Ok(ours)) if text == ours => equal += 1,
            (None, Err(_)) => equal += 1,
            (wanted, ours) => {
                println!(
                    "unequal: {source:?}\n  wanted {}\n  got    {ours:?}",
                    wanted.map_or(format!("{case}"), |text| format!("{text:?}"))
                );
                unequal.push(source);
            }
        }
    }
    println!("{equal} equal, {} unequal", unequal.len());
    let known: Vec<&str> = KNOWN_DIFFERENCES.iter().map(|(source, _)| *source).collect();
    assert_eq!(unequal, known);
}
