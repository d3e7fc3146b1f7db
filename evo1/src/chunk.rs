//! Chunks in use: a queue of actions that is refilled before it is empty, guidance of the next chunk to the present one
//! (real-time chunking), and smoothing along time. All of it is off unless it is asked for.

use evo1_action::flow::GuidanceConfig;
use evo1_core::ActionChunk;
use serde::{Deserialize, Serialize};

use crate::Prediction;

/// How many standard deviations the smoothing kernel reaches, as in SciPy's `gaussian_filter1d`.
const TRUNCATE: f64 = 4.0;

/// Guidance of a prediction to the chunk before it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkGuidance {
    /// How the prediction is guided.
    pub config: GuidanceConfig,
    /// What of the chunk before is not executed yet: normalised, as wide as the model's actions.
    pub left_over: ActionChunk,
    /// How many of these actions will be executed before the prediction is there.
    pub delay: usize,
}

/// How a queue of actions is refilled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Actions after which a new chunk is wanted; the whole chunk when `None`.
    pub replan_every: Option<usize>,
    /// Guide each chunk to what is left of the one before.
    pub guidance: Option<GuidanceConfig>,
}

/// Actions that wait to be executed.
///
/// In a loop that waits for predictions: [`Self::next_action`] until [`Self::wants_chunk`], then [`Self::push`] with a
/// delay of 0. In a loop that does not wait: when a chunk is wanted, take [`Self::guidance`] and start the prediction
/// beside the loop, go on executing, and push the chunk with the number of actions executed since.
#[derive(Debug, Clone, Default)]
pub struct ActionQueue {
    config: QueueConfig,
    current: Option<Prediction>,
    executed: usize,
}

