//! Components that a configuration chooses by name.
//!
//! A component that a study swaps is a type with a name ([`Component`]). A configuration holds a [`Choice`]: the name, and
//! settings of the component's own. [`OneOf`] puts types side by side, of which a configuration chooses one: the built-in
//! ones are lists of this kind, and a program that brings a component of its own puts it in front of them:
//!
//! ```text
//! OneOf<Mine, BuiltIn>        `{name: mine, width: 64}` or the name of a built-in one
//! ```

use std::fmt::{self, Display};

use burn::{
    module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor},
    tensor::Device,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// A type that configurations choose by name.
pub trait Component: Sized {
    /// The names under which a configuration chooses it: one, or those of all the types that it stands for.
    fn names() -> Vec<&'static str>;

    /// Fails unless `choice`, the value of `field`, names it.
    fn require(choice: &Choice, field: &str) -> Result<()> {
        let names = Self::names();
        match names.contains(&choice.name()) {
            true => Ok(()),
            false => Err(Error::invalid("configuration", field, format!("one of {}", names.join(", ")), choice)),
        }
    }
}

/// A component by its name, with settings of its own.
///
/// In files it is a name (`joint-kv`), a name with numbers (`beta(2, 2)`), or a map with the settings beside the name
/// (`{name: mine, width: 64}`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Value", try_from = "Value")]
pub struct Choice {
    name: String,
    numbers: Vec<f64>,
    settings: Map<String, Value>,
}

impl Choice {
    /// A component without settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), numbers: Vec::new(), settings: Map::new() }
    }

    /// A component with numbers: `beta(2, 2)`.
    pub fn with_numbers(name: impl Into<String>, numbers: &[f64]) -> Self {
        Self { numbers: numbers.to_vec(), ..Self::new(name) }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The settings as the component's own type, which should refuse unknown fields.
    ///
    /// # Errors
    /// Naming `field` and the setting, when the settings are not those of the type.
    pub fn settings<T: DeserializeOwned>(&self, field: &str) -> Result<T> {
        if !self.numbers.is_empty() {
            return Err(Error::invalid("configuration", field, format!("`{}` without numbers", self.name), self));
        }
        serde_path_to_error::deserialize(Value::Object(self.settings.clone())).map_err(|error| {
            let path = match error.path().to_string().as_str() {
                "." => field.to_owned(),
                below => format!("{field}.{below}"),
            };
            Error::invalid("configuration", path, format!("a setting of `{}`: {}", self.name, error.inner()), self)
        })
    }

    /// The numbers, of which there are to be `N`, and no other settings. `shown` is how they are written.
    ///
    /// # Errors
    /// When they are others.
    pub fn numbers<const N: usize>(&self, field: &str, shown: &str) -> Result<[f64; N]> {
        let numbers = <[f64; N]>::try_from(self.numbers.as_slice()).ok().filter(|_| self.settings.is_empty());
        numbers.ok_or_else(|| Error::invalid("configuration", field, shown, self))
    }

    /// Fails when there are settings, for a component that has none.
    pub fn require_plain(&self, field: &str) -> Result<()> {
        self.numbers::<0>(field, &format!("`{}` without settings", self.name)).map(|_| ())
    }

    /// Any count of numbers, and no other settings.
    ///
    /// # Errors
    /// When there are settings by name.
    pub fn list(&self, field: &str, shown: &str) -> Result<&[f64]> {
        match self.settings.is_empty() {
            true => Ok(&self.numbers),
            false => Err(Error::invalid("configuration", field, shown, self)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let Some((name, rest)) = text.split_once('(') else {
            return (!text.is_empty()).then(|| Self::new(text));
        };
        let numbers = rest.strip_suffix(')')?.split(',').map(|number| number.trim().parse::<f64>().ok());
        let numbers: Vec<f64> = numbers.collect::<Option<_>>()?;
        numbers.iter().all(|number| number.is_finite()).then(|| Self::with_numbers(name.trim(), &numbers))
    }
}

impl Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.settings.is_empty() {
            return write!(f, "{}", Value::from(self.clone()));
        }
        f.write_str(&self.name)?;
        if !self.numbers.is_empty() {
            let numbers: Vec<String> = self.numbers.iter().map(f64::to_string).collect();
            write!(f, "({})", numbers.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Choice {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Choice".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A component by its name, with numbers, or with settings of its own beside it.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] },
            ],
        })
    }
}

