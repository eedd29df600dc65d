//! Values of settings: the kinds there are, how each is written and read, and how an allowed range is put in words.
//!
//! One spelling serves every source (flag, environment, `.env`, TOML). Nothing here knows a particular setting.

use std::net::IpAddr;
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// What a setting holds and which values it allows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `true`/`false`, `1`/`0`, `on`/`off`, `yes`/`no`.
    Bool,
    /// A [`Kind::Bool`] whose flag takes no value: `--strict`.
    Switch,
    /// `auto` or a boolean.
    AutoBool,
    /// A whole number in `[min, max]`, counted in `unit`.
    Int { min: u64, max: u64, unit: &'static str },
    /// Bytes in `[min, max]`.
    Size { min: u64, max: u64 },
    /// A number in `(0, max]`.
    Fraction { max: f64 },
    /// A time in `[min_ms, max_ms]`.
    Time { min_ms: u64, max_ms: u64 },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// One of these words, or two with a comma between them (keys, values).
    ChoicePair(&'static [&'static str]),
    /// Any text.
    Text,
    /// Texts with commas between them, at least one.
    List,
    /// An IP address, or a name that may have one.
    Host,
    /// `http://HOST` or `https://HOST`.
    Url,
    /// Levels of the log, for all of it or by module.
    LogFilter,
    /// A word that is never printed.
    Secret,
    /// Such words with commas between them, at least one.
    Secrets,
}

/// A parsed value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Int(u64),
    Size(u64),
    Fraction(f64),
    Time(Duration),
    Text(String),
}

