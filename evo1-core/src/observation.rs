//! Camera frames, views, observations and action chunks.

use crate::{Error, Result};

/// An 8-bit RGB image, row-major, three bytes a pixel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Frame {
    /// A frame of `width · height` pixels; fails when `rgb` does not hold three bytes for each, or there is none.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)).unwrap_or(usize::MAX);
        if expected != rgb.len() || rgb.is_empty() {
            return Err(Error::FrameSize { width, height, expected, got: rgb.len() });
        }
        Ok(Self { width, height, rgb })
    }

    /// A black frame.
    ///
    /// # Panics
    /// When `width` or `height` is 0.
    pub fn black(width: usize, height: usize) -> Self {
        assert!(width > 0 && height > 0, "a frame has at least one pixel, got {width} × {height}");
        Self { width, height, rgb: vec![0; width * height * 3] }
    }

    /// A rectangle of it.
    ///
    /// # Panics
    /// When the rectangle is empty or reaches beyond the frame.
    pub fn cropped(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        assert!(
            width > 0 && height > 0 && left + width <= self.width && top + height <= self.height,
            "{width} × {height} pixels at ({left}, {top}) are not in a frame of {} × {}",
            self.width,
            self.height
        );
        let rows = self.rgb.chunks_exact(3 * self.width).skip(top).take(height);
        let rgb = rows.flat_map(|row| &row[3 * left..3 * (left + width)]).copied().collect();
        Self { width, height, rgb }
    }

    /// Pixels per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixels: row-major, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The same values, in the memory that they are in.
    pub fn into_rgb(self) -> Vec<u8> {
        self.rgb
    }
}

/// One camera's place in an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// The camera is there and its frame is used.
    Present(Frame),
    /// The frame is encoded, but its tokens are hidden as keys (`image_mask` 0 on the wire).
    Masked(Frame),
    /// There is no such camera: a black frame, masked.
    Absent,
}

impl View {
    /// Whether the view's tokens may be attended to.
    pub fn is_present(&self) -> bool {
        matches!(self, Self::Present(_))
    }

    /// The frame, if there is one.
    pub fn frame(&self) -> Option<&Frame> {
        match self {
            Self::Present(frame) | Self::Masked(frame) => Some(frame),
            Self::Absent => None,
        }
    }
}

/// Which statistics normalise an observation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatisticsKey {
    /// The arm, for example `aloha_joint`; the only one when `None`.
    pub arm: Option<String>,
    /// The data set below the arm; the only one when `None`.
    pub dataset: Option<String>,
}

/// What a robot sees, is told and knows of itself at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// Camera views in the order of the model's training; fewer than the model's maximum means the last are absent.
    pub views: Vec<View>,
    /// The robot's state in its own units, unpadded.
    pub state: Vec<f32>,
    /// The sender has padded the state: what follows the statistics' dimensions is normalised with padded statistics,
    /// as the profile's reference pads them ([`Normalizer::normalize_padded_state`](crate::normalize::Normalizer::normalize_padded_state)).
    /// Otherwise such a state is refused.
    pub state_is_padded: bool,
    /// What the robot shall do.
    pub instruction: String,
    /// The robot's embodiment id; the policy's default when `None`.
    pub embodiment: Option<usize>,
    /// Which statistics to use; may stay empty where a policy has one set.
    pub statistics: StatisticsKey,
    /// Which of the padded action dimensions are real, once or for every step of the chunk; those of the policy's
    /// configuration when `None`.
    pub action_mask: Option<Vec<bool>>,
}

/// Predicted actions in the robot's units, `[horizon, width]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionChunk {
    width: usize,
    values: Vec<f32>,
}

impl ActionChunk {
    /// A chunk of actions of `width` values each.
    ///
    /// # Panics
    /// When `width` is 0 or does not divide the number of values.
    pub fn new(width: usize, values: Vec<f32>) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "{} values are no rows of {width}", values.len());
        Self { width, values }
    }

    /// Values of one action.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of actions.
    pub fn horizon(&self) -> usize {
        self.values.len() / self.width
    }

    /// The actions, first to last.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_must_fill_its_size() {
        let error = Frame::new(2, 2, vec![0; 11]).expect_err("11 bytes");
        assert_eq!(error.to_string(), "a frame of 2 × 2 RGB pixels has 12 bytes, got 11");
        assert!(Frame::new(0, 0, vec![]).is_err());
        assert!(Frame::new(usize::MAX, 2, vec![0; 6]).is_err());
    }
}
