//! `evo1 devices`: what this build and this machine offer.

use burn::tensor::DType;
use clap::Args;
use evo1::device::{DeviceKind, DeviceName, has_tf32};
use eyre::Result;

use crate::output::say;

/// List the devices of this build and of this machine.
#[derive(Args)]
#[command(after_help = "Example:\n  evo1 devices --json")]
pub(crate) struct Devices {
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One kind of device.
#[derive(serde::Serialize)]
struct Row {
    name: &'static str,
    built: bool,
    devices: usize,
    dtypes: Vec<&'static str>,
    remedy: Option<String>,
}

impl Devices {
    pub(crate) fn run(self) -> Result<()> {
        let rows: Vec<Row> = DeviceKind::ALL.into_iter().map(row).collect();
        if self.json {
            say!("{}", serde_json::to_string_pretty(&rows)?)?;
            return Ok(());
        }
        say!("{:8} {:>5} {:>7}  {:18}", "device", "built", "here", "dtypes")?;
        for Row { name, built, devices, dtypes, remedy } in &rows {
            let built = if *built { "yes" } else { "no" };
            let remedy = remedy.as_deref().unwrap_or_default();
            say!("{name:8} {built:>5} {devices:>7}  {:18} {remedy}", dtypes.join(" "))?;
        }
        if let Ok(device) = DeviceName::Auto.open() {
            say!("\nauto is {device:?}")?;
        }
        Ok(())
    }
}

fn row(kind: DeviceKind) -> Row {
    let name = kind.name();
    // CubeCL's CPU runtime takes minutes to start: it is listed, not opened.
    let opened = if kind == DeviceKind::Cpu { None } else { Some(DeviceName::Of(kind, 0).open()) };
    let dtypes = match &opened {
        Some(Ok(device)) => {
            let of_tensors = [(DType::F32, "f32"), (DType::BF16, "bf16"), (DType::F16, "f16")];
            let of_tensors = of_tensors.into_iter().filter(|&(dtype, _)| device.supports_dtype(dtype));
            of_tensors.map(|(_, name)| name).chain(has_tf32(device).then_some("tf32")).collect()
        }
        _ => Vec::new(),
    };
    let remedy = match (kind.is_built(), opened) {
        (false, _) => Some(format!("build with --features {name}")),
        (true, Some(Err(error))) => Some(error.to_string()),
        (true, _) => None,
    };
    Row { name, built: kind.is_built(), devices: kind.enumerate().len(), dtypes, remedy }
}
