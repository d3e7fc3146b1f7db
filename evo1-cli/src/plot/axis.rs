//! Ranges with round tick marks.

/// Relative spread below which values count as constant: single precision resolves no more.
const CONSTANT_SPREAD: f64 = 1e-6;
/// Part of the spread that is left free at either end.
const HEADROOM: f64 = 0.06;
/// Magnitudes outside are written with an exponent.
const PLAIN_MAGNITUDES: std::ops::Range<f64> = 1e-3..1e6;
/// Guards a floor against the rounding of single precision: 0.01 is a little less than 10⁻².
const LOGARITHM_SLACK: f64 = 1e-6;

/// A range of values with marks at round ones.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// Covers `values` with some room at either end; about `ticks` marks.
    pub(super) fn covering(values: impl Iterator<Item = f64>, ticks: usize) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let magnitude = low.abs().max(high.abs());
        let room = match high - low {
            _ if magnitude == 0.0 => 1.0,
            spread if spread <= CONSTANT_SPREAD * magnitude => 0.1 * magnitude,
            spread => HEADROOM * spread,
        };
        let (low, high) = (low - room, high + room);
        Self { low, high, step: round_step((high - low) / ticks.max(1) as f64) }
    }

    /// The steps `0..horizon` of a chunk, marked at whole numbers; about `ticks` marks.
    pub(super) fn steps(horizon: usize, ticks: usize) -> Self {
        let last = horizon.saturating_sub(1) as f64;
        let room = if horizon == 1 { 0.5 } else { 0.02 * last };
        Self { low: -room, high: last + room, step: round_step(last / ticks.max(1) as f64).max(1.0) }
    }

    /// The marked values, lowest first.
    pub(super) fn ticks(&self) -> impl Iterator<Item = f64> {
        let (first, last) = ((self.low / self.step).ceil() as i64, (self.high / self.step).floor() as i64);
        let step = self.step;
        (first..=last).map(move |index| index as f64 * step)
    }

    /// Where `value` lies between `start` (the low end) and `end`.
    pub(super) fn position(&self, value: f64, start: f64, end: f64) -> f64 {
        start + (value - self.low) / (self.high - self.low) * (end - start)
    }

    /// A mark's text: as many digits as tell the marks apart.
    pub(super) fn label(&self, tick: f64) -> String {
        written(tick, exponent_of(self.step), self.low.abs().max(self.high.abs()))
    }
}

/// A value with four significant digits.
pub(super) fn value_label(value: f64) -> String {
    written(value, exponent_of(value).saturating_sub(3), value.abs())
}

/// `value` down to the digit of `10^last`, with an exponent where values of `magnitude` need one.
fn written(value: f64, last: i32, magnitude: f64) -> String {
    let digits = |first: i32| usize::try_from(first.saturating_sub(last)).unwrap_or(0);
    let text = if value == 0.0 {
        "0".to_owned()
    } else if PLAIN_MAGNITUDES.contains(&magnitude) {
        format!("{value:.*}", digits(0))
    } else {
        format!("{value:.*e}", digits(exponent_of(value)))
    };
    text.replace('-', "−")
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    if least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powi(exponent_of(least));
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least).unwrap_or(10.0);
    factor * power
}

fn exponent_of(value: f64) -> i32 {
    (value.abs().log10() + LOGARITHM_SLACK).floor() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks().map(|tick| axis.label(tick)).collect()
    }

    #[test]
    fn marks_are_round_and_told_apart() {
        assert_eq!(labels(&Axis::covering([-0.3, 0.4].into_iter(), 5)), ["−0.2", "0", "0.2", "0.4"]);
        assert_eq!(labels(&Axis::covering([0.0, 3e6].into_iter(), 4)), ["0", "1e6", "2e6", "3e6"]);
        assert_eq!(
            labels(&Axis::covering([1e-5, 3e-5].into_iter(), 5)),
            ["1.0e−5", "1.5e−5", "2.0e−5", "2.5e−5", "3.0e−5"]
        );
    }

    #[test]
    fn steps_are_marked_at_whole_numbers() {
        assert_eq!(labels(&Axis::steps(1, 10)), ["0"]);
        assert_eq!(labels(&Axis::steps(3, 10)), ["0", "1", "2"]);
        assert_eq!(labels(&Axis::steps(50, 10)), ["0", "5", "10", "15", "20", "25", "30", "35", "40", "45"]);
    }

    #[test]
    fn values_keep_four_digits() {
        let written = [0.0, f64::from(0.01f32), -0.33149, 12.0, 123456.7, 1.5e6, -2.5e-7].map(value_label);
        assert_eq!(written, ["0", "0.01000", "−0.3315", "12.00", "123457", "1.500e6", "−2.500e−7"]);
    }

    #[test]
    fn every_axis_has_room_and_marks() {
        for value in [0.0, 1e-30, -2.5, 1e6 + 1.0, f64::from(f32::MAX), f64::from(f32::MIN)] {
            for other in [value, 0.5 * value, -value] {
                let axis = Axis::covering([value, other].into_iter(), 5);
                let count = axis.ticks().count();
                assert!((2..=8).contains(&count), "{value}, {other}: {count} marks");
                assert!((0.0..=1.0).contains(&axis.position(value, 0.0, 1.0)), "{value}, {other}");
            }
        }
    }
}
