//! What each fuzz target does with its bytes: nothing may panic, hang or take memory that the bytes do not justify. A test
//! of the workspace runs the same bodies on the corpus.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use evo1_core::{
    config::{PolicyConfig, Profile, upstream},
    device::DeviceName,
    hub::Repository,
    normalize::{Normalization, NormalizationType, Normalizer, Statistics},
    weights::{Adapter, Audit, ModelPart, Naming, Owner, ParamSpec, WeightFile, check, write_safetensors},
};

/// A target's name and body.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const TARGETS: [Target; 10] = [
    ("config", config),
    ("own_config", own_config),
    ("statistics", statistics),
    ("processors", processors),
    ("adapter", adapter),
    ("names", names),
    ("safetensors", safetensors),
    ("shards", shards),
    ("pytorch", pytorch),
    ("burnpack", burnpack),
];

/// Upstream's `config.json`; what follows a line of three dashes is the `vlm_config.json`.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (config, vlm) = match text.split_once("\n---\n") {
        Some((config, vlm)) => (config, Some(vlm)),
        None => (text, None),
    };
    if let Ok(read) = upstream::parse(Path::new("policy"), config, vlm) {
        read.config.validate("a valid configuration stays one").expect("valid");
        let documents = [upstream::lerobot_document(&read.config), upstream::authors_document(&read.config)];
        assert!(documents.iter().all(|document| document.is_object()));
    }
    with_file("config.json", data, |path| {
        let _ = upstream::read_base(path.parent().expect("a folder"));
    });
}

/// Our own `evo1.json`.
pub(crate) fn own_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok((config, _)) = PolicyConfig::parse(Path::new("evo1.json"), text) {
        let again = PolicyConfig::parse(Path::new("evo1.json"), &config.document().to_string()).expect("what was read");
        assert_eq!(again, (config, vec![]));
    }
}

/// `norm_stats.json`.
pub(crate) fn statistics(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(statistics) = Statistics::parse(Path::new("norm_stats.json"), text) else { return };
    for (_, robot) in statistics.robots() {
        for kind in [NormalizationType::Bounds, NormalizationType::BoundsQ99, NormalizationType::Normal] {
            let normalizer = Normalizer::new(Normalization::both(kind), &Profile::Paper.semantics());
            let _ = normalizer.normalize_state(&vec![0.5; robot.state.width()], robot, robot.state.width());
            let _ = normalizer.denormalize_action(&[0.5; 3], robot);
        }
    }
}

/// LeRobot's `policy_preprocessor.json`.
pub(crate) fn processors(data: &[u8]) {
    with_file("policy_preprocessor.json", data, |path| {
        let _ = Statistics::read_lerobot(path.parent().expect("a folder"), Some(4), Some(4));
    });
}

/// PEFT's `adapter_config.json`, beside the factors of an attention and of a linear layer.
pub(crate) fn adapter(data: &[u8]) {
    let spec = |path: &str, shape: [usize; 2]| ParamSpec {
        path: format!("action.blocks.0.{path}.weight"),
        shape: shape.to_vec(),
        owner: Owner::Linear,
    };
    let specs = [
        spec("cross_attention.q_proj", [4, 4]),
        spec("cross_attention.kv_proj", [4, 8]),
        spec("cross_attention.out_proj", [4, 4]),
        spec("feed_forward.linear_1", [4, 6]),
    ];
    let zeros = |shape: [usize; 2]| TensorData::zeros::<f32, _>(shape);
    let factors = [("attn", 12), ("attn.base_layer.out_proj", 4), ("ff.0", 6)].into_iter().flat_map(|(module, out)| {
        let name = format!("base_model.model.model.action_head.transformer_blocks.0.{module}.lora");
        [(format!("{name}_A.weight"), zeros([2, 4])), (format!("{name}_B.weight"), zeros([out, 2]))]
    });
    with_file("adapter_config.json", data, |path| {
        write_safetensors(&path.with_file_name("adapter_model.safetensors"), &factors.collect()).expect("written");
        if let Ok(adapter) = Adapter::open(path.parent().expect("a folder"), &specs) {
            assert_eq!(adapter.factors.len(), specs.len());
        }
    });
}

/// Names of repositories, devices and profiles, and of a checkpoint's tensors.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(repository) = text.parse::<Repository>() {
        assert_eq!(repository.to_string(), text);
    }
    let _ = (text.parse::<DeviceName>().is_ok(), text.parse::<Profile>().is_ok(), ModelPart::of(text));
    for naming in Naming::ALL {
        let _ = (naming.component(text), naming.is_expected_extra(text, 2));
    }
}

/// A safetensors file.
pub(crate) fn safetensors(data: &[u8]) {
    if let Ok(file) = WeightFile::from_bytes(Path::new("model.safetensors"), data.to_vec()) {
        read_all(&file);
    }
}

/// The index of a safetensors file's shards.
pub(crate) fn shards(data: &[u8]) {
    opened("model.safetensors.index.json", data);
}

/// A PyTorch file.
pub(crate) fn pytorch(data: &[u8]) {
    opened("model.pt", data);
}

/// burn's file.
pub(crate) fn burnpack(data: &[u8]) {
    opened("model.bpk", data);
}

fn opened(name: &str, data: &[u8]) {
    with_file(name, data, |path| {
        if let Ok(file) = WeightFile::open(path) {
            read_all(&file);
        }
    });
}

/// Reads and audits every tensor, and compares the names with a module's.
fn read_all(file: &WeightFile) {
    for name in file.names() {
        if let Ok(data) = file.read(name) {
            assert_eq!(data.as_bytes().len(), file.byte_len(name).expect("a size"));
            let _ = Audit::of(&data);
        }
    }
    let _ = (Naming::detect(file).is_ok(), check(&[], file, 2).is_ok());
}

/// A file of this name in a folder of this process's own, in memory where the system has such a place.
fn with_file(name: &str, data: &[u8], read: impl FnOnce(&Path)) {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let thread = format!("{:?}", std::thread::current().id());
    let folder: PathBuf = root.join(format!("evo1-fuzz-{}-{}", std::process::id(), thread.replace(['(', ')'], "")));
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    fs::write(&path, data).expect("written");
    read(&path);
    fs::remove_dir_all(&folder).expect("removed");
}
