//! A JSON file that knows which of its keys were asked for.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{Error, Result, files::read_text, json};

/// A JSON file, and which of its keys were asked for.
pub(super) struct Document {
    path: PathBuf,
    fields: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &read_text(path)?)
    }

    pub(super) fn parse(path: &Path, text: &str) -> Result<Self> {
        match json::parse(path, text)? {
            Value::Object(fields) => Ok(Self { path: path.to_owned(), fields, read: RefCell::default() }),
            other => {
                let message = format!("expected an object, got {}", kind_of(&other));
                Err(Error::Json { path: path.to_owned(), message })
            }
        }
    }

    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn root(&self) -> Fields<'_> {
        Fields { document: self, prefix: String::new(), fields: &self.fields }
    }

    /// Keys, at any depth below objects that were read, that neither were asked for nor are known to have no effect.
    pub(super) fn unread_keys(&self, without_effect: &[&str]) -> Vec<String> {
        let mut unread = Vec::new();
        let mut open = vec![(String::new(), &self.fields)];
        while let Some((prefix, fields)) = open.pop() {
            for (key, value) in fields {
                let name = format!("{prefix}{key}");
                match value {
                    _ if without_effect.contains(&key.as_str()) => {}
                    Value::Object(inner) if self.read.borrow().contains(&name) => {
                        open.push((format!("{name}."), inner));
                    }
                    _ if self.read.borrow().contains(&name) => {}
                    _ => unread.push(format!("{}: {name}", self.name())),
                }
            }
        }
        unread
    }
}

/// The fields of one object of a [`Document`].
pub(super) struct Fields<'a> {
    document: &'a Document,
    prefix: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn missing(&self, key: &str) -> Error {
        Error::MissingField { path: self.document.path.clone(), field: self.name(key) }
    }

    pub(super) fn invalid(&self, key: &str, expected: impl ToString, got: impl ToString) -> Error {
        Error::invalid(self.document.name(), self.name(key), expected, got)
    }

    /// The keys, in the order of the file.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.fields.keys().map(String::as_str)
    }

    /// The value of a key that is there and not null.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.document.read.borrow_mut().insert(self.name(key));
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there with a null.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(Value::is_null)
    }

    fn typed<T>(&self, key: &str, expected: &str, convert: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(typed) => Ok(Some(typed)),
                None => Err(self.invalid(key, expected, value)),
            },
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number from 0 to 4294967295", as_count)
    }

    pub(super) fn required_count(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.typed(key, "a list of whole numbers", |value| value.as_array()?.iter().map(as_count).collect())
    }

    /// A side length, written as one number or as two equal ones.
    pub(super) fn square(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "one number or two equal ones", |value| match value.as_array() {
            None => as_count(value),
            Some(sides) => match sides.as_slice() {
                [height, width] if height == width => as_count(height),
                _ => None,
            },
        })
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        let fields = self.typed(key, "an object", Value::as_object)?;
        Ok(fields.map(|fields| Fields { document: self.document, prefix: format!("{}.", self.name(key)), fields }))
    }

    pub(super) fn required_object(&self, key: &str) -> Result<Fields<'a>> {
        self.object(key)?.ok_or_else(|| self.missing(key))
    }
}

/// A number of things: small enough that products of a few of them do not overflow.
fn as_count(value: &Value) -> Option<usize> {
    u32::try_from(value.as_u64()?).ok().map(|count| count as usize)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
