//! A policy means the same in every format, and comes back bit for bit.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device, TensorData};
use evo1::{
    LoadOptions, Policy,
    config::Precision,
    convert::{ConvertOptions, Format, convert},
    device::test_devices,
    trace,
    weights::WeightFile,
};

const FIXTURES: [&str; 7] = [
    "tiny-lerobot",
    "tiny-official",
    "tiny-multiembodiment",
    "tiny-horizon1",
    "tiny-train-lerobot",
    "tiny-train-official",
    "tiny-authors",
];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures")).join(name)
}

fn tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let file = WeightFile::open(path).unwrap_or_else(|error| panic!("{error}"));
    file.names().map(|name| (name.to_owned(), file.read(name).expect("tensor"))).collect()
}

fn options(format: Format) -> ConvertOptions {
    ConvertOptions { format, precision: None, is_strict: true }
}

fn converted(from: &Path, to: &Path, format: Format, dtype: Option<DType>) {
    let options = ConvertOptions { precision: dtype.map(Precision::all), ..options(format) };
    convert(from, to, &options, |_, _| {}).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

fn traced(directory: &Path, inputs: &WeightFile, device: &Device) -> trace::Tensors {
    let policy = Policy::load(directory, &LoadOptions::new(device)).unwrap_or_else(|error| panic!("{error}")).0;
    trace::inference(&policy, inputs, None).expect("a trace")
}

#[test]
fn every_fixture_computes_the_same_in_every_format() {
    let device = test_devices().remove(0);
    for name in FIXTURES {
        let inputs = if name == "tiny-authors" { "tiny-official" } else { name };
        let inputs = WeightFile::open(&fixture(inputs).join("inference.safetensors")).expect("fixture");
        let folder = tempfile::tempdir().expect("folder");
        let expected = traced(&fixture(name), &inputs, &device);
        for format in [Format::LeRobot, Format::Authors, Format::Burnpack] {
            let to = folder.path().join(format!("{format:?}"));
            converted(&fixture(name), &to, format, None);
            assert!(traced(&to, &inputs, &device) == expected, "{name} as {format:?}");
        }
    }
}

#[test]
fn round_trips_change_no_bit() {
    for (name, file, own) in [
        ("tiny-multiembodiment", "model.safetensors", Format::LeRobot),
        ("tiny-horizon1", "model.safetensors", Format::LeRobot),
        ("tiny-authors", "mp_rank_00_model_states.pt", Format::Authors),
    ] {
        let original = tensors(&fixture(name).join(file));
        for through in [Format::LeRobot, Format::Authors, Format::Burnpack] {
            let folder = tempfile::tempdir().expect("folder");
            let (there, back) = (folder.path().join("there"), folder.path().join("back"));
            converted(&fixture(name), &there, through, None);
            converted(&there, &back, own, None);
            assert!(tensors(&back.join("model.safetensors")) == original, "{name} through {through:?}");
        }
    }
}

#[test]
fn the_authors_layout_is_the_one_that_pytorch_wrote() {
    let folder = tempfile::tempdir().expect("folder");
    let to = folder.path().join("authors");
    converted(&fixture("tiny-official"), &to, Format::Authors, None);
    let expected = tensors(&fixture("tiny-official").join("model_original_layout.safetensors"));
    assert!(tensors(&to.join("model.safetensors")) == expected);
}

#[test]
fn half_precision_is_written_rounded() {
    for dtype in [DType::BF16, DType::F16] {
        let folder = tempfile::tempdir().expect("folder");
        let (there, again) = (folder.path().join("there"), folder.path().join("again"));
        converted(&fixture("tiny-lerobot"), &there, Format::Authors, Some(dtype));
        converted(&there, &again, Format::LeRobot, Some(DType::F32));
        let rounded: BTreeMap<String, TensorData> = tensors(&fixture("tiny-lerobot").join("model.safetensors"))
            .into_iter()
            .map(|(name, data)| (name, data.convert_dtype(dtype).convert_dtype(DType::F32)))
            .collect();
        assert!(tensors(&again.join("model.safetensors")) == rounded, "{dtype:?}");
    }
}

#[test]
fn what_is_there_is_not_overwritten() {
    let folder = tempfile::tempdir().expect("folder");
    let to = folder.path().join("policy");
    converted(&fixture("tiny-lerobot"), &to, Format::LeRobot, None);
    let error = convert(&fixture("tiny-lerobot"), &to, &options(Format::Burnpack), |_, _| {});
    assert!(error.expect_err("a policy is there").to_string().contains("holds a policy already"));
    let error = convert(folder.path(), &to.join("new"), &options(Format::LeRobot), |_, _| {});
    assert!(error.expect_err("no policy").to_string().contains("`config.json` is missing"));
}
