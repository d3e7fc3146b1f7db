//! What several test suites need: for the tests of this workspace, and of components of one's own.
//!
//! No model depends on it. The devices that tests run on are those of [`test_devices`](crate::device::test_devices).

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};

use crate::{
    ActionChunk, Frame,
    rng::{RngExt, stream},
    weights::TensorReader,
};

/// The path of a file or folder in `fixtures/`, which holds what PyTorch and other programs computed. It is there in a
/// clone of the repository alone, not in a published crate.
pub fn fixture(name: impl AsRef<Path>) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures")).join(name)
}

/// A frame of noise: the same for the same seed and size.
///
/// # Panics
/// When `width` or `height` is 0.
pub fn frame(seed: u64, width: usize, height: usize) -> Frame {
    let mut rng = stream(seed, "frame");
    Frame::new(width, height, (0..width * height * 3).map(|_| rng.random()).collect()).expect("a frame has pixels")
}

/// Reads the parameters themselves.
#[derive(Debug, Clone, Copy)]
pub struct Values;

impl TensorReader for Values {
    fn read<const D: usize>(&self, param: &Tensor<D>) -> Option<Tensor<D>> {
        Some(param.clone())
    }
}

/// What can be read as floats and compared.
pub trait Floats {
    /// The shape: empty for a single number, the length for a list.
    fn shape(&self) -> Vec<usize>;

    /// The values, row-major.
    fn floats(&self) -> Vec<f64>;
}

impl Floats for f64 {
    fn shape(&self) -> Vec<usize> {
        Vec::new()
    }

    fn floats(&self) -> Vec<f64> {
        vec![*self]
    }
}

impl<T: Copy + Into<f64>> Floats for [T] {
    fn shape(&self) -> Vec<usize> {
        vec![self.len()]
    }

    fn floats(&self) -> Vec<f64> {
        self.iter().map(|&value| value.into()).collect()
    }
}

impl<T: Copy + Into<f64>, const N: usize> Floats for [T; N] {
    fn shape(&self) -> Vec<usize> {
        self.as_slice().shape()
    }

    fn floats(&self) -> Vec<f64> {
        self.as_slice().floats()
    }
}

impl<T: Copy + Into<f64>> Floats for Vec<T> {
    fn shape(&self) -> Vec<usize> {
        self.as_slice().shape()
    }

    fn floats(&self) -> Vec<f64> {
        self.as_slice().floats()
    }
}

impl Floats for TensorData {
    fn shape(&self) -> Vec<usize> {
        self.shape().to_vec()
    }

    fn floats(&self) -> Vec<f64> {
        self.iter().collect()
    }
}

impl<const D: usize> Floats for Tensor<D> {
    fn shape(&self) -> Vec<usize> {
        self.dims().to_vec()
    }

    fn floats(&self) -> Vec<f64> {
        self.to_data().floats()
    }
}

impl Floats for ActionChunk {
    fn shape(&self) -> Vec<usize> {
        vec![self.horizon(), self.width()]
    }

    fn floats(&self) -> Vec<f64> {
        self.values().floats()
    }
}

/// The largest magnitude among `values`; 0 where there is none.
pub fn largest(values: &(impl Floats + ?Sized)) -> f64 {
    values.floats().iter().fold(0.0, |largest, value| value.abs().max(largest))
}

/// Asserts that `got` has the shape of `want`, and that no value is farther from the wanted one than `tolerance` times the
/// [`largest`] magnitude of `want`: the tolerance is relative, and the same bound holds for every value.
///
/// # Panics
/// When it is not so, or a value is NaN, with `what` and the first value that is too far.
#[track_caller]
pub fn assert_close(what: &str, got: &(impl Floats + ?Sized), want: &(impl Floats + ?Sized), tolerance: f64) {
    assert_within(what, got, want, tolerance * largest(want));
}

/// Asserts that `got` has the shape of `want`, and that no value is farther from the wanted one than `bound`: the tolerance
/// is absolute.
///
/// # Panics
/// When it is not so, or a value is NaN, with `what` and the first value that is too far.
#[track_caller]
pub fn assert_within(what: &str, got: &(impl Floats + ?Sized), want: &(impl Floats + ?Sized), bound: f64) {
    assert_eq!(got.shape(), want.shape(), "{what}: shape");
    for (index, (got, want)) in got.floats().into_iter().zip(want.floats()).enumerate() {
        let is_within = (got - want).abs() <= bound;
        assert!(is_within, "{what}, value {index}: {got} is not {want}, and {bound:e} is allowed");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn what_is_too_far_misshapen_or_not_a_number_is_refused() {
        assert_close("relative", &[101.0, 1.0], &[100.0, 2.0], 0.01);
        assert_within("absolute", &[1.5_f32, 2.0], &[1.0, 2.0], 0.5);
        for (got, want, bound) in [
            (vec![1.5, 2.0], vec![1.0, 2.0], 0.4),
            (vec![1.0], vec![1.0, 2.0], 0.4),
            (vec![f64::NAN, 2.0], vec![1.0, 2.0], 0.4),
            (vec![1.0, 2.0], vec![1.0, f64::NAN], 0.4),
            (vec![f64::INFINITY, 2.0], vec![f64::INFINITY, 2.0], f64::INFINITY),
        ] {
            let message = format!("{got:?} is not {want:?} within {bound}");
            assert!(catch_unwind(|| assert_within("refused", &got, &want, bound)).is_err(), "{message}");
        }
        assert!(catch_unwind(|| assert_close("refused", &[102.0, 1.0], &[100.0, 1.0], 0.01)).is_err());
    }

    #[test]
    fn the_floats_of_everything_are_its_values_row_by_row() {
        let data = TensorData::from([[1.0_f32, -3.0], [2.0, 0.0]]);
        let chunk = ActionChunk::new(2, vec![1.0, -3.0, 2.0, 0.0]);
        assert_eq!((Floats::shape(&data), data.floats()), (Floats::shape(&chunk), chunk.floats()));
        assert_eq!(largest(&data), 3.0);
        assert_eq!(frame(1, 4, 2), frame(1, 4, 2));
        assert_ne!(frame(1, 4, 2), frame(2, 4, 2));
    }
}
