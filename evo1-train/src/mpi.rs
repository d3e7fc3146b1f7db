//! Processes that train together, started by a launcher of MPI: `mpirun`, `srun` and what else a cluster has.
//!
//! Sums go over MPI in two exchanges of equal parts, each added by one process in the order of ranks, so that they have the
//! same bits whatever algorithms the library chooses.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use mpi::{
    Threading,
    topology::{Communicator, SimpleCommunicator},
    traits::CommunicatorCollectives,
};

use crate::{Error, Group, Result, group::pairwise};

/// Variables by which launchers tell a process that it is one of several.
const LAUNCHED: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "PMI_RANK"];

/// Whether a launcher of MPI has started this process.
pub fn is_launched() -> bool {
    LAUNCHED.iter().any(|name| std::env::var_os(name).is_some())
}

/// The processes that a launcher has started. MPI has a thread of its own, which alone calls it.
pub struct Processes {
    rank: usize,
    size: usize,
    local_rank: usize,
    channels: Option<Mutex<(Sender<Values>, Receiver<Values>)>>,
    thread: Option<JoinHandle<()>>,
}

/// What is exchanged: what one process brings, or what comes of it.
enum Values {
    Gather(Vec<f64>),
    Sum(Vec<f32>),
}

impl Processes {
    /// Joins the others.
    ///
    /// # Errors
    /// When MPI cannot be started, or was before.
    pub fn join() -> Result<Arc<Self>> {
        let (places, place) = channel();
        let (requests, inbox) = channel();
        let (outbox, answers) = channel();
        let speak = move || {
            let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else { return };
            let world = universe.world();
            let local_rank = world.split_shared(world.rank()).rank();
            let numbers = [world.rank(), world.size(), local_rank].map(|number| number as usize);
            if places.send(numbers).is_err() {
                return;
            }
            for request in inbox {
                if outbox.send(exchanged(&world, request)).is_err() {
                    break;
                }
            }
        };
        let thread = Some(std::thread::spawn(speak));
        let failed = |_| Error::Group("MPI cannot be started, or was before".into());
        let [rank, size, local_rank] = place.recv().map_err(failed)?;
        Ok(Arc::new(Self { rank, size, local_rank, channels: Some(Mutex::new((requests, answers))), thread }))
    }

    /// The place of this process among those of the same machine, counted from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn exchange(&self, values: Values) -> Result<Values> {
        let gone = || Error::Group("MPI has ended".into());
        let channels = self.channels.as_ref().ok_or_else(gone)?;
        let (requests, answers) = &*channels.lock().unwrap_or_else(PoisonError::into_inner);
        requests.send(values).map_err(|_| gone())?;
        answers.recv().map_err(|_| gone())
    }
}

impl Group for Processes {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn gather(&self, values: Vec<f64>) -> Result<Vec<Vec<f64>>> {
        let each = values.len();
        match self.exchange(Values::Gather(values))? {
            Values::Gather(all) => Ok((0..self.size).map(|rank| all[rank * each..][..each].to_vec()).collect()),
            Values::Sum(_) => unreachable!("answers are of the kind that was asked for"),
        }
    }

    fn sum(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        match self.exchange(Values::Sum(values))? {
            Values::Sum(sums) => Ok(sums),
            Values::Gather(_) => unreachable!("answers are of the kind that was asked for"),
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.channels.take();
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// What comes of the values that all processes bring.
fn exchanged(world: &SimpleCommunicator, values: Values) -> Values {
    let size = world.size() as usize;
    match values {
        Values::Gather(values) => {
            let mut all = vec![0.0; values.len() * size];
            world.all_gather_into(&values[..], &mut all[..]);
            Values::Gather(all)
        }
        Values::Sum(mut values) => {
            let count = values.len();
            let part = count.div_ceil(size);
            values.resize(part * size, 0.0);
            // This process gets its part of every one's values, adds them, and gives everyone the sums.
            let mut parts = vec![0.0; part * size];
            world.all_to_all_into(&values[..], &mut parts[..]);
            let sums = pairwise((0..size).map(|rank| parts[rank * part..][..part].to_vec()));
            world.all_gather_into(&sums[..], &mut values[..]);
            values.truncate(count);
            Values::Sum(values)
        }
    }
}