impl From<Choice> for Value {
    fn from(choice: Choice) -> Self {
        if choice.settings.is_empty() {
            return Self::String(choice.to_string());
        }
        let mut fields = choice.settings;
        fields.insert("name".into(), choice.name.into());
        Self::Object(fields)
    }
}

impl TryFrom<Value> for Choice {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let expected = "expected a name, a name with numbers such as `beta(2, 2)`, or settings with a `name`";
        match value {
            Value::String(text) => Self::parse(&text).ok_or_else(|| format!("{expected}, got `{text}`")),
            Value::Object(mut settings) => match settings.remove("name") {
                Some(Value::String(name)) => Ok(Self { settings, ..Self::new(name) }),
                _ => Err(format!("{expected}, got {}", Value::Object(settings))),
            },
            other => Err(format!("{expected}, got {other}")),
        }
    }
}

/// One of some types: the first, or one of the rest.
///
/// Where all of them are modules, it is one too, and its parameters have the paths of the one that is there.
#[derive(Debug, Clone, PartialEq)]
pub enum OneOf<First, Rest> {
    /// The first.
    First(First),
    /// One of the others.
    Rest(Rest),
}

impl<First: Component, Rest: Component> Component for OneOf<First, Rest> {
    fn names() -> Vec<&'static str> {
        let mut names = First::names();
        names.extend(Rest::names());
        names
    }
}

impl<First: Component, Rest: Component> OneOf<First, Rest> {
    /// The one that `choice` names, the value of `field`.
    ///
    /// # Errors
    /// When it names none of them, or making it fails.
    pub fn choose(
        choice: &Choice,
        field: &str,
        first: impl FnOnce() -> Result<First>,
        rest: impl FnOnce() -> Result<Rest>,
    ) -> Result<Self> {
        Self::require(choice, field)?;
        match First::names().contains(&choice.name()) {
            true => first().map(Self::First),
            false => rest().map(Self::Rest),
        }
    }
}

/// Runs the same expression on whichever it is.
#[macro_export]
macro_rules! one_of {
    ($value:expr, $it:ident => $body:expr) => {
        match $value {
            $crate::OneOf::First($it) => $body,
            $crate::OneOf::Rest($it) => $body,
        }
    };
}

/// Runs the same expression on whichever it is, and says in the result which it was.
macro_rules! map_one_of {
    ($value:expr, $it:ident => $body:expr) => {
        match $value {
            OneOf::First($it) => OneOf::First($body),
            OneOf::Rest($it) => OneOf::Rest($body),
        }
    };
}

impl<First: Module + ModuleDisplay, Rest: Module + ModuleDisplay> Module for OneOf<First, Rest> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        one_of!(self, it => it.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        map_one_of!(self, it => it.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        map_one_of!(self, it => it.to_device(device))
    }

    fn train(self) -> Self {
        map_one_of!(self, it => it.train())
    }

    fn valid(&self) -> Self {
        map_one_of!(self, it => it.valid())
    }

    fn materialize(self) -> Self {
        map_one_of!(self, it => it.materialize())
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        one_of!(self, it => it.visit(visitor));
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        map_one_of!(self, it => it.map(mapper))
    }
}

impl<First: ModuleDisplay, Rest: ModuleDisplay> ModuleDisplayDefault for OneOf<First, Rest> {
    fn content(&self, content: Content) -> Option<Content> {
        one_of!(self, it => ModuleDisplayDefault::content(it, content))
    }

