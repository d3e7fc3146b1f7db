//! Our own configuration file, `evo1.json`, for what the references' files cannot say.

use std::path::Path;

use serde_json::Value;

use super::PolicyConfig;
use crate::{Error, Result, files::read_text, json};

/// The name of the file.
pub const CONFIG_FILE: &str = "evo1.json";

impl PolicyConfig {
    /// Reads an `evo1.json`: the configuration, and `file: key` for every key that it has no use for.
    pub fn read(path: &Path) -> Result<(Self, Vec<String>)> {
        Self::parse(path, &read_text(path)?)
    }

    /// Reads a configuration from the text of an `evo1.json`; `path` stands for it in messages.
    pub fn parse(path: &Path, text: &str) -> Result<(Self, Vec<String>)> {
        let document: Value = json::parse(path, text)?;
        check_numbers(path, "", &document)?;
        let config: Self = json::parse(path, text)?;
        config.validate(&path.display().to_string())?;
        let mut unknown = Vec::new();
        collect_unknown("", &document, &config.document(), &mut unknown);
        let unknown = unknown.into_iter().map(|key| format!("{}: {key}", path.display())).collect();
        Ok((config, unknown))
    }

    /// The whole configuration as JSON.
    pub fn document(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Fails at a number that no size is, so that products of a few sizes do not overflow.
fn check_numbers(path: &Path, name: &str, value: &Value) -> Result<()> {
    match value {
        Value::Object(fields) => {
            fields.iter().try_for_each(|(key, value)| check_numbers(path, &format!("{name}.{key}"), value))
        }
        Value::Array(items) => items.iter().try_for_each(|value| check_numbers(path, name, value)),
        Value::Number(number) if number.as_u64().is_some_and(|number| u32::try_from(number).is_err()) => {
            Err(Error::invalid(path.display(), name.trim_start_matches('.'), "at most 4294967295", number))
        }
        _ => Ok(()),
    }
}

/// Keys of `given`, at any depth, that `known` does not have.
fn collect_unknown(prefix: &str, given: &Value, known: &Value, unknown: &mut Vec<String>) {
    let (Value::Object(given), Value::Object(known)) = (given, known) else { return };
    for (key, value) in given {
        match known.get(key) {
            Some(known) => collect_unknown(&format!("{prefix}{key}."), value, known, unknown),
            None => unknown.push(format!("{prefix}{key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_comes_back_and_unknown_keys_are_named() {
        let config = PolicyConfig { max_views: 2, ..PolicyConfig::tiny() };
        let mut document = config.document();
        let path = Path::new("evo1.json");
        assert_eq!(PolicyConfig::parse(path, &document.to_string()).expect("own"), (config.clone(), vec![]));
        document["vlm"]["language"]["extra"] = 1.into();
        let (read, unknown) = PolicyConfig::parse(path, &document.to_string()).expect("own");
        assert_eq!((read, unknown), (config, vec!["evo1.json: vlm.language.extra".to_owned()]));
        document["vlm"]["vision"]["patch_size"] = u64::MAX.into();
        let message = PolicyConfig::parse(path, &document.to_string()).expect_err("too large").to_string();
        assert_eq!(message, "evo1.json: `vlm.vision.patch_size` must be at most 4294967295, got 18446744073709551615");
        document["vlm"]["vision"]["patch_size"] = 0.into();
        assert!(PolicyConfig::parse(path, &document.to_string()).is_err());
    }
}
