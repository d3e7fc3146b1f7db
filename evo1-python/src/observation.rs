//! Observations of what Python gives.

use std::sync::{Mutex, PoisonError};

use evo1::{Frame, Observation, StatisticsKey, View, config::Cameras};
use pyo3::{
    buffer::PyBuffer,
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::{PyMapping, PySequence, PyString},
};

use crate::{
    array::{floats, named},
    error::predicting,
};

/// Memory of frames that are no longer needed, for the next ones: the system would make it anew, page by page, for each.
#[derive(Default)]
pub(crate) struct FrameMemory(Mutex<Vec<Vec<u8>>>);

impl FrameMemory {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes the memory of observations in place of what there is.
    pub(crate) fn keep(&self, observations: Vec<Observation>) {
        let views = observations.into_iter().flat_map(|observation| observation.views);
        let frames = views.filter_map(|view| match view {
            View::Present(frame) => Some(frame.into_rgb()),
            _ => None,
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = frames.collect();
    }
}

/// What was given, with or without a leading dimension for a batch.
pub(crate) struct Given<'a, 'py> {
    pub(crate) images: &'a Bound<'py, PyAny>,
    pub(crate) state: &'a Bound<'py, PyAny>,
    pub(crate) prompt: &'a Bound<'py, PyAny>,
    pub(crate) embodiment: Option<usize>,
    pub(crate) statistics: StatisticsKey,
    pub(crate) memory: &'a FrameMemory,
}

/// Observations, and whether they are a batch.
pub(crate) struct Observations {
    pub(crate) all: Vec<Observation>,
    pub(crate) is_batch: bool,
}

impl Given<'_, '_> {
    /// The observations that these are, for a policy with some cameras.
    pub(crate) fn observations(&self, cameras: &Cameras) -> PyResult<Observations> {
        let (shape, state) = floats(self.state, "`state`")?;
        let (batch, width) = match shape[..] {
            [width] => (None, width),
            [batch, width] if batch > 0 => (Some(batch), width),
            _ => {
                let got = named(self.state);
                return Err(PyValueError::new_err(format!(
                    "`state` is (values) or, of a batch, (batch, values), got {got}"
                )));
            }
        };
        let mut prompts = self.prompts(batch)?.into_iter();
        let mut views = self.views(batch, cameras)?.into_iter();
        let all = (0..batch.unwrap_or(1)).map(|at| Observation {
            views: views.next().unwrap_or_default(),
            state: state[at * width..(at + 1) * width].to_vec(),
            instruction: prompts.next().unwrap_or_default(),
            embodiment: self.embodiment,
            statistics: self.statistics.clone(),
            ..Observation::default()
        });
        Ok(Observations { all: all.collect(), is_batch: batch.is_some() })
    }

    /// One prompt for each observation: the same for all, or a list.
    fn prompts(&self, batch: Option<usize>) -> PyResult<Vec<String>> {
        if self.prompt.is_instance_of::<PyString>() {
            return Ok(vec![self.prompt.extract()?; batch.unwrap_or(1)]);
        }
        let prompts: Vec<String> = self.prompt.extract().map_err(|_| {
            PyTypeError::new_err(format!(
                "`prompt` is a text or, of a batch, a list of texts, got {}",
                named(self.prompt)
            ))
        })?;
        match batch {
            Some(batch) if batch == prompts.len() => Ok(prompts),
            _ => Err(PyValueError::new_err(format!(
                "there are {} prompts for {} observations: `state` says how many",
                prompts.len(),
                batch.map_or("one".into(), |batch| batch.to_string())
            ))),
        }
    }

    /// The views of each observation, in the policy's order.
    fn views(&self, batch: Option<usize>, cameras: &Cameras) -> PyResult<Vec<Vec<View>>> {
        let given = self.cameras()?;
        (0..batch.unwrap_or(1))
            .map(|at| {
                let frame = |(number, (name, image)): (usize, &(Option<String>, Bound<'_, PyAny>))| {
                    let place = name.clone().unwrap_or_else(|| number.to_string());
                    let view = if image.is_none() {
                        View::Absent
                    } else if batch.is_some() {
                        let image = image.get_item(at).map_err(|_| {
                            PyValueError::new_err(format!(
                                "images[{place}] has no frame {at} of the batch: got {}",
                                named(image)
                            ))
                        })?;
                        View::Present(read_frame(&image, &place, self.memory)?)
                    } else {
                        View::Present(read_frame(image, &place, self.memory)?)
                    };
                    Ok((name.clone(), view))
                };
                let views = given.iter().enumerate().map(frame).collect::<PyResult<Vec<_>>>()?;
                if views.iter().any(|(name, _)| name.is_none()) {
                    let views: Vec<View> = views.into_iter().map(|(_, view)| view).collect();
                    cameras.ensure_one_each(&views).map_err(|error| predicting(error.into()))?;
                    return Ok(views);
                }
                let named = views.into_iter().map(|(name, view)| (name.unwrap_or_default(), view)).collect();
                let arranged = cameras.arrange(named).map_err(|error| predicting(error.into()))?;
                Ok(arranged.into_iter().map(|view| view.unwrap_or(View::Absent)).collect())
            })
            .collect()
    }

    /// What was given for each camera, with its name where it has one.
    fn cameras(&self) -> PyResult<Vec<(Option<String>, Bound<'_, PyAny>)>> {
        if let Ok(mapping) = self.images.cast::<PyMapping>() {
            return mapping.items()?.iter().map(|item| item.extract::<(String, _)>()).map(named_camera).collect();
        }
        match self.images.cast::<PySequence>() {
            Ok(sequence) => sequence.try_iter()?.map(|image| Ok((None, image?))).collect(),
            Err(_) => Err(PyTypeError::new_err(format!(
                "`images` is a mapping from the names of cameras to arrays, or a list of arrays in the order of the views, got {}",
                named(self.images)
            ))),
        }
    }
}

fn named_camera<'py>(item: PyResult<(String, Bound<'py, PyAny>)>) -> PyResult<(Option<String>, Bound<'py, PyAny>)> {
    item.map(|(name, image)| (Some(name), image))
}

/// A frame of an array of `uint8`, `(height, width, 3)`, of any strides.
fn read_frame(image: &Bound<'_, PyAny>, place: &str, memory: &FrameMemory) -> PyResult<Frame> {
    let buffer = PyBuffer::<u8>::get(image).map_err(|_| {
        PyTypeError::new_err(format!(
            "images[{place}] must be an array of uint8 with values from 0 to 255, got {}",
            named(image)
        ))
    })?;
    let [height, width, 3] = *buffer.shape() else {
        return Err(PyValueError::new_err(format!(
            "images[{place}] must have the shape (height, width, 3), red first, got {}",
            named(image)
        )));
    };
    let mut rgb = memory.take();
    rgb.resize(buffer.item_count(), 0);
    buffer.copy_to_slice(image.py(), &mut rgb)?;
    Frame::new(width, height, rgb).map_err(|error| predicting(error.into()))
}
