//! Reading typed fields out of a JSON body: `null` is absent, a wrong type is 400 and never coerced, unknown fields are ignored.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::engine::ApiError;

/// The fields of a JSON object.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The fields of `value`.
    ///
    /// # Errors
    /// 400: not an object.
    pub fn of(value: &'a Value) -> Result<Self, ApiError> {
        value.as_object().map(Self).ok_or_else(|| ApiError::with(400, "the body must be a JSON object"))
    }

    /// No fields at all.
    pub fn none() -> Self {
        static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        Self(&NONE)
    }

    /// The raw value; `None` when absent or `null`.
    pub fn raw(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A string.
    ///
    /// # Errors
    /// 400: another type.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A boolean.
    ///
    /// # Errors
    /// 400: another type.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, "a boolean", Value::as_bool)
    }

    /// An integer of 0 or more; `5.0` is one.
    ///
    /// # Errors
    /// 400: another type or range.
    pub fn unsigned(&self, name: &str) -> Result<Option<u64>, ApiError> {
        self.typed(name, "a non-negative integer", |value| {
            let whole = |f: f64| (f >= 0.0 && f.fract() == 0.0 && f < 9e15).then_some(f as u64);
            value.as_u64().or_else(|| value.as_f64().and_then(whole))
        })
    }

    /// A number.
    ///
    /// # Errors
    /// 400: another type.
    pub fn number(&self, name: &str) -> Result<Option<f64>, ApiError> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// One of the texts that `parse` knows.
    ///
    /// # Errors
    /// 400: another type or text.
    pub fn one_of<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ApiError> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        parse(text)
            .map(Some)
            .ok_or_else(|| ApiError::with(400, format!("Property '{name}' has no value '{text}'")))
    }

    /// A nested object.
    ///
    /// # Errors
    /// 400: another type.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.typed(name, "an object", |value| value.as_object().map(Fields))
    }

    /// An array.
    ///
    /// # Errors
    /// 400: another type.
    pub fn array(&self, name: &str) -> Result<Option<&'a Vec<Value>>, ApiError> {
        self.typed(name, "an array", Value::as_array)
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// 400: absent or another type.
    pub fn mandatory_string(&self, name: &str) -> Result<&'a str, ApiError> {
        self.string(name)?.ok_or_else(|| ApiError::with(400, format!("\"{name}\" parameter is mandatory")))
    }

    fn typed<T>(
        &self,
        name: &str,
        what: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| ApiError::with(400, format!("Property '{name}' must be {what}")))
    }
}

/// Whether `text` matches `[a-zA-Z0-9_-]+`, plus the characters of `more`.
pub fn is_word(text: &str, more: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || more.contains(c);
    !text.is_empty() && text.chars().all(allowed)
}