impl Kind {
    /// Reads a value; the error says what is wrong with the text, without naming the setting.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        let in_range = |inside: bool, value: Value| if inside { Ok(value) } else { Err("out of range".to_owned()) };
        match *self {
            Kind::Bool | Kind::Switch => parse_bool(text).map(Value::Bool).ok_or_else(|| "not a boolean".to_owned()),
            Kind::AutoBool => match (text, parse_bool(text)) {
                ("auto", _) => Ok(Value::Text("auto".to_owned())),
                (_, Some(on)) => Ok(Value::Text(if on { "on" } else { "off" }.to_owned())),
                _ => Err("neither auto nor a boolean".to_owned()),
            },
            Kind::Int { min, max, .. } => {
                let n: u64 = text.parse().map_err(|_| "not a whole number in range".to_owned())?;
                in_range((min..=max).contains(&n), Value::Int(n))
            }
            Kind::Size { min, max } => {
                let n = parse_size(text)?;
                in_range((min..=max).contains(&n), Value::Size(n))
            }
            Kind::Fraction { max } => {
                let f: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
                in_range(f > 0.0 && f <= max, Value::Fraction(f))
            }
            Kind::Time { min_ms, max_ms } => {
                let time = parse_time(text)?;
                let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
                in_range((min..=max).contains(&time), Value::Time(time))
            }
            Kind::Choice(words) => {
                let word = text.to_ascii_lowercase();
                if words.contains(&word.as_str()) { Ok(Value::Text(word)) } else { Err("unknown word".to_owned()) }
            }
            Kind::ChoicePair(words) => {
                let pair = text.to_ascii_lowercase().replace(' ', "");
                let parts: Vec<&str> = pair.split(',').collect();
                if parts.len() <= 2 && parts.iter().all(|part| words.contains(part)) {
                    Ok(Value::Text(pair))
                } else {
                    Err("unknown word".to_owned())
                }
            }
            _ if text.contains('\0') => Err("contains a NUL".to_owned()),
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::List | Kind::Secrets if items(text).next().is_none() => Err("no item in it".to_owned()),
            Kind::Secret | Kind::Secrets if !items(text).all(is_word) => Err("not a word of visible ASCII".to_owned()),
            Kind::List | Kind::Secret | Kind::Secrets => Ok(Value::Text(text.to_owned())),
            Kind::Host if is_host(text) => Ok(Value::Text(text.to_owned())),
            Kind::Host => Err("not a host".to_owned()),
            Kind::Url if is_url(text) => Ok(Value::Text(text.to_owned())),
            Kind::Url => Err("not a URL of a server".to_owned()),
            // A `/` would begin a pattern for texts, which nobody means.
            Kind::LogFilter if text.contains('/') => Err("not a filter".to_owned()),
            Kind::LogFilter => match tracing_subscriber::EnvFilter::builder().parse(text) {
                Ok(_) => Ok(Value::Text(text.to_owned())),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// The allowed values, in words that follow "allowed: ".
    pub(crate) fn allowed(&self) -> String {
        match *self {
            Kind::Bool | Kind::Switch => "true or false (also 1/0, on/off, yes/no)".to_owned(),
            Kind::AutoBool => "auto, on or off".to_owned(),
            Kind::Int { min, max, unit } => format!("{min} to {max}{}{unit}", if unit.is_empty() { "" } else { " " }),
            Kind::Size { min, max } => format!("{} to {}", size_text(min), size_text(max)),
            Kind::Fraction { max } => format!("above 0, up to {max}"),
            Kind::Time { min_ms, max_ms } => {
                let text = |ms| time_text(Duration::from_millis(ms));
                format!("{} to {}", text(min_ms), text(max_ms))
            }
            Kind::Choice(words) => words.join(", "),
            Kind::ChoicePair(words) => format!("{}; one for both, or KEYS,VALUES", words.join(", ")),
            Kind::Text => "any text".to_owned(),
            Kind::List => "texts with commas between them".to_owned(),
            Kind::Host => "an IP address or a host name".to_owned(),
            Kind::Url => "http://HOST or https://HOST, with a port and a path if need be".to_owned(),
            Kind::LogFilter => "error, warn, info, debug, trace or off, also by module: info,engine=debug".to_owned(),
            Kind::Secret => "visible ASCII without blanks".to_owned(),
            Kind::Secrets => "words of visible ASCII with commas between them".to_owned(),
        }
    }

    /// The ends of the allowed range (for words the first and the last), and a value outside of it; `None` where every
    /// text is allowed.
    pub(crate) fn samples(&self) -> Option<[String; 3]> {
        let words = |low: &str, high: &str| Some([low.to_owned(), high.to_owned(), "certainly/wrong".to_owned()]);
        match *self {
            Kind::Bool | Kind::Switch => words("false", "true"),
            Kind::AutoBool => words("off", "on"),
            Kind::Int { min, max, .. } => Some([min, max, max + 1].map(|n| n.to_string())),
            Kind::Size { min, max } => Some([min, max, max + 1].map(|n| n.to_string())),
            Kind::Fraction { max } => Some([0.01, max, 2.0].map(|x| x.to_string())),
            Kind::Time { min_ms, max_ms } => Some([min_ms, max_ms, max_ms + 1].map(|ms| format!("{ms}ms"))),
            Kind::Choice(list) => words(list.first()?, list.last()?),
            Kind::ChoicePair(list) => words(list.first()?, &format!("{},{}", list.last()?, list.first()?)),
            Kind::Text => None,
            Kind::List => Some(["a", "a, b", ", ,"].map(str::to_owned)),
            Kind::Host => Some(["127.0.0.1", "localhost", "certainly/wrong"].map(str::to_owned)),
            Kind::Url => Some(["http://localhost", "https://localhost:1/hub", "certainly/wrong"].map(str::to_owned)),
            Kind::LogFilter => Some(["off", "info,engine=trace", "certainly/wrong"].map(str::to_owned)),
            Kind::Secret => Some(["a", "~", "certainly wrong"].map(str::to_owned)),
            Kind::Secrets => Some(["a", "a, b", ", ,"].map(str::to_owned)),
        }
    }

    /// Whether values may not be printed.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self, Kind::Secret | Kind::Secrets)
    }

    /// Whether a value is text or a word: not set, it is `unset`, where others are `auto`.
    pub(crate) fn is_text(&self) -> bool {
        use Kind::{Choice, Host, List, LogFilter, Secret, Secrets, Text, Url};
        matches!(self, Choice(_) | Text | List | Host | Url | LogFilter | Secret | Secrets)
    }

    /// The unit of the value, empty where it has none.
    pub(crate) fn unit(&self) -> &'static str {
        match *self {
            Kind::Int { unit, .. } => unit,
            Kind::Size { .. } => "bytes",
            Kind::Time { .. } => "seconds",
            Kind::Fraction { .. } => "share",
            _ => "",
        }
    }

