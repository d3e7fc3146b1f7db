//! The weights of a separable resampling filter along one axis.

use std::ops::Range;

/// Which input pixels every output pixel of one axis is made of, and how much of each.
pub(super) struct AxisWeights<W> {
    windows: Vec<Range<usize>>,
    /// `[output, longest window]`
    weights: Vec<W>,
    longest: usize,
}

impl<W: Copy> AxisWeights<W> {
    /// Input pixels of one output pixel, and a weight for each.
    pub(super) fn at(&self, output: usize) -> (Range<usize>, &[W]) {
        let window = self.windows[output].clone();
        let start = output * self.longest;
        (window.clone(), &self.weights[start..start + window.len()])
    }

    /// [`Self::at`] of every output pixel, first to last.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Range<usize>, &[W])> {
        (0..self.windows.len()).map(|output| self.at(output))
    }

    /// The same windows with every weight converted.
    pub(super) fn map<V>(self, convert: impl Fn(W) -> V) -> AxisWeights<V> {
        let weights = self.weights.into_iter().map(convert).collect();
        AxisWeights { windows: self.windows, weights, longest: self.longest }
    }
}

/// Normalised weights of an axis that goes from `input` to `output` pixels, for a `kernel` κ that ends at ±2.
///
/// Output pixel i has its centre at c = s·(i + ½), where s = `input` / `output`; it is made of the pixels within
/// 2·max(s, 1) of c, each weighted by κ((j + ½ − c) / max(s, 1)) and divided by the sum of all weights.
///
/// `round` is the identity where a library computes in f64, and a rounding to f32 where it stores f32.
pub(super) fn axis_weights(
    input: usize,
    output: usize,
    round: fn(f64) -> f64,
    kernel: fn(f64) -> f64,
) -> AxisWeights<f64> {
    let scale = round(input as f64 / output as f64);
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let inverse = round(1.0 / stretch);
    let center = |i: usize| round(scale * (i as f64 + 0.5));

    let window = |i| {
        // A cast from float to integer drops the fraction and stops at 0, which is what both libraries do.
        let start = (round(center(i) - support) + 0.5) as usize;
        let end = (round(center(i) + support) + 0.5) as usize;
        start..end.min(input)
    };
    let windows = (0..output).map(window).collect::<Vec<_>>();
    let longest = windows.iter().map(Range::len).max().unwrap_or(0);

    let mut weights = vec![0.0; output * longest];
    for (i, (window, row)) in windows.iter().zip(weights.chunks_exact_mut(longest)).enumerate() {
        let mut total = 0.0;
        for (weight, j) in row.iter_mut().zip(window.clone()) {
            *weight = kernel(round((round(j as f64 - center(i)) + 0.5) * inverse));
            total = round(total + *weight);
        }
        for weight in &mut row[..window.len()] {
            *weight = round(*weight / total);
        }
    }
    AxisWeights { windows, weights, longest }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [(usize, usize); 8] =
        [(1, 5), (5, 1), (7, 7), (37, 448), (448, 37), (640, 448), (61, 56), (1280, 448)];

    /// A triangle that ends at ±2.
    fn triangle(x: f64) -> f64 {
        (2.0 - x.abs()).max(0.0)
    }

    #[test]
    fn weights_of_an_output_pixel_sum_to_one() {
        for (input, output) in SIZES {
            for (window, weights) in axis_weights(input, output, |x| x, triangle).iter() {
                assert!(!window.is_empty() && window.end <= input, "{window:?} of {input}");
                assert_eq!(window.len(), weights.len());
                assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{input} → {output}");
            }
        }
    }

    #[test]
    fn windows_are_mirrored_about_the_centre() {
        for (input, output) in SIZES {
            let axis = axis_weights(input, output, |x| x, triangle);
            for i in 0..output {
                let (window, weights) = axis.at(i);
                let (mirrored, mirrored_weights) = axis.at(output - 1 - i);
                for (j, weight) in window.zip(weights) {
                    let other = (input - 1 - j).checked_sub(mirrored.start).and_then(|k| mirrored_weights.get(k));
                    // A pixel at the very edge of the support has weight 0 and may be in one of the windows only.
                    assert!((weight - other.unwrap_or(&0.0)).abs() < 1e-12, "{input} → {output}, {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn shrinking_widens_the_window() {
        assert_eq!(axis_weights(100, 100, |x| x, triangle).at(50).0.len(), 4);
        assert_eq!(axis_weights(400, 100, |x| x, triangle).at(50).0.len(), 16);
        assert_eq!(axis_weights(100, 400, |x| x, triangle).at(200).0.len(), 4);
    }
}
