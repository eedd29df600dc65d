//! Recipes choose the formats that llama.cpp's quantizer chooses: see `data/make_recipes.py`.

use tensor::{Format, ModelFacts, Recipe, TensorKind, TensorPlace};

#[test]
fn recipes_choose_what_the_other_implementation_chooses() {
    let mut differences = Vec::new();
    let mut matrices = 0;
    for line in include_str!("data/recipes.txt").lines() {
        let (head, runs) = line.split_once(": ").expect("a line with a colon");
        let fields: Vec<&str> = head.split(' ').collect();
        let [facts @ .., recipe, name, cols] = fields.as_slice() else { panic!("{line}") };
        let number = |field: &&str| field.parse::<usize>().expect("a number");
        let [layers, heads, kv_heads, experts, tied] = facts.iter().map(number).collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let model = ModelFacts { layers, heads, kv_heads, experts, tied_embedding: tied == 1, importance: false };
        let recipe = Recipe::from_name(recipe).expect("a recipe");
        for (layer, expected) in runs.split(' ').flat_map(expand).enumerate() {
            let full_name = format!("{}.weight", name.replace("blk", &format!("blk.{layer}")));
            let (kind, layer) = TensorKind::from_gguf_name(&full_name).expect("a matrix");
            let chosen = recipe.format(TensorPlace { kind, layer, cols: number(cols) }, &model);
            matrices += 1;
            if chosen.name() != expected {
                differences.push(format!("{head} layer {layer}: {}, expected {expected}", chosen.name()));
            }
        }
    }
    assert!(matrices > 10_000, "only {matrices} matrices");
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn float_recipes_choose_one_format() {
    let model = ModelFacts { layers: 4, heads: 4, kv_heads: 4, experts: 0, tied_embedding: true, importance: false };
    for (recipe, format) in [(Recipe::F32, Format::F32), (Recipe::F16, Format::F16), (Recipe::BF16, Format::BF16)] {
        let place = TensorPlace { kind: TensorKind::Embedding, layer: 0, cols: 7 };
        assert_eq!(recipe.format(place, &model), format);
    }
}

#[test]
fn importance_lets_q4_0_spend_more_on_the_first_down_projections() {
    let model = ModelFacts { layers: 16, heads: 4, kv_heads: 4, experts: 0, tied_embedding: true, importance: true };
    let format = |layer| Recipe::Q4_0.format(TensorPlace { kind: TensorKind::FfnDown, layer, cols: 256 }, &model);
    assert_eq!([format(0), format(1), format(2)], [Format::Q4_1, Format::Q4_1, Format::Q4_0]);
}

#[test]
fn tensors_are_told_by_their_names() {
    let check = |name, expected| assert_eq!(TensorKind::from_gguf_name(name), expected, "{name}");
    check("token_embd.weight", Some((TensorKind::Embedding, 0)));
    check("output.weight", Some((TensorKind::Output, 0)));
    check("blk.12.attn_v.weight", Some((TensorKind::AttnV, 12)));
    check("blk.12.attn_output.weight", Some((TensorKind::AttnOut, 12)));
    check("blk.3.ffn_down_exps.weight", Some((TensorKind::FfnDown, 3)));
    check("blk.3.ffn_gate.weight", Some((TensorKind::Other, 3)));
    check("blk.3.ffn_gate_inp.weight", None);
    check("blk.3.attn_v.bias", None);
    check("blk.3.attn_k_norm.weight", None);
    check("blk.x.attn_v.weight", None);
    check("output_norm.weight", None);
}

#[test]
fn recipe_names_lead_back_to_the_recipe() {
    for recipe in Recipe::ALL {
        assert_eq!(Recipe::from_name(&recipe.name().to_uppercase()), Some(recipe));
    }
    assert_eq!(Recipe::from_name("q9_k"), None);
}

/// `q4_k*3` is three times q4_k.
fn expand(run: &str) -> impl Iterator<Item = &str> {
    let (format, count) = run.split_once('*').expect("a count");
    std::iter::repeat_n(format, count.parse().expect("a number"))
}
