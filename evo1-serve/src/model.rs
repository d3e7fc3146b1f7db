//! What the server asks of a model, and the policy that answers.

use std::time::Duration;

use evo1::{
    Components, Description, FinishOptions, Frame, Noise, Observation, PredictOptions, Published, Rollout,
    StatisticsKey, View, config::Profile,
};

use crate::{
    Answer, ErrorKind, Request, RequestError,
    protocol::{Scaling, Shape},
};

/// Most Euler steps that a request may ask for.
const MAX_STEPS: usize = 1000;

/// Widest smoothing in steps.
const MAX_SMOOTHING: f32 = 100.0;

/// A model that predicts action chunks. One thread computes on it; any may ask what it is and check requests.
pub trait Model: Send + Sync + 'static {
    /// Its sizes.
    fn shape(&self) -> Shape;

    /// What it is, for people and for clients that ask.
    fn description(&self) -> Description;

    /// Who scales frames of the JSON protocol, unless the server is told.
    fn scaling(&self) -> Scaling {
        Scaling::OpenCv
    }

    /// A request like those to come, which shows that the model works.
    fn sample(&self) -> Request;

    /// Fails when a request cannot be computed, without computing.
    fn check(&self, request: &Request) -> Result<(), RequestError>;

    /// Predicts until later predictions take no longer than they have to: kernels are compiled and memory is allocated then.
    fn warm_up(&self) -> Result<(), RequestError> {
        self.predict(&[&self.sample()]).map(drop)
    }

    /// Whether two requests can be computed together.
    fn can_batch(&self, one: &Request, other: &Request) -> bool;

    /// One answer for each request, in their order.
    fn predict(&self, requests: &[&Request]) -> Result<Vec<Answer>, RequestError>;
}

/// What makes another model's requests or actions others than this one's: clients rely on what they were told.
pub(crate) fn difference(one: &Description, other: &Description) -> Option<&'static str> {
    let differences = [
        ("horizon", one.horizon != other.horizon),
        ("max_action_dim", one.max_action_dim != other.max_action_dim),
        ("max_state_dim", one.max_state_dim != other.max_state_dim),
        ("action_dim", one.action_dim != other.action_dim),
        ("state_dim", one.state_dim != other.state_dim),
        ("views", one.views != other.views),
        ("cameras", one.cameras != other.cameras),
        ("robots", one.robots != other.robots),
    ];
    differences.into_iter().find(|(_, differs)| *differs).map(|(name, _)| name)
}

/// A policy as the server runs it.
#[derive(Debug)]
pub struct PolicyModel<C: Components = Published> {
    /// The policy, in use.
    pub rollout: Rollout<C>,
    /// Its name.
    pub name: String,
    /// The seed of a connection's first request, unless the request brings one. The next one's is larger by one, and so on:
    /// a robot that noise has led into a dead end must not meet the same noise again.
    pub seed: u64,
    /// Euler steps of requests that do not say; the policy's own when `None`.
    pub steps: Option<usize>,
    /// Smoothing of requests that do not say; none when `None`.
    pub smoothing: Option<f32>,
}

impl<C: Components> PolicyModel<C> {
    fn seed_of(&self, request: &Request) -> u64 {
        request.seed.unwrap_or_else(|| self.seed.wrapping_add(request.number))
    }

    fn steps_of(&self, request: &Request) -> Option<usize> {
        request.steps.or(self.steps)
    }
}

impl<C: Components> Model for PolicyModel<C> {
    fn shape(&self) -> Shape {
        let config = &self.rollout.policy().config;
        Shape {
            views: config.max_views,
            image_size: config.vlm.image_size,
            state: config.action.max_state_dim,
            action: config.action.max_action_dim,
            horizon: config.action.horizon,
        }
    }

    fn description(&self) -> Description {
        let description = self.rollout.policy().description(&self.name);
        Description { steps: self.steps.unwrap_or(description.steps), ..description }
    }