    /// The placeholder of the flag's value in `--help`.
    pub(crate) fn placeholder(&self) -> &'static str {
        match *self {
            Kind::Bool | Kind::Switch => "BOOL",
            Kind::AutoBool => "AUTO|BOOL",
            Kind::Int { .. } => "N",
            Kind::Size { .. } => "SIZE",
            Kind::Fraction { .. } => "SHARE",
            Kind::Time { .. } => "TIME",
            Kind::Choice(_) | Kind::ChoicePair(_) => "WORD",
            Kind::List | Kind::Secrets => "TEXT,TEXT",
            Kind::Host => "HOST",
            Kind::Url => "URL",
            Kind::Text | Kind::LogFilter | Kind::Secret => "TEXT",
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Bool(on) => write!(f, "{on}"),
            Value::Int(n) => write!(f, "{n}"),
            Value::Size(n) => f.write_str(&size_text(*n)),
            Value::Fraction(x) => write!(f, "{x}"),
            Value::Time(time) => f.write_str(&time_text(*time)),
            Value::Text(text) => f.write_str(text),
        }
    }
}

/// The items of a list.
pub(crate) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic())
}

fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        let inside = label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        inside && !label.is_empty() && label.len() <= 63 && !label.starts_with('-')
    };
    text.parse::<IpAddr>().is_ok() || (text.len() <= 253 && text.trim_end_matches('.').split('.').all(is_label))
}

fn is_url(text: &str) -> bool {
    let parsed = text.parse::<ureq::http::Uri>();
    parsed.is_ok_and(|url| matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some())
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Some(true),
        "false" | "0" | "off" | "no" => Some(false),
        _ => None,
    }
}

/// Reads `65536`, `64KB` (10^3), `64KiB` (2^10), `64K` (2^10, as Docker means it), with an optional space and fraction.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => KIB,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        "t" | "tib" => TIB,
        _ => return Err("not a size (write bytes, 64GB or 64GiB)".to_owned()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| "out of range".to_owned());
    }
    match number.parse::<f64>() {
        Ok(part) if factor > 1 && part.is_finite() => Ok((part * factor as f64) as u64),
        _ => Err("not a size (write bytes, 64GB or 64GiB)".to_owned()),
    }
}

/// Reads seconds (`10`, `0.5`), or a number with `ms`, `s`, `m` or `h`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_each = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("not a time (write seconds, 500ms, 10s, 5m or 1h)".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "not a time (write seconds, 500ms, 10s, 5m or 1h)".to_owned())?;
    Duration::try_from_secs_f64(number * seconds_each).map_err(|_| "out of range".to_owned())
}

/// The shortest exact spelling: `2GiB`, `8GB`, `1536MiB`, or plain bytes.
pub(crate) fn size_text(bytes: u64) -> String {
    const UNITS: [(u64, &str); 8] = [
        (TIB, "TiB"),
        (1_000_000_000_000, "TB"),
        (GIB, "GiB"),
        (1_000_000_000, "GB"),
        (MIB, "MiB"),
        (1_000_000, "MB"),
        (KIB, "KiB"),
        (1_000, "KB"),
    ];
    let exact = UNITS.iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit));
    exact.map_or_else(|| bytes.to_string(), |(unit, name)| format!("{}{name}", bytes / unit))
}

