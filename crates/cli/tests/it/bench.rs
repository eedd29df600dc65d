//! `frontier bench`: what it reports and what it refuses. How fast anything is, is no test's business.

use serde_json::Value;

use crate::models::smollm2;
use crate::program::{error, frontier, one_line_error, stdout};
use crate::serve::Serving;

#[test]
fn engine_reports_every_batch_at_every_depth() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        stdout(frontier(dir.path()).args(["bench", "engine", "--synthetic", "llama-160m", "--quant", "q8_0"]).args([
            "-p",
            "4",
            "-n",
            "2",
            "-b",
            "1,2",
            "--depth",
            "0,64",
            "-r",
            "2",
            "--kv-type",
            "q8_0",
            "--threads",
            "1",
            "--json",
        ]));
    let report: Value = serde_json::from_str(&text).unwrap();
    let cells = report["results"].as_array().unwrap();
    let places: Vec<_> = cells.iter().map(|cell| (cell["batch"].as_u64(), cell["depth"].as_u64())).collect();
    let expected = [(1, 0), (2, 0), (1, 64), (2, 64)];
    assert_eq!(places, expected.map(|(batch, depth)| (Some(batch), Some(depth))));
    for cell in cells {
        for key in ["prefill_tps", "decode_tps", "bytes_per_token", "roof_share", "prefill_roof_share"] {
            assert!(cell[key].as_f64().unwrap() > 0.0, "{key} of {cell}");
        }
        assert!(cell["decode_tps"].as_f64() <= cell["decode_tps_best"].as_f64());
        assert_eq!(cell["decode_runs"].as_array().unwrap().len(), 2);
    }
    let bytes = |cell: usize| cells[cell]["bytes_per_token"].as_f64().unwrap();
    // 113 M weights of 8.5 bits; keys and values of 12 layers and 512 values of 8.5 bits for a token of context. Two
    // sequences share the weights.
    assert!((bytes(0) / (113.2e6 * 8.5 / 8.0) - 1.0).abs() < 0.01, "{}", bytes(0));
    assert_eq!(bytes(2) - bytes(0), 64.0 * 12.0 * 512.0 * 34.0 / 32.0);
    assert!((bytes(1) / (bytes(0) / 2.0) - 1.0).abs() < 0.01);
    assert_eq!(report["kv_type"], serde_json::json!(["q8_0", "q8_0"]));
    assert_eq!(report["placement"]["before"]["name"], "alone");
    assert!(report["device"].as_str().unwrap().starts_with("CPU"));
    for roof in ["read_gbps", "integer_gops", "float_gflops"] {
        assert!(report["roofs"][roof].as_f64().unwrap() > 0.0, "{roof}");
    }
}

#[test]
fn engine_refuses_what_cannot_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["--synthetic", "llama-160m"];
    for (arguments, expected) in [
        (&["--threads", "1000"][..], "--threads 1000: this process may use"),
        (&["--synthetic", "llama-9t"], "--synthetic llama-9t: no such shape; allowed: llama-160m"),
        (&["--synthetic", "llama-1b", "--quant", "q9"], "--quant q9: no such format; allowed: f32, f16"),
        (&["--synthetic", "mistral-7b", "--quant", "f32", "-b", "1000"], "does not fit: 29.5 GB of weights"),
        (&[small[0], small[1], "-p", "0", "-n", "0"], "nothing to measure; at least one must be 1 or more"),
        (&[small[0], small[1], "--depth", "32768"], "trained for 32768 tokens; allowed: 0 to 32256"),
        (
            &[small[0], small[1], "-p", "32769"],
            "--prompt 32769 and --tokens 64: the model was trained for 32768 tokens",
        ),
        (&["-m", "nothing-here.gguf"], "nothing-here.gguf"),
    ] {
        let message = error(frontier(dir.path()).args(["bench", "engine"]).args(arguments));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    for (flags, expected) in [
        (["-b", "0"], "'0' for '--batch <SEQUENCES>': allowed are integers from 1 to 1024"),
        (["-r", "1e9"], "'1e9' for '--runs <RUNS>': allowed are integers from 1 to 1000"),
        (["-p", "-1"], "'-1' for '--prompt <TOKENS>': allowed are integers from 0 to 1048576"),
    ] {
        let message = one_line_error(frontier(dir.path()).args(["bench", "engine"]).args(small).args(flags));
        assert!(message.contains(expected), "{flags:?}: {message}");
    }
}

#[test]
fn http_measures_a_running_server() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Serving::start(dir.path(), &model, &[]);
    let url = format!("http://{}", server.address);
    let rows = dir.path().join("rows.csv");
    let text = stdout(frontier(dir.path()).args(["bench", "http", &url, "-c", "1,2", "-r", "3"]).args([
        "-p",
        "8",
        "-n",
        "4",
        "--csv",
        rows.to_str().unwrap(),
        "--json",
    ]));
    let report: Value = serde_json::from_str(&text).unwrap();
    for load in report["loads"].as_array().unwrap() {
        assert_eq!((load["answered"].as_u64(), load["failed"].as_u64()), (Some(3), Some(0)));
        assert_eq!(load["completion_tokens"], 12, "answers are of full length");
        assert!(load["ttft_ms"]["p50"].as_f64() <= load["latency_ms"]["p50"].as_f64());
    }
    assert_eq!(std::fs::read_to_string(rows).unwrap().lines().count(), 1 + 6);
    let message = error(frontier(dir.path()).args(["bench", "http", &url, "-m", "another"]));
    assert!(message.contains("status 404"), "{message}");
}

#[test]
fn http_refuses_what_is_no_load() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = "http://127.0.0.1:9";
    for (arguments, expected) in [
        (&["localhost"][..], "localhost: expected http://HOST:PORT"),
        (&[nobody, "-r", "0"], "'0' for '--requests <REQUESTS>': allowed are integers from 1 to 1000000"),
        (&[nobody, "-c", "0"], "'0' for '--clients <CLIENTS>': allowed are integers from 1 to 1024"),
        (&[nobody], "Connection refused"),
    ] {
        let message = one_line_error(frontier(dir.path()).args(["bench", "http"]).args(arguments));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}
