//! The loop, and the thread beside it that asks for chunks.

use std::{
    fmt,
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use evo1::{
    Observation, Prediction,
    chunk::{ActionQueue, QueueConfig},
};
use evo1_serve::{
    Rtc,
    client::{CallOptions, Client, ClientError, ClientOptions, ConnectionEvent, Listener, Reconnect, Reply},
};

use crate::robot::Robot;

/// Time between two actions: 30 in a second.
const PERIOD: Duration = Duration::from_micros(33_333);

/// A robot does not wait for an answer longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the planner is asked.
struct Question {
    observation: Observation,
    rtc: Option<Rtc>,
    /// Actions executed when the observation was made.
    executed: usize,
}

struct Answer {
    reply: Result<Reply, ClientError>,
    executed: usize,
    took: Duration,
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// Times that the loop came round.
    ticks: usize,
    /// Of these, those that came later than half a period.
    late: usize,
    /// Those without an action, in which the robot kept still.
    holds: usize,
    chunks: Vec<Duration>,
    failures: usize,
    restored: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut times = self.chunks.clone();
        times.sort_unstable();
        let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
        writeln!(f, "{} ticks, {} late, {} without an action", self.ticks, self.late, self.holds)?;
        writeln!(f, "{} chunks, p50 {:.0?}, p99 {:.0?}", times.len(), at(50), at(99))?;
        write!(f, "{} failed, {} connections made anew", self.failures, self.restored)
    }
}

/// Drives the robot for so long.
pub(crate) fn run(url: &str, time: Duration) -> Result<Summary, ClientError> {
    let (restored, restorations) = channel();
    let options = ClientOptions {
        read_timeout: PATIENCE,
        connect_timeout: PATIENCE,
        // The loop asks again anyway, with a newer observation.
        reconnect: Reconnect { tries: 1, ..Reconnect::default() },
        listener: Some(Listener::new(move |event| {
            if matches!(event, ConnectionEvent::Restored { .. }) {
                // Nobody listens any more when the loop has ended.
                let _ = restored.send(());
            }
        })),
        ..ClientOptions::default()
    };
    let client = Client::connect(url, options)?;
    let Some(info) = client.info().cloned() else {
        return Err(ClientError::Reply("a server that says what its policy is like is needed: evo1 serve".into()));
    };
    // A chunk is asked for when half of the one before is executed.
    let config = QueueConfig { replan_every: Some((info.horizon / 2).max(1)), ..QueueConfig::default() };
    let width = info.action_dim_of(&evo1::StatisticsKey::default()).unwrap_or(info.max_action_dim);
    let (questions, answers) = plan(client);
    let (mut robot, mut queue, mut summary) = (Robot::new(), ActionQueue::new(config), Summary::default());
    let (mut is_asked, mut executed, mut delay) = (false, 0_usize, 0);
    let start = Instant::now();
    let mut next = start;
    while start.elapsed() < time {
        match answers.try_recv() {
            Ok(Answer { reply: Ok(reply), executed: then, took }) => {
                is_asked = false;
                // The robot has gone on since the observation was made, and so does the new chunk.
                let passed = executed - then;
                delay = passed;
                summary.chunks.push(took);
                queue.push(Prediction { normalized: reply.chunk.clone(), chunk: reply.chunk }, passed);
            }
            Ok(Answer { reply: Err(_), .. }) => {
                is_asked = false;
                summary.failures += 1;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
        match queue.next_action() {
            Some(action) => {
                robot.act(&action[..width]);
                executed += 1;
            }
            None => summary.holds += 1,
        }
        if !is_asked && (queue.wants_chunk() || queue.is_empty()) {
            // What the server knows as its last reply is the queue's chunk, of which so many actions are over.
            let over = info.horizon - queue.len();
            let rtc = (!queue.is_empty()).then(|| Rtc { executed: over, delay, config: Default::default() });
            is_asked = questions.send(Question { observation: robot.observe(), rtc, executed }).is_ok();
        }
        summary.ticks += 1;
        next += PERIOD;
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let late = next.elapsed();
            summary.late += usize::from(late > PERIOD / 2);
            // Ticks that are over are left out: the robot must not catch up by moving faster.
            next += PERIOD * (late.as_nanos() / PERIOD.as_nanos()) as u32;
        }
        sleep(left);
    }
    summary.restored = restorations.try_iter().count();
    Ok(summary)
}

/// A thread that asks one question after another.
fn plan(mut client: Client) -> (Sender<Question>, Receiver<Answer>) {
    let (questions, asked) = channel::<Question>();
    let (told, answers) = channel();
    spawn(move || {
        for Question { observation, rtc, executed } in asked {
            let start = Instant::now();
            let reply =
                client.predict(&observation, &CallOptions { rtc, deadline: Some(PATIENCE), ..CallOptions::default() });
            if reply.is_err() {
                // A server that is away is not asked in every period.
                sleep(Duration::from_millis(100));
            }
            if told.send(Answer { reply, executed, took: start.elapsed() }).is_err() {
                break;
            }
        }
    });
    (questions, answers)
}
