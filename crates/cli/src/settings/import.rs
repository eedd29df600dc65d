//! Settings of other servers as ours: llama.cpp's and Ollama's environment variables, vLLM's flags.
//!
//! [`rules`] says for each name what it becomes. What has no counterpart is said to have none, with the reason where
//! there is one; nothing is dropped in silence.

mod llama_cpp;
mod ollama;
mod rules;
mod vllm;

use super::defs::{self, Def};
use super::{dotenv, is_loopback};
use rules::{Rule, outcome, rule};

/// A name of another server with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// Names without a counterpart whose values may hold secrets.
const SECRETS: [&str; 2] = ["LLAMA_ARG_MCP_SERVERS_JSON", "OLLAMA_API_KEY"];

/// The settings that mean the same, as the text of a `.env` file.
pub(crate) fn import(given: &[Given]) -> String {
    let mut text = String::new();
    // Setting, value, and who set it.
    let mut set: Vec<(&str, String, &str)> = Vec::new();
    let mut add = |line: String| {
        // A value of several lines must not become lines of settings.
        let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        text.extend(line.chars().map(escaped));
        text.push('\n');
    };
    for (index, item) in given.iter().enumerate() {
        add(format!("# {}={}", item.name, if is_secret(&item.name) { "***" } else { &item.value }));
        let is_last = given[index + 1..].iter().all(|later| later.name != item.name);
        let outcome = if is_last { outcome(item, given) } else { Err("given again below, which counts".to_owned()) };
        let assignments = outcome.unwrap_or_else(|reason| {
            add(format!("#   not taken over: {reason}"));
            Vec::new()
        });
        for (def, value) in assignments {
            match (set.iter().find(|(key, ..)| *key == def.key), def.kind.parse(&value)) {
                (Some((_, earlier, by)), _) if *earlier == value => add(format!("#   as {by} says")),
                (Some((_, earlier, by)), _) => {
                    let [value, earlier] =
                        [&value, earlier].map(|value| if def.kind.is_secret() { "***" } else { value });
                    add(format!("#   not taken over: {}={value}: {by} has made it {earlier}", def.env()));
                }
                (None, Err(problem)) => {
                    let allowed = def.kind.allowed();
                    let shown = if def.kind.is_secret() { "***" } else { &value };
                    add(format!("#   not taken over: {}={shown}: {problem}; allowed: {allowed}", def.env()));
                }
                (None, Ok(_)) => match dotenv::quoted(&value) {
                    Some(quoted) => {
                        add(format!("{}={quoted}", def.env()));
                        set.push((def.key, value, &item.name));
                    }
                    None => add(format!(
                        "#   not taken over: no line of a .env file can say the value of {}: it has control characters or quotes \
                         of both kinds",
                        def.env()
                    )),
                },
            }
        }
    }
    let value = |def: &Def| set.iter().find(|(key, ..)| *key == def.key).map(|(_, value, _)| value);
    if let Some(host) = value(&defs::HOST).filter(|host| !is_loopback(host) && value(&defs::API_KEYS).is_none()) {
        add(format!("# `frontier serve` does not listen on {host} without a key. Set one of these:"));
        add(format!("#{}=KEY", defs::API_KEYS.env()));
        add(format!("#{}=true", defs::INSECURE.env()));
    }
    text
}

/// Whether a name is that of a secret: one that becomes one here, or says that it is one.
fn is_secret(name: &str) -> bool {
    match rule(name) {
        Some(Rule::Same(def)) => def.kind.is_secret(),
        Some(_) => SECRETS.contains(&name),
        None => {
            let says_so = |word: &str| {
                let word = word.to_ascii_lowercase();
                let one = word.strip_suffix('s').unwrap_or(&word);
                ["key", "apikey", "token", "secret", "password"].contains(&one)
            };
            name.split(['-', '_']).any(says_so)
        }
    }
}

/// The variables in this process's environment that may be other servers'.
pub(crate) fn of_process() -> impl Iterator<Item = (String, String)> {
    let texts = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    texts.filter(|(name, _)| name.starts_with("LLAMA_") || name.starts_with("OLLAMA_"))
}

/// The variables of other servers among these, in order.
pub(crate) fn from_environment(env: impl Iterator<Item = (String, String)>) -> Vec<Given> {
    let mut given: Vec<Given> =
        env.filter(|(name, _)| is_theirs(name)).map(|(name, value)| Given { name, value }).collect();
    given.sort_by(|a, b| a.name.cmp(&b.name));
    given
}