    fn scaling(&self) -> Scaling {
        match self.rollout.policy().config.profile {
            // LeRobot has no such server: its frames go to the policy as the camera gives them.
            Profile::LeRobot => Scaling::Policy,
            _ => Scaling::OpenCv,
        }
    }

    fn sample(&self) -> Request {
        let shape = self.shape();
        let robots = self.rollout.policy().statistics.iter().flat_map(|statistics| statistics.robots());
        let (key, width) = robots.map(|(key, robot)| (key, robot.state.width())).next().unwrap_or_default();
        let (arm, dataset) = match key.split_once('/') {
            Some((arm, dataset)) => (Some(arm.to_owned()), Some(dataset.to_owned())),
            None => (Some(key).filter(|key| !key.is_empty()), None),
        };
        let observation = Observation {
            views: vec![View::Present(Frame::black(shape.image_size, shape.image_size)); shape.views],
            state: vec![0.0; width.min(shape.state)],
            instruction: "warm up".into(),
            statistics: StatisticsKey { arm, dataset },
            ..Observation::default()
        };
        Request { steps: Some(1), ..Request::of(observation) }
    }

    fn check(&self, request: &Request) -> Result<(), RequestError> {
        if let Some(steps) = request.steps.filter(|steps| !(1..=MAX_STEPS).contains(steps)) {
            return Err(RequestError::invalid(format!("`steps` must be from 1 to {MAX_STEPS}, got {steps}")));
        }
        if let Some(sigma) =
            request.finish.smoothing.filter(|sigma| !(f32::MIN_POSITIVE..=MAX_SMOOTHING).contains(sigma))
        {
            return Err(RequestError::invalid(format!(
                "`smoothing` must be above 0 and at most {MAX_SMOOTHING}, got {sigma}"
            )));
        }
        self.rollout.policy().preparer().check(&request.observation).map_err(request_error)
    }

    /// A graph is one of some number of steps: where there will be one, it is that of the requests to come.
    fn warm_up(&self) -> Result<(), RequestError> {
        if !self.rollout.can_capture() {
            return self.predict(&[&self.sample()]).map(drop);
        }
        let options = PredictOptions { steps: self.steps, ..PredictOptions::default() };
        self.rollout.warm_up(&[self.sample().observation], &options).map_err(request_error)
    }

    fn can_batch(&self, one: &Request, other: &Request) -> bool {
        let is_free = |request: &Request| request.guidance.is_none();
        let key = |request: &Request| (self.steps_of(request), request.finish);
        is_free(one) && is_free(other) && key(one) == key(other)
    }

    fn predict(&self, requests: &[&Request]) -> Result<Vec<Answer>, RequestError> {
        let Some(first) = requests.first() else { return Ok(Vec::new()) };
        let observations: Vec<Observation> = requests.iter().map(|request| request.observation.clone()).collect();
        let options = PredictOptions {
            steps: self.steps_of(first),
            noise: Noise::Seeds(requests.iter().map(|request| self.seed_of(request)).collect()),
            guidance: first.guidance.clone(),
            finish: FinishOptions { smoothing: first.finish.smoothing.or(self.smoothing), ..first.finish },
            ..PredictOptions::default()
        };
        let (predictions, times) = self.rollout.predict_batch_timed(&observations, &options).map_err(request_error)?;
        let batch = requests.len();
        let answer = |prediction: evo1::Prediction| Answer {
            chunk: prediction.chunk,
            normalized: prediction.normalized,
            times,
            queued: Duration::ZERO,
            batch,
        };
        Ok(predictions.into_iter().map(answer).collect())
    }
}

/// The policy's error as the client's: everything but the prediction itself comes from the observation.
fn request_error(error: evo1::Error) -> RequestError {
    let kind = match error {
        evo1::Error::NonFinitePrediction { .. } => ErrorKind::NonFinite,
        _ => ErrorKind::InvalidRequest,
    };
    RequestError::new(kind, error.to_string())
}
