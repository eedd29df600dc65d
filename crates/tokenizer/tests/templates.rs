//! Every template of the reference set renders as Hugging Face renders it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use tokenizer::{ChatTemplate, ControlTexts, RenderCase, TemplateError};

/// Cases in which our text is not the reference's, as `template/case`, with the reason. Empty is the aim.
const KNOWN_DIFFERENCES: &[(&str, &str)] = &[];

fn read_json(path: &std::path::Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn render(template: &ChatTemplate, case: &Value, now: &str) -> Result<String, TemplateError> {
    let case = RenderCase::from_json(case.clone()).unwrap();
    template.render(&case.input(Some(now.parse().unwrap()))).map(|prompt| prompt.text().to_owned())
}

#[test]
fn reference_templates_render_as_in_hugging_face() {
    let Some(data) = data::shared() else { return };
    let directory = data.join("templates");
    let cases = read_json(&directory.join("cases.json"));
    let now = cases["now"].as_str().unwrap();
    let special = |name: &str| (name.to_owned(), cases[name].as_str().unwrap().to_owned());
    let special: BTreeMap<_, _> = [special("bos_token"), special("eos_token")].into();

    let mut sources: Vec<PathBuf> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    sources.sort();
    let mut unequal = Vec::new();
    let mut equal = 0;
    for path in &sources {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let expected = read_json(&path.with_extension("json"));
        let source = std::fs::read_to_string(path).unwrap();
        let template = ChatTemplate::parse(&source, special.clone(), ControlTexts::default());
        for (case, expected) in expected.as_object().unwrap() {
            let input = &cases["cases"][case];
            let ours = template.clone().and_then(|template| render(&template, input, now));
            match (expected.get("text").and_then(Value::as_str), &ours) {
                (Some(text), Ok(ours)) if ours == text => equal += 1,
                (None, Err(_)) => equal += 1,
                (wanted, ours) => {
                    println!("unequal: {name}/{case}\n  wanted {wanted:?} {expected}\n  got    {ours:?}");
                    unequal.push(format!("{name}/{case}"));
                }
            }
        }
    }
    println!("{equal} equal, {} unequal, {} templates", unequal.len(), sources.len());
    let known: Vec<&str> = KNOWN_DIFFERENCES.iter().map(|(case, _)| *case).collect();
    assert_eq!(unequal, known);
}
