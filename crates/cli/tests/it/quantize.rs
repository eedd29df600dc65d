//! Quantizing files, and weights quantized at load with their cache on disk.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use checkpoint::Checkpoint;
use checkpoint::gguf::{Metadata, TensorHeader, Writer};
use serde_json::Value;
use tensor::Format;

use crate::commands::{check_logits, with_input};
use crate::models::{shared, smollm2};
use crate::program::{error, frontier, one_line_error, stdout, wait_until};

/// Most that quantizing may move predictions, in nats a token: twice what it does, as the test prints.
const Q8_0_LOSS: f64 = 0.003;
const Q4_0_LOSS: f64 = 0.9;
/// The same for rounding activations to 8 bits, whatever the weights.
const ACTIVATIONS_LOSS: f64 = 0.016;

/// SmolLM2 in f16, as if it had arrived unquantized.
fn f16_model(dir: &Path) -> Option<PathBuf> {
    let model = smollm2()?;
    let path = dir.join("f16.gguf");
    stdout(frontier(dir).arg("quantize").arg(model).arg(&path).args(["--to", "f16", "--requantize"]));
    Some(path)
}

fn inspect(dir: &Path, model: &Path) -> Value {
    serde_json::from_str(&stdout(frontier(dir).arg("inspect").arg(model).arg("--json"))).unwrap()
}

/// Log probabilities of every token after each of the first tokens of a text.
fn predictions(dir: &Path, model: &Path) -> Vec<Vec<f64>> {
    #[derive(serde::Deserialize)]
    struct Printed {
        logits: Vec<Vec<f64>>,
    }
    let mut tokenize = frontier(dir);
    let text: String = include_str!("../data/perplexity.txt").chars().take(160).collect();
    let ids = with_input(tokenize.arg("tokenize").arg(model), text.as_bytes());
    let ids = String::from_utf8(ids).unwrap();
    let ids = ids.trim().trim_matches(['[', ']']);
    let printed = stdout(frontier(dir).arg("logits").arg(model).args(["--ids", ids, "--json", "--device", "cpu"]));
    let Printed { mut logits } = serde_json::from_str(&printed).unwrap();
    for row in &mut logits {
        let greatest = row.iter().copied().fold(f64::MIN, f64::max);
        let log_sum = greatest + row.iter().map(|x| (x - greatest).exp()).sum::<f64>().ln();
        row.iter_mut().for_each(|x| *x -= log_sum);
    }
    logits
}

/// Kullback-Leibler divergence of predictions from exact ones, mean over the positions.
fn divergence(exact: &[Vec<f64>], found: &[Vec<f64>]) -> f64 {
    let of_row = |(p, q): (&Vec<f64>, &Vec<f64>)| -> f64 { p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum() };
    exact.iter().zip(found).map(of_row).sum::<f64>() / exact.len() as f64
}

/// Weights that have been quantized and written out in f16 again are computed with exactly, so that what they lose is
/// all that is seen; the quantized file itself also loses what rounding activations to 8 bits costs.
#[test]
fn quantized_weights_predict_nearly_what_the_original_did() {
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let exact = predictions(dir.path(), &f16);
    for (recipe, most) in [("q8_0", Q8_0_LOSS), ("q4_0", Q4_0_LOSS)] {
        let [quantized, back] = [".gguf", "-f16.gguf"].map(|end| dir.path().join(format!("{recipe}{end}")));
        stdout(frontier(dir.path()).arg("quantize").arg(&f16).arg(&quantized).args(["--to", recipe]));
        stdout(frontier(dir.path()).arg("quantize").arg(&quantized).arg(&back).args(["--to", "f16", "--requantize"]));
        let [weights, all] = [&back, &quantized].map(|model| divergence(&exact, &predictions(dir.path(), model)));
        println!("{recipe}: divergence {weights:.5}, with activations of 8 bits {all:.5}");
        assert!(weights > 0.0 && weights <= most, "{recipe}: {weights}, at most {most}");
        assert!(all <= most + ACTIVATIONS_LOSS, "{recipe}: {all} in all, {weights} of it the weights");
    }
}

