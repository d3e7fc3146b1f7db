//! A run from its configuration alone: data, statistics, policy.

use std::sync::Arc;

use burn::tensor::Device;
use evo1::{
    Components, Policy, Published,
    config::{Cameras, PolicyConfig},
    device::allow_tf32,
    normalize::Statistics,
};
use evo1_data::{Augmentation, DataConfig, Mixture, Part, Share, Suites};
use tracing::warn;

use crate::{
    Error, HeldOutConfig, Result, RunOptions, TrainConfig, Trainer,
    config::{Compute, DataSource, StatisticsSource},
    data::DatasetBatches,
    evaluate::{Probe, open_plain},
    identity::{differ, in_words},
    robot,
    trainer::Source,
};

impl Trainer {
    /// A new run: opens the data and the policy that the configuration names. `progress` is told of the episodes that
    /// statistics were made of, and of all. Where the folder holds a run of the same configuration, that one goes on.
    ///
    /// # Errors
    /// When anything that the configuration names is missing or does not fit together, or the folder holds another run.
    pub fn open(config: TrainConfig, device: &Device, progress: impl FnMut(usize, usize)) -> Result<Self> {
        Self::open_as::<Published>(config, device, &RunOptions::new(&Suites::default()), progress)
    }

    /// [`Self::open`] of a policy that may be made of other components, with suites of a program's own and among several
    /// processes.
    ///
    /// # Errors
    /// As there.
    pub fn open_as<C: Components>(
        config: TrainConfig,
        device: &Device,
        options: &RunOptions<'_>,
        progress: impl FnMut(usize, usize),
    ) -> Result<Trainer<C>> {
        config.validate()?;
        // Before anything that takes minutes.
        let lock = options.lock(&config.output)?;
        if config.has_begun() {
            check_is_run_of(&config)?;
            drop(lock);
            return Self::reopen_as(config, device, options);
        }
        allow(config.compute, device)?;
        let (data, suites) = (data_of(&config)?, options.suites);
        let open = |policy: &PolicyConfig, cameras| {
            Mixture::open_with(&data, policy.action.horizon, cameras, suites).map_err(Error::from)
        };
        let (mut policy, mixture) = match config.policy.open_existing::<C>(config.seed, device)? {
            Some(policy) => {
                let mixture = match open(&policy.config, &policy.config.cameras) {
                    // The policy comes from another robot: this one's cameras take the places of the other's.
                    Err(Error::Data(evo1_data::Error::Cameras { .. })) => open(&policy.config, &Cameras::default())?,
                    opened => opened?,
                };
                (policy, mixture)
            }
            None => {
                let described = config.policy.preset_config()?;
                let mixture = open(&described, &described.cameras)?;
                let tasks = mixture.sources().iter().flat_map(|source| source.dataset.tasks().values());
                let policy = config.policy.initialize(described, config.seed, tasks.map(String::as_str), device)?;
                (policy, mixture)
            }
        };
        let mixture = Arc::new(mixture);
        let statistics = config.statistics.of(policy.statistics.take(), &mixture, progress)?;
        let changes = robot::fit(&mut policy.config, &statistics, &mixture);
        if config.policy.from.is_some() && !changes.is_empty() {
            warn!("the policy comes from another robot and takes this one's {}", changes.join("; "));
        }
        C::check(&policy.config, "the data").map_err(evo1::Error::from)?;
        policy.config.validate_statistics(&statistics, "the data")?;
        policy.statistics = Some(statistics);
        if config.statistics != StatisticsSource::Data {
            for misfit in robot::misfits(&policy, &mixture)? {
                warn!("{misfit}; `statistics: data` makes others");
            }
        }
        Trainer::begin(config.clone(), policy, Arc::clone(&options.processes), lock, |policy| {
            source_of(policy, mixture, &config, options)
        })
    }

    /// A run that goes on from the newest checkpoint in its folder.
    ///
    /// # Errors
    /// When there is none, or the data that the run's configuration names is no longer there.
    pub fn reopen(config: TrainConfig, device: &Device) -> Result<Self> {
        Self::reopen_as::<Published>(config, device, &RunOptions::new(&Suites::default()))
    }

    /// [`Self::reopen`] of a policy that may be made of other components, with suites of a program's own and among several
    /// processes.
    ///
    /// # Errors
    /// As there.
    pub fn reopen_as<C: Components>(
        config: TrainConfig,
        device: &Device,
        options: &RunOptions<'_>,
    ) -> Result<Trainer<C>> {
        allow(config.compute, device)?;
        let data = data_of(&config)?;
        Trainer::resume_with(config.clone(), device, options, |policy| {
            let PolicyConfig { cameras, action, .. } = &policy.config;
            let mixture = Mixture::open_with(&data, action.horizon, cameras, options.suites)?;
            source_of(policy, Arc::new(mixture), &config, options)
        })
    }
}

