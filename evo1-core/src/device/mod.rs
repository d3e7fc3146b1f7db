//! The devices of this build by name.
//!
//! Cargo features decide which devices a build contains, a name chooses one at run time. Opening a device that the
//! build or the machine lacks is an error that names the remedy.

mod cuda;
mod memory;

use std::{cell::Cell, fmt, str::FromStr, sync::Once};

use burn::tensor::{DType, Device, Tensor, TensorData, kind::Basic};
use tracing::warn;

pub use cuda::{CUDA_PATH, LIBRARY_PATH, Toolkit};
pub use evo1_kernels::{has_graphs, has_tf32, has_transport, is_asynchronous};
pub use memory::{available_memory, peak_memory};

use crate::{Error, Result};

/// A device that burn can run on, named by its cargo feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Pure-Rust CPU with SIMD and threads.
    Flex,
    /// The older CPU device on `ndarray`.
    NdArray,
    /// CubeCL's CPU runtime.
    Cpu,
    /// Any GPU through wgpu, graphics API chosen automatically.
    Wgpu,
    /// Any GPU through Vulkan.
    Vulkan,
    /// Apple GPUs.
    Metal,
    /// GPUs through WebGPU.
    WebGpu,
    /// NVIDIA GPUs.
    Cuda,
}

impl DeviceKind {
    /// Every kind, in the order in which `auto` tries them.
    pub const ALL: [Self; 8] =
        [Self::Cuda, Self::Metal, Self::Vulkan, Self::Wgpu, Self::WebGpu, Self::Flex, Self::NdArray, Self::Cpu];

    /// The name of the kind and of its cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::NdArray => "ndarray",
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::WebGpu => "webgpu",
            Self::Cuda => "cuda",
        }
    }

    /// Whether this build contains it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Flex => cfg!(feature = "flex"),
            Self::NdArray => cfg!(feature = "ndarray"),
            Self::Cpu => cfg!(feature = "cpu"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Metal => cfg!(feature = "metal"),
            Self::WebGpu => cfg!(feature = "webgpu"),
            Self::Cuda => cfg!(feature = "cuda-llvm"),
        }
    }

    /// The devices of this kind that are on this machine.
    pub fn enumerate(self) -> Vec<Device> {
        // A runtime without its driver panics instead of listing nothing.
        without_panic(|| enumerate(self)).unwrap_or_default()
    }
}

/// The kinds that this build contains.
pub fn built() -> Vec<DeviceKind> {
    DeviceKind::ALL.into_iter().filter(|kind| kind.is_built()).collect()
}

/// `auto`, or a kind and the index of the device among those of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU there is, else the CPU.
    Auto,
    /// `cuda:1`; without an index the first.
    Of(DeviceKind, usize),
}

impl DeviceName {
    /// Opens the device.
    pub fn open(self) -> Result<Device> {
        let (kind, index) = match self {
            Self::Auto => return auto(0),
            Self::Of(kind, index) => (kind, index),
        };
        if !kind.is_built() {
            return Err(Error::DeviceNotBuilt { name: self.to_string(), built: names(&built()), feature: kind.name() });
        }
        let devices = kind.enumerate();
        let absent = |reason: String| Error::DeviceAbsent { name: self.to_string(), reason };
        let unusable = |reason: String| Error::DeviceUnusable { name: self.to_string(), reason };
        if devices.is_empty() {
            return Err(absent(format!("no driver answers; is one for `{kind}` installed?")));
        }
        let count = devices.len();
        let device = devices
            .into_iter()
            .nth(index)
            .ok_or_else(|| absent(format!("there are {count} of its kind, counted from 0")))?;
        if kind == DeviceKind::Cuda
            && let Some(remedy) = Toolkit::find().remedy()
        {
            return Err(unusable(format!("its compiler does not find NVIDIA's toolkit: {remedy}")));
        }
        compute_once(&device).map_err(unusable)?;
        Ok(device)
    }
}

