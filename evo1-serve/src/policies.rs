//! The policies that a server has, and how one takes the place of another.

use std::sync::{Arc, PoisonError, RwLock};

use evo1::config::Cameras;

use crate::{
    Description, Error, Model, Result, ServerOptions,
    protocol::{ObservationOptions, Shape, json::JsonOptions},
    watchdog::Pace,
};

/// Loads a policy anew.
pub type Load = Arc<dyn Fn() -> Result<Arc<dyn Model>, String> + Send + Sync>;

/// A model by a name, and how it is loaded anew.
#[derive(Clone)]
pub struct NamedModel {
    /// What clients call it.
    pub name: String,
    /// The model.
    pub model: Arc<dyn Model>,
    /// Gives the model that takes its place when the server is told to reload; nothing does when `None`.
    pub load: Option<Load>,
}

impl NamedModel {
    /// A model by its own name, which stays.
    pub fn of(model: Arc<dyn Model>) -> Self {
        Self { name: model.description().policy, model, load: None }
    }
}

/// A model in use, with what is known of it without asking it again.
pub(crate) struct Served {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) shape: Shape,
    pub(crate) description: Description,
    /// How observations are read whose images have names.
    pub(crate) observations: ObservationOptions,
    /// How messages of the JSON protocol are read.
    pub(crate) json: JsonOptions,
    /// How long its predictions take.
    pub(crate) pace: Pace,
}

impl Served {
    pub(crate) fn new(model: Arc<dyn Model>, options: &ServerOptions) -> Self {
        let description = model.description();
        let cameras = match options.cameras.as_slice() {
            [] => description.cameras.clone(),
            names => {
                let sizes = Some(&description.cameras.sizes).filter(|sizes| sizes.len() == names.len());
                Cameras { sizes: sizes.cloned().unwrap_or_default(), ..Cameras::named(names.iter().cloned()) }
            }
        };
        Self {
            shape: model.shape(),
            observations: ObservationOptions { cameras, prompt: options.prompt.clone() },
            json: JsonOptions {
                swaps_channels: options.swaps_channels,
                scaling: options.scaling.unwrap_or_else(|| model.scaling()),
            },
            pace: Pace::default(),
            description,
            model,
        }
    }
}

/// The place of a policy, which another model may take.
struct Place {
    name: String,
    load: Option<Load>,
    served: RwLock<Arc<Served>>,
}

/// The policies of a server; the first is that of clients that name none.
pub(crate) struct Policies(Vec<Place>);

impl Policies {
    /// # Errors
    /// When there is none, two have one name, or a name could not stand in a path where there are several.
    pub(crate) fn new(models: Vec<NamedModel>, options: &ServerOptions) -> Result<Self> {
        let wrong = |message: String| Err(Error::Option { option: "policy", message });
        if models.is_empty() {
            return wrong("there must be one".into());
        }
        for (place, NamedModel { name, .. }) in models.iter().enumerate() {
            if models.len() > 1 && !is_policy_name(name) {
                return wrong(format!("a name has letters, digits, `.`, `-` and `_` only, got `{name}`"));
            }
            if models[..place].iter().any(|other| other.name == *name) {
                return wrong(format!("two policies are called `{name}`"));
            }
        }
        let place = |NamedModel { name, model, load }| Place {
            name,
            load,
            served: RwLock::new(Arc::new(Served::new(model, options))),
        };
        Ok(Self(models.into_iter().map(place).collect()))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|place| place.name.as_str())
    }

    pub(crate) fn name(&self, place: usize) -> &str {
        &self.0[place].name
    }

    /// The place of a policy by its name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|place| place.name == name)
    }

    /// The model that has a place now.
    pub(crate) fn served(&self, place: usize) -> Arc<Served> {
        self.0[place].served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Served>> {
        (0..self.0.len()).map(|place| self.served(place)).collect()
    }

    pub(crate) fn load(&self, place: usize) -> Option<Load> {
        self.0[place].load.clone()
    }

    /// Gives a place to another model. Requests that wait still have the old one.
    pub(crate) fn replace(&self, place: usize, served: Arc<Served>) {
        *self.0[place].served.write().unwrap_or_else(PoisonError::into_inner) = served;
    }
}

/// Whether a policy can be called so in a path.
pub fn is_policy_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}
