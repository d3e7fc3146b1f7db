//! What a run takes of memory, as far as it is known before its first step.
//!
//! Weights, gradients and the optimiser's state are counted. What a step keeps for its gradients is estimated: it is
//! proportional to what goes into the linear layers and comes out of them, for every token.

use std::fmt;

use burn::tensor::DType;
use evo1::{
    Components, Policy, VisionLanguageModel,
    cost::Workload,
    weights::{ParamSpec, params},
};
use serde::{Deserialize, Serialize};

use crate::{Error, LearnerConfig, Result, TrainConfig, data::PREFETCH, frozen, parameters::parameters};

/// Memory that a run takes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEstimate {
    /// Devices of this process, each of which has the following.
    pub replicas: u64,
    /// The weights, and those in another number type that they are computed with.
    pub weights: u64,
    /// The gradients of a step, of several batches where they are accumulated.
    pub gradients: u64,
    /// The optimiser's two moments of each trained parameter.
    pub optimizer: u64,
    /// The average of the weights, which the first device has.
    pub average: u64,
    /// What a step keeps of a batch for its gradients: an estimate.
    pub activations: u64,
    /// Batches that are made ahead, on the host: an estimate.
    pub batches: u64,
    /// What the host takes for a moment where a checkpoint is saved: burn's record of the optimiser, and its bytes.
    pub saving: u64,
    /// What the frozen model makes of all samples, on the disk: an estimate, 0 where it is not kept.
    pub frozen: u64,
}

/// Of what goes into and comes out of the linear layers, how often as much is kept for gradients in all. Measured as the
/// process's peak on the CPU (`KNOWN_ISSUES.md` says how far from it).
const KEPT: f64 = 0.9;

/// Of what goes into and comes out of the largest layer, how often as much there is at a time while nothing is kept.
const RUNNING: f64 = 2.0;

impl MemoryEstimate {
    /// What the replicas of a policy take, each with `batch_size` observations at a time.
    pub(crate) fn of<C: Components>(
        policy: &Policy<C>,
        learner: &LearnerConfig,
        config: &TrainConfig,
        replicas: usize,
        samples: usize,
    ) -> Self {
        let (all, trained) = parameters(&policy.network).iter().fold((0, 0), |(all, trained), parameter| {
            let count = parameter.count() as u64;
            (all + count, trained + if parameter.is_trained { count } else { 0 })
        });
        let single = DType::F32.size() as u64;
        let batch = (config.batch_size * policy.config.max_views * 3 * policy.config.vlm.image_size.pow(2)) as u64;
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        } as u64;
        let ahead = (PREFETCH as u64 * workers * batch).min((config.prefetch_mb as u64) << 20);
        // Sums of 2ⁿ batches' gradients wait for each other.
        let sums = u64::from(config.accumulate.ilog2()) + 1;
        Self {
            replicas: replicas as u64,
            weights: all * single - rounded_off::<C>(policy, learner) + casts::<C>(policy, learner),
            gradients: trained * single * sums,
            optimizer: trained * single * 2,
            average: if learner.ema.is_some() { trained * single } else { 0 },
            activations: activations(policy, learner, config.batch_size),
            saving: trained * single * 2 * 2,
            batches: ahead.max(batch) + (workers + 2 * replicas as u64) * batch,
            frozen: match config.cache_frozen {
                true => samples as u64 * frozen::expected_bytes(policy, learner.compute),
                false => 0,
            },
        }
    }

    /// What a device takes for certain.
    pub fn certain(&self) -> u64 {
        self.weights + self.gradients + self.optimizer + self.average
    }

    /// Fails where what is certain does not fit, and says where what is estimated does not. On the host the weights are
    /// there already, and the optimiser's state where the run `goes_on`.
    ///
    /// # Errors
    /// When the run cannot fit.
    pub(crate) fn check(&self, room: &Room, goes_on: bool) -> Result<Option<String>> {
        if let Some(limit) = room.of_device {
            if self.certain() > limit {
                let expected = format!("at least {} for {self}", text(self.certain()));
                return Err(Error::config("device_memory_mb", expected, text(limit)));
            }
            if self.certain() + self.activations > limit {
                return Ok(Some(format!("a device with {} may have too little memory for {self}", text(limit))));
            }
        }
        let (Some(available), true) = (room.of_host, room.is_on_host) else { return Ok(None) };
        let optimizer = if goes_on { 0 } else { self.optimizer };
        let certain = (self.gradients + optimizer) * self.replicas + self.average;
        if certain > available {
            return Err(Error::Memory {
                needed: text(certain),
                available: text(available),
                estimate: self.to_string(),
            });
        }
        // The gradients are gone where a checkpoint is saved.
        let step = (self.gradients + self.activations) * self.replicas;
        let expected = certain - self.gradients * self.replicas + step.max(self.saving) + self.batches;
        let warning = || format!("{} of memory are available, which may be too little for {self}", text(available));
        Ok((expected > available).then(warning))
    }
}

/// The memory that there is, in bytes, as far as it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Of a device, as the configuration says.
    pub(crate) of_device: Option<u64>,
    /// Of the host, on top of what is taken.
    pub(crate) of_host: Option<u64>,
    /// Whether devices take what the host has.
    pub(crate) is_on_host: bool,
}

/// Bytes that weights below adapters do not take because they are rounded.
fn rounded_off<C: Components>(policy: &Policy<C>, learner: &LearnerConfig) -> u64 {
    let Some(bits) = learner.lora.as_ref().and_then(|lora| lora.bits) else { return 0 };
    // With a scale of 16 bits for each 32 weights.
    let saved = f64::from(32 - bits) / 8.0 - 2.0 / 32.0;
    (adapted::<C>(policy) as f64 * saved) as u64
}

