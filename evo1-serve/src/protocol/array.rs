//! numpy's arrays, as the bytes of a message hold them.

use std::borrow::Cow;

use half::f16;

/// Most dimensions.
const MAX_RANK: usize = 8;

/// An array in row-major order; its data fills its shape.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array<'a> {
    /// numpy's name of the type, for example `<f4`.
    pub(super) dtype: &'a str,
    pub(super) shape: Vec<usize>,
    pub(super) data: Cow<'a, [u8]>,
}

impl<'a> Array<'a> {
    /// An array whose data lies as its shape says.
    pub(super) fn new(dtype: &'a str, shape: Vec<usize>, data: &'a [u8]) -> Result<Self, String> {
        let elements = shape.iter().try_fold(item_size(dtype)?, |product, &size| product.checked_mul(size));
        if elements != Some(data.len()) {
            return Err(format!("an array of shape {shape:?} and dtype {dtype} has {} bytes", data.len()));
        }
        Ok(Self { dtype, shape, data: data.into() })
    }

    /// An array whose elements lie `strides` apart, from the element `offset` on, in data that may hold others too. No
    /// element may be in two places, so that an array is never larger than what it is made of.
    pub(super) fn strided(
        dtype: &'a str,
        shape: Vec<usize>,
        strides: &[usize],
        offset: usize,
        data: &'a [u8],
    ) -> Result<Self, String> {
        let item = item_size(dtype)?;
        let outside = || format!("an array of shape {shape:?} and strides {strides:?} is not in {} bytes", data.len());
        if shape.len() > MAX_RANK || shape.len() != strides.len() {
            return Err(outside());
        }
        let count = shape.iter().try_fold(1, |product: usize, &size| product.checked_mul(size)).ok_or_else(outside)?;
        let steps = || shape.iter().zip(strides);
        let last = steps()
            .try_fold(offset, |at, (&size, &stride)| at.checked_add(size.saturating_sub(1).checked_mul(stride)?));
        let end = last.and_then(|last| last.checked_add(1)?.checked_mul(item)).ok_or_else(outside)?;
        if count > data.len() / item || (count > 0 && end > data.len()) {
            return Err(outside());
        }
        if count == 0 {
            return Ok(Self { dtype, shape, data: Cow::Borrowed(&[]) });
        }
        let packed = packed_strides(&shape);
        if steps().zip(&packed).all(|((&size, &stride), &packed)| size == 1 || stride == packed) {
            return Ok(Self { dtype, shape, data: data[offset * item..][..count * item].into() });
        }
        let mut gathered = Vec::with_capacity(count * item);
        for index in 0..count {
            let place = |((&size, &stride), &packed): ((&usize, &usize), &usize)| index / packed % size * stride;
            let at = offset + steps().zip(&packed).map(place).sum::<usize>();
            gathered.extend_from_slice(&data[at * item..][..item]);
        }
        Ok(Self { dtype, shape, data: gathered.into() })
    }

    pub(super) fn is_float(&self) -> bool {
        matches!(self.dtype, "<f2" | "<f4" | "<f8")
    }

    /// The elements as single-precision numbers.
    pub(super) fn floats(&self) -> Result<Vec<f32>, String> {
        let four =
            |read: fn([u8; 4]) -> f32| self.data.chunks_exact(4).map(|b| read([b[0], b[1], b[2], b[3]])).collect();
        let eight = |read: fn([u8; 8]) -> f32| {
            self.data.chunks_exact(8).map(|b| read([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).collect()
        };
        match self.dtype {
            "<f2" => Ok(self.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()),
            "<f4" => Ok(four(f32::from_le_bytes)),
            "<i4" => Ok(four(|bytes| i32::from_le_bytes(bytes) as f32)),
            "<f8" => Ok(eight(|bytes| f64::from_le_bytes(bytes) as f32)),
            "<i8" => Ok(eight(|bytes| i64::from_le_bytes(bytes) as f32)),
            "|u1" | "|b1" => Ok(self.data.iter().map(|&value| value.into()).collect()),
            "|i1" => Ok(self.data.iter().map(|&value| f32::from(value as i8)).collect()),
            other => Err(format!("numbers, got dtype {other}")),
        }
    }
}

/// Distances in elements between neighbours along each axis of a row-major array.
pub(super) fn packed_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

fn item_size(dtype: &str) -> Result<usize, String> {
    match dtype {
        "|u1" | "|i1" | "|b1" => Ok(1),
        "<f2" => Ok(2),
        "<f4" | "<i4" => Ok(4),
        "<f8" | "<i8" => Ok(8),
        other => Err(format!("arrays of dtype {other} are not read; use uint8, int, float16, float32 or float64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_apart_are_put_side_by_side() {
        let data = [0, 1, 2, 3, 4, 5];
        let strided = |shape: &[usize], strides: &[usize], offset| {
            Array::strided("|u1", shape.to_vec(), strides, offset, &data).map(|array| array.data.into_owned())
        };
        assert_eq!(strided(&[2, 3], &[3, 1], 0), Ok(data.to_vec()));
        assert_eq!(strided(&[3, 2], &[1, 3], 0), Ok(vec![0, 3, 1, 4, 2, 5]));
        assert_eq!(strided(&[2, 2], &[3, 1], 1), Ok(vec![1, 2, 4, 5]));
        assert_eq!(strided(&[1, 2], &[999, 1], 4), Ok(vec![4, 5]), "an axis of one has no stride");
        assert_eq!(strided(&[0, 9], &[1, 1], 0), Ok(vec![]));
    }

    #[test]
    fn an_array_is_never_larger_than_its_data() {
        let strided = |shape: &[usize], strides: &[usize], offset| {
            Array::strided("<f4", shape.to_vec(), strides, offset, &[0; 8]).expect_err("refused")
        };
        for (shape, strides, offset) in [
            (&[3][..], &[1][..], 0),
            (&[1], &[1], 2),
            (&[1 << 40, 1 << 40], &[0, 0], 0),
            (&[1000], &[0], 0),
            (&[2], &[usize::MAX], 1),
            (&[2], &[1, 1], 0),
            (&[1; 9], &[1; 9], 0),
        ] {
            assert!(strided(shape, strides, offset).contains("is not in 8 bytes"), "{shape:?}");
        }
        assert!(Array::new("<f4", vec![3], &[0; 8]).is_err());
        assert!(Array::new("<c8", vec![1], &[0; 8]).expect_err("unknown").contains("<c8"));
    }
}
