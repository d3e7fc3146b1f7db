//! The least time that a device's peak allows for the stages of a prediction.

use std::collections::BTreeMap;

use evo1::{
    Components, Result,
    config::{PolicyConfig, Precision},
    cost::{PartCost, Workload, costs_as},
};
use serde::{Deserialize, Serialize};

use crate::Peak;

/// The least milliseconds of stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// What the device does at most.
    pub peak: Peak,
    /// By stage, and of all of them as `total`.
    pub milliseconds: BTreeMap<String, f64>,
}

/// Bounds of a prediction of `batch` observations: every product once, and every weight read once, those of the action
/// expert in every step but for its keys and values of the context. Activations are taken to stay in caches.
///
/// # Errors
/// When the configuration names components that there are not.
pub fn bounds<C: Components>(
    config: &PolicyConfig,
    workload: &Workload,
    batch: usize,
    precision: Precision,
    peak: Peak,
) -> Result<Bounds> {
    let action = &config.action;
    let of_context = 2 * (action.num_layers * action.embed_dim * action.embed_dim) as u64;
    let mut work: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for PartCost { part, name, parameters, flops } in costs_as::<C>(config, workload)? {
        // Rows of a table are looked up.
        if flops == 0 {
            continue;
        }
        let (dtype, read) = match (part, name) {
            ("action", "state encoder") => (precision.action, parameters),
            ("action", "blocks") => {
                let once = of_context.min(parameters);
                (precision.action, once + workload.steps as u64 * (parameters - once))
            }
            ("action", _) => (precision.action, workload.steps as u64 * parameters),
            _ => (precision.vlm, parameters),
        };
        let stage = if name == "projector" { name } else { part };
        let [gflop, gbyte] = work.entry(stage).or_default();
        *gflop += 1e-9 * (batch as u64 * flops) as f64;
        *gbyte += 1e-9 * (read * dtype.size() as u64) as f64;
    }
    let mut milliseconds: BTreeMap<String, f64> =
        work.into_iter().map(|(stage, [gflop, gbyte])| (stage.to_owned(), peak.bound(gflop, gbyte))).collect();
    milliseconds.insert("total".to_owned(), milliseconds.values().sum());
    Ok(Bounds { peak, milliseconds })
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use evo1::Published;

    use super::*;

    fn of(steps: usize, batch: usize, peak: Peak) -> BTreeMap<String, f64> {
        let config = PolicyConfig::evo1();
        let workload = Workload { steps, ..Workload::of(&config) };
        let precision = Precision::all(DType::BF16);
        bounds::<Published>(&config, &workload, batch, precision, peak).expect("bounds").milliseconds
    }

    #[test]
    fn arithmetic_bounds_vision_and_memory_the_steps() {
        let peak = Peak { tflops: 790.0, gbs: 4_000.0 };
        let [one, more] = [of(32, 1, peak), of(32, 8, peak)];
        assert!((more["vision"] / one["vision"] - 8.0).abs() < 1e-9);
        assert!((1.0..2.0).contains(&(more["action"] / one["action"])), "{} {}", more["action"], one["action"]);
        assert!((2.0..8.0).contains(&one["total"]), "{one:?}");
        let halves = of(16, 1, peak)["action"] / one["action"];
        assert!((0.5..0.6).contains(&halves), "{halves}");
    }
}
