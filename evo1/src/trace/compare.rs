//! How far a trace is from the tensors of a reference.

use std::collections::BTreeSet;

use burn::tensor::TensorData;
use evo1_core::{
    config::Profile,
    weights::{WeightFile, floats},
};

use super::Tensors;
use crate::Result;

/// How far a tensor is from its reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The tensor's name in the reference.
    pub name: String,
    /// The largest absolute difference.
    pub absolute: f64,
    /// The largest absolute difference over the reference's largest magnitude. A gradient that is zero in exact
    /// arithmetic, such as that of the key biases of an attention without mask, holds rounding noise only: it is
    /// measured against the norm of all gradients.
    pub relative: f64,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceComparison {
    /// Every tensor that both have, in the reference's order.
    pub differences: Vec<Difference>,
    /// Tensors of the reference that were not computed, or have another shape.
    pub missing: Vec<String>,
}

impl TraceComparison {
    /// Whether every tensor is there and within `tolerance` of its reference, relative to the reference's largest
    /// magnitude.
    pub fn is_within(&self, tolerance: f64) -> bool {
        self.missing.is_empty() && self.differences.iter().all(|difference| difference.relative <= tolerance)
    }
}

/// Prefixes of tensors that belong to other semantics than the file's own.
const OTHER_SEMANTICS: [&str; 4] = ["flash.", "paper.", "masked_context.", "vlm_bf16."];

/// How the names of tensors begin that are given, or that the trainer's optimiser makes of the gradients.
const NOT_TRACED: [&str; 6] = ["in.", "hyper.", "param_after_step", "decay_group.", "lr_schedule.", "step1."];

/// Single tensors that are given.
const GIVEN: [&str; 3] = ["step0.t", "step0.noise_raw", "vlm_bf16.in.pixel_values"];

/// Gradients smaller than this part of their norm are rounding noise in single precision.
const ROUNDING_NOISE: f64 = 1e-6;

/// Compares a trace with the tensors of a reference.
///
/// Inputs, tensors of semantics that the trace did not compute, and optimiser steps are left out. A trace of another
/// profile than the reference's own (`flash.*` in an `official` file) is compared where the profile does not matter, and
/// with the tensors that the reference holds for it.
///
/// # Errors
/// When the reference cannot be read.
pub fn compare(ours: &Tensors, reference: &WeightFile, profile: Profile) -> Result<TraceComparison> {
    let gradient_norm = match reference.contains("step0.grad_norm") {
        true => floats(&reference.read("step0.grad_norm")?).first().copied().map_or(0.0, f64::from),
        false => 0.0,
    };
    let mut comparison = TraceComparison::default();
    for name in compared(ours, reference, profile) {
        match ours.get(name) {
            Some(data) if data.shape().as_slice() == reference.shape(name)? => {
                comparison.differences.push(difference(name, data, &reference.read(name)?, gradient_norm));
            }
            _ => comparison.missing.push(name.to_owned()),
        }
    }
    Ok(comparison)
}

/// The reference's tensors that a trace of a profile has to have.
fn compared<'a>(ours: &Tensors, reference: &'a WeightFile, profile: Profile) -> Vec<&'a str> {
    let sibling = match profile {
        Profile::OfficialFlash => Some("flash."),
        Profile::Paper => Some("paper."),
        Profile::Official | Profile::LeRobot => None,
    };
    let is_sibling = sibling.is_some_and(|prefix| reference.names().any(|name| name.starts_with(prefix)));
    let traced: BTreeSet<&str> =
        OTHER_SEMANTICS.into_iter().filter(|prefix| ours.keys().any(|name| name.starts_with(prefix))).collect();
    let is_traced = |name: &&str| !GIVEN.contains(name) && !NOT_TRACED.iter().any(|prefix| name.starts_with(prefix));
    let is_meant = |name: &&str| match OTHER_SEMANTICS.into_iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) => traced.contains(prefix),
        None => !is_sibling || name.starts_with("vision.") || name.starts_with("projector."),
    };
    reference.names().filter(is_traced).filter(is_meant).collect()
}

fn difference(name: &str, got: &TensorData, want: &TensorData, gradient_norm: f64) -> Difference {
    let pairs = got.iter::<f64>().zip(want.iter::<f64>());
    let absolute = pairs.map(|(got, want)| (got - want).abs()).fold(0.0, nan_max);
    let largest = want.iter::<f64>().map(f64::abs).fold(0.0, nan_max);
    let is_noise = name.starts_with("grad.") && largest < ROUNDING_NOISE * gradient_norm;
    let scale = if is_noise { gradient_norm } else { largest };
    let relative = if absolute == 0.0 { 0.0 } else { absolute / scale };
    Difference { name: name.to_owned(), absolute, relative }
}

/// The larger number, and NaN if one of them is: a difference that is not a number must not look small.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}