impl DeviceName {
    /// Opens the device of the `place`-th of several processes on this machine, counted from 0: they take the devices of
    /// the kind in turn.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_for(self, place: usize) -> Result<Device> {
        match self {
            Self::Auto => auto(place),
            Self::Of(..) if place == 0 => self.open(),
            Self::Of(kind, index) => Self::Of(kind, (index + place) % kind.enumerate().len().max(1)).open(),
        }
    }
}

/// Compiles and runs a kernel: a device that is listed may have a driver too old for its compiler, or no memory.
fn compute_once(device: &Device) -> Result<(), String> {
    let computed = without_panic(|| {
        let erf = Tensor::<1>::from_data([0.5_f32], (device, DType::F32)).erf();
        erf.try_into_data().map(|_| ()).map_err(|error| words(&error))
    });
    computed.unwrap_or_else(|| Err("its driver panics".to_owned()))
}

/// A tensor's values on the host. What a device could not do (compile a kernel, find memory) comes out here, when
/// something is read that depends on it.
pub fn read<const D: usize, K: Basic>(tensor: Tensor<D, K>) -> Result<TensorData> {
    let device = tensor.device();
    tensor.try_into_data().map_err(|error| Error::DeviceFailed { device: format!("{device:?}"), reason: words(&error) })
}

/// The one value of a tensor that has one; see [`read`].
pub fn scalar(tensor: Tensor<1>) -> Result<f64> {
    Ok(read(tensor)?.iter().next().unwrap_or(f64::NAN))
}

/// What a device says went wrong: the root of it, without what could not be done in consequence.
fn words(error: &impl fmt::Display) -> String {
    /// Lines that name no cause.
    const CONSEQUENCES: [&str; 9] = [
        "Caused by:",
        "Backtrace:",
        "Asked at:",
        "No backtrace available",
        "Error while reading data",
        "An error happened during execution",
        "Several failures at once",
        "The bytes were never written",
        "skipped ",
    ];
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains("were dropped;"));
    let causes: Vec<&str> =
        lines.filter(|line| !CONSEQUENCES.iter().any(|consequence| line.starts_with(consequence))).collect();
    if causes.is_empty() { text } else { causes.join("; ") }
}

/// Lets products of `f32` round their operands to TF32, in the whole process: see [`evo1_kernels::set_tf32`].
///
/// # Errors
/// When the device has no TF32.
pub fn allow_tf32(device: &Device) -> Result<()> {
    if !evo1_kernels::has_tf32(device) {
        return Err(Error::DtypeUnsupported { device: format!("{device:?}"), dtype: "tf32".to_owned() });
    }
    evo1_kernels::set_tf32(true);
    Ok(())
}

/// The device of the `place`-th process, of the first kind that there is.
fn auto(place: usize) -> Result<Device> {
    let tried = built();
    for &kind in &tried {
        match DeviceName::Of(kind, 0).open_for(place) {
            Ok(device) if !is_software(&device) => return Ok(device),
            Ok(_) => {}
            // A device that is there is meant to be used: nobody wants to find out by the time that it takes.
            Err(error @ Error::DeviceUnusable { .. }) => warn!("{error}"),
            Err(_) => {}
        }
    }
    let reason = format!("none of {} can be opened", names(&tried));
    Err(Error::DeviceAbsent { name: String::from("auto"), reason })
}

/// Fails unless `device` computes in `dtype`.
pub fn require_dtype(device: &Device, dtype: DType) -> Result<()> {
    if device.supports_dtype(dtype) {
        return Ok(());
    }
    Err(Error::DtypeUnsupported { device: format!("{device:?}"), dtype: dtype.name().to_owned() })
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Of(kind, 0) => write!(f, "{kind}"),
            Self::Of(kind, index) => write!(f, "{kind}:{index}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
        let kind = DeviceKind::ALL.into_iter().find(|known| known.name() == kind);
        match (kind, index.parse()) {
            (Some(kind), Ok(index)) => Ok(Self::Of(kind, index)),
            _ => Err(Error::UnknownDevice {
                name: name.to_owned(),
                expected: format!("`auto`, {}, with an index as in `cuda:1`", names(&DeviceKind::ALL)),
            }),
        }
    }
}

