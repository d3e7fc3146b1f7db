//! Values that no trained network has.

use std::fmt;

use burn::tensor::{DType, TensorData};
use rayon::prelude::*;
use serde::Serialize;

/// Half precision's largest number. Published weights stay far below it: they have been computed with in half precision.
pub const LARGEST_PLAUSIBLE: f64 = 65504.0;

/// What is wrong with the values of a tensor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Audit {
    /// Values that are no number.
    pub nan: usize,
    /// Infinite values.
    pub infinite: usize,
    /// Finite values beyond ± [`LARGEST_PLAUSIBLE`].
    pub huge: usize,
    /// The largest finite magnitude among the huge ones; 0 when there are none.
    pub largest: f64,
}

/// A tensor with values that no trained network has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The tensor's name in its file.
    pub tensor: String,
    /// What is wrong with it.
    #[serde(flatten)]
    pub audit: Audit,
}

impl Audit {
    /// Looks at every value of a tensor. Integers are always plausible.
    pub fn of(data: &TensorData) -> Self {
        let is_plausible = match data.dtype() {
            DType::F16 => none_above(data, 0x7bff, |bytes| i16::from_ne_bytes(bytes) & i16::MAX),
            DType::BF16 => none_above(data, 0x477f, |bytes| i16::from_ne_bytes(bytes) & i16::MAX),
            DType::F32 => {
                let largest = (LARGEST_PLAUSIBLE as f32).to_bits().cast_signed();
                none_above(data, largest, |bytes| i32::from_ne_bytes(bytes) & i32::MAX)
            }
            DType::F64 => none_above(data, LARGEST_PLAUSIBLE.to_bits().cast_signed(), |bytes| {
                i64::from_ne_bytes(bytes) & i64::MAX
            }),
            _ => true,
        };
        if is_plausible {
            return Self::default();
        }
        data.iter::<f64>().fold(Self::default(), |audit, value| match value.abs() {
            magnitude if magnitude.is_nan() => Self { nan: audit.nan + 1, ..audit },
            magnitude if magnitude.is_infinite() => Self { infinite: audit.infinite + 1, ..audit },
            magnitude if magnitude > LARGEST_PLAUSIBLE => {
                Self { huge: audit.huge + 1, largest: audit.largest.max(magnitude), ..audit }
            }
            _ => audit,
        })
    }

    /// Whether nothing is wrong.
    pub fn is_plausible(&self) -> bool {
        *self == Self::default()
    }

    /// Values that are NaN or infinite.
    pub fn non_finite(&self) -> usize {
        self.nan + self.infinite
    }

    /// What is wrong with two parts of a tensor.
    pub fn and(self, other: Self) -> Self {
        Self {
            nan: self.nan + other.nan,
            infinite: self.infinite + other.infinite,
            huge: self.huge + other.huge,
            largest: self.largest.max(other.largest),
        }
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nan, infinite, huge, largest } = *self;
        let counts =
            [(nan, "NaN".to_owned()), (infinite, "infinite".to_owned()), (huge, format!("up to {largest:.1e}"))];
        let parts: Vec<String> =
            counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({})", self.tensor, self.audit)
    }
}

/// Whether every magnitude is at most the one of these bits. The bits of IEEE magnitudes are ordered as the numbers are,
/// infinity above every finite one and NaN above it.
fn none_above<const SIZE: usize, B: PartialOrd + Copy + Sync>(
    data: &TensorData,
    largest: B,
    magnitude: impl Fn([u8; SIZE]) -> B + Sync,
) -> bool {
    const BLOCK: usize = 1 << 16;
    let (values, _) = data.as_bytes().as_chunks::<SIZE>();
    // Without a branch for each value, so that many are compared at once.
    values
        .par_chunks(BLOCK)
        .all(|block| block.iter().fold(0_u32, |above, value| above | u32::from(magnitude(*value) > largest)) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

    #[test]
    fn plausible_values_of_every_number_type_pass() {
        let values = TensorData::from([0.0_f32, -0.0, 1.0, -60000.0, 1e-30]);
        for dtype in FLOATS {
            assert!(Audit::of(&values.clone().convert_dtype(dtype)).is_plausible(), "{dtype:?}");
        }
        assert!(Audit::of(&TensorData::from([i64::MAX])).is_plausible());
    }

    #[test]
    fn every_kind_of_bad_value_is_counted() {
        let values = TensorData::from([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e37, 7e4, 1.0]);
        for dtype in [DType::F64, DType::F32, DType::BF16] {
            let audit = Audit::of(&values.clone().convert_dtype(dtype));
            assert_eq!((audit.nan, audit.infinite, audit.huge), (1, 2, 2), "{dtype:?}");
            assert!((audit.largest / 1e37 - 1.0).abs() < 0.01, "{dtype:?}");
        }
        let audit = Audit::of(&values.convert_dtype(DType::F16));
        assert_eq!((audit.nan, audit.infinite, audit.huge), (1, 4, 0));
        assert_eq!(audit.to_string(), "1 NaN, 4 infinite");
    }
}
