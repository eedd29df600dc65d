//! Files that are wrong in one way each. Every one is refused with one line that names the thing, the value and the
//! limit; quickly, and with little memory.

mod alloc;
mod craft;

use std::time::{Duration, Instant};

use checkpoint::{Checkpoint, Summary};
use craft::{ARRAY, BOOL, F32, Gguf, STRING, U8, U64, safetensors, safetensors_bytes, written};

/// The most that opening a small bad file may hold at once. (The rule for the process is 64 MiB.)
const PEAK_BYTES_MAX: usize = 1 << 20;
/// The longest that it may take, on a machine that is busy with other things.
const TIME_MAX: Duration = Duration::from_millis(100);

/// GGUF type numbers of tensors.
const T_F32: u32 = 0;
const T_Q4_0: u32 = 2;
const T_Q4_K: u32 = 12;

#[test]
fn gguf_headers() {
    let header = |version, tensors, entries| Gguf::with_header(b"GGUF", version, tensors, entries).end();
    check_all(&[
        ("empty", vec![], &["empty"]),
        ("three bytes", b"GGU".to_vec(), &["start of the file", "\"GGU\"", "GGUF or safetensors"]),
        ("other magic", b"ggml\0\0\0\0\0\0\0\0".to_vec(), &["start of the file", "ggml", "GGUF or safetensors"]),
        ("magic alone", b"GGUF".to_vec(), &["truncated", "GGUF version", "4 bytes", "0 are there"]),
        ("half a header", header(3, 0, 0)[..20].to_vec(), &["truncated", "metadata entries", "8 bytes", "4 are there"]),
        ("version 0", header(0, 0, 0), &["GGUF version is 0", "2 and 3"]),
        ("version 1", header(1, 0, 0), &["GGUF version is 1", "2 and 3"]),
        ("version 4", header(4, 0, 0), &["GGUF version is 4", "2 and 3"]),
        ("version 2^32 - 1", header(u32::MAX, 0, 0), &["GGUF version is 4294967295", "2 and 3"]),
        ("big-endian", header(3u32.swap_bytes(), 0, 0), &["byte order is big-endian", "little-endian"]),
        (
            "big-endian magic",
            Gguf::with_header(b"FUGG", 3u32.swap_bytes(), 0, 0).end(),
            &["byte order is big-endian", "little-endian"],
        ),
        ("-1 tensors", header(3, u64::MAX, 0), &["number of tensors", "18446744073709551615", "65536"]),
        ("65537 tensors", header(3, 65_537, 0), &["number of tensors", "65537", "65536"]),
        ("more tensors than bytes", header(3, 65_536, 0), &["truncated", "65536", "0 are there"]),
        ("-1 entries", header(3, 0, u64::MAX), &["number of metadata entries", "18446744073709551615", "65536"]),
        ("65537 entries", header(3, 0, 65_537), &["number of metadata entries", "65537", "65536"]),
        ("more entries than bytes", header(3, 0, 65_536), &["truncated", "65536", "0 are there"]),
    ]);
}

