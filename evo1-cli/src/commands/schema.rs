//! `evo1 schema`: every key of every configuration, from the types that read them.

use clap::{Arg, Args, Command, ValueEnum};
use evo1::config::PolicyConfig;
use eyre::{Result, bail};
use schemars::schema_for;
use serde_json::{Map, Value};

use crate::output;

/// Print the JSON Schema of a configuration, with which editors complete and check it; or the reference of every key.
///
/// Editors that know YAML's language server take it from the file's first line: `# yaml-language-server: $schema=train.json`.
#[derive(Args)]
#[command(after_help = "Examples:\n  evo1 schema train > train.json\n  evo1 schema --markdown > reference.md")]
pub(crate) struct Schema {
    /// The configuration
    #[arg(required_unless_present = "markdown")]
    what: Option<What>,

    /// Print a reference of all of them, and of the server's options, as Markdown
    #[arg(long, conflicts_with = "what")]
    markdown: bool,
}

/// A configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// A training run: `evo1 train --config`.
    Train,
    /// The data of a run: `data` in it, or a file of its own.
    Data,
    /// A study: `evo1 ablate`.
    Study,
    /// A policy: `evo1.json`, and `policy.overrides` of a training run.
    Policy,
}

impl What {
    fn schema(self) -> Result<Value> {
        let schema = match self {
            #[cfg(feature = "train")]
            Self::Train => schema_for!(evo1_train::TrainConfig),
            #[cfg(feature = "data")]
            Self::Data => schema_for!(evo1_data::DataConfig),
            #[cfg(feature = "ablate")]
            Self::Study => schema_for!(crate::ablate::StudyFile),
            Self::Policy => schema_for!(PolicyConfig),
            #[allow(unreachable_patterns, reason = "a build with every command has all of them")]
            _ => bail!("this build reads no such file: build with `--features train`, `data` or `ablate`"),
        };
        Ok(schema.to_value())
    }

    fn heading(self) -> (&'static str, &'static str) {
        match self {
            Self::Train => (
                "Training",
                "`evo1 train --config FILE`, YAML or TOML. `--set optimizer.learning_rate=1e-4` sets a key from the command \
                 line; paths are relative to the folder that the program runs in.",
            ),
            Self::Data => (
                "Data",
                "`data` of a training run, or a file of its own, whose paths are relative to it: `evo1 stats --data FILE`, `evo1 \
                 evaluate --data FILE`. `ARM` and `DATASET` are names of your own.",
            ),
            Self::Study => ("Studies", "`evo1 ablate FILE`. `evo1 ablate --axes` lists the axes."),
            Self::Policy => (
                "Policies",
                "`evo1.json` in a policy's folder, where the references' files cannot say it; `policy.overrides` of a training \
                 run that starts from a preset. The defaults are the published model's (`evo1`); another preset has sizes of its own.",
            ),
        }
    }
}

impl Schema {
    pub(crate) fn run(self, command: Command) -> Result<()> {
        let Some(what) = self.what else {
            return output::print(format_args!("{}", markdown(&command)?));
        };
        output::print(format_args!("{}\n", serde_json::to_string_pretty(&what.schema()?)?))
    }
}

/// The whole reference.
fn markdown(command: &Command) -> Result<String> {
    let mut text = String::from(
        "# Every key\n\nWritten by `evo1 schema --markdown` from the types that read the files. `evo1 schema train` and its like print \
         JSON Schemas, with which editors complete and check a file.\n",
    );
    for what in [What::Train, What::Data, What::Study, What::Policy] {
        let (heading, about) = what.heading();
        let schema = what.schema()?;
        let mut rows = Vec::new();
        let published = if what == What::Policy { PolicyConfig::evo1().document() } else { Value::Null };
        Reference { definitions: schema["$defs"].clone(), published }.keys("", &schema, &mut rows);
        text += &format!(
            "\n## {heading}\n\n{about}\n\n| key | type | default | |\n| --- | --- | --- | --- |\n{}",
            rows.concat()
        );
    }
    text += "\n## Server\n\n`evo1 serve` has no file: these are its options.\n\n| option | default | |\n| --- | --- | --- |\n";
    let serve = command.get_subcommands().find(|command| command.get_name() == "serve");
    text += &serve.into_iter().flat_map(Command::get_arguments).filter_map(option).collect::<String>();
    Ok(text)
}

/// A row for an option of a command.
fn option(argument: &Arg) -> Option<String> {
    let long = argument.get_long()?;
    let takes_values = argument.get_action().takes_values();
    let names = argument.get_value_names().unwrap_or_default().join(" ");
    let values = if takes_values { format!(" {names}") } else { String::new() };
    let defaults = argument.get_default_values().iter().filter(|_| takes_values);
    let defaults = defaults.map(|value| code(&value.to_string_lossy())).collect::<Vec<_>>().join(" ");
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let choices = argument.get_possible_values().into_iter().filter(|_| takes_values).map(|value| {
        let help = value.get_help().map(|help| format!(": {help}")).unwrap_or_default();
        format!("<br>`{}`{}", value.get_name(), cell(&help))
    });
    let variable = argument.get_env().map(|name| format!(" (`{}` in the environment)", name.to_string_lossy()));
    let (choices, variable) = (choices.collect::<String>(), variable.unwrap_or_default());
    Some(format!("| `--{long}{values}` | {defaults} | {}{variable}{choices} |\n", cell(&help)))
}

/// A schema's definitions, which its parts refer to.
struct Reference {
    definitions: Value,
    /// Values that count as defaults.
    published: Value,
}