fn perplexity(dir: &Path, model: &Path, flags: &[&str]) -> f64 {
    std::fs::write(dir.join("text"), include_str!("../../../../LICENSE-APACHE")).unwrap();
    let mut command = frontier(dir);
    command.arg("perplexity").arg(model).args(["--file", "text", "--window", "256", "--json", "--device", "cpu"]);
    let json: Value = serde_json::from_str(&stdout(command.args(flags))).unwrap();
    json["perplexity"].as_f64().unwrap()
}

/// Directories of safetensors become GGUF files of the same network, as the reference implementation's logits show.
#[test]
fn a_directory_of_safetensors_is_quantized_into_a_file() {
    let Some(tiny) = shared("data/tiny") else { return };
    let dir = tempfile::tempdir().unwrap();
    let quantize = |model: &Path, file: &str, recipe: &str| {
        let mut command = frontier(dir.path());
        command.arg("quantize").arg(model).args([file, "--to", recipe, "--log", "error"]);
        command
    };
    for name in ["llama", "llama3-rope", "mistral-window", "qwen2", "qwen3", "gemma3"] {
        let expected = std::fs::read(tiny.join(name).join("expected.json")).unwrap();
        let [exact, small] = ["f32", "q8_0"].map(|recipe| format!("{name}-{recipe}.gguf"));
        stdout(&mut quantize(&tiny.join(name), &exact, "f32"));
        check_logits(&dir.path().join(&exact), &serde_json::from_slice(&expected).unwrap());
        stdout(&mut quantize(&tiny.join(name), &small, "q8_0"));
        let formats = inspect(dir.path(), &dir.path().join(&small))["formats"].to_string();
        assert!(formats.contains("q8_0"), "{name}: {formats}");
    }
    assert!(one_line_error(&mut quantize(&tiny.join("phi3"), "phi3.gguf", "q8_0")).contains("Phi3ForCausalLM"));
    // What GGUF has no words for is refused, and nothing is left.
    let scaled = dir.path().join("scaled");
    std::fs::create_dir(&scaled).unwrap();
    std::fs::copy(tiny.join("llama/model.safetensors"), scaled.join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(tiny.join("llama/config.json")).unwrap()).unwrap();
    config["rope_parameters"] = serde_json::json!({ "rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0 });
    std::fs::write(scaled.join("config.json"), config.to_string()).unwrap();
    let message = one_line_error(&mut quantize(&scaled, "scaled.gguf", "q8_0"));
    assert!(message.contains("rope scaling of a GGUF file is yarn, which is not supported"), "{message}");
    assert!(!dir.path().join("scaled.gguf").exists());
}

#[test]
fn a_quantized_file_has_the_recipe_s_formats() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let out = dir.path().join("q8_0.gguf");
    stdout(frontier(dir.path()).arg("quantize").arg(&f16).arg(&out).args(["--to", "q8_0"]));
    let inspected = inspect(dir.path(), &out);
    let formats = inspected["formats"].as_array().unwrap().iter();
    let formats: Vec<&str> = formats.map(|share| share["format"].as_str().unwrap()).collect();
    assert_eq!(formats, ["q8_0", "f32"], "norms stay f32");
    let refused = error(frontier(dir.path()).arg("quantize").arg(&f16).arg(&out).args(["--to", "q8_0"]));
    assert!(refused.contains("--force"), "{refused}");
    let again =
        error(frontier(dir.path()).arg("quantize").arg(&model).arg(dir.path().join("x")).args(["--to", "q4_0"]));
    assert!(again.contains("--requantize") && again.contains("q4_1"), "{again}");
}

#[test]
fn an_importance_matrix_is_measured_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let (Some(model), Some(f16)) = (smollm2(), f16_model(dir.path())) else { return };
    std::fs::write(dir.path().join("text"), include_str!("../../../../LICENSE-APACHE")).unwrap();
    let arguments = ["--file", "text", "-o", "imatrix.gguf", "--chunk", "128", "--chunks", "4"];
    let printed = stdout(frontier(dir.path()).arg("imatrix").arg(&model).args(arguments));
    assert!(printed.contains("210 matrices"), "7 in each of 30 layers: {printed}");
    let quantize = |out: &str, more: &[&str]| {
        let out = dir.path().join(out);
        stdout(frontier(dir.path()).arg("quantize").arg(&f16).arg(&out).args(["--to", "q4_0"]).args(more));
        perplexity(dir.path(), &out, &[])
    };
    let (plain, weighted) = (quantize("plain.gguf", &[]), quantize("weighted.gguf", &["--imatrix", "imatrix.gguf"]));
    assert!(weighted < plain, "{weighted} with importance measured on the same text, {plain} without");
    let wrong = error(frontier(dir.path()).arg("quantize").arg(&f16).args(["y", "--to", "q4_0", "--imatrix", "text"]));
    assert!(wrong.contains("text"), "{wrong}");
    // Of the weights as they are stored, whatever they would be held as.
    let measured = |out: &str, quantization: &str| {
        let mut command = frontier(dir.path());
        command.arg("imatrix").arg(&f16).args(["--file", "text", "-o", out, "--chunk", "64", "--chunks", "1"]);
        stdout(command.env("MISTRAL_DEFAULT_QUANTIZATION", quantization));
        std::fs::read(dir.path().join(out)).unwrap()
    };
    assert!(measured("of-f16.gguf", "f16") == measured("of-q8_0.gguf", "q8_0"));
    // What is there is not written over, and what cannot be is said.
    let refused = |more: &[&str]| {
        let mut command = frontier(dir.path());
        command.arg("imatrix").arg(&model).args(["--file", "text"]).args(more);
        one_line_error(&mut command)
    };
    assert!(refused(&["-o", "imatrix.gguf"]).contains("pass --force"));
    assert!(refused(&["-o", "text", "--force"]).contains("is read"));
    assert!(refused(&["-o", "new", "--chunk", "0"]).contains("integers from 1"));
    assert!(refused(&["-o", "new", "--chunk", "8193"]).contains("allowed: 1 to 8192"));
    assert!(refused(&["-o", "new", "--chunks", "0"]).contains("integers from 1"));
    let mut itself = frontier(dir.path());
    itself.arg("quantize").arg(&f16).arg(&f16).args(["--to", "q4_0", "--force"]);
    assert!(one_line_error(&mut itself).contains("is read"));
}