#[test]
fn gguf_metadata() {
    let one = || Gguf::new(0, 1);
    // Enough to get past the check that the declared number of entries can be there at all.
    let filler = [0; 64];
    check_all(&[
        (
            "key of 2^64 - 1 bytes",
            one().u64(u64::MAX).bytes(&filler).end(),
            &["length of key", "18446744073709551615", "65535"],
        ),
        (
            "key of 65536 bytes",
            one().string(&"k".repeat(65_536)).bytes(&filler).end(),
            &["length of key is 65536", "65535"],
        ),
        (
            "key beyond the end",
            one().u64(1_000).bytes(&filler).end(),
            &["truncated", "key", "1000 bytes", "64 are there"],
        ),
        ("empty key", one().key("", U8).bytes(&filler).end(), &["key of metadata entry number 0", "empty"]),
        (
            "key that is not UTF-8",
            one().u64(4).bytes(b"ab\xff\xfe").bytes(&filler).end(),
            &["entry number 0", "\\xff", "UTF-8"],
        ),
        (
            "duplicate key",
            Gguf::new(0, 2).entry_u32("llama.block_count", 1).entry_u32("llama.block_count", 2).end(),
            &["\"llama.block_count\"", "more than once"],
        ),
        ("unknown value type", one().key("k", 13).bytes(&filler).end(), &["\"k\"", "value type is 13", "0 to 12"]),
        ("no value", one().key("general.name", U64).u32(0).end(), &["\"general.name\"", "8 bytes", "4 are there"]),
        ("bool of 2", one().key("k", BOOL).bytes(&[2]).end(), &["\"k\"", "bool is 2", "0 or 1"]),
        (
            "string of 16 GiB",
            one().key("general.name", STRING).u64(16 << 30).bytes(&filler).end(),
            &["\"general.name\"", "17179869184", "16777216"],
        ),
        (
            "string beyond the end",
            one().key("general.name", STRING).u64(65).bytes(&filler).end(),
            &["\"general.name\"", "65 bytes", "64 are there"],
        ),
        (
            "string that is not UTF-8",
            one().key("k", STRING).u64(3).bytes(b"a\xc3(").end(),
            &["\"k\"", "\\xc3", "byte 1", "UTF-8"],
        ),
        (
            "array of 2^61 u64",
            one().key("k", ARRAY).u32(U64).u64(1 << 61).bytes(&filler).end(),
            &["\"k\"", "2305843009213693952", "64 are there"],
        ),
        (
            "array of 2^32 strings",
            one().key("k", ARRAY).u32(STRING).u64(1 << 32).bytes(&filler).end(),
            &["\"k\"", "4294967296", "64 are there"],
        ),
        (
            "array with one element too many",
            one().key("k", ARRAY).u32(F32).u64(17).bytes(&filler).end(),
            &["\"k\"", "68 bytes", "64 are there"],
        ),
        (
            "array of unknown type",
            one().key("k", ARRAY).u32(99).u64(1).bytes(&filler).end(),
            &["\"k\"", "element type is 99"],
        ),
        (
            "arrays three deep",
            one().key("k", ARRAY).u32(ARRAY).u64(1).u32(ARRAY).u64(1).u32(U8).u64(1).bytes(&filler).end(),
            &["\"k\"", "nesting of arrays is 3", "2"],
        ),
        (
            "2^40 arrays",
            one().key("k", ARRAY).u32(ARRAY).u64(1 << 40).bytes(&filler).end(),
            &["\"k\"", "1099511627776", "64 are there"],
        ),
        ("alignment 0", one().entry_u32("general.alignment", 0).end(), &["general.alignment is 0", "[8, 1048576]"]),
        ("alignment 4", one().entry_u32("general.alignment", 4).end(), &["general.alignment is 4", "[8, 1048576]"]),
        ("alignment 33", one().entry_u32("general.alignment", 33).end(), &["general.alignment is 33", "power of two"]),
        ("alignment 2^31", one().entry_u32("general.alignment", 1 << 31).end(), &["2147483648", "[8, 1048576]"]),
        (
            "alignment of the wrong type",
            one().key("general.alignment", U64).u64(32).end(),
            &["\"general.alignment\"", "u64 32", "u32"],
        ),
        (
            "control characters in a name",
            one().key("a\n\x1b[31mb", 77).bytes(&filler).end(),
            &["\"a\\n\\u{1b}[31mb\"", "value type is 77"],
        ),
    ]);
}

