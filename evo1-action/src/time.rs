//! Sinusoidal tables: of the time of the flow, and of a step's place in the chunk.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Rows of the time table.
pub const TIME_ROWS: usize = 1000;

/// Base of the sinusoids' wavelengths.
const BASE: f32 = 10_000.0;

/// Rows `positions` of the table whose even channels are `sin(p · base^(−c / channels))` and whose odd channels are the
/// cosine of the same angle: `[positions, channels]`.
pub fn sinusoid(positions: &[usize], channels: usize, device: &Device) -> Tensor<2> {
    let values = sinusoid_values(positions, channels);
    Tensor::from_data(TensorData::new(values, [positions.len(), channels]), (device, DType::F32))
}

/// [`sinusoid`] on the host, row by row.
pub fn sinusoid_values(positions: &[usize], channels: usize) -> Vec<f32> {
    let frequencies: Vec<f32> =
        (0..channels.div_ceil(2)).map(|pair| ((2 * pair) as f32 * -(BASE.ln() / channels as f32)).exp()).collect();
    positions
        .iter()
        .flat_map(|&position| {
            frequencies.iter().flat_map(move |frequency| {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                [sin, cos]
            })
        })
        .collect()
}

/// Row of the time table for a time in [0, 1]: `clamp(⌊κ · t⌋, 0, 999)`.
pub fn time_index(time: f32, time_scale: f64) -> usize {
    clamped((time * time_scale as f32).floor().into())
}

/// Row of the time table for Euler step `step` of `steps`: `⌊κ · step / steps⌋`, in double precision as the references
/// compute it.
pub fn step_index(step: usize, steps: usize, time_scale: f64) -> usize {
    path_index(step as f64 / steps as f64, time_scale)
}

/// [`time_index`] in double precision.
pub(crate) fn path_index(time: f64, time_scale: f64) -> usize {
    clamped((time * time_scale).floor())
}

fn clamped(index: f64) -> usize {
    index.clamp(0.0, (TIME_ROWS - 1) as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_time_scales_differ_as_the_references_do() {
        assert_eq!(step_index(1, 4, 1000.0), 250);
        assert_eq!(step_index(1, 4, 999.0), 249);
        assert_eq!(time_index(1.0, 1000.0), 999, "the last row stands for the end of the flow");
        assert_eq!(time_index(0.5, 999.0), 499);
        assert_eq!(time_index(-0.1, 999.0), 0);
    }
}
