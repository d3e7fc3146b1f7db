//! Files that are made to do harm: the binary refuses them with one message, in bounded memory and time, and executes
//! nothing.
#![cfg(unix)]

mod support;

use std::{
    fs,
    io::{Cursor, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use evo1::test_support;
use support::{done, refusal};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Address space that the binary gets, in kB. It needs most of a gigabyte for itself, its threads and its allocator.
const MEMORY: u32 = 3_000_000;

/// How long the binary may take; the debug build needs a second to start on a busy machine.
const TIME: Duration = Duration::from_secs(30);

/// Looks into a file or folder, which must be refused with a message that contains `expected`.
fn refused(path: &Path, expected: &str) {
    refused_by(&["inspect", support::text(path)], expected);
}

fn refused_by(arguments: &[&str], expected: &str) {
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {MEMORY}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_evo1")])
        .args(arguments)
        .env_remove("EVO1_DEVICE")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let start = Instant::now();
    let status = loop {
        match child.try_wait().expect("a status") {
            Some(status) => break status,
            None if start.elapsed() > TIME => {
                child.kill().expect("killed");
                panic!("{arguments:?} takes more than {TIME:?}");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut stderr = Vec::new();
    child.stderr.take().expect("piped").read_to_end(&mut stderr).expect("read");
    assert!(str::from_utf8(&stderr).is_ok(), "{arguments:?}: a message is UTF-8");
    let message = refusal(arguments, &Output { status, stdout: Vec::new(), stderr }, 1);
    assert!(message.contains(expected), "{arguments:?}: `{expected}` is not in: {message}");
}

/// A folder for the files of one test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    /// A checkpoint as `torch.save` writes it, with this pickle and one storage of two numbers.
    fn checkpoint(&self, pickle: &[u8]) -> PathBuf {
        self.write("model.pt", &archive(pickle))
    }
}

fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("archive/data.pkl", pickle), ("archive/version", b"3\n"), ("archive/data/0", &[0; 8])] {
        zip.start_file(name, stored).expect("an entry");
        zip.write_all(bytes).expect("its bytes");
    }
    zip.finish().expect("an archive").into_inner()
}

/// `{"module": {"x": VALUE}}`, pickled.
fn module(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02}", text("module").as_slice(), b"}", &text("x"), value, b"ss."].concat()
}