/// Weights that have adapters.
fn adapted<C: Components>(policy: &Policy<C>) -> u64 {
    let all = parameters(&policy.network);
    let adapted =
        all.iter().filter(|weight| all.iter().any(|factor| factor.path.strip_prefix(&weight.path) == Some(".lora.a")));
    adapted.map(|weight| weight.count() as u64).sum()
}

/// Bytes of weights in the number type of the computation that are kept for the run: those of a frozen model.
fn casts<C: Components>(policy: &Policy<C>, learner: &LearnerConfig) -> u64 {
    if learner.compute == DType::F32
        || learner.trained.vision
        || learner.trained.language
        || learner.frozen_outputs.is_some()
    {
        return 0;
    }
    let vlm: usize = parameters(&policy.network.vlm).iter().map(|parameter| parameter.count()).sum();
    (vlm * learner.compute.size()) as u64
}

/// What a step keeps of `batch_size` observations.
fn activations<C: Components>(policy: &Policy<C>, learner: &LearnerConfig, batch_size: usize) -> u64 {
    let config = &policy.config;
    let Workload { tiles, tokens, .. } = Workload::of(config);
    let (vlm, trained) = (&policy.network.vlm, &learner.trained);
    let of_vision = tiles * (config.vlm.patches_per_side().pow(2) + 1);
    let (mut of_vlm, mut of_action, mut running) = (0, 0, 0);
    for ParamSpec { path, shape, .. } in params(&policy.network).iter().filter(|spec| spec.is_transposed()) {
        let (input, output) = (shape[0], shape[1]);
        let (tokens, width, kept) = match path.strip_prefix("vlm.") {
            Some(path) if vlm.is_vision(path) => {
                let tokens =
                    if path.starts_with("projector") { tiles * config.vlm.tokens_per_tile() } else { of_vision };
                (tokens, input + output, trained.vision.then_some(&mut of_vlm))
            }
            Some(_) => (tokens, input + output, (trained.vision || trained.language).then_some(&mut of_vlm)),
            // Keys and values of the context are there once for each draw.
            None if path.contains("kv_proj") => {
                (vlm.context_len(tokens), input + output * learner.draws, Some(&mut of_action))
            }
            None => (config.action.horizon * learner.draws, input + output, Some(&mut of_action)),
        };
        match kept {
            Some(kept) => *kept += tokens * width,
            None => running = running.max(tokens * width),
        }
    }
    if learner.gradient_checkpointing {
        // What passes between layers, and one layer's.
        let (vision, language) = (&config.vlm.vision, &config.vlm.language);
        let between =
            vision.num_layers * of_vision * vision.hidden_size + language.num_layers * tokens * language.hidden_size;
        of_vlm = of_vlm / (vision.num_layers + language.num_layers).max(1) + between;
    }
    let values = KEPT * (of_vlm + of_action) as f64 + RUNNING * running as f64;
    let of_batch = (values * (batch_size * learner.compute.size()) as f64) as u64;
    // Weights with their adapters added, and the gradients of those.
    let composed = 2 * adapted::<C>(policy) * DType::F32.size() as u64;
    let cast = match learner.compute {
        DType::F32 => 0,
        dtype => parameters(&policy.network).iter().map(|parameter| parameter.count()).sum::<usize>() * dtype.size(),
    };
    of_batch + composed + cast as u64
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { weights, gradients, optimizer, average, activations, batches, saving, frozen, .. } = *self;
        write!(
            f,
            "{} of weights, {} of gradients, {} of the optimiser's",
            text(weights),
            text(gradients),
            text(optimizer)
        )?;
        if average > 0 {
            write!(f, ", {} of averaged weights", text(average))?;
        }
        write!(f, ", about {} of activations", text(activations))?;
        write!(
            f,
            "; of the host about {} for batches, and {} where a checkpoint is saved",
            text(batches),
            text(saving)
        )?;
        if frozen > 0 {
            write!(f, "; on the disk about {} of the frozen model's outputs", text(frozen))?;
        }
        Ok(())
    }
}

/// Bytes in words.
fn text(bytes: u64) -> String {
    match bytes {
        0..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ESTIMATE: MemoryEstimate = MemoryEstimate {
        replicas: 2,
        weights: 100,
        gradients: 40,
        optimizer: 80,
        average: 10,
        activations: 1000,
        batches: 7,
        saving: 160,
        frozen: 0,
    };

    fn check(of_device: Option<u64>, of_host: Option<u64>, goes_on: bool) -> Result<Option<String>> {
        ESTIMATE.check(&Room { of_device, of_host, is_on_host: true }, goes_on)
    }

    #[test]
    fn what_cannot_fit_is_refused_and_what_may_not_is_said() {
        assert!(check(None, None, false).expect("nothing is known").is_none());
        assert!(check(Some(229), None, false).is_err());
        assert!(check(Some(230), None, false).expect("it may fit").is_some());
        assert!(check(Some(1230), None, false).expect("it fits").is_none());
        // The weights are there already.
        assert!(check(None, Some(249), false).is_err());
        assert!(check(None, Some(250), false).expect("it may fit").is_some());
        assert!(check(None, Some(2257), false).expect("it fits").is_none());
        // And the optimiser's state, where a run goes on.
        assert!(check(None, Some(89), true).is_err());
        assert!(check(None, Some(90), true).expect("it may fit").is_some());
        let message = check(None, Some(0), false).expect_err("nothing is left").to_string();
        assert!(message.contains("0.0 MB are available") && message.contains("of the optimiser's"), "{message}");
        // A device with memory of its own takes none of the host's.
        let apart = Room { of_device: None, of_host: Some(0), is_on_host: false };
        assert!(ESTIMATE.check(&apart, false).expect("nothing is known").is_none());
    }
}