impl Reference {
    /// Rows for the keys of an object, each followed by those below it.
    fn keys(&self, prefix: &str, object: &Value, rows: &mut Vec<String>) {
        let required: Vec<&str> =
            object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, property) in object["properties"].as_object().into_iter().flatten() {
            let key = format!("{prefix}{name}");
            let published = self.published.pointer(&format!("/{}", key.replace('.', "/")));
            let default = match published.or(property.get("default")) {
                Some(Value::Object(_)) => String::new(),
                Some(default) => code(&written(default)),
                None if required.contains(&name.as_str()) => "*required*".into(),
                None => String::new(),
            };
            let (of, is_nullable) = self.resolved(property);
            let about = property["description"].as_str().or(of["description"].as_str()).unwrap_or_default();
            let kind = self.kind(of) + if is_nullable { " or `null`" } else { "" };
            rows.push(format!("| `{key}` | {kind} | {default} | {}{} |\n", cell(about), self.variants(of)));
            self.below(&key, of, rows);
        }
    }

    /// Rows for what is below a key: keys of a group, of each item of a list, of each value of a map.
    fn below(&self, key: &str, of: &Value, rows: &mut Vec<String>) {
        if of["properties"].is_object() {
            self.keys(&format!("{key}."), of, rows);
        } else if of["items"].is_object() {
            self.below(&format!("{key}[]"), self.resolved(&of["items"]).0, rows);
        } else if of["additionalProperties"].is_object() {
            let name = match key {
                "data_groups" => "ARM",
                "data_groups.ARM" => "DATASET",
                _ => "NAME",
            };
            self.below(&format!("{key}.{name}"), self.resolved(&of["additionalProperties"]).0, rows);
        }
    }

    /// What a schema refers to, and whether it may be `null` instead.
    fn resolved<'a>(&'a self, schema: &'a Value) -> (&'a Value, bool) {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
            return self.resolved(&self.definitions[name]);
        }
        let is_null = |schema: &Value| schema["type"] == "null";
        match schema["anyOf"].as_array().map(Vec::as_slice) {
            Some([one, other]) if is_null(other) => (self.resolved(one).0, true),
            _ => (schema, schema["type"].as_array().is_some_and(|types| types.iter().any(|one| one == "null"))),
        }
    }

    /// The type of a value in words.
    fn kind(&self, schema: &Value) -> String {
        let (schema, _) = self.resolved(schema);
        if let Some(choices) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
            let mut kinds: Vec<String> = choices.iter().map(|choice| self.kind(choice)).collect();
            kinds.dedup();
            return kinds.join(", ");
        }
        if let Some(value) = schema.get("const") {
            return code(&written(value));
        }
        if let Some(values) = schema["enum"].as_array() {
            return values.iter().map(|value| code(&written(value))).collect::<Vec<_>>().join(", ");
        }
        let types = schema["type"].as_array().map_or_else(|| vec![&schema["type"]], |types| types.iter().collect());
        let kind = types.into_iter().filter_map(Value::as_str).find(|kind| *kind != "null");
        match kind {
            Some("array") => match schema["prefixItems"].as_array() {
                Some(items) => {
                    format!("list of {}", items.iter().map(|item| self.kind(item)).collect::<Vec<_>>().join(" and "))
                }
                None => format!("list of {}", self.kind(&schema["items"])),
            },
            Some("object") => match schema["properties"].as_object() {
                Some(fields) if schema["additionalProperties"] == false && fields.len() == 1 && is_variant(schema) => {
                    let field = |(name, value): (&String, &Value)| format!("`{{{name}: …}}` of {}", self.kind(value));
                    fields.iter().map(field).collect()
                }
                Some(fields) if !fields.is_empty() => "group".into(),
                _ => "map".into(),
            },
            Some("integer") => "whole number".into(),
            Some("string") => "text".into(),
            Some("boolean") => "`true`, `false`".into(),
            Some(kind) => kind.into(),
            None => "any value".into(),
        }
    }

    /// What each of a type's choices means, where the types say it.
    fn variants(&self, schema: &Value) -> String {
        let choices = schema["oneOf"].as_array().or(schema["anyOf"].as_array()).into_iter().flatten();
        let described = choices.filter_map(|choice| {
            let about = choice["description"].as_str()?;
            Some(format!("<br>{}: {}", self.kind(choice), cell(about)))
        });
        described.collect()
    }
}

/// Whether an object is a choice with a value: its only key is required.
fn is_variant(schema: &Value) -> bool {
    schema["required"].as_array().is_some_and(|required| required.len() == 1)
}

/// A value as YAML writes it in a line.
fn written(value: &Value) -> String {
    let group = |fields: &Map<String, Value>| {
        fields.iter().map(|(name, value)| format!("{name}: {}", written(value))).collect::<Vec<_>>().join(", ")
    };
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => format!("{{{}}}", group(fields)),
        // What was rounded to single precision is written with its digits.
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(value) if f64::from(value as f32) == value => format!("{:?}", value as f32),
            Some(value) => format!("{value:?}"),
            None => number.to_string(),
        },
        _ => value.to_string(),
    }
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// A text in a cell of a table: in one line, and with names instead of links to items.
fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace("`None`", "`null`");
    let mut parts = text.split("[`");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let Some((path, rest)) = part.split_once("`]") else { continue };
        let rest = match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((_, rest)) => rest,
            None => rest,
        };
        plain += &format!("{}{rest}", code(path.rsplit("::").next().unwrap_or(path)));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_no_links_and_numbers_their_own_digits() {
        assert_eq!(cell("a [`Self::above`] | b\n [`x`](crate::x) c"), "a `above` \\| b `x` c");
        assert_eq!(written(&serde_json::json!(0.9_f32)), "0.9");
        assert_eq!(written(&serde_json::json!({"a": [1, 1e-5]})), "{a: [1, 1e-5]}");
    }
}