    fn num_params(&self) -> usize {
        one_of!(self, it => ModuleDisplayDefault::num_params(it))
    }
}

impl<First: ModuleDisplay, Rest: ModuleDisplay> ModuleDisplay for OneOf<First, Rest> {}

/// A part of a module whose field's name is left out of the paths of its parameters: they stand beside the module's own.
#[derive(Debug, Clone)]
pub struct Flat<M>(pub M);

/// The name under which a part is entered again that was left to leave its name out.
const LEFT_OUT: &str = "";

impl<M: Module + ModuleDisplay> Module for Flat<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        Self(self.0.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        Self(self.0.to_device(device))
    }

    fn train(self) -> Self {
        Self(self.0.train())
    }

    fn valid(&self) -> Self {
        Self(self.0.valid())
    }

    fn materialize(self) -> Self {
        Self(self.0.materialize())
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        visitor.exit_module(LEFT_OUT, LEFT_OUT);
        self.0.visit(visitor);
        visitor.enter_module(LEFT_OUT, LEFT_OUT);
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        mapper.exit_module(LEFT_OUT, LEFT_OUT);
        let mapped = Self(self.0.map(mapper));
        mapper.enter_module(LEFT_OUT, LEFT_OUT);
        mapped
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for Flat<M> {
    fn content(&self, content: Content) -> Option<Content> {
        ModuleDisplayDefault::content(&self.0, content)
    }

    fn num_params(&self) -> usize {
        ModuleDisplayDefault::num_params(&self.0)
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Flat<M> {}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};

    use super::*;
    use crate::{device::test_devices, weights::params};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        width: usize,
    }

    #[test]
    fn a_choice_is_written_as_it_was_read() {
        for text in [r#""joint-kv""#, r#""beta(2, 1.5)""#, r#"{"name":"mine","width":64}"#] {
            let choice: Choice = serde_json::from_str(text).expect("a choice");
            let written: Value = serde_json::to_value(&choice).expect("JSON");
            assert_eq!(written, serde_json::from_str::<Value>(text).expect("JSON"));
        }
        for text in ["7", r#""""#, r#""beta(2""#, r#""beta(2, x)""#, r#""beta(NaN, 1)""#, r#"{"width":64}"#] {
            let message = serde_json::from_str::<Choice>(text).expect_err("no choice").to_string();
            assert!(message.contains("expected a name"), "{message}");
        }
    }

    #[test]
    fn settings_are_read_strictly() {
        let read = |text: &str| {
            let choice: Choice = serde_json::from_str(text).expect("a choice");
            choice.settings::<Settings>("action.expert").map_err(|error| error.to_string())
        };
        assert_eq!(read(r#"{"name":"mine","width":64}"#), Ok(Settings { width: 64 }));
        let unknown = read(r#"{"name":"mine","widht":64}"#).expect_err("unknown");
        assert!(unknown.contains("`action.expert") && unknown.contains("widht"), "{unknown}");
        assert!(read(r#""mine""#).expect_err("missing").contains("width"));
        assert!(read(r#""mine(3)""#).expect_err("numbers").contains("without numbers"));
    }

    #[derive(burn::module::Module, Debug)]
    struct Whole {
        first: Linear,
        second: Flat<Pair>,
    }

    #[derive(burn::module::Module, Debug)]
    struct Pair {
        left: Linear,
        right: Linear,
    }

    #[test]
    fn a_flat_part_and_one_of_some_leave_no_trace_in_paths() {
        let device = test_devices().remove(0);
        let linear = || LinearConfig::new(2, 2).with_bias(false).init(&device);
        let whole = Whole { first: linear(), second: Flat(Pair { left: linear(), right: linear() }) };
        let whole: OneOf<Linear, Whole> = OneOf::Rest(whole);
        let paths: Vec<String> = params(&whole).into_iter().map(|spec| spec.path).collect();
        assert_eq!(paths, ["first.weight", "left.weight", "right.weight"]);
    }
}