/// One that was measured on another model would change nothing, in silence.
#[test]
fn an_importance_matrix_of_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let imatrix = |name: &str| {
        let mut metadata = Metadata::default();
        metadata.insert("general.type", "imatrix");
        let header =
            |end: &str, cols| TensorHeader { name: format!("{name}{end}"), shape: vec![1, cols], format: Format::F32 };
        let path = dir.path().join("imatrix.gguf");
        let mut writer = Writer::create(&path, &metadata, &[header(".in_sum2", 576), header(".counts", 1)]).unwrap();
        writer.write(&[1.0_f32; 576].map(f32::to_le_bytes).concat()).unwrap();
        writer.write(&1.0_f32.to_le_bytes()).unwrap();
        writer.finish().unwrap();
        let mut command = frontier(dir.path());
        command.arg("quantize").arg(&f16).args(["out.gguf", "--to", "q4_0", "--imatrix", "imatrix.gguf"]);
        command.output().unwrap()
    };
    let none = imatrix("model.layers.0.self_attn.q_proj.weight");
    let told = String::from_utf8(none.stderr).unwrap();
    assert!(!none.status.success() && told.contains("knows none of the 210 matrices"), "{told}");
    assert!(!dir.path().join("out.gguf").exists());
    let some = imatrix("blk.0.attn_q.weight");
    let told = String::from_utf8(some.stderr).unwrap();
    assert!(some.status.success() && told.contains("does not know 209 of 210 matrices"), "{told}");
    // Nor would any in a format that rounds each value by itself.
    for recipe in ["f32", "f16", "bf16", "q8_0"] {
        let mut command = frontier(dir.path());
        command.arg("quantize").arg(&f16).args(["y.gguf", "--to", recipe, "--imatrix", "imatrix.gguf"]);
        let told = one_line_error(&mut command);
        assert!(told.contains("--imatrix would change nothing"), "{recipe}: {told}");
    }
}