impl ActionQueue {
    /// An empty queue.
    pub fn new(config: QueueConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// Whether it is time for a new chunk.
    pub fn wants_chunk(&self) -> bool {
        let due = self.config.replan_every.unwrap_or(usize::MAX).max(1);
        self.executed >= due.min(self.horizon())
    }

    /// Forgets all actions, as at the start of an episode.
    pub fn clear(&mut self) {
        (self.current, self.executed) = (None, 0);
    }

    /// Actions that are left.
    pub fn len(&self) -> usize {
        self.horizon() - self.executed
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next action, in the robot's units.
    pub fn next_action(&mut self) -> Option<&[f32]> {
        let chunk = &self.current.as_ref()?.chunk;
        let action = chunk.steps().nth(self.executed)?;
        self.executed += 1;
        Some(action)
    }

    /// Replaces what is left by a new chunk, of which the first `delay` actions belong to the time that has passed since
    /// its observation.
    pub fn push(&mut self, prediction: Prediction, delay: usize) {
        self.executed = delay.min(prediction.chunk.horizon());
        self.current = Some(prediction);
    }

    /// What guides the next prediction, when `delay` more actions are executed until it is there; nothing when guidance is
    /// off or no action is left.
    pub fn guidance(&self, delay: usize) -> Option<ChunkGuidance> {
        let left_over = rest_of(&self.current.as_ref()?.normalized, self.executed)?;
        Some(ChunkGuidance { config: self.config.guidance?, left_over, delay })
    }

    fn horizon(&self) -> usize {
        self.current.as_ref().map_or(0, |prediction| prediction.chunk.horizon())
    }
}

/// A chunk without its first `executed` actions; nothing when none is left.
pub fn rest_of(chunk: &ActionChunk, executed: usize) -> Option<ActionChunk> {
    let start = executed.checked_mul(chunk.width())?;
    let rest = chunk.values().get(start..).filter(|rest| !rest.is_empty())?;
    Some(ActionChunk::new(chunk.width(), rest.to_vec()))
}

/// A chunk smoothed along time with a Gaussian of `sigma` steps, mirrored at both ends: SciPy's
/// `gaussian_filter1d(chunk, sigma, axis=0)`.
///
/// # Panics
/// When `sigma` is not above 0.
pub fn smoothed(chunk: &ActionChunk, sigma: f32) -> ActionChunk {
    assert!(sigma > 0.0, "a Gaussian has a width above 0, got {sigma}");
    let (sigma, horizon, width) = (f64::from(sigma), chunk.horizon(), chunk.width());
    // Past the horizon a mirrored chunk repeats, so that a wider kernel changes nothing but the time it takes.
    let radius = ((TRUNCATE * sigma + 0.5) as usize).min(64 * horizon);
    let kernel: Vec<f64> = (0..=radius).map(|step| (-0.5 * (step as f64 / sigma).powi(2)).exp()).collect();
    let total = kernel[0] + 2.0 * kernel[1..].iter().sum::<f64>();
    let mut out = Vec::with_capacity(horizon * width);
    for step in 0..horizon as i64 {
        for column in 0..width {
            let value = |at: i64| f64::from(chunk.values()[mirrored(at, horizon) * width + column]);
            let sides =
                kernel.iter().zip(0_i64..).skip(1).map(|(weight, i)| weight * (value(step - i) + value(step + i)));
            out.push(((kernel[0] * value(step) + sides.sum::<f64>()) / total) as f32);
        }
    }
    ActionChunk::new(width, out)
}

/// The step that stands at `at` when a chunk is followed by its mirror image: `… 1 0 | 0 1 2 | 2 1 …`.
fn mirrored(at: i64, horizon: usize) -> usize {
    let period = 2 * horizon as i64;
    let folded = at.rem_euclid(period);
    folded.min(period - 1 - folded) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(values: Vec<f32>) -> Prediction {
        let normalized = ActionChunk::new(1, values.iter().map(|value| value / 10.0).collect());
        Prediction { chunk: ActionChunk::new(1, values), normalized }
    }

    #[test]
    fn a_queue_replans_on_time_and_skips_what_has_passed() {
        let mut queue = ActionQueue::new(QueueConfig { replan_every: Some(2), ..QueueConfig::default() });
        assert!(queue.wants_chunk() && queue.is_empty());
        queue.push(prediction(vec![0.0, 1.0, 2.0, 3.0]), 0);
        assert_eq!(queue.next_action(), Some(&[0.0][..]));
        assert!(!queue.wants_chunk());
        queue.next_action();
        assert!(queue.wants_chunk() && queue.len() == 2);
        assert_eq!(queue.guidance(1), None, "guidance is off by default");
        queue.next_action();
        queue.push(prediction(vec![10.0, 11.0, 12.0, 13.0]), 1);
        assert_eq!(queue.next_action(), Some(&[11.0][..]));
        queue.clear();
        assert!(queue.is_empty() && queue.wants_chunk() && queue.guidance(0).is_none());
        queue.push(prediction(vec![0.0]), 5);
        assert!(queue.is_empty() && queue.wants_chunk());
        assert_eq!(queue.next_action(), None);
    }

    #[test]
    fn a_queue_without_settings_plays_whole_chunks() {
        let mut queue = ActionQueue::default();
        queue.push(prediction(vec![1.0, 2.0]), 0);
        let played: Vec<f32> = std::iter::from_fn(|| queue.next_action().map(|action| action[0])).collect();
        assert_eq!(played, [1.0, 2.0]);
        assert!(queue.wants_chunk());
    }

    #[test]
    fn guidance_is_to_what_is_left_in_normalised_units() {
        let config = QueueConfig { guidance: Some(GuidanceConfig::default()), ..QueueConfig::default() };
        let mut queue = ActionQueue::new(config);
        queue.push(prediction(vec![10.0, 20.0, 30.0]), 0);
        queue.next_action();
        let guidance = queue.guidance(1).expect("two actions are left");
        assert_eq!((guidance.left_over.values(), guidance.delay), (&[2.0, 3.0][..], 1));
        queue.next_action();
        queue.next_action();
        assert_eq!(queue.guidance(0), None);
    }

    #[test]
    fn smoothing_equals_scipy() {
        let chunk = ActionChunk::new(2, vec![0.0, 1.0, 1.0, -2.0, 4.0, 0.5, 9.0, 3.0, 16.0, -1.0]);
        // scipy.ndimage.gaussian_filter1d(chunk, sigma, axis=0)
        for (sigma, want) in SCIPY {
            let got = smoothed(&chunk, sigma);
            let worst = got.values().iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "sigma {sigma}: {got:?}");
        }
        let flat = ActionChunk::new(1, vec![3.0; 7]);
        assert!(smoothed(&flat, 1e6).values().iter().all(|value| (value - 3.0).abs() < 1e-5));
    }

    const SCIPY: [(f32, [f32; 10]); 2] = [
        (1.0, [0.572887, 0.091765, 1.930768, -0.232328, 4.951594, 0.441577, 9.388191, 0.931799, 13.156559, 0.267187]),
        (2.5, [3.80696, 0.183292, 4.631025, 0.229681, 5.983172, 0.302324, 7.358563, 0.37176, 8.220281, 0.412943]),
    ];
}