#[test]
fn gguf_tensors() {
    let one = || Gguf::new(1, 0);
    let two = || Gguf::new(2, 0);
    let simple = |name: &str, dims: &[u64], kind, offset, data| one().tensor(name, dims, kind, offset).data(data);
    let known = |kind| simple("blk.0.ffn_up.weight", &[256], kind, 0, 1024);
    check_all(&[
        ("empty name", simple("", &[1], T_F32, 0, 4), &["name of tensor number 0", "empty"]),
        ("name of 65 bytes", simple(&"n".repeat(65), &[1], T_F32, 0, 4), &["number 0", "length of name is 65", "64"]),
        ("name of 2^63 bytes", one().u64(1 << 63).bytes(&[0; 64]).end(), &["number 0", "9223372036854775808", "64"]),
        ("no dimension", simple("t", &[], T_F32, 0, 64), &["\"t\"", "number of dimensions is 0", "1 to 4"]),
        ("5 dimensions", simple("t", &[1; 5], T_F32, 0, 4), &["\"t\"", "number of dimensions is 5", "4"]),
        ("2^32 - 1 dimensions", one().string("t").u32(u32::MAX).bytes(&[0; 64]).end(), &["\"t\"", "4294967295", "4"]),
        ("first dimension 0", simple("t", &[0, 4], T_F32, 0, 4), &["\"t\"", "[4, 0]", "at least 1"]),
        ("last dimension 0", simple("t", &[4, 0], T_F32, 0, 4), &["\"t\"", "[0, 4]", "at least 1"]),
        ("dimension -1", simple("t", &[u64::MAX], T_F32, 0, 4), &["\"t\"", "18446744073709551615"]),
        (
            "product of dimensions overflows to 0",
            simple("t", &[1 << 32, 1 << 32], T_F32, 0, 4),
            &["\"t\"", "4294967296, 4294967296", "64 bits"],
        ),
        (
            "number of bytes overflows",
            simple("t", &[1 << 31, 1 << 31], T_F32, 0, 4),
            &["\"t\"", "2147483648, 2147483648", "64 bits"],
        ),
        (
            "bytes wrap to a small number",
            simple("t", &[(1 << 62) + 1], T_F32, 0, 4),
            &["\"t\"", "4611686018427387905", "64 bits"],
        ),
        ("row of half a block", simple("t", &[16, 2], T_Q4_0, 0, 64), &["\"t\"", "row length is 16", "32", "q4_0"]),
        ("row of no whole super-block", simple("t", &[288], T_Q4_K, 0, 512), &["\"t\"", "288", "256", "q4_k"]),
        ("known type without support", known(16), &["blk.0.ffn_up.weight", "iq2_xxs", "16", "q4_k"]),
        ("known type without support", known(21), &["blk.0.ffn_up.weight", "iq3_s", "21"]),
        ("known type without support", known(34), &["blk.0.ffn_up.weight", "tq1_0", "34"]),
        ("withdrawn type", known(4), &["blk.0.ffn_up.weight", "unknown (number 4)"]),
        ("unknown type", known(1000), &["blk.0.ffn_up.weight", "unknown (number 1000)"]),
        ("unaligned offset", simple("t", &[1], T_F32, 8, 64), &["\"t\"", "offset is 8", "32"]),
        ("offset beyond the end", simple("t", &[1], T_F32, 1 << 40, 64), &["\"t\"", "truncated", "1099511627"]),
        ("offset near 2^64", simple("t", &[8], T_F32, u64::MAX - 31, 64), &["\"t\"", "offset is 18446744073709551584"]),
        ("offset and size overflow", simple("t", &[1 << 61], T_F32, 1 << 63, 64), &["\"t\"", "2305843009213693952"]),
        ("one byte missing", simple("t", &[16, 2], T_F32, 0, 127), &["\"t\"", "128 bytes", "127 are there"]),
        ("no data at all", one().tensor("t", &[1], T_F32, 0).end(), &["\"t\"", "truncated", "4 bytes"]),
        (
            "huge shape over tiny storage",
            simple("t", &[1 << 20, 1 << 20], T_Q4_0, 0, 64),
            &["\"t\"", "618475290624 bytes", "64 are there"],
        ),
        (
            "descriptor cut",
            one().tensor("tensor", &[1, 1], T_F32, 0).0[..64].to_vec(),
            &["\"tensor\"", "truncated: offset", "2 are there"],
        ),
        (
            "duplicate name",
            two().tensor("t", &[8], T_F32, 0).tensor("t", &[8], T_F32, 32).data(64),
            &["tensor \"t\"", "more than once"],
        ),
        (
            "overlap",
            two().tensor("a", &[16], T_F32, 0).tensor("b", &[8], T_F32, 32).data(64),
            &["tensor \"b\"", "extent", "tensor \"a\""],
        ),
        (
            "same bytes twice",
            two().tensor("a", &[16], T_F32, 0).tensor("b", &[16], T_F32, 0).data(64),
            &["extent", "outside of tensor"],
        ),
        (
            "data that another alignment would fit",
            Gguf::new(2, 1)
                .entry_u32("general.alignment", 64)
                .tensor("a", &[8], T_F32, 0)
                .tensor("b", &[8], T_F32, 32)
                .data(256),
            &["\"b\"", "offset is 32", "64"],
        ),
    ]);
}

