//! The part of a camera's picture that a policy looks at.

use serde::{Deserialize, Serialize};

use super::check_fields;
use crate::{Frame, Result};

/// A rectangle of a frame in fractions of its sides, cut out before the frame is scaled.
///
/// It belongs to the policy: training, `evo1 infer` and the server all cut the same part. A policy that looks at its
/// workspace alone sees it larger in the same number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FrameCrop {
    /// Left edge, from 0 to below 1.
    pub left: f64,
    /// Upper edge, from 0 to below 1.
    pub top: f64,
    /// Width, above 0; with the left edge at most 1.
    pub width: f64,
    /// Height, above 0; with the upper edge at most 1.
    pub height: f64,
}

/// Fractions that are written with few digits may add up to a little more than 1.
const TOLERANCE: f64 = 1e-6;

impl FrameCrop {
    /// The rectangle of a frame, to the nearest pixel and at least one pixel wide and high.
    pub fn of(&self, frame: &Frame) -> Frame {
        let part = |start: f64, length: f64, side: usize| {
            let at = |fraction: f64| (fraction * side as f64).round() as usize;
            let start = at(start).min(side - 1);
            (start, at(length).clamp(1, side - start))
        };
        let (left, width) = part(self.left, self.width, frame.width());
        let (top, height) = part(self.top, self.height, frame.height());
        frame.cropped(left, top, width, height)
    }

    /// Fails unless the rectangle is inside the frame. `origin` names the file in the message.
    pub(super) fn validate(&self, origin: &str) -> Result<()> {
        let fits = |start: f64, length: f64| start >= 0.0 && length > 0.0 && start + length <= 1.0 + TOLERANCE;
        let Self { left, top, width, height } = *self;
        check_fields(
            origin,
            [
                (fits(left, width), ("crop.width", "a part of the frame's width", format!("{width} at {left}"))),
                (fits(top, height), ("crop.height", "a part of the frame's height", format!("{height} at {top}"))),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crop_keeps_the_pixels_of_its_rectangle() {
        let pixels = (0..4 * 6).flat_map(|pixel| [pixel, 0, 0]).collect();
        let frame = Frame::new(6, 4, pixels).expect("frame");
        let crop = FrameCrop { left: 1.0 / 3.0, top: 0.25, width: 0.5, height: 0.5 };
        let part = crop.of(&frame);
        assert_eq!((part.width(), part.height()), (3, 2));
        let reds: Vec<u8> = part.rgb().iter().copied().step_by(3).collect();
        assert_eq!(reds, [8, 9, 10, 14, 15, 16]);
    }

    #[test]
    fn rectangles_outside_the_frame_are_refused() {
        let inside = FrameCrop { left: 0.1, top: 0.2, width: 0.9, height: 0.8 };
        inside.validate("config").expect("inside");
        for crop in [
            FrameCrop { left: -0.1, ..inside },
            FrameCrop { left: 0.2, ..inside },
            FrameCrop { height: 0.0, ..inside },
            FrameCrop { width: f64::NAN, ..inside },
        ] {
            crop.validate("config").expect_err("outside");
        }
    }
}