fn time_text(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_binary_or_bytes() {
        let kind = Kind::Size { min: 0, max: u64::MAX };
        for (text, bytes) in [
            ("68719476736", 64 * GIB),
            ("64GB", 64_000_000_000),
            ("64GiB", 64 * GIB),
            ("64 gib", 64 * GIB),
            ("64G", 64 * GIB),
            ("1.5MiB", 1_572_864),
            ("0", 0),
        ] {
            assert_eq!(kind.parse(text), Ok(Value::Size(bytes)), "{text}");
            assert_eq!(kind.parse(&size_text(bytes)), Ok(Value::Size(bytes)), "{text} printed and read again");
        }
        for text in ["", "GB", "64XB", "-1", "1.5", "99999999999TiB", "1e3", "NaN", "0x10"] {
            assert!(kind.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn samples_are_two_good_values_and_a_bad_one() {
        for def in crate::settings::defs::TABLE {
            let Some([low, high, bad]) = def.kind.samples() else { continue };
            assert!(def.kind.parse(&low).is_ok() && def.kind.parse(&high).is_ok(), "{}: {low}, {high}", def.key);
            assert!(def.kind.parse(&bad).is_err(), "{}: {bad}", def.key);
        }
    }

    #[test]
    fn times_have_units_and_default_to_seconds() {
        let kind = Kind::Time { min_ms: 0, max_ms: u64::MAX };
        for (text, ms) in [("10", 10_000), ("0.5", 500), ("250ms", 250), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(kind.parse(text), Ok(Value::Time(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "s", "-1", "10 parsecs", "1e99h", "inf"] {
            assert!(kind.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_fractions_and_choices() {
        for (kind, text, expected) in [
            (Kind::Bool, "YES", Some(Value::Bool(true))),
            (Kind::Bool, "off", Some(Value::Bool(false))),
            (Kind::Bool, "2", None),
            (Kind::AutoBool, "true", Some(Value::Text("on".into()))),
            (Kind::AutoBool, "auto", Some(Value::Text("auto".into()))),
            (Kind::AutoBool, "maybe", None),
            (Kind::Fraction { max: 0.95 }, "0.9", Some(Value::Fraction(0.9))),
            (Kind::Fraction { max: 0.95 }, "0", None),
            (Kind::Fraction { max: 0.95 }, "2", None),
            (Kind::Fraction { max: 0.95 }, "NaN", None),
            (Kind::Int { min: 1, max: 512, unit: "" }, "64", Some(Value::Int(64))),
            (Kind::Int { min: 1, max: 512, unit: "" }, "0", None),
            (Kind::Int { min: 1, max: 512, unit: "" }, "513", None),
            (Kind::Int { min: 0, max: 9, unit: "" }, "-1", None),
            (Kind::Int { min: 0, max: 9, unit: "" }, "9223372036854775808", None),
            (Kind::Choice(&["a", "b"]), "B", Some(Value::Text("b".into()))),
            (Kind::Choice(&["a", "b"]), "c", None),
            (Kind::ChoicePair(&["f16", "q8_0"]), "q8_0, f16", Some(Value::Text("q8_0,f16".into()))),
            (Kind::ChoicePair(&["f16", "q8_0"]), "f16,f16,f16", None),
            (Kind::Host, "::1", Some(Value::Text("::1".into()))),
            (Kind::Host, "my-server.example.", Some(Value::Text("my-server.example.".into()))),
            (Kind::Host, "http://a", None),
            (Kind::Host, "a..b", None),
            (Kind::Url, "https://hub.example/x", Some(Value::Text("https://hub.example/x".into()))),
            (Kind::Url, "ftp://hub.example", None),
            (Kind::Url, "hub.example", None),
            (Kind::List, ",", None),
            (Kind::Secrets, "a,b c", None),
            (Kind::Secret, "a\0", None),
        ] {
            assert_eq!(kind.parse(text).ok(), expected, "{kind:?} {text}");
        }
    }
}
