//! Products of `bf16` in pairs, on processors that have them: `VDPBF16PS` of AVX-512 adds the products of two pairs to an
//! `f32`, which is twice the work of a multiply-add.
#![allow(
    unsafe_code,
    reason = "pulp has no products of bf16, and the intrinsics take vectors that only transmute makes"
)]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_permutexvar_epi16, _mm512_set1_ps,
    _mm512_setzero_ps,
};

use pulp::{Simd, cast, f32x16, x86::V4};

use super::simd::is_narrow;

/// Exists only where the processor has the products.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pairs(V4);

/// Work that multiplies pairs. `run` must be marked `#[inline(always)]`, and so must what it calls.
pub(crate) trait PairWork {
    /// Does it.
    fn run(self, simd: V4, pairs: Pairs);
}

impl Pairs {
    /// On a processor with the products, unless its widest vectors are left unused.
    pub(crate) fn find() -> Option<Self> {
        let is_there = !is_narrow() && std::arch::is_x86_feature_detected!("avx512bf16");
        is_there.then(V4::try_new).flatten().map(Self)
    }

    /// Does work that is compiled for the processor's instructions.
    pub(crate) fn dispatch(self, work: impl PairWork) {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
        )]
        fn call(pairs: Pairs, work: impl PairWork) {
            work.run(pairs.0, pairs);
        }

        // SAFETY: a `Pairs` exists only where the processor has every one of these features.
        unsafe { call(self, work) }
    }

    /// `ROWS` rows of a tile, `[depth, ROWS]`, times a panel, `[depth, 2 vectors]`, both of pairs.
    #[inline(always)]
    pub(crate) fn multiply<const ROWS: usize>(self, tile: &[f32], panel: &[f32]) -> [[f32x16; 2]; ROWS] {
        let (tile, _) = tile.as_chunks::<ROWS>();
        let (vectors, _) = V4::as_simd_f32s(panel);
        let (vectors, _) = vectors.as_chunks::<2>();
        // SAFETY: a `Pairs` exists only where the processor has the instructions.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            for (a, [left, right]) in tile.iter().zip(vectors) {
                for (sums, &a) in sums.iter_mut().zip(a) {
                    let a = of_bits(_mm512_set1_ps(a));
                    sums[0] = _mm512_dpbf16_ps(sums[0], a, of_bits(cast(*left)));
                    sums[1] = _mm512_dpbf16_ps(sums[1], a, of_bits(cast(*right)));
                }
            }
            // Not `map`, which is not always inlined.
            let mut out = [[cast(_mm512_setzero_ps()); 2]; ROWS];
            for (out, [left, right]) in out.iter_mut().zip(sums) {
                *out = [cast(left), cast(right)];
            }
            out
        }
    }

    /// Turns an even number of rows of two vectors, in place, into half as many of pairs: each value with that of the next
    /// row, rounded to nearest.
    #[inline(always)]
    pub(crate) fn narrow(self, rows: &mut [f32]) {
        let (vectors, _) = V4::as_mut_simd_f32s(rows);
        for row in 0..vectors.len() / 4 {
            for half in 0..2 {
                let [even, odd] = [0, 2].map(|below| vectors[4 * row + below + half]);
                // SAFETY: a `Pairs` exists only where the processor has the instructions, and any bits are valid.
                vectors[2 * row + half] = unsafe {
                    let both = _mm512_cvtne2ps_pbh(cast(odd), cast(even));
                    let both = std::mem::transmute::<__m512bh, __m512i>(both);
                    let order = std::mem::transmute::<[u16; 32], __m512i>(INTERLEAVED);
                    std::mem::transmute::<__m512i, f32x16>(_mm512_permutexvar_epi16(order, both))
                };
            }
        }
    }
}

/// Each of the first sixteen with its partner of the last sixteen.
const INTERLEAVED: [u16; 32] = {
    let mut order = [0; 32];
    let mut at = 0;
    while at < 16 {
        order[2 * at] = at as u16;
        order[2 * at + 1] = at as u16 + 16;
        at += 1;
    }
    order
};

/// The bits of a vector as pairs.
#[inline(always)]
fn of_bits(bits: __m512) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(bits) }
}
