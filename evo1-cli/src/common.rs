//! What all subcommands share: device, number type, profile, log, and files.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use clap::{ArgAction, Args, ValueEnum};
use evo1::{
    Components, Frame, LoadOptions, Policy,
    config::{Precision, Profile},
    device::{DeviceName, allow_tf32},
    hub::Repository,
};
use eyre::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// The heading of options that every subcommand has, below its own.
const COMMON: &str = "Common options";

/// Options of every subcommand.
#[derive(Clone, Args)]
pub(crate) struct Common {
    /// Device to compute on: auto, flex, ndarray, cpu, wgpu, vulkan, metal, webgpu or cuda, with an index as in cuda:1
    #[arg(long, global = true, help_heading = COMMON, env = "EVO1_DEVICE", default_value = "auto", value_parser = parse_device)]
    pub(crate) device: DeviceName,

    /// Number type of weights and activations: f32 by default
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) dtype: Option<Dtype>,

    /// Reference whose semantics are used: paper, official, official-flash or lerobot; taken from the policy by default
    #[arg(long, global = true, help_heading = COMMON, value_parser = parse_profile)]
    pub(crate) profile: Option<Profile>,

    /// Refuse a policy with unknown configuration keys or with values that no trained network has, instead of warning
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) strict: bool,

    /// What is logged to standard error: error, warn, info, debug, or a filter such as evo1=debug
    #[arg(long, global = true, help_heading = COMMON, value_parser = parse_filter)]
    pub(crate) log: Option<String>,

    /// How it is written: lines of text, or one JSON object in each
    #[arg(long, global = true, help_heading = COMMON, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,

    /// Log more: what is done (-v), and how (-vv)
    #[arg(short, long, global = true, help_heading = COMMON, action = ArgAction::Count, conflicts_with_all = ["quiet", "log"])]
    pub(crate) verbose: u8,

    /// Log errors alone, and no progress
    #[arg(short, long, global = true, help_heading = COMMON, conflicts_with = "log")]
    pub(crate) quiet: bool,

    /// How the program reads states and actions of datasets.
    #[cfg(feature = "data")]
    #[arg(skip)]
    pub(crate) suites: evo1_data::Suites,
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines of text.
    Text,
    /// One JSON object in each line.
    Json,
}

/// What is not logged unless it is asked for.
const SILENT: &str = "wgpu_hal=off,hf_hub=off,cubecl_server=off,cubecl_runtime=off";

/// The messages that say how far long work is, where there is no terminal to draw a bar on.
pub(crate) const PROGRESS: &str = "evo1_cli::progress";

/// Fails unless `text` says what is logged.
fn parse_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// Number types on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// Single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// Half precision.
    F16,
    /// A bfloat16 vision-language model and a single-precision action expert, as LeRobot runs on a CPU.
    Mixed,
    /// Single precision, of whose numbers products take the first eleven bits: faster on some GPUs.
    Tf32,
}

impl Dtype {
    pub(crate) fn precision(self) -> Precision {
        match self {
            Self::F32 | Self::Tf32 => Precision::all(DType::F32),
            Self::Bf16 => Precision::all(DType::BF16),
            Self::F16 => Precision::all(DType::F16),
            Self::Mixed => Precision { vlm: DType::BF16, action: DType::F32 },
        }
    }
}

impl Common {
    /// What is logged.
    pub(crate) fn filter(&self) -> String {
        match (&self.log, self.quiet, self.verbose) {
            (Some(filter), ..) => filter.clone(),
            (None, true, _) => format!("error,{SILENT}"),
            (None, false, 0) => format!("warn,{PROGRESS}=info,{SILENT}"),
            (None, false, 1) => format!("info,{SILENT}"),
            (None, false, _) => format!("debug,{SILENT}"),
        }
    }

    /// Opens the device.
    pub(crate) fn open_device(&self) -> Result<Device> {
        self.open_device_for(0)
    }

    /// Opens the device of one of several processes on this machine.
    pub(crate) fn open_device_for(&self, place: usize) -> Result<Device> {
        let device = self.device.open_for(place)?;
        if self.dtype == Some(Dtype::Tf32) {
            allow_tf32(&device)?;
        }
        Ok(device)
    }

