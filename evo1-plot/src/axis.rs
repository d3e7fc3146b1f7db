//! Ranges with round tick marks.

/// Relative spread below which values count as constant: single precision resolves no more.
const CONSTANT_SPREAD: f64 = 1e-6;
/// Part of the spread that is left free at either end.
const HEADROOM: f64 = 0.06;
/// Magnitudes outside are written with an exponent.
const PLAIN_MAGNITUDES: std::ops::Range<f64> = 1e-3..1e6;
/// Guards a floor against the rounding of single precision: 0.01 is a little less than 10⁻².
const LOGARITHM_SLACK: f64 = 1e-6;
/// Powers of ten that a logarithmic axis must span to be marked at powers and not at multiples.
const LINEAR_DECADES: f64 = 1.0;
/// Powers of ten from which on a logarithmic axis is marked at nothing but them.
const DENSE_DECADES: f64 = 3.0;

/// A range of values with marks at round ones.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    marks: Vec<f64>,
    /// The exponent of the last digit that tells the marks apart; each mark's own where they are powers.
    last_digit: Option<i32>,
    is_logarithmic: bool,
}

impl Axis {
    /// The numbers from `low` to `high`, marked at multiples of `step`.
    fn linear(low: f64, high: f64, step: f64) -> Self {
        let marks = multiples(low, high, step);
        Self { low, high, marks, last_digit: Some(exponent_of(step)), is_logarithmic: false }
    }

    /// The numbers from 0 to `high`, which is above 0; about `ticks` marks.
    pub(crate) fn from_zero(high: f64, ticks: usize) -> Self {
        Self::linear(0.0, high, round_step(high / ticks.max(1) as f64))
    }

    /// Something counted from 0 to `high`, marked at whole numbers; about `ticks` marks.
    pub(crate) fn counted(high: f64, ticks: usize) -> Self {
        Self::linear(0.0, high, round_step(high / ticks.max(1) as f64).max(1.0))
    }

    /// The numbers from `low` to `high`, both above 0, where equal distances are equal factors; about `ticks` marks.
    pub(crate) fn logarithmic(low: f64, high: f64, ticks: usize) -> Self {
        let decades = high.log10() - low.log10();
        let (marks, last_digit) = if decades < LINEAR_DECADES {
            let step = round_step((high - low) / ticks.max(1) as f64);
            (multiples(low, high, step), Some(exponent_of(step)))
        } else {
            let every = (decades / ticks.max(1) as f64).ceil().max(1.0);
            let factors: &[f64] = if decades < DENSE_DECADES { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let powers = multiples(low.log10() - 1.0, high.log10(), every);
            let marks =
                powers.into_iter().flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powf(power)));
            (marks.filter(|mark| (low..=high).contains(mark)).collect(), None)
        };
        Self { low, high, marks, last_digit, is_logarithmic: true }
    }

    /// Covers `values` with some room at either end; about `ticks` marks.
    pub(crate) fn covering(values: impl Iterator<Item = f64>, ticks: usize) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let magnitude = low.abs().max(high.abs());
        let room = match high - low {
            _ if magnitude == 0.0 => 1.0,
            spread if spread <= CONSTANT_SPREAD * magnitude => 0.1 * magnitude,
            spread => HEADROOM * spread,
        };
        let (low, high) = (low - room, high + room);
        Self::linear(low, high, round_step((high - low) / ticks.max(1) as f64))
    }

    /// The steps `0..horizon` of a chunk, marked at whole numbers; about `ticks` marks.
    pub(crate) fn steps(horizon: usize, ticks: usize) -> Self {
        let last = horizon.saturating_sub(1) as f64;
        let room = if horizon == 1 { 0.5 } else { 0.02 * last };
        Self::linear(-room, last + room, round_step(last / ticks.max(1) as f64).max(1.0))
    }

    /// The marked values, lowest first.
    pub(crate) fn ticks(&self) -> impl Iterator<Item = f64> {
        self.marks.iter().copied()
    }

    /// Where `value` lies between `start` (the low end) and `end`; a logarithmic axis puts what it cannot show at its
    /// low end.
    pub(crate) fn position(&self, value: f64, start: f64, end: f64) -> f64 {
        let (value, low, high) = if self.is_logarithmic {
            (value.max(self.low).log10(), self.low.log10(), self.high.log10())
        } else {
            (value, self.low, self.high)
        };
        start + (value - low) / (high - low) * (end - start)
    }

    /// The texts of all marks.
    pub(crate) fn labels(&self) -> Vec<String> {
        self.ticks().map(|tick| self.label(tick)).collect()
    }

    /// A mark's text: as many digits as tell the marks apart.
    pub(crate) fn label(&self, tick: f64) -> String {
        match self.last_digit {
            Some(last_digit) => written(tick, last_digit, self.low.abs().max(self.high.abs())),
            None => written(tick, exponent_of(tick), tick.abs()),
        }
    }
}