#[test]
fn gguf_sizes() {
    let entries = |entries: &[(&str, u32)]| {
        let file = Gguf::new(0, 1 + entries.len() as u64).entry_string("general.architecture", "llama");
        entries.iter().fold(file, |file, (key, value)| file.entry_u32(&format!("llama.{key}"), *value)).end()
    };
    let cases: &[Case] = &[
        ("no layer", entries(&[("block_count", 0)]), &["llama.block_count is 0", "[1, 1024]"]),
        ("2^32 - 1 layers", entries(&[("block_count", u32::MAX)]), &["llama.block_count is 4294967295", "1024"]),
        ("no context", entries(&[("context_length", 0)]), &["llama.context_length is 0", "16777216"]),
        ("context of 2^32 - 1", entries(&[("context_length", u32::MAX)]), &["llama.context_length", "16777216"]),
        ("width 0", entries(&[("embedding_length", 0)]), &["llama.embedding_length is 0", "131072"]),
        (
            "2^20 heads",
            entries(&[("block_count", 2), ("attention.head_count", 1 << 20)]),
            &["llama.attention.head_count is 1048576", "1024"],
        ),
        ("odd head", entries(&[("attention.key_length", 63)]), &["llama.attention.key_length is 63", "even"]),
        ("head of 2^31", entries(&[("attention.key_length", 1 << 31)]), &["2147483648", "1024"]),
        ("vocabulary of 2^31", entries(&[("vocab_size", 1 << 31)]), &["llama.vocab_size is 2147483648", "2097152"]),
        (
            "layers of the wrong type",
            Gguf::new(0, 2)
                .entry_string("general.architecture", "llama")
                .entry_string("llama.block_count", "many")
                .end(),
            &["llama.block_count", "string \"many\"", "integer"],
        ),
        (
            "control characters in the architecture",
            Gguf::new(0, 1).entry_string("general.architecture", "a\n\x1b[31m").end(),
            &["general.architecture is \"a\\n\\u{1b}[31m\"", "letters"],
        ),
        (
            "architecture of a megabyte",
            Gguf::new(0, 1).entry_string("general.architecture", &"a".repeat(1 << 20)).end(),
            &["general.architecture is \"aaaa", "64"],
        ),
        (
            "heads of too few layers",
            Gguf::new(0, 3)
                .entry_string("general.architecture", "llama")
                .entry_u32("llama.block_count", 3)
                .key("llama.attention.head_count", ARRAY)
                .u32(craft::U32)
                .u64(2)
                .u32(4)
                .u32(4)
                .end(),
            &["llama.attention.head_count", "array of 2 u32", "array of 3"],
        ),
    ];
    for (name, bytes, expected) in cases {
        check(name, &[("model.gguf", bytes)], expected);
    }
}