/// Whoever ends it: nothing half-valid stays, and what does stay is replaced by the next.
#[test]
fn a_stopped_quantize_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let names = || {
        let files = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        files.filter(|name| name.contains("out")).collect::<Vec<_>>()
    };
    let quantize = |recipe: &str| {
        let mut command = frontier(dir.path());
        command.arg("quantize").arg(&f16).args(["out.gguf", "--to", recipe, "--num-threads", "1"]);
        command
    };
    let partial = dir.path().join(".out.gguf.partial");
    for (signal, code, left) in [("-INT", Some(130), 0), ("-TERM", Some(143), 0), ("-KILL", None, 1)] {
        let mut child = quantize("q3_k_m").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("it is being written", || std::fs::metadata(&partial).is_ok_and(|found| found.len() > 1 << 20));
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        assert_eq!(names().len(), left, "{signal}: {:?}", names());
    }
    assert_eq!(names(), [".out.gguf.partial"], "which nobody takes for a model");
    stdout(&mut quantize("q8_0"));
    assert_eq!(names(), ["out.gguf"]);
}

/// A terminal that is closed stops it, too, but for what `nohup` has started.
#[test]
#[cfg(target_os = "linux")]
fn a_closed_terminal_stops_quantize_unless_it_shall_outlive_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let partial = dir.path().join(".out.gguf.partial");
    for (disposition, code, written) in
        [("--default-signal=HUP", Some(129), false), ("--ignore-signal=HUP", Some(0), true)]
    {
        let mut command = Command::new("env");
        command.args([disposition, env!("CARGO_BIN_EXE_frontier"), "quantize"]).arg(&f16).current_dir(dir.path());
        command.args(["out.gguf", "--to", "q8_0", "--num-threads", "1"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_until("it is being written", || std::fs::metadata(&partial).is_ok_and(|found| found.len() > 1 << 20));
        let sent = Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), code, "{disposition}");
        assert_eq!((partial.exists(), dir.path().join("out.gguf").exists()), (false, written), "{disposition}");
    }
}

/// What is wrong with several inputs is told at once, and nothing is pulled for it.
#[test]
fn inputs_that_are_wrong_are_told_together() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("old"), "").unwrap();
    std::fs::write(path("text"), "").unwrap();
    for (arguments, parts) in [
        (
            &["quantize", "none.gguf", "old", "--to", "q4_0", "--imatrix", "text"][..],
            &["3 things are wrong", "none.gguf", "text", "old exists; pass --force"][..],
        ),
        (
            &["imatrix", "none", "--file", "nothing", "-o", "no/such"],
            &["3 things are wrong", "model \"none\"", "nothing: ", "no/such: there is no directory no"],
        ),
        (&["imatrix", "org/repo", "--file", "text", "-o", "old"], &["old exists; pass --force"]),
        (&["perplexity", "none", "--file", "nothing"], &["2 things are wrong", "model \"none\"", "nothing: "]),
        (
            &["bench", "engine", "--synthetic", "square", "--quant", "q0"],
            &["2 things are wrong", "--synthetic square", "--quant q0"],
        ),
        (
            &["bench", "http", "localhost", "--csv", "no/such.csv"],
            &["2 things are wrong", "localhost: expected http://", "there is no directory no"],
        ),
    ] {
        let told = error(frontier(dir.path()).args(arguments).env("MISTRAL_HUB_ENDPOINT", "http://127.0.0.1:9"));
        for part in parts {
            assert!(told.contains(part), "{part:?} is not in {told}");
        }
        assert!(!told.contains("127.0.0.1:9"), "{told}");
    }
}

