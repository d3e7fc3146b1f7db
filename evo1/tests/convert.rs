//! A policy means the same in every format, and comes back bit for bit.

use std::{collections::BTreeMap, path::Path};

use burn::tensor::{DType, Device, TensorData};
use evo1::{
    LoadOptions, Policy,
    config::Precision,
    convert::{ConvertOptions, Format, convert},
    device::test_devices,
    test_support::fixture,
    trace,
    weights::{WeightFile, write_safetensors},
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

fn tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let file = WeightFile::open(path).unwrap_or_else(|error| panic!("{error}"));
    file.names().map(|name| (name.to_owned(), file.read(name).expect("tensor"))).collect()
}

fn options(format: Format) -> ConvertOptions {
    ConvertOptions { format, precision: None, is_strict: true, adapter: None }
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

#[test]
fn a_conversion_that_fails_leaves_no_policy_and_the_old_files_whole() {
    let folder = tempfile::tempdir().expect("folder");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    converted(&fixture("tiny-lerobot"), &from, Format::LeRobot, None);
    let mut weights = tensors(&from.join("model.safetensors"));
    let last = weights.values_mut().next_back().expect("weights");
    *last = TensorData::new(vec![f32::NAN; last.num_elements()], last.shape().clone());
    write_safetensors(&from.join("model.safetensors"), &weights).expect("written");
    std::fs::create_dir(&to).expect("folder");
    std::fs::write(to.join("model.safetensors"), b"old").expect("written");
    let message = convert(&from, &to, &options(Format::LeRobot), |_, _| {}).expect_err("strict").to_string();
    assert!(message.contains("no trained network has"), "{message}");
    let files: Vec<_> = std::fs::read_dir(&to).expect("folder").map(|file| file.expect("file").file_name()).collect();
    assert_eq!(files, ["model.safetensors"], "no `config.json`, no temporary file");
    assert_eq!(std::fs::read(to.join("model.safetensors")).expect("file"), b"old");
    convert(&from, &to, &ConvertOptions { is_strict: false, ..options(Format::LeRobot) }, |_, _| {})
        .expect("warned of");
}

/// A checkpoint of the authors' code with statistics gets the processors that LeRobot loads, and back.
#[test]
fn statistics_follow_into_every_format() {
    let folder = tempfile::tempdir().expect("folder");
    let authors = folder.path().join("authors");
    converted(&fixture("tiny-authors"), &authors, Format::Authors, None);
    let text = r#"{"arm":{"set":{"observation.state":{"min":[0,1,2,3],"max":[4,5,6,7]},"action":{"min":[0,0,0],"max":[1,2,3]}}}}"#;
    std::fs::write(authors.join("norm_stats.json"), text).expect("written");
    let load = |path: &Path| {
        let device = test_devices().remove(0);
        Policy::load(path, &LoadOptions::new(&device)).unwrap_or_else(|error| panic!("{error}")).0
    };
    let expected = load(&authors).statistics.expect("statistics");
    let lerobot = folder.path().join("lerobot");
    converted(&authors, &lerobot, Format::LeRobot, None);
    let policy = load(&lerobot);
    assert_eq!((policy.config.state_dim, policy.config.action_dim), (Some(4), Some(3)), "the robot's own widths");
    assert_eq!(policy.statistics.as_ref(), Some(&expected));
    // The processors alone say the same, whether padded or not.
    std::fs::remove_file(lerobot.join("norm_stats.json")).expect("removed");
    assert_eq!(load(&lerobot).statistics.expect("from the processors").only(), expected.only());
    for format in [Format::Authors, Format::Burnpack] {
        let to = folder.path().join(format!("{format:?}"));
        converted(&lerobot, &to, format, None);
        assert_eq!(load(&to).statistics.expect("statistics").only(), expected.only(), "{format:?}");
    }
}