    /// The number types to compute in.
    pub(crate) fn precision(&self) -> Precision {
        self.dtype.map(Dtype::precision).unwrap_or_default()
    }

    /// The name of the number types to compute in.
    pub(crate) fn dtype_name(&self) -> String {
        format!("{:?}", self.dtype.unwrap_or(Dtype::F32)).to_lowercase()
    }

    /// What is logged and refused, for a process that is to have the same.
    #[cfg(feature = "ablate")]
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = vec!["--log".to_owned(), self.filter()];
        if self.strict {
            options.push("--strict".into());
        }
        options
    }

    /// The policy of a directory, or the embedded one.
    pub(crate) fn policy<C: Components>(&self, directory: Option<&Path>, device: &Device) -> Result<Policy<C>> {
        match directory {
            Some(directory) => self.load(directory, device),
            None => Ok(Policy::embedded_as(&self.load_options(device))?),
        }
    }

    /// What the policy of a directory, or the embedded one, is called.
    pub(crate) fn policy_name(directory: Option<&Path>) -> String {
        directory.map_or_else(|| "embedded".into(), |directory| directory.display().to_string())
    }

    fn load_options(&self, device: &Device) -> LoadOptions {
        LoadOptions {
            device: device.clone(),
            profile: self.profile,
            precision: self.precision(),
            is_strict: self.strict,
            adapter: None,
        }
    }

    /// Loads a policy directory, or a repository on the Hub, and logs what is worth knowing about it.
    pub(crate) fn load<C: Components>(&self, policy: &Path, device: &Device) -> Result<Policy<C>> {
        let (policy, report) = Policy::load_as(&local(policy)?, &self.load_options(device))?;
        report.warn();
        if policy.statistics.is_none() {
            warn!("no statistics: states and actions are in normalised units");
        }
        info!("profile {} from {}", policy.config.profile, report.profile_source);
        info!("{} tensors read, {} without use skipped", report.weights.read.len(), report.weights.skipped.len());
        Ok(policy)
    }
}

/// The folder that is meant by a path: itself, or the download of `hf://owner/name`.
pub(crate) fn local(path: &Path) -> Result<PathBuf> {
    let bar = byte_bar()?;
    let folder = Repository::local(path, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(folder?)
}

/// A sum of the files in a folder: of a policy's, for example. Folders in it do not count.
#[cfg(all(feature = "train", feature = "serve"))]
pub(crate) fn folder_sum(folder: &Path) -> Result<String> {
    let failed = |reason| evo1::CoreError::io("read", folder, reason);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push(format!("{name} {}", evo1::files::sha256(&path, |_| ())?));
        }
    }
    files.sort();
    Ok(format!("{:016x}", evo1::rng::fnv1a(files.join("\n").as_bytes())))
}

/// A progress bar on standard error that counts bytes.
pub(crate) fn byte_bar() -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")?;
    Ok(ProgressBar::new(0).with_style(style))
}

/// Reads a PNG or JPEG file.
pub(crate) fn read_frame(path: &Path) -> Result<Frame> {
    let context = || format!("cannot read the image {}", path.display());
    let bytes = evo1::files::read(path).wrap_err_with(context)?;
    decode_frame(&bytes).wrap_err_with(context)
}

/// Decodes a PNG or JPEG image.
pub(crate) fn decode_frame(bytes: &[u8]) -> Result<Frame> {
    let reader = image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format()?;
    let image = reader.decode()?.into_rgb8();
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Frame::new(width, height, image.into_raw())?)
}

/// Reads a component's name, or its settings as JSON.
#[cfg(feature = "train")]
pub(crate) fn parse_choice(text: &str) -> Result<evo1::Choice, String> {
    let value: serde_json::Result<serde_json::Value> =
        if text.starts_with('{') { serde_json::from_str(text) } else { Ok(text.into()) };
    value.map_err(|error| error.to_string())?.try_into()
}

pub(crate) fn parse_device(name: &str) -> Result<DeviceName, String> {
    // A variable of the environment that is empty is not set.
    let name = if name.is_empty() { "auto" } else { name };
    name.parse().map_err(|error: evo1::CoreError| error.to_string())
}

fn parse_profile(name: &str) -> Result<Profile, String> {
    name.parse().map_err(|_| format!("expected one of {}", Profile::ALL.map(Profile::name).join(", ")))
}
