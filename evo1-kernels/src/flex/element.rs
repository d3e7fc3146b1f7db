//! The number types that kernels read.

use half::{bf16, f16};

/// A float type that widens to `f32`, in which everything is computed.
pub(crate) trait Element: burn::tensor::Element + pulp::bytemuck::Pod {
    /// Whether this is `f32` itself.
    const IS_F32: bool = false;
    /// Whether this is `bf16`, for which some processors have products.
    const IS_BF16: bool = false;
    /// The value as `f32`.
    fn widen(self) -> f32;
    /// The nearest value of this type.
    fn narrow(value: f32) -> Self;
}

/// A value in another type; as it is where the types are one.
#[inline(always)]
pub(crate) fn converted<E: Element, O: Element>(value: E) -> O {
    if (E::IS_F32 && O::IS_F32) || (E::IS_BF16 && O::IS_BF16) {
        pulp::bytemuck::cast(value)
    } else {
        O::narrow(value.widen())
    }
}

impl Element for f32 {
    const IS_F32: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    const IS_BF16: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// Rounds to nearest, ties to even, as the hardware does; NaN stays NaN.
    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        Self::from_bits((if value.is_nan() { quiet } else { rounded }) as u16)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        f16::from_f32(value)
    }
}
