//! JSON documents in which no key is there twice.

use std::{collections::BTreeSet, fmt, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};

use crate::{Error, Result, files::read_text};

/// Reads a small JSON file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    parse(path, &read_text(path)?)
}

/// Reads a value from the text of a JSON file; `path` stands for it in messages.
///
/// # Errors
/// When the text is not JSON or not of the type, and when an object has a key twice: which of the two is meant depends on
/// who reads it.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    let failed = |error: serde_json::Error| Error::Json { path: path.to_owned(), message: error.to_string() };
    check_keys(text.as_bytes()).map_err(failed)?;
    serde_json::from_str(text).map_err(failed)
}

/// Fails when an object has a key twice.
pub(crate) fn check_keys(text: &[u8]) -> serde_json::Result<()> {
    serde_json::from_slice::<Unique>(text).map(|_| ())
}

/// Any value whose objects have every key once.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<Unique>()?;
            if keys.contains(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` is there twice")));
            }
            keys.insert(key);
        }
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        while items.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_named() {
        let parse = |text| parse::<Value>(Path::new("file"), text);
        parse(r#"{"a": [{"b": 1, "c": null}, {"b": 2.5}], "b": "a", "d": true, "e": -1}"#).expect("every key once");
        for text in [r#"{"a": 1, "a": 1}"#, r#"[{"b": {"a": 1, "c": 2, "a": 3}}]"#] {
            let message = parse(text).expect_err("twice").to_string();
            assert!(message.contains("file: not valid JSON: the key `a` is there twice"), "{message}");
        }
    }
}
