//! Configuration files, and values set from the command line.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Reads a YAML or TOML file (by its ending: `.toml`, else YAML) with some values set to others, each written
/// `dotted.path=value` with a YAML value.
///
/// # Errors
/// When the file is neither, or a key or value is not one that the configuration may have; the message names it.
pub fn read_config<T: DeserializeOwned>(path: &Path, sets: &[String]) -> Result<T> {
    let text = evo1::files::read_text(path)?;
    let is_toml = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"));
    parse_config(path, &text, is_toml, sets)
}

/// [`read_config`] for a text; `path` stands for it in messages.
pub fn parse_config<T: DeserializeOwned>(path: &Path, text: &str, is_toml: bool, sets: &[String]) -> Result<T> {
    let invalid = |message: String| Error::ConfigFile { path: path.to_owned(), message };
    let parsed: Value = if is_toml {
        toml::from_str(text).map_err(|error| invalid(error.to_string()))?
    } else {
        serde_saphyr::from_str(text).map_err(|error| invalid(error.to_string()))?
    };
    let mut root = match parsed {
        Value::Object(_) => parsed,
        Value::Null => Value::Object(Map::new()),
        _ => return Err(invalid("expected keys and values at its top".into())),
    };
    for set in sets {
        let (key, value) = set
            .split_once('=')
            .ok_or_else(|| Error::config("--set", "written key=value, as in optimizer.learning_rate=1e-4", set))?;
        let value = serde_saphyr::from_str(value).map_err(|error| Error::config(key, "a YAML value", error))?;
        assign(&mut root, key, value)?;
    }
    serde_path_to_error::deserialize(root).map_err(|error| {
        let (field, message) = (error.path().to_string(), error.inner().to_string());
        invalid(if field == "." { message } else { format!("`{field}`: {message}") })
    })
}

/// Sets the value of a dotted path in a document. Groups of keys on the way are made where they are missing or `null`.
///
/// # Errors
/// When the path goes through something that is no group of keys; the document is then as it was.
pub fn assign(root: &mut Value, path: &str, value: Value) -> Result<()> {
    let mut group = "the document".to_owned();
    let mut place = root;
    for key in path.split('.') {
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let fields = place.as_object_mut().ok_or_else(|| {
            Error::config(path, "a path through groups of keys", format!("{group}, which is a value"))
        })?;
        place = fields.entry(key).or_insert(Value::Null);
        group = format!("`{key}`");
    }
    *place = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Run {
        steps: u64,
        optimizer: Optimizer,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Optimizer {
        rate: f64,
        clip: Option<f64>,
    }

    fn parse(text: &str, is_toml: bool, sets: &[&str]) -> Result<Run> {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        parse_config(Path::new("run"), text, is_toml, &sets)
    }

    #[test]
    fn yaml_and_toml_say_the_same_and_sets_win() {
        let expected = Run { steps: 7, optimizer: Optimizer { rate: 1e-3, clip: Some(1.0) } };
        assert_eq!(parse("steps: 7\noptimizer: {rate: 1e-3, clip: 1.0}", false, &[]).expect("YAML"), expected);
        assert_eq!(parse("steps = 7\n[optimizer]\nrate = 1e-3\nclip = 1.0", true, &[]).expect("TOML"), expected);
        let set = parse("steps: 7", false, &["optimizer.rate=1e-3", "steps=9", "optimizer.clip=null"]).expect("sets");
        assert_eq!(set, Run { steps: 9, optimizer: Optimizer { rate: 1e-3, clip: None } });
    }

    #[test]
    fn what_is_wrong_is_named() {
        let message = |text, sets: &[&str]| parse(text, false, sets).expect_err("wrong").to_string();
        let unknown = message("optimizer: {lr: 1e-3}", &[]);
        assert!(unknown.contains("optimizer") && unknown.contains("unknown field `lr`"), "{unknown}");
        assert!(message("steps: many", &[]).contains("`steps`"), "{}", message("steps: many", &[]));
        assert!(message("", &["steps"]).contains("key=value"));
        assert!(message("steps: 7", &["steps.more=1"]).contains("`steps`, which is a value"));
        assert!(message("steps: [", &[]).starts_with("run: "));
    }

    #[test]
    fn a_path_is_made_where_it_is_missing() {
        let mut root = json!({ "a": { "b": 1 }, "c": 2, "n": null });
        for (path, value) in [("a.d.e", 3), ("c", 4), ("n.m", 5)] {
            assign(&mut root, path, json!(value)).expect("a path");
        }
        assert_eq!(root, json!({ "a": { "b": 1, "d": { "e": 3 } }, "c": 4, "n": { "m": 5 } }));
        let mut nothing = Value::Null;
        assign(&mut nothing, "a.b", json!(1)).expect("a path");
        assert_eq!(nothing, json!({ "a": { "b": 1 } }));
    }

    #[test]
    fn a_path_does_not_go_through_a_value() {
        let before = json!({ "a": { "b": 1 }, "list": [{ "c": 2 }] });
        for (path, named) in
            [("a.b.c", "`b`, which is a value"), ("list.c.d", "`list`"), ("a.b.c.d", "`a.b.c.d` must be")]
        {
            let mut root = before.clone();
            let message = assign(&mut root, path, json!(3)).expect_err("a value is in the way").to_string();
            assert!(message.contains(named), "{message}");
            assert_eq!(root, before);
        }
        let message = assign(&mut json!(7), "a", json!(3)).expect_err("no group").to_string();
        assert!(message.contains("the document, which is a value"), "{message}");
    }
}