fn names(kinds: &[DeviceKind]) -> String {
    kinds.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ")
}

fn enumerate(kind: DeviceKind) -> Vec<Device> {
    #[allow(unused_imports, reason = "a build without any device has nothing to list")]
    use burn::tensor::DeviceType;
    #[allow(unreachable_patterns, reason = "the arms that remain depend on the features")]
    let of_type = match kind {
        #[cfg(feature = "flex")]
        DeviceKind::Flex => DeviceType::Flex,
        #[cfg(feature = "ndarray")]
        DeviceKind::NdArray => DeviceType::NdArray,
        #[cfg(feature = "cpu")]
        DeviceKind::Cpu => DeviceType::Cpu,
        #[cfg(feature = "wgpu")]
        DeviceKind::Wgpu => DeviceType::Wgpu,
        #[cfg(feature = "vulkan")]
        DeviceKind::Vulkan => DeviceType::Vulkan,
        #[cfg(feature = "metal")]
        DeviceKind::Metal => DeviceType::Metal,
        #[cfg(feature = "webgpu")]
        DeviceKind::WebGpu => DeviceType::WebGpu,
        #[cfg(feature = "cuda-llvm")]
        DeviceKind::Cuda => {
            evo1_kernels::keep_kernels();
            DeviceType::Cuda
        }
        _ => return Vec::new(),
    };
    #[allow(unreachable_code, reason = "a build without any device has nothing to list")]
    Device::enumerate(of_type).into_vec()
}

/// Whether a device that looks like a GPU is a software renderer, which `auto` does not take.
#[cfg(any(
    feature = "cpu",
    feature = "cuda-llvm",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "webgpu"
))]
fn is_software(device: &Device) -> bool {
    const RENDERERS: [&str; 3] = ["llvmpipe", "lavapipe", "swiftshader"];
    let identity = without_panic(|| device.identity()).flatten();
    identity.is_some_and(|identity| {
        let name = identity.name.to_lowercase();
        RENDERERS.iter().any(|renderer| name.contains(renderer))
    })
}

#[cfg(not(any(
    feature = "cpu",
    feature = "cuda-llvm",
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "webgpu"
)))]
fn is_software(_: &Device) -> bool {
    false
}

/// What is done with a panic's message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    /// What the process does.
    Shown,
    /// Nothing: panics of this thread are expected.
    Dropped,
    /// Nothing, if it is a device's.
    DroppedOfDevices,
}

thread_local! {
    static MESSAGE: Cell<Message> = const { Cell::new(Message::Shown) };
}

/// Runs `body` with another use of the messages of its panics.
fn with_messages<T>(message: Message, body: impl FnOnce() -> T) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_shown = match MESSAGE.get() {
                Message::Shown => true,
                Message::Dropped => false,
                Message::DroppedOfDevices => failure_of(panic.payload()).is_none(),
            };
            if is_shown {
                hook(panic);
            }
        }));
    });
    let before = MESSAGE.replace(message);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    MESSAGE.set(before);
    result
}

/// The result of `body`, or `None` when it panics, without the panic's message on standard error.
pub(crate) fn without_panic<T>(body: impl FnOnce() -> T) -> Option<T> {
    with_messages(Message::Dropped, body).ok()
}

/// Runs `body`, and makes an error of a panic by which burn says that a device failed. Other panics go on.
///
/// # Errors
/// When a device failed where burn has no error for it.
pub fn caught<T>(body: impl FnOnce() -> T) -> Result<T> {
    with_messages(Message::DroppedOfDevices, body).or_else(|panic| match failure_of(panic.as_ref()) {
        Some(reason) => Err(Error::DeviceFailed { device: "in use".to_owned(), reason }),
        None => std::panic::resume_unwind(panic),
    })
}