/// Every expert of a stack is converted by the importance of its own inputs.
#[test]
fn experts_have_an_importance_each() {
    const EXPERTS: usize = 2;
    const ROWS: usize = 4;
    const COLS: usize = 256;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, kind: &[(&str, &str)], tensors: &[(&str, Vec<usize>, Vec<f32>)]| {
        let mut metadata = Metadata::default();
        for (key, value) in kind {
            metadata.insert(*key, *value);
        }
        for (key, value) in [("block_count", 1), ("attention.head_count", 1), ("expert_count", EXPERTS as u32)] {
            metadata.insert(format!("llama.{key}"), value);
        }
        let headers: Vec<TensorHeader> = tensors
            .iter()
            .map(|(name, shape, _)| TensorHeader { name: (*name).into(), shape: shape.clone(), format: Format::F32 })
            .collect();
        let mut writer = Writer::create(&dir.path().join(name), &metadata, &headers).unwrap();
        for (.., values) in tensors {
            writer.write(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        }
        writer.finish().unwrap();
    };
    let values: Vec<f32> = (0..EXPERTS * ROWS * COLS).map(|i| ((i * 7919 % 1009) as f32 - 504.0) / 504.0).collect();
    let stack = "blk.0.ffn_down_exps.weight";
    write("model.gguf", &[("general.architecture", "llama")], &[(stack, vec![EXPERTS, ROWS, COLS], values.clone())]);
    // The first columns matter to one expert, the last to the other.
    let squares: Vec<f32> =
        (0..EXPERTS * COLS).map(|i| if (i % COLS < COLS / 2) == (i < COLS) { 100.0 } else { 0.01 }).collect();
    let importance = [
        ("blk.0.ffn_down_exps.weight.in_sum2", vec![EXPERTS, COLS], squares.clone()),
        ("blk.0.ffn_down_exps.weight.counts", vec![EXPERTS, 1], vec![1.0; EXPERTS]),
    ];
    write("imatrix.gguf", &[("general.type", "imatrix")], &importance);
    let arguments = ["quantize", "model.gguf", "out.gguf", "--to", "q4_0", "--imatrix", "imatrix.gguf"];
    stdout(frontier(dir.path()).args(arguments));
    let out = Checkpoint::open(&dir.path().join("out.gguf")).unwrap();
    let found = out.tensor(stack).unwrap();
    let row_bytes = found.format.row_bytes(COLS).unwrap();
    for expert in 0..EXPERTS {
        for row in expert * ROWS..(expert + 1) * ROWS {
            let mut expected = vec![0; row_bytes];
            let own = &squares[expert * COLS..][..COLS];
            found.format.quantize_row(&values[row * COLS..][..COLS], Some(own), &mut expected).unwrap();
            assert!(found.data[row * row_bytes..][..row_bytes] == expected, "{}, row {row}", found.format.name());
        }
    }
}

#[test]
fn the_recipe_steps_down_until_the_model_fits() {
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let sizes = ["--max-seq-len", "512", "--max-total-tokens", "512", "--prefill-chunk-size", "32", "--device", "cpu"];
    let plan = |more: &[&str]| -> Value {
        let mut command = frontier(dir.path());
        command.arg("plan").arg(&f16).arg("--json").args(sizes).args(["--default-quantization", "q8_0"]).args(more);
        serde_json::from_str(&stdout(&mut command)).unwrap()
    };
    let whole = plan(&[]);
    assert_eq!(whole["quantization"], "q8_0");
    let total = whole["total_bytes"].as_u64().unwrap();
    let mut last = total;
    for share in [90, 85, 80] {
        let heap = (total * share / 100).to_string();
        let smaller = plan(&["--metal-heap-size", &heap]);
        let bytes = smaller["total_bytes"].as_u64().unwrap();
        assert!(bytes <= total * share / 100 && bytes <= last, "{smaller}");
        assert_ne!(smaller["quantization"], "q8_0");
        assert!(smaller["notes"].to_string().contains("stepped down from q8_0 to"), "{smaller}");
        last = bytes;
    }
    let heap = (total * 9 / 10).to_string();
    let mut command = frontier(dir.path());
    command.arg("plan").arg(&f16).args(sizes).args(["--default-quantization", "q8_0", "--metal-heap-size", &heap]);
    let refused = error(command.args(["--dynamic-quantization", "off"]));
    assert!(refused.contains("MISTRAL_DEFAULT_QUANTIZATION="), "{refused}");
    // When nothing is small enough, every sum that was tried is shown.
    let mut command = frontier(dir.path());
    command.arg("plan").arg(&f16).args(sizes).args(["--default-quantization", "q8_0", "--metal-heap-size", "64MiB"]);
    let refused = one_line_error(&mut command);
    assert!(refused.contains(" does not fit with q3_k_m: "), "{refused}");
    for recipe in ["q8_0", "q6_k", "q5_k_m", "q4_k_m"] {
        assert_eq!(refused.matches(&format!(" {recipe} (")).count(), 1, "{recipe}: {refused}");
    }
    assert_eq!(refused.matches(" weights + ").count(), 5, "each sum once: {refused}");
}

/// `frontier run` on a model that is quantized at load.
fn answer(dir: &Path, model: &Path) -> Command {
    let mut command = frontier(dir);
    command.arg("run").arg(model).arg("What is the capital of France?");
    command.args(["--temperature", "0", "--max-tokens", "8", "--max-seq-len", "512", "--device", "cpu"]);
    command.args(["--default-quantization", "q8_0", "--log", "info"]);
    command
}

/// Standard output and the log of a run.
fn run(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), log)
}

