//! Choosing the processor's instructions at run time.

use std::sync::atomic::{AtomicBool, Ordering};

use pulp::{Arch, Simd, WithSimd};

static IS_NARROW: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_narrow(is_narrow: bool) {
    IS_NARROW.store(is_narrow, Ordering::Relaxed);
}

/// Whether vectors of 512 bits are left unused.
pub(crate) fn is_narrow() -> bool {
    IS_NARROW.load(Ordering::Relaxed)
}

/// The widest vectors of the processor that may be used.
pub(crate) fn arch() -> Arch {
    #[cfg(target_arch = "x86_64")]
    if is_narrow()
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        return Arch::V3(simd);
    }
    Arch::new()
}

/// Code that is compiled once for each set of vector instructions. `run` must be marked `#[inline(always)]`, and so must
/// what it calls, or the compiler falls back to the instructions that every processor has.
pub(crate) trait Vectorized: Sized {
    /// What it computes.
    type Output;

    /// Computes it.
    fn run(self) -> Self::Output;

    /// Computes it with the widest vectors that the processor has.
    fn dispatch(self) -> Self::Output {
        struct Call<Kernel>(Kernel);

        impl<Kernel: Vectorized> WithSimd for Call<Kernel> {
            type Output = Kernel::Output;

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> Kernel::Output {
                self.0.run()
            }
        }

        arch().dispatch(Call(self))
    }
}

/// The instructions that the kernels found on this processor.
pub(crate) fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if crate::flex::gemm::multiplies_pairs() {
        return "512-bit vectors, bf16 products";
    }
    match lanes() {
        16 => "512-bit vectors",
        8 => "256-bit vectors",
        4 => "128-bit vectors",
        _ => "no vectors",
    }
}

/// Values in one vector of `f32`.
pub(crate) fn lanes() -> usize {
    struct Lanes;

    impl WithSimd for Lanes {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }

    arch().dispatch(Lanes)
}