fn text(text: &str) -> Vec<u8> {
    [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn integers(values: &[i64]) -> Vec<u8> {
    let items = values.iter().flat_map(|value| [b"\x8a\x08".as_slice(), &value.to_le_bytes()].concat());
    [b"(".to_vec(), items.collect(), b"t".to_vec()].concat()
}

/// A tensor of the storage, pickled.
fn tensor(shape: &[i64], stride: &[i64], offset: i64) -> Vec<u8> {
    let offset = [b"\x8a\x08".as_slice(), &offset.to_le_bytes()].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x02tQ",
        &offset,
        &integers(shape),
        &integers(stride),
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

#[test]
fn the_checkpoints_made_here_are_read_when_they_are_harmless() {
    let folder = Folder::new();
    let path = folder.checkpoint(&module(&tensor(&[2], &[1], 0)));
    assert!(done(&["inspect", support::text(&path)]).contains("unknown"));
}

#[test]
fn a_compressed_archive_is_refused_before_it_is_unpacked() {
    let folder = Folder::new();
    let mut bytes = archive(&module(&tensor(&[2], &[1], 0)));
    // Method 8, deflated, in the local header and in the directory.
    for signature in [b"PK\x03\x04".as_slice(), b"PK\x01\x02"] {
        let at = bytes.windows(4).position(|window| window == signature).expect("a header");
        bytes[at + if signature[2] == 3 { 8 } else { 10 }] = 8;
    }
    refused(&folder.write("model.pt", &bytes), "is compressed, which `torch.save` never does");
}

#[test]
fn an_endless_pickle_is_refused_before_it_is_read() {
    let folder = Folder::new();
    // Every byte pushes an object of a hundred.
    refused(&folder.checkpoint(&vec![b'N'; 9_000_000]), "more than the 8000000 that a checkpoint needs");
    refused(&folder.checkpoint(&vec![b'N'; 7_000_000]), "not a usable PyTorch checkpoint");
    refused(&folder.write("model.pt", &vec![b'N'; 9_000_000]), "not an archive as `torch.save` has written");
}

#[test]
fn a_pickle_that_calls_os_system_calls_nothing() {
    let folder = Folder::new();
    let trace = folder.0.path().join("executed");
    let command =
        format!("cos\nsystem\n({}tR", String::from_utf8(text(&format!("touch {}", trace.display()))).expect("UTF-8"));
    let direct = [b"\x80\x02}".as_slice(), &text("module"), command.as_bytes(), b"s."].concat();
    refused(&folder.checkpoint(&direct), "'module' does not hold a dictionary, found os.system");
    refused(&folder.write("bare.pt", &direct), "not an archive");
    // Beside the weights it is skipped, like every other object that is no tensor.
    let beside = module(&[tensor(&[2], &[1], 0), b"s".to_vec(), text("y"), command.into_bytes()].concat());
    let path = folder.checkpoint(&beside);
    done(&["inspect", support::text(&path)]);
    assert!(!trace.exists());
}

#[test]
fn memo_bombs_and_towers_of_lists_are_refused() {
    let folder = Folder::new();
    // Ten lists, each of which holds the one before ten times.
    let mut bomb = b"\x80\x02]q\x00".to_vec();
    for level in 1..=10 {
        bomb.extend([b']', b'q', level, b'(']);
        bomb.extend([b'h', level - 1].repeat(10));
        bomb.push(b'e');
        bomb.extend([b'q', level]);
    }
    bomb.push(b'.');
    refused(&folder.checkpoint(&bomb), "memo bomb");
    let tower = [b"\x80\x02".to_vec(), vec![b']'; 100_000], vec![b'a'; 99_999], b".".to_vec()].concat();
    refused(&folder.checkpoint(&tower), "nesting exceeds");
}

#[test]
fn tensors_that_reach_beyond_their_storage_are_refused() {
    let folder = Folder::new();
    for (shape, stride, offset, expected) in [
        (&[2_i64][..], &[2_i64][..], 0, "storage '0' declares 2"),
        (&[2], &[1], 1, "storage '0' declares 2"),
        (&[2], &[1, 1], 0, "stride rank 2 does not match shape rank 1"),
        (&[2], &[-1], 0, "non-negative"),
        (&[i64::MAX, i64::MAX], &[0, 0], 0, "overflows"),
        (&[i64::MAX], &[1], 0, "overflows"),
        (&[1 << 40], &[0], 0, "above the 10737418240 byte limit"),
        (&[1 << 31], &[0], 0, "it claims 8589934592 bytes, and the file has"),
    ] {
        refused(&folder.checkpoint(&module(&tensor(shape, stride, offset))), expected);
    }
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let folder = Folder::new();
    let one = r#""x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    for (header, expected) in [
        (
            format!(r#"{{{one},"y":{{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}}}"#),
            "not a valid safetensors file",
        ),
        (format!(r#"{{{one},{one}}}"#), "the key `x` is there twice"),
        (one.replace("[0,8]", "[0,1000000000000]"), "not a valid safetensors file"),
        (format!("{{{}}}", one.replace("[2]", "[4611686018427387904,16]")), "not a valid safetensors file"),
        (format!("{{{}}}", one.replace("[0,8]", "[8,16]")), "not a valid safetensors file"),
        ("[".repeat(100_000), "recursion limit"),
    ] {
        refused(&folder.write("model.safetensors", &safetensors(&header, &[0; 8])), expected);
    }
    let long = [&(90_000_000_u64).to_le_bytes()[..], b"{}"].concat();
    refused(&folder.write("model.safetensors", &long), "claims a header of 90000000 bytes, but 2 bytes follow");
}

#[test]
fn burnpacks_that_lie_are_refused() {
    let folder = Folder::new();
    let head = |length: u32| [&0x4255_524E_u32.to_le_bytes()[..], &1_u16.to_le_bytes(), &length.to_le_bytes()].concat();
    for bytes in [vec![], head(0)[..5].to_vec(), head(u32::MAX), head(90_000_000), [head(4), vec![0xff; 4]].concat()] {
        refused(&folder.write("model.bpk", &bytes), "not a usable burnpack");
    }
}

#[test]
fn an_index_of_shards_leads_nowhere_else() {
    let folder = Folder::new();
    let index = |shard: &str| format!(r#"{{"weight_map":{{"x":"{shard}"}}}}"#);
    for (shard, expected) in [
        ("../../etc/passwd", "names of files in the same folder"),
        ("model.safetensors.index.json", "not a valid safetensors file"),
        ("missing.safetensors", "missing.safetensors"),
    ] {
        refused(&folder.write("model.safetensors.index.json", index(shard).as_bytes()), expected);
    }
}

fn fixture(name: &str) -> PathBuf {
    test_support::fixture("tiny-lerobot").join(name)
}

/// A policy's folder without its weights.
fn policy() -> Folder {
    let folder = Folder::new();
    for name in ["config.json", "vlm_config.json", "tokenizer.json"] {
        fs::copy(fixture(name), folder.0.path().join(name)).expect("copied");
    }
    folder
}

#[test]
fn links_that_lead_in_circles_and_pipes_are_refused() {
    let folder = policy();
    let weights = folder.0.path().join("model.safetensors");
    std::os::unix::fs::symlink(&weights, &weights).expect("a link");
    refused(&weights, "model.safetensors");
    refused(folder.0.path(), "none of `model.safetensors`");
    for name in ["pipe.safetensors", "pipe.pt", "pipe.bpk", "pipe.index.json"] {
        let pipe = folder.0.path().join(name);
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        refused(&pipe, "not a regular file");
    }
    fs::remove_file(&weights).expect("removed");
    fs::copy(fixture("model.safetensors"), &weights).expect("copied");
    let config = folder.0.path().join("config.json");
    fs::remove_file(&config).expect("removed");
    std::os::unix::fs::symlink("config.json", &config).expect("a link");
    refused_by(&["infer", "--policy", support::text(folder.0.path())], "config.json");
}

#[test]
fn configurations_of_monsters_are_refused() {
    let folder = policy();
    fs::copy(fixture("model.safetensors"), folder.0.path().join("model.safetensors")).expect("copied");
    let config = fs::read_to_string(fixture("config.json")).expect("fixture");
    let path = support::text(folder.0.path()).to_owned();
    for (from, to, expected) in [
        (r#""num_layers": 2"#, r#""num_layers": 1000000000"#, "`num_layers` must be from 1 to 1000"),
        (r#""vlm_num_layers": 2"#, r#""vlm_num_layers": 1000000000"#, "`vlm_num_layers` must be from 1 to 1000"),
        (r#""num_layers": 2"#, r#""num_layers": 1000"#, "missing"),
        (r#""chunk_size": 4"#, r#""chunk_size": 4294967295"#, "`chunk_size` must be from 1 to 100000"),
        (r#""hidden_dim": 40"#, r#""hidden_dim": 4294967295"#, "must have shape"),
        (r#""chunk_size": 4"#, r#""chunk_size": 1e300"#, "`chunk_size` must be a whole number"),
        (r#""chunk_size": 4"#, r#""chunk_size": 4, "chunk_size": 4"#, "the key `chunk_size` is there twice"),
        (r#""num_categories": 1"#, r#""num_categories": 4294967295"#, "missing"),
    ] {
        assert!(config.contains(from), "{from}");
        folder.write("config.json", config.replace(from, to).as_bytes());
        refused_by(&["infer", "--policy", &path, "--state", "0,0,0,0"], expected);
    }
    folder.write("config.json", format!("{{\"type\": \"evo1\", \"x\": {}", "[".repeat(1_000_000)).as_bytes());
    refused_by(&["infer", "--policy", &path], "recursion limit");
    let sparse = fs::File::create(folder.0.path().join("config.json")).expect("a file");
    sparse.set_len(1 << 40).expect("a terabyte of nothing");
    refused_by(&["infer", "--policy", &path], "more than 100000000 bytes");
}

#[test]
fn git_lfs_pointers_are_named_whatever_file_they_stand_for() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let infer = |folder: &Folder, more: &[&str]| {
        let policy = folder.0.path().to_string_lossy();
        refused_by(&[&["infer", "--policy", &policy, "--state", "0,0,0,0"], more].concat(), "`git lfs pull`");
    };
    let whole = || {
        let folder = policy();
        fs::copy(fixture("model.safetensors"), folder.0.path().join("model.safetensors")).expect("copied");
        folder
    };
    for file in ["config.json", "model.safetensors", "tokenizer.json", "vlm_config.json", "norm_stats.json"] {
        let folder = whole();
        folder.write(file, pointer);
        infer(&folder, &[]);
    }
    for weights in ["model.bpk", "mp_rank_00_model_states.pt"] {
        let folder = policy();
        refused(&folder.write(weights, pointer), "`git lfs pull`");
        infer(&folder, &[]);
    }
    let folder = whole();
    infer(&folder, &["--image", &folder.write("front.png", pointer).to_string_lossy()]);
}
