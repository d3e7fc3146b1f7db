//! Elementary functions as polynomials, which the compiler turns into vector code.
//!
//! Every function is branch-free and inlined, so that a loop over it inside `pulp`'s dispatch uses the processor's widest
//! instructions. The error bounds are tested over the whole range against `f64`.

/// log₂ e.
const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// ln 2 in two parts, so that `x − n·ln 2` loses nothing.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// 1.5 · 2²³: adding it rounds to an integer, which the sum's low bits then are.
const ROUND: f32 = 12_582_912.0;

/// Below this, `exp` is 0 for our purposes (1e-38).
const EXP_MIN: f32 = -87.0;
/// Above this, `exp` overflows.
const EXP_MAX: f32 = 88.0;

/// `eˣ` for x clamped to [−87, 88], within 2e-7 relative; 0 at −∞, NaN at NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(EXP_MIN, EXP_MAX);
    let shifted = clamped.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, clamped));
    // Taylor's polynomial of degree 7 on |r| ≤ ln 2 / 2.
    let p = r.mul_add(1.0 / 5040.0, 1.0 / 720.0);
    let p = r.mul_add(p, 1.0 / 120.0);
    let p = r.mul_add(p, 1.0 / 24.0);
    let p = r.mul_add(p, 1.0 / 6.0);
    let p = r.mul_add(p, 0.5);
    let p = r.mul_add(p, 1.0);
    let p = r.mul_add(p, 1.0);
    // The low bits of `shifted` are n: moved into the exponent they multiply by 2ⁿ.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < EXP_MIN { 0.0 } else { p * power }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Beyond this the error function is ±1 in `f32`.
const ERF_MAX: f32 = 3.92;

/// `erf(x) ≈ x · P(x²) / Q(x²)` on |x| ≤ 3.92, fitted for the least relative error (5e-8 before rounding).
const ERF_P: [f32; 7] = [
    std::f32::consts::FRAC_2_SQRT_PI,
    0.199_900_98,
    0.050_570_04,
    0.003_700_498_3,
    0.000_141_816_05,
    -1.957_545_7e-6,
    1.992_209e-8,
];
const ERF_Q: [f32; 5] = [1.0, 0.510_489_3, 0.114_988_52, 0.014_351_054, 0.000_955_743_66];

/// The error function, within 4e-7.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-ERF_MAX, ERF_MAX);
    let z = x * x;
    x * polynomial(&ERF_P, z) / polynomial(&ERF_Q, z)
}

/// Horner's scheme; the lowest coefficient comes first.
#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut sum = coefficients[N - 1];
    for &coefficient in coefficients[..N - 1].iter().rev() {
        sum = sum.mul_add(x, coefficient);
    }
    sum
}

/// Gaussian error linear unit, `x · Φ(x)`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    x * normal_cdf(x)
}

/// The derivative of [`gelu`], `Φ(x) + x · φ(x)`.
#[inline(always)]
pub(crate) fn gelu_derivative(x: f32) -> f32 {
    const INVERSE_SQRT_TAU: f32 = 0.398_942_3;
    let density = exp(-0.5 * x * x) * INVERSE_SQRT_TAU;
    x.mul_add(density, normal_cdf(x))
}

#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5f32.mul_add(erf(x * std::f32::consts::FRAC_1_SQRT_2), 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values over a range, and the ends.
    fn range(low: f32, high: f32) -> impl Iterator<Item = f32> {
        (0..=200_000).map(move |step| low + (high - low) * step as f32 / 200_000.0)
    }

    #[test]
    fn exp_is_within_its_bound() {
        for x in range(-86.9, 87.9) {
            let want = f64::from(x).exp();
            assert!((f64::from(exp(x)) / want - 1.0).abs() < 2e-7, "exp({x})");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(1000.0).is_finite());
        assert!(exp(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_its_bound() {
        // The integral of 2/√π · exp(−t²), by Simpson's rule from one value to the next.
        let density = |t: f64| std::f64::consts::FRAC_2_SQRT_PI * (-t * t).exp();
        let (mut integral, mut last) = (0.0, 0.0);
        for x in range(0.0, 6.0) {
            let (a, b) = (last, f64::from(x));
            integral += (b - a) / 6.0 * (density(a) + 4.0 * density((a + b) / 2.0) + density(b));
            last = b;
            assert!((f64::from(erf(x)) - integral).abs() < 4e-7, "erf({x})");
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn the_derivative_of_gelu_is_its_slope() {
        for x in range(-8.0, 8.0).step_by(997) {
            let slope = (gelu(x + 5e-3) - gelu(x - 5e-3)) / 1e-2;
            assert!((gelu_derivative(x) - slope).abs() < 2e-4, "at {x}: {} is not {slope}", gelu_derivative(x));
        }
    }
}