#[test]
fn split_gguf_sets() {
    let part =
        |number: u32, count: u32| Gguf::new(0, 2).entry_u32("split.no", number).entry_u32("split.count", count).end();
    let with_tensor = |number: u32, count: u32| {
        let file = Gguf::new(1, 2).entry_u32("split.no", number).entry_u32("split.count", count);
        file.tensor("t", &[8], T_F32, 0).data(32)
    };
    let names = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    let whole = [part(0, 3), part(1, 3), part(2, 3)];
    check(
        "missing part",
        &[(names[0], &whole[0]), (names[2], &whole[2])],
        &["part 2 of 3", "m-00002-of-00003.gguf", "No such file"],
    );
    check("wrong name", &[("m.gguf", &whole[0])], &["file name is \"m.gguf\"", "-00001-of-00003.gguf"]);
    check("number above count", &[(names[0], &part(3, 3))], &["split.no is 3", "below 3 (split.count)"]);
    check("70000 parts", &[(names[0], &part(0, 70_000))], &["split.count is 70000", "1000"]);
    check(
        "part of another set",
        &[(names[0], &whole[0]), (names[1], &part(1, 4)), (names[2], &whole[2])],
        &["m-00002-of-00003.gguf", "split.count is 4", "3 as in the other parts"],
    );
    check(
        "same part twice",
        &[(names[0], &whole[0]), (names[1], &whole[0]), (names[2], &whole[2])],
        &["m-00002-of-00003.gguf", "split.no is 0", "1 as its name says"],
    );
    check(
        "tensor in two parts",
        &[(names[0], &whole[0]), (names[1], &with_tensor(1, 3)), (names[2], &with_tensor(2, 3))],
        &["m-00003-of-00003.gguf", "tensor \"t\"", "more than once"],
    );
    let counted = Gguf::new(0, 3).entry_u32("split.no", 0).entry_u32("split.count", 3);
    check(
        "missing tensor",
        &[
            (names[0], &counted.entry_u32("split.tensors.count", 2).end()),
            (names[1], &with_tensor(1, 3)),
            (names[2], &whole[2]),
        ],
        &["number of tensors in all parts is 1", "must be 2 (split.tensors.count)"],
    );
}

