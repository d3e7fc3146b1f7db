//! Codecs without a decoder of ours, through the program `ffmpeg`.
//!
//! One process decodes from the key frame before the wanted frame, goes on while frames are asked for in order, and waits
//! while nobody reads. Frames come as PPM pictures, which say their size; the filter `showinfo` says when each is shown.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
};

use evo1_core::Frame;

/// Frames that are decoded and thrown away rather than starting anew.
const MOST_SKIPPED: usize = 8;

/// Most bytes of a frame.
const MOST_BYTES: usize = 1 << 30;

/// A video that `ffmpeg` decodes.
pub(super) struct Program {
    path: PathBuf,
    running: Option<Running>,
}

/// A process and the number of the frame that it gives next.
struct Running {
    process: Child,
    pictures: BufReader<ChildStdout>,
    /// Seconds at which the frames are shown.
    times: Receiver<f64>,
    /// Reads what the process says; its result is the last error.
    listener: Option<JoinHandle<String>>,
    next: usize,
}

impl Program {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), running: None }
    }

    /// A frame by its number among those shown, at which `times` are ascending seconds.
    pub(super) fn frame(&mut self, number: usize, times: &[f64]) -> Result<Frame, String> {
        let goes_on = |running: &Running| (running.next..=running.next + MOST_SKIPPED).contains(&number);
        let mut running = match self.running.take().filter(goes_on) {
            Some(running) => running,
            None => Running::start(&self.path, number, times[number] - half_gap(number, times))?,
        };
        // An error leaves nothing running, and the next frame starts anew.
        let frame = loop {
            let (at, frame) = (running.next, running.frame()?);
            let shown = running.times.recv().map_err(|_| "`ffmpeg` does not say when its frames are shown")?;
            if (shown - times[at]).abs() > half_gap(at, times) {
                return Err(format!("`ffmpeg` gave the frame at {shown:.4} s in place of that at {:.4} s", times[at]));
            }
            if at == number {
                break frame;
            }
        };
        self.running = Some(running);
        Ok(frame)
    }
}

/// Half of the time between a frame and its nearer neighbour; a second for the only frame.
fn half_gap(number: usize, times: &[f64]) -> f64 {
    let gap = |from: usize, to: usize| Some((times.get(to)? - times.get(from)?) / 2.0);
    let before = number.checked_sub(1).and_then(|before| gap(before, number));
    before.into_iter().chain(gap(number, number + 1)).reduce(f64::min).unwrap_or(1.0)
}

impl Running {
    /// Starts with the first frame that is shown at `start` or later.
    fn start(path: &Path, next: usize, start: f64) -> Result<Self, String> {
        let mut file = std::ffi::OsString::from("file:");
        file.push(path);
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-threads", "1", "-copyts"]);
        if start > 0.0 {
            command.args(["-ss", &format!("{start:.6}")]);
        }
        command.args(["-noautorotate", "-protocol_whitelist", "file", "-i"]).arg(file);
        command.args(["-map", "0:v:0", "-vf", "showinfo", "-fps_mode", "passthrough"]);
        command.args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => "it takes the program `ffmpeg`, which is not on the PATH: install it".to_owned(),
            _ => format!("`ffmpeg` cannot be started: {error}"),
        })?;
        let (Some(pictures), Some(said)) = (process.stdout.take(), process.stderr.take()) else {
            return Err("`ffmpeg` has no output".into());
        };
        let (heard, times) = channel();
        let listener = Some(std::thread::spawn(move || listen(said, &heard)));
        Ok(Self { process, pictures: BufReader::new(pictures), times, listener, next })
    }

    fn frame(&mut self) -> Result<Frame, String> {
        let frame = ppm(&mut self.pictures).map_err(|message| {
            let said = self.listener.take().and_then(|listener| {
                let _ = self.process.kill();
                listener.join().ok()
            });
            match said.filter(|said| !said.is_empty()) {
                Some(said) => format!("`ffmpeg` says: {said}"),
                None => format!("`ffmpeg` {message}"),
            }
        })?;
        self.next += 1;
        Ok(frame)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Sends the times of frames, and returns the last error.
fn listen(said: ChildStderr, times: &Sender<f64>) -> String {
    let (mut unit, mut error) = (None, String::new());
    for line in BufReader::new(said).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        if let Some((_, base)) = line.split_once("config in time_base: ") {
            unit = ratio(base);
        } else if let (Some((_, pts)), Some(unit)) = (line.split_once(" pts:"), unit) {
            let pts = pts.split_whitespace().next().and_then(|pts| pts.parse::<f64>().ok());
            // Nobody hears it once an error was reported.
            let _ = times.send(pts.unwrap_or(f64::NAN) * unit);
        } else if let Some((_, message)) = line.split_once("[error] ").or_else(|| line.split_once("[fatal] ")) {
            error = message.trim().to_owned();
        }
    }
    error
}

/// The number of `1/12800, …`.
fn ratio(text: &str) -> Option<f64> {
    let (numerator, denominator) = text.split([',', ' ']).next()?.split_once('/')?;
    Some(numerator.parse::<f64>().ok()? / denominator.trim().parse::<f64>().ok()?)
}

/// Reads one binary PPM picture.
fn ppm(from: &mut impl BufRead) -> Result<Frame, String> {
    let mut line = || {
        let mut line = Vec::new();
        match from.by_ref().take(64).read_until(b'\n', &mut line) {
            Ok(0) => Err("ended before the frame".to_owned()),
            Ok(_) => Ok(String::from_utf8_lossy(&line).trim().to_owned()),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    };
    let (magic, size, levels) = (line()?, line()?, line()?);
    let size = size.split_once(' ').and_then(|(w, h)| Some((w.parse::<usize>().ok()?, h.parse::<usize>().ok()?)));
    let bytes = size.and_then(|(width, height)| width.checked_mul(height)?.checked_mul(3));
    let (Some((width, height)), Some(bytes)) = (size, bytes.filter(|&bytes| bytes <= MOST_BYTES)) else {
        return Err("gave a picture without a size".into());
    };
    if magic != "P6" || levels != "255" {
        return Err("gave no PPM picture".into());
    }
    let mut rgb = vec![0; bytes];
    from.read_exact(&mut rgb).map_err(|_| "ended within the frame")?;
    Frame::new(width, height, rgb).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_says_its_size() {
        let frame = ppm(&mut &b"P6\n2 1\n255\n\x01\x02\x03\x04\x05\x06"[..]).expect("a picture");
        assert_eq!((frame.width(), frame.height(), frame.rgb()), (2, 1, &[1, 2, 3, 4, 5, 6][..]));
        for bad in [
            &b""[..],
            b"P6\n2 1\n255\n\x01",
            b"P6\n2\n255\n",
            b"P5\n1 1\n255\n\x01\x02\x03",
            b"P6\n99999999 99999999\n255\n",
        ] {
            assert!(ppm(&mut &bad[..]).is_err());
        }
    }

    #[test]
    fn half_a_gap_is_that_to_the_nearer_neighbour() {
        let times = [0.0, 1.0, 1.5];
        assert_eq!([0, 1, 2].map(|number| half_gap(number, &times)), [0.5, 0.25, 0.25]);
        assert_eq!(half_gap(0, &[3.0]), 1.0);
    }
}
