//! Episodes as recordings for [Rerun](https://rerun.io), a viewer of robot data.

use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
use re_sdk::{RecordingStream, RecordingStreamBuilder};
use re_sdk_types::archetypes::{EncodedImage, Scalars, SeriesLines, TextDocument};

use crate::{DatasetSource, Error, Result, VideoPool};

/// Quality of JPEG frames: what is lost cannot be seen.
const QUALITY: u8 = 90;

impl DatasetSource {
    /// The contents of an `.rrd` file with an episode: the frames of all cameras, states and actions as named series, and
    /// the instruction, over the number of the frame and over time. `progress` is told how many frames of how many are
    /// done.
    ///
    /// # Errors
    /// When the episode cannot be read or the recording not be made.
    pub fn recording(
        &self,
        episode: usize,
        videos: &VideoPool,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Vec<u8>> {
        let failed = |reason: &dyn std::fmt::Display| Error::Recording { episode, reason: reason.to_string() };
        let table = self.dataset.table(episode)?;
        let name = format!("{}, episode {episode}", self.name);
        let (recording, storage) =
            RecordingStreamBuilder::new("evo1").recording_id(name).memory().map_err(|error| failed(&error))?;
        let mut instruction = None;
        for frame in 0..table.rows() {
            let (state, action) = (self.state(&table, episode, frame)?, self.action(&table, episode, frame)?);
            if frame == 0 {
                let series = [("state", "observation.state", &state), ("action", "action", &action)];
                for (entity, feature, values) in series {
                    let names = self.dimension_names(entity, feature, values.len());
                    let lines = SeriesLines::new().with_names(names);
                    recording.log_static(entity, &lines).map_err(|error| failed(&error))?;
                }
            }
            recording.set_time_sequence("frame", frame as i64);
            recording.set_duration_secs("time", frame as f64 / self.dataset.info().fps);
            let current = self.instruction(&table, episode, frame)?;
            if instruction != Some(current) {
                instruction = Some(current);
                recording.log("instruction", &TextDocument::new(current)).map_err(|error| failed(&error))?;
            }
            for (entity, values) in [("state", &state), ("action", &action)] {
                series(&recording, entity, values).map_err(|error| failed(&error))?;
            }
            for camera in self.cameras() {
                let picture = self.frame(&table, episode, frame, camera, videos)?;
                let (mut jpeg, width, height) = (Vec::new(), picture.width() as u32, picture.height() as u32);
                JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
                    .encode(picture.rgb(), width, height, ExtendedColorType::Rgb8)
                    .map_err(|error| failed(&error))?;
                let encoded = EncodedImage::new(jpeg).with_media_type("image/jpeg");
                recording.log(camera, &encoded).map_err(|error| failed(&error))?;
            }
            progress(frame + 1, table.rows());
        }
        storage.drain_as_bytes().map_err(|error| failed(&error))
    }
}

fn series(recording: &RecordingStream, entity: &str, values: &[f32]) -> re_sdk::RecordingStreamResult<()> {
    recording.log(entity, &Scalars::new(values.iter().map(|&value| f64::from(value))))
}