/// Whether a name is one of llama.cpp's or Ollama's, or meant to be. Names that begin with `LLAMA_` are of many
/// programs.
pub(crate) fn is_theirs(name: &str) -> bool {
    name.starts_with("LLAMA_ARG_")
        || name.starts_with("OLLAMA_")
        || (name.starts_with("LLAMA_") && (rules::is_known(name) || rules::nearest_known(name).is_some()))
}

/// vLLM's command line: `serve MODEL --flag value --flag=value --flag`.
pub(crate) fn from_vllm_flags(arguments: &[String]) -> Vec<Given> {
    vllm::from_flags(arguments)
}

#[cfg(test)]
mod tests {
    use super::rules::all_names;
    use super::*;
    use crate::settings::load::{Inputs, load};

    /// The assignments in a text, without comments.
    fn lines(given: &[Given]) -> Vec<String> {
        import(given).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<Given> {
        from_environment(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn llama_cpp_and_ollama_are_understood() {
        for (pairs, expected) in [
            (
                &[("LLAMA_ARG_CTX_SIZE", "16384"), ("LLAMA_ARG_N_PARALLEL", "4"), ("HOME", "/")][..],
                &[
                    "MISTRAL_MAX_SEQ_LEN=4096",
                    "MISTRAL_MAX_TOTAL_TOKENS=16384",
                    "MISTRAL_MAX_BATCH_SIZE=4",
                    "MISTRAL_MAX_RUNNING_REQUESTS=4",
                ][..],
            ),
            (&[("LLAMA_ARG_THREADS", "-1")], &["MISTRAL_NUM_THREADS=0"]),
            (
                &[("LLAMA_ARG_CACHE_TYPE_K", "q8_0"), ("LLAMA_ARG_CACHE_TYPE_V", "q5_1")],
                &["MISTRAL_KV_CACHE_DTYPE=q8_0"],
            ),
            (&[("LLAMA_ARG_CACHE_TYPE_K", "q8_0")], &["MISTRAL_KV_CACHE_DTYPE=q8_0,f16"]),
            (&[("LLAMA_ARG_CACHE_RAM", "-1"), ("LLAMA_ARG_TOP_K", "40"), ("LLAMA_ARG_WHATEVER", "1")], &[]),
            (&[("LLAMA_ARG_PORT", "99999")], &[]),
            (&[("OLLAMA_FLASH_ATTENTION", "1"), ("OLLAMA_DEBUG", "0")], &["MISTRAL_USE_FLASH_ATTENTION=1"]),
            (&[("OLLAMA_DEBUG", "true")], &["MISTRAL_LOG=debug"]),
            (&[("OLLAMA_DEBUG", "2")], &["MISTRAL_LOG=trace"]),
            (&[("LLAMA_ARG_FLASH_ATTN", "enabled")], &["MISTRAL_USE_FLASH_ATTENTION=on"]),
            (&[("OLLAMA_CONTEXT_LENGTH", "4096")], &["MISTRAL_MAX_SEQ_LEN=4096"]),
            (
                &[("OLLAMA_CONTEXT_LENGTH", "262144")],
                &["MISTRAL_MAX_SEQ_LEN=262144", "MISTRAL_MAX_TOTAL_TOKENS=262144"],
            ),
            (
                &[("OLLAMA_CONTEXT_LENGTH", "65536"), ("OLLAMA_NUM_PARALLEL", "4")],
                &[
                    "MISTRAL_MAX_SEQ_LEN=65536",
                    "MISTRAL_MAX_TOTAL_TOKENS=262144",
                    "MISTRAL_MAX_BATCH_SIZE=4",
                    "MISTRAL_MAX_RUNNING_REQUESTS=4",
                ],
            ),
            (
                &[("LLAMA_ARG_CTX_SIZE", "16384"), ("LLAMA_ARG_KV_UNIFIED", "1"), ("LLAMA_ARG_N_PARALLEL", "2")],
                &[
                    "MISTRAL_MAX_SEQ_LEN=16384",
                    "MISTRAL_MAX_TOTAL_TOKENS=16384",
                    "MISTRAL_MAX_BATCH_SIZE=2",
                    "MISTRAL_MAX_RUNNING_REQUESTS=2",
                ],
            ),
            (
                &[("LLAMA_ARG_KV_UNIFIED_PER_SLOT", "200000")],
                &["MISTRAL_MAX_SEQ_LEN=200000", "MISTRAL_MAX_TOTAL_TOKENS=200000"],
            ),
            (
                &[("LLAMA_ARG_CTX_SIZE", "16384"), ("LLAMA_ARG_KV_UNIFIED_PER_SLOT", "4096")],
                &["MISTRAL_MAX_SEQ_LEN=4096", "MISTRAL_MAX_TOTAL_TOKENS=16384"],
            ),
            (&[("OLLAMA_LLM_LIBRARY", "cpu_avx2"), ("OLLAMA_SCHED_SPREAD", "1")], &["MISTRAL_DEVICE=cpu"]),
            (&[("LLAMA_ARG_HF_FILE", "b.gguf"), ("LLAMA_ARG_HF_REPO", "o/r")], &["MISTRAL_MODEL=o/r/b.gguf"]),
            (&[("LLAMA_ARG_NO_CACHE_PROMPT", "1")], &["MISTRAL_ENABLE_PREFIX_CACHING=false"]),
            (&[("LLAMA_ARG_NO_HOST", "1"), ("LLAMA_ARG_NO_WEBUI", "1"), ("LLAMA_ARG_NO_PORT", "1")], &[]),
            (&[("LLAMA_ARG_UBATCH", "1k")], &["MISTRAL_PREFILL_CHUNK_SIZE=1000"]),
        ] {
            assert_eq!(lines(&environment(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn ollama_s_addresses_are_host_and_port() {
        for (value, host, port) in [
            ("127.0.0.1:80", Some("127.0.0.1"), "80"),
            ("127.0.0.1", Some("127.0.0.1"), "11434"),
            ("localhost:", Some("localhost"), "11434"),
            ("::1", Some("::1"), "11434"),
            ("[::1]", Some("::1"), "11434"),
            ("[::1]:81", Some("::1"), "81"),
            ("http://[::1]:82/v1", Some("::1"), "82"),
            ("http://127.0.0.1", Some("127.0.0.1"), "80"),
            ("https://127.0.0.1/", Some("127.0.0.1"), "443"),
        ] {
            let host = host.map(|host| format!("MISTRAL_HOST={host}"));
            let expected: Vec<String> = host.into_iter().chain([format!("MISTRAL_PORT={port}")]).collect();
            assert_eq!(lines(&environment(&[("OLLAMA_HOST", value)])), expected, "{value}");
        }
        for (value, told) in [("0.0.0.0:99999", "MISTRAL_PORT=99999: out of range"), ("unix://x", "no server of unix")]
        {
            let text = import(&environment(&[("OLLAMA_HOST", value)]));
            assert!(text.contains(told), "{value}: {text}");
        }
    }

    #[test]
    fn ollama_s_times_are_seconds_or_have_units() {
        for (value, expected) in [
            ("10m", Some("600s")),
            ("1h30m", Some("5400s")),
            ("1.5h", Some("5400s")),
            ("500ms", Some("500ms")),
            ("1m0.5s", Some("60500ms")),
            ("300", Some("300s")),
            // The shortest that there is here.
            ("0", Some("10ms")),
            ("0s", Some("10ms")),
            ("-1", None),
            ("1h30", None),
            ("forever", None),
            ("48h", None),
        ] {
            let set = lines(&environment(&[("OLLAMA_KEEP_ALIVE", value)]));
            let expected: Vec<String> =
                expected.map(|time| format!("MISTRAL_MODEL_IDLE_TTL={time}")).into_iter().collect();
            assert_eq!(set, expected, "{value}");
        }
    }

    #[test]
    fn zeros_that_leave_it_to_the_server_are_said_to_do_so() {
        for name in ["OLLAMA_NUM_PARALLEL", "OLLAMA_CONTEXT_LENGTH", "LLAMA_ARG_CTX_SIZE"] {
            let text = import(&environment(&[(name, "0")]));
            assert!(text.contains("not taken over: 0 ") && text.contains("the default here"), "{text}");
        }
    }

    /// What is printed serves, or says what is lacking.
    #[test]
    fn an_address_beyond_loopback_comes_with_what_it_needs() {
        let open = [("OLLAMA_HOST", "0.0.0.0"), ("LLAMA_ARG_HOST", "0.0.0.0"), ("LLAMA_ARG_HOST", "server.example")];
        for (name, value) in open {
            let text = import(&environment(&[(name, value)]));
            let lacking = "without a key. Set one of these:\n#MISTRAL_API_KEYS=KEY\n#MISTRAL_INSECURE=true\n";
            assert!(text.ends_with(lacking), "{text}");
            let text = import(&environment(&[(name, value), ("LLAMA_API_KEY", "sesame")]));
            assert!(!text.contains("Set one of these"), "{text}");
        }
        for value in ["127.0.0.1:80", "[::1]:80", "localhost"] {
            let text = import(&environment(&[("OLLAMA_HOST", value)]));
            assert!(!text.contains("Set one of these"), "{text}");
        }
    }

    #[test]
    fn a_value_stays_the_value_that_it_is() {
        for (pairs, expected) in [
            (&[("LLAMA_ARG_MODEL", "/a b/c #d.gguf")][..], &["MISTRAL_MODEL=\"/a b/c #d.gguf\""][..]),
            (&[("LLAMA_API_KEY", "'q")], &["MISTRAL_API_KEYS=\"'q\""]),
            (&[("LLAMA_ARG_MODEL", "m\nMISTRAL_INSECURE=true")], &[]),
            (&[("LLAMA_ARG_ALIAS", "x\nMISTRAL_INSECURE=true")], &[]),
            (&[("LLAMA_ARG_HOST", "")], &[]),
        ] {
            assert_eq!(lines(&environment(pairs)), expected, "{pairs:?}");
        }
        for without_value in ["vllm serve m --api-key", "vllm serve m --port --enforce-eager", "vllm serve m --host"] {
            let arguments: Vec<String> = without_value.split(' ').map(str::to_owned).collect();
            let settings = lines(&from_vllm_flags(&arguments));
            assert!(settings.iter().all(|line| line.contains("_MODEL=") || line.contains("_CAPTURE=")), "{settings:?}");
        }
    }

    #[test]
    fn flags_of_vllm_are_understood() {
        let line = "vllm serve org/model --max-model-len 32K --gpu_memory_utilization=0.85 --enforce-eager -tp 2 --max-num-seqs 32";
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        assert_eq!(
            lines(&from_vllm_flags(&arguments)),
            [
                "MISTRAL_MODEL=org/model",
                "MISTRAL_MAX_SEQ_LEN=32768",
                "MISTRAL_MEMORY_FRACTION=0.85",
                "MISTRAL_USE_GRAPH_CAPTURE=false",
                "MISTRAL_MAX_BATCH_SIZE=32",
                "MISTRAL_MAX_RUNNING_REQUESTS=32",
            ]
        );
    }

    #[test]
    fn switches_and_lists_of_vllm_leave_the_model_alone() {
        let line =
            "serve --enforce-eager org/model --revision abc --api-key a b --max-num-batched-tokens 8k --dtype half";
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let text = import(&from_vllm_flags(&arguments));
        for line in [
            "MISTRAL_MODEL=org/model@abc",
            "MISTRAL_USE_GRAPH_CAPTURE=false",
            "MISTRAL_API_KEYS=a,b",
            "# api-key=***",
            "# max-num-batched-tokens=8k",
            "MISTRAL_PREFILL_CHUNK_SIZE=8000",
            "MISTRAL_DEFAULT_QUANTIZATION=f16",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    /// What follows an unknown flag is never taken for the model.
    #[test]
    fn values_of_unknown_flags_are_no_models() {
        for (line, model, told) in [
            (
                "serve --frobnicate fast org/model",
                None,
                "# frobnicate=fast,org/model\n#   not taken over: unknown here",
            ),
            ("serve org/model --frobnicate fast", Some("org/model"), "# frobnicate=fast\n"),
            ("serve --model org/model --enable-frobs fast", Some("org/model"), "# enable-frobs=fast\n"),
            ("serve --frobnicate=fast org/model", Some("org/model"), "# frobnicate=fast\n"),
            ("serve --frobnicate --port 1 org/model", Some("org/model"), "# frobnicate=true\n"),
            ("serve --enable-lora org/model", Some("org/model"), "# enable-lora=true\n"),
            ("serve --port 1 serve", Some("serve"), "MISTRAL_PORT=1\n"),
            ("serve --max-model-length 5 org/model", None, "; the nearest known is max-model-len\n"),
        ] {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let text = import(&from_vllm_flags(&arguments));
            let found = text.lines().find_map(|line| line.strip_prefix("MISTRAL_MODEL="));
            assert!(found == model && text.contains(told), "{line}:\n{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_said_to_be_none() {
        for (value, told) in
            [("-1", "the default here is 8"), ("auto", "the default here is 8"), ("two", "not a whole number")]
        {
            let text = import(&environment(&[("OLLAMA_NUM_PARALLEL", value)]));
            assert!(text.contains(&format!("not taken over: {told}\n")), "{value}: {text}");
        }
        let text = import(&from_vllm_flags(&["--max-model-len=32x".to_owned(), "--max-num-seqs=-1".to_owned()]));
        assert!(text.contains("not a whole number") && text.contains("the default here is 8"), "{text}");
    }

    #[test]
    fn nothing_is_dropped_in_silence_and_secrets_are_not_repeated() {
        let text = import(&environment(&[("LLAMA_ARG_WHATEVER", "1"), ("LLAMA_ARG_PORT", "99999")]));
        assert!(text.contains("# LLAMA_ARG_WHATEVER=1\n#   not taken over: unknown here"), "{text}");
        assert!(text.contains("MISTRAL_PORT=99999: out of range; allowed: 0 to 65535"), "{text}");
        let text = import(&environment(&[("LLAMA_API_KEY", "sesame")]));
        assert!(text.starts_with("# LLAMA_API_KEY=***\nMISTRAL_API_KEYS=sesame\n"), "{text}");
        let text = import(&environment(&[("LLAMA_ARG_SECRET_TOKEN", "sesame"), ("OLLAMA_DEBUG", "0")]));
        assert!(!text.contains("sesame") && text.contains("OLLAMA_DEBUG=0\n#   not taken over: off"), "{text}");
        let text = import(&environment(&[("LLAMA_ARG_CTXSIZE", "1"), ("OLLAMA_NUM_PARALEL", "2")]));
        for nearest in ["LLAMA_ARG_CTX_SIZE", "OLLAMA_NUM_PARALLEL"] {
            assert!(text.contains(&format!("; the nearest known is {nearest}\n")), "{text}");
        }
    }

    /// llama.cpp has variables with and without `ARG`, which are easily taken for one another.
    #[test]
    fn names_of_llama_cpp_are_theirs_with_or_without_arg() {
        for (name, told) in [
            ("LLAMA_CHAT_TEMPLATE_KWARGS", "not taken over: requests set it themselves"),
            ("LLAMA_CACHE", "MISTRAL_MODEL_DIR is ours"),
            ("LLAMA_TRACE", "not taken over: for who develops llama.cpp"),
            ("LLAMA_ARG_API_KEY", "; the nearest known is LLAMA_API_KEY\n"),
            ("LLAMA_ARG_API_KEYS", "; the nearest known is LLAMA_API_KEY\n"),
            ("LLAMA_APIKEY", "; the nearest known is LLAMA_API_KEY\n"),
            ("LLAMA_CTX_SIZE", "; the nearest known is LLAMA_ARG_CTX_SIZE\n"),
            ("LLAMA_MODEL", "; the nearest known is LLAMA_ARG_MODEL\n"),
        ] {
            let text = import(&environment(&[(name, "sesame")]));
            assert!(text.contains(told), "{name}: {text}");
            assert_eq!(text.contains("sesame"), !name.contains("KEY"), "{text}");
        }
        for other in ["LLAMA_CLOUD_API_KEY", "LLAMA_API_URL", "LLAMA_SERVER_EXE", "HOME"] {
            assert!(!is_theirs(other), "{other}");
        }
    }

    #[test]
    fn two_sources_of_one_setting_are_reported() {
        let text = import(&environment(&[("LLAMA_ARG_PORT", "1"), ("OLLAMA_HOST", "127.0.0.1:2")]));
        assert!(text.contains("not taken over: MISTRAL_PORT=2: LLAMA_ARG_PORT has made it 1"), "{text}");
        let twice = ["--port", "1", "--port", "2"].map(str::to_owned);
        let text = import(&from_vllm_flags(&twice));
        assert!(text.contains("# port=1\n#   not taken over: given again below"), "{text}");
        assert!(text.contains("\nMISTRAL_PORT=2\n"), "{text}");
    }

    #[test]
    fn every_name_is_known_once() {
        let names: Vec<&str> = all_names().collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} twice");
        }
    }

    /// Whatever is imported can be loaded, each name alone and all of a server together.
    #[test]
    fn what_is_imported_is_accepted() {
        let check = |given: &[Given]| {
            let assignments = dotenv::parse(&import(given)).into_iter().map(|line| line.expect("an assignment"));
            let env = assignments.map(|assignment| (assignment.name, assignment.value)).collect();
            let inputs = Inputs { env, working_dir: "/nonexistent".into(), ..Inputs::default() };
            let loaded = load(&inputs);
            assert!(loaded.errors.is_empty() && loaded.warnings.is_empty(), "{given:?}: {:?}", loaded.errors);
        };
        let values = [
            "0",
            "1",
            "-1",
            "40",
            "300000",
            "5000000000",
            "true",
            "off",
            "auto",
            "0.5",
            "10s",
            "q8_0",
            "debug",
            "::1",
            "a b",
        ];
        for value in values {
            let given = |name: &str| Given { name: name.to_owned(), value: value.to_owned() };
            all_names().for_each(|name| check(&[given(name)]));
            for server in rules::SERVERS {
                let rules = server.rules.iter().map(|(name, _)| given(name));
                check(&rules.collect::<Vec<_>>());
            }
        }
    }
}