/// What a device says in a panic of burn's, if it is one.
fn failure_of(panic: &(dyn std::any::Any + Send)) -> Option<String> {
    /// What burn's panics about devices say, and no other.
    const WORDS: [&str; 3] = ["Error while reading data", "An error happened during execution", "DriverError("];
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())?;
    WORDS.iter().any(|words| text.contains(words)).then(|| words(&text))
}

/// The devices that the test suites run on: those named in `EVO1_TEST_DEVICES` (comma-separated, each must open), or
/// every built device that this machine has, except `cpu`, whose first operation takes minutes.
///
/// # Panics
/// When a device named in `EVO1_TEST_DEVICES` cannot be opened, or no device is left to test.
pub fn test_devices() -> Vec<Device> {
    let devices: Vec<Device> = match std::env::var("EVO1_TEST_DEVICES") {
        Ok(names) => names
            .split(',')
            .map(|name| {
                name.parse::<DeviceName>()
                    .and_then(DeviceName::open)
                    .unwrap_or_else(|error| panic!("EVO1_TEST_DEVICES: {error}"))
            })
            .collect(),
        Err(_) => built()
            .into_iter()
            .filter(|kind| *kind != DeviceKind::Cpu)
            .filter_map(|kind| DeviceName::Of(kind, 0).open().ok())
            .collect(),
    };
    assert!(!devices.is_empty(), "no device to test on: build with `--features flex`");
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for (name, parsed) in [
            ("auto", DeviceName::Auto),
            ("flex", DeviceName::Of(DeviceKind::Flex, 0)),
            ("cuda:1", DeviceName::Of(DeviceKind::Cuda, 1)),
        ] {
            assert_eq!(name.parse::<DeviceName>().expect("a name"), parsed);
            assert_eq!(parsed.to_string(), name);
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        for name in ["gpu", "cuda:x", "cuda:-1", ""] {
            let message = name.parse::<DeviceName>().expect_err("no such name").to_string();
            assert!(message.contains("unknown device") && message.contains("`flex`"), "{message}");
        }
    }

    #[test]
    fn a_devices_words_are_the_cause_and_not_its_consequences() {
        let text = "An error happened during execution\nCaused by:\n  Several failures at once\nCaused by:\n  skipped \
                    `KernelBinop`: it needed memory 7\n  (9 older skip record(s) were dropped; the walk may stop)\nCaused \
                    by:\n  out of device memory allocating 11534336 bytes\nBacktrace:\nNo backtrace available";
        assert_eq!(words(&text), "out of device memory allocating 11534336 bytes");
        assert_eq!(words(&"Caused by:"), "Caused by:", "rather than nothing");
    }

    #[test]
    fn every_kind_opens_or_says_why_not() {
        for kind in DeviceKind::ALL.into_iter().filter(|kind| *kind != DeviceKind::Cpu) {
            match DeviceName::Of(kind, 0).open() {
                Ok(_) => assert!(kind.is_built()),
                Err(Error::DeviceNotBuilt { feature, .. }) => assert_eq!(feature, kind.name()),
                Err(error) => {
                    let is_named = matches!(error, Error::DeviceAbsent { .. } | Error::DeviceUnusable { .. });
                    assert!(is_named, "{error}");
                }
            }
        }
    }

    #[test]
    fn an_index_past_the_last_device_is_an_error() {
        let Some(&kind) = built().iter().find(|kind| matches!(kind, DeviceKind::Flex | DeviceKind::NdArray)) else {
            return;
        };
        let error = DeviceName::Of(kind, 9).open().expect_err("there are no ten CPUs");
        assert!(matches!(error, Error::DeviceAbsent { .. }), "{error}");
    }
}