/// A value with four significant digits.
pub(crate) fn value_label(value: f64) -> String {
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

/// The multiples of `step` from `low` to `high`.
fn multiples(low: f64, high: f64, step: f64) -> Vec<f64> {
    let (first, last) = ((low / step).ceil() as i64, (high / step).floor() as i64);
    (first..=last).map(|index| index as f64 * step).collect()
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

    #[test]
    fn marks_are_round_and_told_apart() {
        assert_eq!(Axis::covering([-0.3, 0.4].into_iter(), 5).labels(), ["−0.2", "0", "0.2", "0.4"]);
        assert_eq!(Axis::covering([0.0, 3e6].into_iter(), 4).labels(), ["0", "1e6", "2e6", "3e6"]);
        assert_eq!(
            Axis::covering([1e-5, 3e-5].into_iter(), 5).labels(),
            ["1.0e−5", "1.5e−5", "2.0e−5", "2.5e−5", "3.0e−5"]
        );
    }

    #[test]
    fn steps_are_marked_at_whole_numbers() {
        assert_eq!(Axis::steps(1, 10).labels(), ["0"]);
        assert_eq!(Axis::steps(3, 10).labels(), ["0", "1", "2"]);
        assert_eq!(Axis::steps(50, 10).labels(), ["0", "5", "10", "15", "20", "25", "30", "35", "40", "45"]);
    }

    #[test]
    fn an_axis_from_zero_begins_with_it() {
        assert_eq!(Axis::from_zero(1.05e-3, 6).labels(), ["0", "0.0002", "0.0004", "0.0006", "0.0008", "0.0010"]);
        assert_eq!(Axis::counted(2.0, 6).labels(), ["0", "1", "2"]);
        assert_eq!(Axis::counted(30_000.0, 6).labels(), ["0", "5000", "10000", "15000", "20000", "25000", "30000"]);
        assert_eq!(Axis::from_zero(3.0, 6).position(1.5, 0.0, 10.0), 5.0);
    }

    #[test]
    fn a_logarithmic_axis_is_marked_wherever_it_lies() {
        assert_eq!(Axis::logarithmic(0.12, 0.65, 6).labels(), ["0.2", "0.3", "0.4", "0.5", "0.6"]);
        assert_eq!(Axis::logarithmic(0.05, 1.2, 6).labels(), ["0.05", "0.1", "0.2", "0.5", "1"]);
        assert_eq!(
            Axis::logarithmic(5e-5, 2e3, 8).labels(),
            ["1e−4", "0.001", "0.01", "0.1", "1", "10", "100", "1000"]
        );
        assert_eq!(Axis::logarithmic(1e-9, 2e3, 6).labels(), ["1e−9", "1e−6", "0.001", "1", "1000"]);
        let axis = Axis::logarithmic(1e-2, 1e2, 6);
        assert!((axis.position(1.0, 0.0, 10.0) - 5.0).abs() < 1e-9);
        assert_eq!(axis.position(0.0, 0.0, 10.0), 0.0);
        for (low, high) in [(1.0, 1.0 + 1e-3), (8e-10, 1.2e-9), (1e-9, 1e9), (1e-300, 1e300), (1.0, 10.0), (0.7, 9.9)] {
            let count = Axis::logarithmic(low, high, 6).ticks().count();
            assert!((2..=10).contains(&count), "{low} to {high}: {count} marks");
        }
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
