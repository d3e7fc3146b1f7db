//! The access log: a line of JSON for each request.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value};

use crate::{Answer, Error, ErrorKind, Result, recent::milliseconds};

/// Where lines are appended; nowhere when there is no file.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    file: Option<Mutex<File>>,
    has_failed: AtomicBool,
}

/// A robot's request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) protocol: &'a str,
    pub(crate) policy: &'a str,
    /// Whose token it came with.
    pub(crate) holder: Option<&'a str>,
    /// Bytes of the message.
    pub(crate) bytes: usize,
    /// From the whole message to the reply.
    pub(crate) took: Duration,
    pub(crate) result: std::result::Result<&'a Answer, ErrorKind>,
}

impl AccessLog {
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let file = opened.map_err(|reason| Error::AccessLog { path: path.to_owned(), reason })?;
        Ok(Self { file: Some(Mutex::new(file)), has_failed: AtomicBool::new(false) })
    }

    pub(crate) fn request(&self, access: &Access<'_>) {
        if self.file.is_none() {
            return;
        }
        let Access { peer, protocol, policy, holder, bytes, took, result } = *access;
        let mut line = Map::new();
        line.insert("protocol".into(), protocol.into());
        line.insert("policy".into(), policy.into());
        if let Some(holder) = holder {
            line.insert("token".into(), holder.into());
        }
        line.insert("bytes".into(), bytes.into());
        line.insert("result".into(), result.map_or_else(|kind| kind.name(), |_| "ok").into());
        if let Ok(answer) = result {
            line.insert("queue_ms".into(), milliseconds(answer.queued).into());
            line.insert("model_ms".into(), milliseconds(answer.times.total()).into());
        }
        line.insert("total_ms".into(), milliseconds(took).into());
        self.write(peer, line);
    }

    /// A request for a page. Queries may hold a token, and are left out.
    pub(crate) fn page(&self, peer: Option<SocketAddr>, method: &str, path: &str, status: u16) {
        if self.file.is_none() {
            return;
        }
        let mut line = Map::new();
        line.insert("protocol".into(), "http".into());
        line.insert("method".into(), method.into());
        line.insert("path".into(), path.into());
        line.insert("status".into(), status.into());
        self.write(peer, line);
    }

    fn write(&self, peer: Option<SocketAddr>, line: Map<String, Value>) {
        let Some(file) = &self.file else { return };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut whole = Map::new();
        whole.insert("time".into(), (since.as_millis() as f64 / 1e3).into());
        whole.insert("peer".into(), peer.map(|peer| peer.to_string()).into());
        whole.extend(line);
        // In one piece, so that lines of several processes do not mix.
        let text = format!("{}\n", Value::Object(whole));
        let written = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
        if let Err(error) = written
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the access log has lost lines: {error}");
        }
    }
}