/// Fails unless the folder of a configuration holds a run that began with the same one.
fn check_is_run_of(config: &TrainConfig) -> Result<()> {
    let of = |config: &TrainConfig| serde_json::to_value(config).expect("a configuration is JSON");
    let (begun, mut differences) = (TrainConfig::of_run(&config.output, &[])?, Vec::new());
    differ("configuration", &of(&begun), &of(config), &mut differences);
    if differences.is_empty() {
        return Ok(());
    }
    let got = format!("{}, whose run is another one: {}", config.output.display(), in_words(&differences));
    Err(Error::config("output", "a folder without a run in it (`--resume` goes on with one)", got))
}

/// Makes the process compute in a number type that is none of tensors.
fn allow(compute: Compute, device: &Device) -> Result<()> {
    match compute {
        Compute::Tf32 => Ok(allow_tf32(device)?),
        Compute::F32 | Compute::Bf16 => Ok(()),
    }
}

/// What a run trains on, of a mixture, and what it looks at besides.
fn source_of<C: Components>(
    policy: &Policy<C>,
    mixture: Arc<Mixture>,
    config: &TrainConfig,
    options: &RunOptions<'_>,
) -> Result<Source> {
    let probe = |held_out: &HeldOutConfig| {
        let data = match &held_out.data {
            Some(data) => data.read()?,
            None => DataConfig { part: Part::HeldOut(held_out.episodes), ..config.data.read()? },
        };
        let mixture = open_plain(&data, policy, options.suites)?;
        let HeldOutConfig { batches, batch_size, .. } = *held_out;
        Ok::<_, Error>(Probe { mixture, batches, batch_size, seed: config.seed })
    };
    let held_out = config.held_out.as_ref().map(probe).transpose()?;
    let batches = batches_for(policy, mixture, config, config.share(&*options.processes))?;
    Ok(Source { batches, held_out })
}

/// The data's configuration, in which samples come as they are where the frozen model's outputs are kept.
fn data_of(config: &TrainConfig) -> Result<DataConfig> {
    let mut data = config.data.read()?;
    if let Some(HeldOutConfig { data: None, episodes, .. }) = config.held_out {
        data.part = Part::Trained(episodes);
    }
    if config.cache_frozen && data.augmentation != Augmentation::None {
        let expected = "false where frames are augmented: no sample comes twice";
        return Err(Error::config("cache_frozen", expected, true));
    }
    Ok(data)
}

/// The batches of a mixture for a policy. A policy with one set of statistics uses it for every dataset.
pub(crate) fn batches_for<C: Components>(
    policy: &Policy<C>,
    mixture: Arc<Mixture>,
    config: &TrainConfig,
    share: Share,
) -> Result<Box<DatasetBatches>> {
    let mut preparer = policy.preparer();
    preparer.statistics = preparer.statistics.map(|statistics| robot::shared(statistics, &mixture));
    Ok(Box::new(DatasetBatches::new(mixture, preparer, config, share)?))
}

impl StatisticsSource {
    /// The statistics of the policy that is trained; `own` are those that it has.
    fn of(&self, own: Option<Statistics>, mixture: &Mixture, progress: impl FnMut(usize, usize)) -> Result<Statistics> {
        match (self, own) {
            (Self::Policy, Some(own)) => Ok(own),
            (Self::Policy, None) | (Self::Data, _) => Ok(mixture.statistics(progress)?),
            (Self::Dataset(name), _) => {
                let all = mixture.statistics(progress)?;
                let known = || all.robots().map(|(key, _)| key).collect::<Vec<_>>().join(", ");
                all.keep(name).ok_or_else(|| Error::config("statistics.dataset", format!("one of {}", known()), name))
            }
            (Self::File(path), _) => Ok(Statistics::read(path)?),
        }
    }
}

impl DataSource {
    /// The data's configuration.
    pub fn read(&self) -> Result<DataConfig> {
        match self {
            Self::File(path) => Ok(DataConfig::read(path)?),
            Self::Inline(serde_json::Value::Null) => {
                Err(Error::config("data", "the path of a data configuration, or its contents", "nothing"))
            }
            Self::Inline(value) => DataConfig::parse(&value.to_string())
                .map_err(|message| Error::config("data", "a data configuration", message)),
        }
    }
}
