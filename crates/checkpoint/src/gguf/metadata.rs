//! GGUF's key-values, and typed access to them.

use std::borrow::Cow;

use indexmap::IndexMap;

use crate::CheckpointError;

/// Characters of a string value that an error repeats.
const SHOWN_CHARS_MAX: usize = 40;

/// The key-values of a GGUF file in the order in which they stand there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: IndexMap<String, Value>,
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A metadata array: all elements have one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Strings(Vec<String>),
    Arrays(Vec<Array>),
}

/// Typed getters: `Ok(None)` when the key is absent, an error that names key, found and wanted when it holds another
/// type. Integers may be stored in any width and sign as long as the value fits.
impl Metadata {
    /// The value of a key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Sets a key, and returns what it held before.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.entries.insert(key.into(), value.into())
    }

    /// Takes a key out; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An integer in `[0, 2^32)`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        self.typed(key, "an integer in [0, 2^32)", |value| u32::try_from(value.integer()?).ok())
    }

    /// An integer in `[0, 2^64)`.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        self.typed(key, "an integer in [0, 2^64)", |value| u64::try_from(value.integer()?).ok())
    }

    /// A floating-point number of either width.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, CheckpointError> {
        self.typed(key, "a floating-point number", |value| match value {
            Value::F32(number) => Some(*number),
            Value::F64(number) => Some(*number as f32),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, CheckpointError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(strings)) => Some(strings.as_slice()),
            _ => None,
        })
    }

    /// An array of floating-point numbers of either width.
    pub fn f32s(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>, CheckpointError> {
        self.typed(key, "an array of floating-point numbers", |value| match value {
            Value::Array(Array::F32(numbers)) => Some(Cow::Borrowed(numbers.as_slice())),
            Value::Array(Array::F64(numbers)) => Some(numbers.iter().map(|&number| number as f32).collect()),
            _ => None,
        })
    }

    /// An array of integers in `[-2^31, 2^31)`.
    pub fn i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, CheckpointError> {
        self.typed(key, "an array of integers in [-2^31, 2^31)", |value| match value {
            Value::Array(Array::I32(numbers)) => Some(Cow::Borrowed(numbers.as_slice())),
            Value::Array(array) => array.integers().map(Cow::Owned),
            _ => None,
        })
    }

    /// An array of integers in `[0, 2^32)`.
    pub fn u32s(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>, CheckpointError> {
        self.typed(key, "an array of integers in [0, 2^32)", |value| match value {
            Value::Array(Array::U32(numbers)) => Some(Cow::Borrowed(numbers.as_slice())),
            Value::Array(array) => array.integers().map(Cow::Owned),
            _ => None,
        })
    }

    /// `layers` integers in `[0, 2^32)`: one number that holds for every layer, or an array with one for each.
    pub fn u32_per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<u32>>, CheckpointError> {
        let wanted = format!("an integer in [0, 2^32) or an array of {layers} of them");
        self.typed(key, &wanted, |value| match value {
            Value::Array(array) => array.integers().filter(|numbers| numbers.len() == layers),
            number => Some(vec![u32::try_from(number.integer()?).ok()?; layers]),
        })
    }

    /// An array of truth values.
    pub fn bools(&self, key: &str) -> Result<Option<&[bool]>, CheckpointError> {
        self.typed(key, "an array of bools", |value| match value {
            Value::Array(Array::Bool(truths)) => Some(truths.as_slice()),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(CheckpointError::WrongType {
                key: key.to_owned(),
                found: value.describe(),
                wanted: wanted.to_owned(),
            }),
        }
    }
}

impl Value {
    /// Type and value in words, short: `u32 7`, `array of 262144 strings`.
    pub fn describe(&self) -> String {
        match self {
            Value::U8(number) => format!("u8 {number}"),
            Value::I8(number) => format!("i8 {number}"),
            Value::U16(number) => format!("u16 {number}"),
            Value::I16(number) => format!("i16 {number}"),
            Value::U32(number) => format!("u32 {number}"),
            Value::I32(number) => format!("i32 {number}"),
            Value::U64(number) => format!("u64 {number}"),
            Value::I64(number) => format!("i64 {number}"),
            Value::F32(number) => format!("f32 {number}"),
            Value::F64(number) => format!("f64 {number}"),
            Value::Bool(truth) => format!("bool {truth}"),
            Value::String(text) => {
                let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
                let more = if shown.len() < text.len() { "..." } else { "" };
                format!("string {shown:?}{more}")
            }
            Value::Array(array) => format!("array of {} {}", array.len(), array.element_name()),
        }
    }

    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(number) => number.into(),
            Value::I8(number) => number.into(),
            Value::U16(number) => number.into(),
            Value::I16(number) => number.into(),
            Value::U32(number) => number.into(),
            Value::I32(number) => number.into(),
            Value::U64(number) => number.into(),
            Value::I64(number) => number.into(),
            _ => return None,
        })
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(elements) => elements.len(),
            Array::I8(elements) => elements.len(),
            Array::U16(elements) => elements.len(),
            Array::I16(elements) => elements.len(),
            Array::U32(elements) => elements.len(),
            Array::I32(elements) => elements.len(),
            Array::U64(elements) => elements.len(),
            Array::I64(elements) => elements.len(),
            Array::F32(elements) => elements.len(),
            Array::F64(elements) => elements.len(),
            Array::Bool(elements) => elements.len(),
            Array::Strings(elements) => elements.len(),
            Array::Arrays(elements) => elements.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn element_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "u8",
            Array::I8(_) => "i8",
            Array::U16(_) => "u16",
            Array::I16(_) => "i16",
            Array::U32(_) => "u32",
            Array::I32(_) => "i32",
            Array::U64(_) => "u64",
            Array::I64(_) => "i64",
            Array::F32(_) => "f32",
            Array::F64(_) => "f64",
            Array::Bool(_) => "bool",
            Array::Strings(_) => "strings",
            Array::Arrays(_) => "arrays",
        }
    }

    /// All elements as `T`, or `None` when they are no integers or one does not fit.
    fn integers<T>(&self) -> Option<Vec<T>>
    where
        T: TryFrom<u8> + TryFrom<i8> + TryFrom<u16> + TryFrom<i16>,
        T: TryFrom<u32> + TryFrom<i32> + TryFrom<u64> + TryFrom<i64>,
    {
        fn each<E: Copy, T: TryFrom<E>>(elements: &[E]) -> Option<Vec<T>> {
            elements.iter().map(|&element| T::try_from(element).ok()).collect()
        }
        match self {
            Array::U8(elements) => each(elements),
            Array::I8(elements) => each(elements),
            Array::U16(elements) => each(elements),
            Array::I16(elements) => each(elements),
            Array::U32(elements) => each(elements),
            Array::I32(elements) => each(elements),
            Array::U64(elements) => each(elements),
            Array::I64(elements) => each(elements),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

/// `From` for the types that name their variant alone.
macro_rules! value_from {
    ($($from:ty => $value:ident => $make:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Value {
                $make
            }
        })*
    };
}

value_from! {
    u8 => value => Value::U8(value);
    u16 => value => Value::U16(value);
    u32 => value => Value::U32(value);
    i32 => value => Value::I32(value);
    u64 => value => Value::U64(value);
    f32 => value => Value::F32(value);
    bool => value => Value::Bool(value);
    String => value => Value::String(value);
    Array => value => Value::Array(value);
    Vec<String> => value => Value::Array(Array::Strings(value));
    Vec<u32> => value => Value::Array(Array::U32(value));
    Vec<i32> => value => Value::Array(Array::I32(value));
    Vec<f32> => value => Value::Array(Array::F32(value));
    Vec<bool> => value => Value::Array(Array::Bool(value));
}