#[test]
fn safetensors_files() {
    let tensor = |dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}}}"#)
    };
    let mut long = 100u64.to_le_bytes().to_vec();
    long.extend(b"{}");
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend(b"{}");
    let deep = format!("{{\"t\":{}{}}}", "[".repeat(100), "]".repeat(100));
    let cases: &[Case] = &[
        ("header beyond the end", long, &["truncated", "header", "100 bytes", "2 are there"]),
        ("header of 2^64 - 1", huge, &["header size in bytes", "18446744073709551615", "16777216"]),
        ("header cut", safetensors("{\"t\":", 0), &["JSON", "EOF"]),
        (
            "header that is not UTF-8",
            safetensors_bytes(b"{\"__metadata__\":{\"k\":\"\xff\"}}"),
            &["header", "UTF-8", "index 22"],
        ),
        ("metadata that are no strings", safetensors(r#"{"__metadata__":{"k":1}}"#, 0), &["header", "integer `1`"]),
        ("header too deep", safetensors(&deep, 0), &["JSON nesting is 101", "64"]),
        (
            "no dtype",
            safetensors(r#"{"t":{"shape":[1],"data_offsets":[0,4]}}"#, 4),
            &["header", "tensor \"t\"", "dtype"],
        ),
        ("unknown dtype", safetensors(&tensor("F31", "[1]", 0, 4), 4), &["tensor \"t\"", "F31"]),
        ("integers", safetensors(&tensor("I64", "[1]", 0, 8), 8), &["tensor \"t\"", "type is I64", "BF16"]),
        ("8-bit floats", safetensors(&tensor("F8_E4M3", "[4]", 0, 4), 4), &["tensor \"t\"", "F8_E4M3", "BF16"]),
        ("dimension 0", safetensors(&tensor("F32", "[2,0]", 0, 0), 0), &["tensor \"t\"", "[2, 0]", "at least 1"]),
        ("9 dimensions", safetensors(&tensor("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4), 4), &["\"t\"", "is 9", "8"]),
        ("negative dimension", safetensors(&tensor("F32", "[-1]", 0, 4), 4), &["tensor \"t\"", "-1"]),
        ("dimension of 2^64", safetensors(&tensor("F32", "[18446744073709551616]", 0, 4), 4), &["header"]),
        (
            "product overflows to 0",
            safetensors(&tensor("F32", "[4294967296,4294967296]", 0, 0), 0),
            &["tensor \"t\"", "4294967296, 4294967296", "64 bits"],
        ),
        (
            "extent too short",
            safetensors(&tensor("F32", "[2]", 0, 4), 8),
            &["tensor \"t\"", "data_offsets is [0, 4)", "[0, 8)"],
        ),
        ("end before start", safetensors(&tensor("F32", "[1]", 4, 0), 4), &["tensor \"t\"", "[4, 0)", "[0, 4)"]),
        ("one byte missing", safetensors(&tensor("F32", "[2]", 0, 8), 7), &["tensor \"t\"", "8 bytes", "7 are there"]),
        ("one byte too many", safetensors(&tensor("F32", "[2]", 0, 8), 9), &["after the last tensor is 1"]),
        ("hole", safetensors(&tensor("F32", "[1]", 4, 8), 8), &["tensor \"t\"", "[4, 8)", "[0, 4)"]),
        (
            "overlap",
            safetensors(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
            &["truncated", "tensor \"b\"", "8 bytes", "4 are there"],
        ),
        (
            "duplicate name",
            safetensors(
                r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                4,
            ),
            &["header", "tensor \"t\": occurs more than once"],
        ),
        (
            "control characters in a name",
            safetensors(r#"{"a\n\u001b":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4),
            &["tensor \"a\\n\\u{1b}\"", "[4, 0)"],
        ),
    ];
    for (name, bytes, expected) in cases {
        check(name, &[("model.safetensors", bytes), ("config.json", b"{}")], expected);
    }
}

#[test]
fn hugging_face_directories() {
    let good = safetensors(r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4);
    let single = |config: &[u8], expected: &[&str], name| {
        check(name, &[("model.safetensors", &good), ("config.json", config)], expected);
    };
    let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
    let many = format!("{{\"a\":[{}0]}}", "0,".repeat(100_000));
    let big = format!("{{\"a\":\"{}\"}}", "x".repeat(4 << 20));
    single(b"", &["config.json", "JSON", "EOF"], "empty config");
    single(b"[1]", &["config.json", "object"], "config that is an array");
    single(b"{\"a\":", &["config.json", "JSON", "EOF"], "config cut");
    single(deep.as_bytes(), &["config.json", "JSON nesting is 65", "64"], "config too deep");
    single(many.as_bytes(), &["config.json", "number of JSON values is 100003", "100000"], "config of many values");
    single(big.as_bytes(), &["config.json", "file size in bytes is 4194312", "4194304"], "config too big");
    single(
        b"{\"num_hidden_layers\": 4294967296}",
        &["num_hidden_layers is 4294967296", "1024"],
        "config with too many layers",
    );
    single(b"{\"num_hidden_layers\": -1}", &["num_hidden_layers", "-1", "integer"], "config with negative layers");
    single(b"{\"head_dim\": 0}", &["head_dim is 0", "[1, 1024]"], "config with head_dim 0");
    single(b"{\"vocab_size\": \"x\"}", &["vocab_size", "string \"x\"", "integer"], "config of the wrong type");

    check("safetensors without config", &[("model.safetensors", &good)], &["config.json", "No such file"]);
    let index = |map: &str, expected: &[&str], name| {
        let index = format!("{{\"weight_map\":{map}}}");
        let files: &[(&str, &[u8])] = &[
            ("model.safetensors.index.json", index.as_bytes()),
            ("config.json", b"{}"),
            ("a.safetensors", &good),
            ("b.safetensors", &good),
        ];
        check_directory(name, files, expected);
    };
    for shard in ["../a.safetensors", "/etc/a.safetensors", "x/a.safetensors", "..", "", "a\\\\b.safetensors"] {
        let map = format!("{{\"t\":\"{shard}\"}}");
        index(
            &map,
            &["model.safetensors.index.json", &format!("shard is \"{shard}\""), "same directory"],
            "shard path",
        );
    }
    index("{\"t\":\"config.json\"}", &["shard is \"config.json\"", ".safetensors"], "shard of another kind");
    index("{\"t\":\"c.safetensors\"}", &["c.safetensors", "No such file"], "missing shard");
    index("{\"u\":\"a.safetensors\"}", &["a.safetensors", "tensor \"u\"", "missing"], "tensor not in its shard");
    index("{\"t\":\"a.safetensors\",\"t\":\"b.safetensors\"}", &["\"t\" occurs more than once"], "duplicate in index");
    index("[]", &["index.json", "JSON"], "index that is an array");
    index("{\"t\":7}", &["index.json", "JSON"], "index with a number for a shard");
    check_directory("no model", &[("config.json", b"{}")], &["model.safetensors", "missing"]);
    check_directory("model without config", &[("model.safetensors", &good)], &["config.json", "No such file"]);
}

#[test]
fn what_is_no_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("missing.gguf");
    let text = Checkpoint::open(&missing).expect_err("nothing there").to_string();
    assert!(text.contains("missing.gguf") && text.contains("No such file"), "{text}");
    #[cfg(unix)]
    {
        let socket = dir.path().join("socket.gguf");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let text = Checkpoint::open(&socket).expect_err("no file").to_string();
        assert!(text.contains("socket.gguf") && text.contains("regular file"), "{text}");
        let text = Checkpoint::open("/dev/zero".as_ref()).expect_err("no file").to_string();
        assert!(text.contains("/dev/zero") && text.contains("regular file"), "{text}");
    }
}

#[test]
fn metadata_that_decode_to_too_much_are_refused() {
    // 12 bytes each in the file, more in memory: the budget stops it before it is allocated. A hole takes no disk.
    let count = (256 << 20) / 12;
    let start = Gguf::new(0, 1).key("k", ARRAY).u32(ARRAY).u64(count);
    let (_dir, path) = written(&[("model.gguf", &start.0)]);
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("it was just written");
    file.set_len(start.0.len() as u64 + count * 12).expect("a file system with holes");
    let (result, peak) = alloc::peak_bytes(|| Checkpoint::open(&path));
    let text = result.expect_err("too much").to_string();
    assert!(text.contains("decoded metadata in bytes") && text.contains("268435456"), "{text}");
    assert!(peak < PEAK_BYTES_MAX, "held {peak} bytes");
}

/// Name, bytes, and what the error says.
type Case = (&'static str, Vec<u8>, &'static [&'static str]);

fn check_all(cases: &[Case]) {
    for (name, bytes, expected) in cases {
        check(name, &[("model.gguf", bytes)], expected);
    }
}

/// Opens the first of `files` and expects an error with all of `expected`.
fn check(name: &str, files: &[(&str, &[u8])], expected: &[&str]) {
    let (_dir, path) = written(files);
    check_path(name, &path, files, expected);
}

fn check_directory(name: &str, files: &[(&str, &[u8])], expected: &[&str]) {
    let (dir, _) = written(files);
    check_path(name, dir.path(), files, expected);
}

fn check_path(name: &str, path: &std::path::Path, files: &[(&str, &[u8])], expected: &[&str]) {
    let open = || {
        let started = Instant::now();
        let (result, peak) = alloc::peak_bytes(|| Checkpoint::open(path).and_then(|opened| Summary::of(&opened)));
        (started.elapsed(), peak, result)
    };
    // A busy machine may stop the thread for longer than that; it does not do so every time.
    let (took, peak, result) = (0..5).map(|_| open()).min_by_key(|(took, ..)| *took).expect("five tries");
    let text = result.expect_err(name).to_string();
    for part in expected {
        assert!(text.contains(part), "{name}: {part:?} is not in: {text}");
    }
    assert!(!text.contains(|char: char| char.is_control()), "{name}: not one plain line: {text:?}");
    let file_bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(peak < PEAK_BYTES_MAX + 3 * file_bytes, "{name}: held {peak} bytes");
    assert!(took < TIME_MAX, "{name}: took {took:?}");
}