/// The files of the cache with this extension.
fn cached(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(files) = std::fs::read_dir(dir.join(".cache/frontier/quantized")) else { return Vec::new() };
    let files = files.map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn weights_quantized_at_load_are_kept_checked_and_made_anew_when_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let (first, _) = run(&mut answer(dir.path(), &f16));
    assert!(first.contains("Paris"), "{first}");
    let (second, log) = run(&mut answer(dir.path(), &f16));
    assert_eq!(second, first);
    assert!(log.contains("taken from"), "{log}");
    // A flipped byte in the middle of the weights.
    let entry = &cached(dir.path(), "gguf")[0];
    let mut bytes = std::fs::read(entry).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(entry, &bytes).unwrap();
    let (third, log) = run(&mut answer(dir.path(), &f16));
    assert_eq!(third, first);
    assert!(log.contains("checksum is wrong"), "{log}");
    bytes[middle] ^= 4;
    assert!(std::fs::read(entry).unwrap() == bytes, "the entry is as it was");
    // Another recipe is another entry; the two fit.
    let mut q4_0 = frontier(dir.path());
    q4_0.arg("run").arg(&f16).arg("hi").args(["--max-tokens", "1", "--max-seq-len", "512", "--device", "cpu"]);
    run(q4_0.args(["--default-quantization", "q4_0"]));
    assert_eq!(cached(dir.path(), "blake3").len(), 2);
    // A smaller cache keeps less from the next start on, one of size 0 nothing.
    run(answer(dir.path(), &f16).args(["--quantization-cache-size", "150MB"]));
    assert_eq!(cached(dir.path(), "blake3").len(), 1, "two entries are larger");
    run(answer(dir.path(), &f16).args(["--quantization-cache-size", "0"]));
    assert!(cached(dir.path(), "gguf").is_empty());
    // Without a cache nothing is written.
    let other = tempfile::tempdir().unwrap();
    run(answer(other.path(), &f16).args(["--quantization-cache-size", "0"]));
    assert!(cached(other.path(), "gguf").is_empty());
}

#[test]
fn two_processes_at_once_make_one_good_entry() {
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let start = || answer(dir.path(), &f16).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let outputs = [start(), start()].map(|child| child.wait_with_output().unwrap());
    assert!(outputs.iter().all(|output| output.status.success()));
    assert_eq!(outputs[0].stdout, outputs[1].stdout);
    assert_eq!((cached(dir.path(), "gguf").len(), cached(dir.path(), "blake3").len()), (1, 1));
    let (_, log) = run(&mut answer(dir.path(), &f16));
    assert!(log.contains("taken from"), "{log}");
}

#[test]
fn a_process_killed_while_it_writes_leaves_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    let Some(f16) = f16_model(dir.path()) else { return };
    let mut child: Child = answer(dir.path(), &f16).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_writing(dir.path()) {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "no entry was in the making");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(cached(dir.path(), "blake3").is_empty(), "no entry counts");
    let (text, log) = run(&mut answer(dir.path(), &f16));
    assert!(text.contains("Paris") && !log.contains("taken from"), "{log}");
    let (_, log) = run(&mut answer(dir.path(), &f16));
    assert!(log.contains("taken from"), "{log}");
}

/// Whether an entry is in the making and has bytes.
fn is_writing(dir: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(dir.join(".cache/frontier/quantized")) else { return false };
    let making = files.flatten().map(|file| file.path()).filter(|path| path.is_dir());
    let files = making.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).any(|found| found.len() > 1 << 20)
}
