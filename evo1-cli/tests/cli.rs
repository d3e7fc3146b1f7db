//! The binary from outside: what it prints, and how it ends on input that is not what it should be.

mod support;

use std::path::{Path, PathBuf};

use evo1::test_support::fixture;
#[cfg(feature = "train")]
use support::own_lines;
use support::{document, done, evo1, refusal, stderr, stdout, text};
use tempfile::TempDir;

/// Runs the binary, which must end with `code` and one message that contains `expected`.
#[track_caller]
fn refused(arguments: &[&str], code: i32, expected: &str) {
    let output = evo1(arguments);
    let message = refusal(arguments, &output, code);
    assert!(message.contains(expected), "{arguments:?}: `{expected}` is not in: {message}");
    assert_eq!(message.matches("error:").count(), 1, "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", stdout(&output));
}

/// A copy of a policy directory that a test may break.
struct Copy(TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        for file in ["config.json", "vlm_config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(fixture(name).join(file), directory.path().join(file)).expect("copy");
        }
        Self(directory)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.path(file), bytes).expect("write");
    }

    fn infer_is_refused(&self, code: i32, expected: &str) {
        refused(&["infer", "--policy", text(self.0.path()), "--state", "0,0,0,0"], code, expected);
    }
}

#[test]
fn infer_works_with_nothing_given_and_repeats() {
    let infer = |arguments: &[&str]| document(&evo1(&[&["infer", "--json"], arguments].concat()));
    let (first, second) = (infer(&[]), infer(&[]));
    assert_eq!(first["actions"], second["actions"]);
    assert_eq!(first["actions"].as_array().map(Vec::len), Some(8));
    assert_eq!(first["actions"][0].as_array().map(Vec::len), Some(4));
    let other = infer(&["--seed", "1"]);
    assert_ne!(first["actions"], other["actions"]);
}

#[test]
fn infer_prints_a_table() {
    let table = done(&["infer", "--steps", "2"]);
    assert!(table.contains("action 3"), "{table}");
    assert_eq!(table.lines().filter(|line| line.trim_start().starts_with("7 ")).count(), 1, "{table}");
}

#[test]
fn infer_plots_the_chunk() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("chunk.png");
    done(&["infer", "--steps", "2", "--plot", text(&path)]);
    let image = image::open(&path).expect("a PNG");
    assert!(image.width() > 400 && image.height() > 200);
    let missing = directory.path().join("no/such/chunk.png");
    refused(&["infer", "--steps", "1", "--plot", text(&missing)], 1, "chunk.png");
}

#[test]
fn trace_reproduces_a_fixture_and_says_when_it_does_not() {
    let directory = tempfile::tempdir().expect("directory");
    let policy = fixture("tiny-official");
    let inputs = policy.join("inference.safetensors");
    let out = directory.path().join("trace.safetensors");
    let arguments = ["trace", "--policy", text(&policy), "--inputs", text(&inputs), "--against", text(&inputs)];
    assert!(done(&[&arguments[..], &["--out", text(&out)]].concat()).contains("flash.out.action"));
    assert!(out.metadata().expect("written").len() > 100_000);

    let strict = evo1(&[&arguments[..], &["--tolerance", "1e-12"]].concat());
    assert_eq!(strict.status.code(), Some(1));
    assert!(stdout(&strict).contains("too far") && stderr(&strict).contains("by more than 1e-12"));
    let other = evo1(&[&arguments[..], &["--profile", "lerobot"]].concat());
    assert_eq!(other.status.code(), Some(1), "another profile is another function");
}

#[test]
fn trace_reproduces_training() {
    let policy = fixture("tiny-train-lerobot");
    for stage in ["stage1", "stage2"] {
        let file = policy.join(format!("train_{stage}.safetensors"));
        let of_files = ["trace", "--policy", text(&policy), "--inputs", text(&file), "--against", text(&file)];
        let compared = done(&[&of_files[..], &["--train", stage]].concat());
        assert!(compared.contains("grad.model.action_head.seq_pool_proj.weight"));
    }
}

#[test]
fn convert_writes_a_policy_that_traces_the_same() {
    let directory = tempfile::tempdir().expect("directory");
    let policy = fixture("tiny-lerobot");
    let inputs = policy.join("inference.safetensors");
    for format in ["authors", "burnpack", "lerobot"] {
        let to = directory.path().join(format);
        let arguments = ["convert", "--from", text(&policy), "--to", text(&to), "--format", format];
        assert!(done(&arguments).contains("written to"));
        done(&["trace", "--policy", text(&to), "--inputs", text(&inputs), "--against", text(&inputs)]);
        refused(&arguments, 1, "holds a policy already");
    }
    let half = directory.path().join("half");
    done(&["convert", "--from", text(&policy), "--to", text(&half), "--format", "lerobot", "--dtype", "mixed"]);
    let size = |path: &Path| path.join("model.safetensors").metadata().expect("weights").len();
    assert!(size(&half) < size(&policy) * 9 / 10 && size(&half) > size(&policy) / 2);
    refused(&["convert", "--from", "no/such", "--to", "no/where", "--format", "lerobot"], 1, "no such directory");
}

#[test]
fn devices_lists_every_kind() {
    let rows = document(&evo1(&["devices", "--json"]));
    let rows = rows.as_array().expect("a list");
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().any(|row| row["built"] == true && row["devices"] != 0), "{rows:?}");
}

#[test]
fn wrong_use_ends_with_2() {
    refused(&["infer", "--steps", "0"], 2, "--steps");
    refused(&["infer", "--seed=-1"], 2, "--seed");
    refused(&["infer", "--device", "gpu"], 2, "unknown device `gpu`");
    refused(&["infer", "--profile", "mine"], 2, "expected one of paper, official");
    refused(&["infer", "--dtype", "f8"], 2, "--dtype");
    refused(&["infer", "--state", "0.1,x"], 2, "--state");
    refused(&["trace", "--policy", "x", "--inputs", "y"], 2, "--out");
    refused(&["fly"], 2, "fly");
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let rows = document(&evo1(&["devices", "--json"]));
    for row in rows.as_array().expect("a list") {
        let name = row["name"].as_str().expect("a name");
        match (row["built"].as_bool(), row["devices"].as_u64()) {
            (Some(false), _) => refused(&["infer", "--device", name], 1, &format!("--features {name}")),
            (Some(true), Some(0)) => refused(&["infer", "--device", name], 1, "not on this machine"),
            _ => refused(&["infer", "--device", &format!("{name}:99")], 1, "not on this machine"),
        }
    }
}

#[test]
fn observations_that_make_no_sense_end_with_1() {
    let directory = tempfile::tempdir().expect("directory");
    let no_png = directory.path().join("frame.png");
    std::fs::write(&no_png, b"not a picture").expect("write");
    let mut cut = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/image.png")).expect("asset");
    cut.truncate(1000);
    let cut_png = directory.path().join("cut.png");
    std::fs::write(&cut_png, &cut).expect("write");
    refused(&["infer", "--image", text(&no_png)], 1, "frame.png");
    refused(&["infer", "--image", text(&cut_png)], 1, "cut.png");
    refused(&["infer", "--image", "no/such/file.png"], 1, "no/such/file.png");
    refused(&["infer", "--image", text(directory.path())], 1, "cannot read the image");
    refused(&["infer", "--prompt", "<IMG_CONTEXT>"], 1, "<IMG_CONTEXT>");
    refused(&["infer", "--state", "1,2"], 1, "state has 2 values, but its statistics have 8");
    refused(&["infer", "--state", "nan,0,0,0,0,0,0,0"], 1, "state value 0 is NaN");
    refused(&["infer", "--embodiment", "3"], 1, "embodiment 3 does not exist");
    refused(&["infer", "--arm-key", "leg"], 1, "no arm key `leg`");
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/image.png");
    refused(&["infer", "--image", image, "--image", image, "--image", image, "--image", image], 1, "4 views");
}

#[test]
fn broken_policy_directories_end_with_1() {
    refused(&["infer", "--policy", "no/such/directory"], 1, "there is no such directory");
    let empty = tempfile::tempdir().expect("directory");
    refused(&["infer", "--policy", text(empty.path())], 1, "`config.json` is missing");

    let policy = Copy::of("tiny-lerobot");
    let weights = std::fs::read(policy.path("model.safetensors")).expect("weights");
    policy.write("model.safetensors", &weights[..weights.len() - 100]);
    policy.infer_is_refused(1, "bytes of tensors, but");
    policy.write("model.safetensors", &weights[..4]);
    policy.infer_is_refused(1, "too few for a header");
    policy.write("model.safetensors", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    policy.infer_is_refused(1, "claims a header of");

    let mut broken = weights.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    policy.write("model.safetensors", &broken);
    policy.infer_is_refused(1, "the prediction is not finite");
    let strict = ["infer", "--policy", text(policy.0.path()), "--state", "0,0,0,0", "--strict"];
    refused(&strict, 1, "hold values that no trained network has");

    std::fs::copy(fixture("tiny-horizon1").join("model.safetensors"), policy.path("model.safetensors")).expect("copy");
    policy.infer_is_refused(1, "missing: `model.action_head.action_encoder.W1.linear.bias`");
    policy.write("model.safetensors", &weights);

    policy.write("tokenizer.json", b"{}");
    policy.infer_is_refused(1, "tokenizer.json: not a usable tokenizer");
    std::fs::copy(fixture("tiny-lerobot").join("tokenizer.json"), policy.path("tokenizer.json")).expect("copy");

    policy.write("norm_stats.json", b"{\"arm\": {\"action\": 3}}");
    policy.infer_is_refused(1, "norm_stats.json: not valid JSON");
    std::fs::remove_file(policy.path("norm_stats.json")).expect("remove");

    let config = std::fs::read_to_string(policy.path("config.json")).expect("config");
    policy.write("config.json", config.replace("\"chunk_size\"", "\"chunk\"").as_bytes());
    policy.infer_is_refused(1, "field `chunk_size` is missing");
    policy.write("config.json", config.replace("\"hidden_dim\": 40", "\"hidden_dim\": 41").as_bytes());
    policy.infer_is_refused(1, "must have shape");
    policy.write("config.json", config.replace("\"chunk_size\": 4", "\"chunk_size\": 4000000000").as_bytes());
    policy.infer_is_refused(1, "`chunk_size` must be from 1 to 100000, got 4000000000");
    policy.write("config.json", config.replace("\"num_layers\": 2", "\"num_layers\": 1000000000").as_bytes());
    policy.infer_is_refused(1, "`num_layers`");
    policy.write("config.json", &config.as_bytes()[..100]);
    policy.infer_is_refused(1, "config.json: not valid JSON");
    policy.write("config.json", b"[]");
    policy.infer_is_refused(1, "expected an object, got a list");
}

#[test]
fn broken_trace_inputs_end_with_1() {
    let policy = fixture("tiny-lerobot");
    let other = fixture("tiny-multiembodiment").join("inference.safetensors");
    let trace = |inputs: &str, expected: &str| {
        refused(&["trace", "--policy", text(&policy), "--inputs", inputs, "--against", inputs], 1, expected);
    };
    trace("no/such/file.safetensors", "no/such/file.safetensors");
    trace(text(&policy.join("model.safetensors")), "`in.input_ids`");
    trace(text(&other), "embodiment 2 does not exist");
}

#[test]
fn inspect_shows_what_is_in_a_policy() {
    let policy = fixture("tiny-lerobot");
    let shown = done(&["inspect", text(&policy), "--strict"]);
    for line in ["a LeRobot policy, from config.json, vlm_config.json", "profile       lerobot", "unusual       none"] {
        assert!(shown.contains(line), "{shown}");
    }
    let json = |path: &Path| document(&evo1(&["inspect", text(path), "--json"]));
    let facts = json(&policy);
    for component in facts["components"].as_array().expect("a list") {
        assert_eq!(component["parameters"], component["expected"], "{component}");
    }
    assert_eq!(facts["components"].as_array().map(Vec::len), Some(4));
    assert_eq!(facts["files"][0]["bytes"], policy.join("model.safetensors").metadata().expect("file").len());
    assert_eq!(facts["misfit"], serde_json::Value::Null);
    let authors = json(&fixture("tiny-authors"));
    assert_eq!(authors["config"]["profile"], "official-flash");
    let no_weights = json(&policy.join("inference.safetensors"));
    assert!(no_weights["naming"].is_null() && no_weights["other"]["tensors"].as_u64() > Some(10));
    refused(&["inspect", "no/such/file"], 1, "no/such/file");
}

#[test]
fn inspect_counts_parameters_and_operations() {
    let counted = document(&evo1(&["inspect", "--flops", "--preset", "evo1", "--json"]));
    let components = counted["components"].as_array().expect("a list");
    let parameters: u64 = components.iter().filter_map(|component| component["parameters"].as_u64()).sum();
    assert_eq!(parameters, 775_198_640);
    let table = stdout(&evo1(&["inspect", "--flops", text(&fixture("tiny-lerobot"))]));
    assert!(table.contains("GFLOP") && table.contains("blocks"), "{table}");
    refused(&["inspect", "--preset", "evo1"], 2, "--flops");
}

#[test]
fn attention_draws_what_a_policy_looks_at_and_compares() {
    let folder = tempfile::tempdir().expect("folder");
    let policy = fixture("tiny-lerobot");
    let looked = ["attention", "--policy", text(&policy), "--state", "0,0,0,0", "--out", text(folder.path())];
    let shown = done(&[&looked[..], &["--words", "Drawer", "--against", text(&policy)]].concat());
    assert!(shown.contains("drawer") && shown.contains("overlap"), "{shown}");
    let json = std::fs::read_to_string(folder.path().join("attention.json")).expect("numbers");
    let entries: Vec<serde_json::Value> = serde_json::from_str(&json).expect("a list");
    assert!(entries.iter().any(|entry| entry["part"] == "action") && !entries.is_empty());
    for entry in entries {
        let number = |name: &str| entry[name].as_f64().expect(name);
        assert!((number("overlap") - 1.0).abs() < 1e-5, "a checkpoint is like itself: {entry}");
        assert!((0.0..=1.0).contains(&number("mass")) && (0.0..=1.0).contains(&number("entropy")), "{entry}");
    }
    let weights = evo1::weights::WeightFile::open(&folder.path().join("attention.safetensors")).expect("weights");
    assert!(weights.names().any(|name| name == "earlier.action.block.0"));
    assert!(image::open(folder.path().join("attention.png")).expect("a PNG").width() > 500);
    refused(&[&looked[..], &["--words", "window"]].concat(), 1, "its words are: Open, the, drawer");
    refused(&[&looked[..], &["--layers", "9"]].concat(), 1, "language layer 9 does not exist");
    refused(&[&looked[..], &["--heads", "9"]].concat(), 1, "head 9 does not exist");
}

#[test]
fn probe_runs_each_component_by_itself() {
    let folder = tempfile::tempdir().expect("folder");
    let (first, second) = (folder.path().join("first.safetensors"), folder.path().join("second.safetensors"));
    for component in ["vision-tower", "projector", "language-layer", "action-block", "velocity"] {
        for out in [&first, &second] {
            done(&["probe", component, "--layer", "1", "--out", text(out)]);
        }
        assert_eq!(std::fs::read(&first).expect("out"), std::fs::read(&second).expect("out"), "{component} repeats");
    }
    refused(&["probe", "action-block", "--layer", "2"], 1, "layer 2 does not exist: there are 2");
    refused(&["probe", "projector", "--input", text(&first)], 1, "`patches`");
}

#[cfg(feature = "train")]
#[test]
fn a_run_says_how_far_it_is_where_nobody_looks_on() {
    let folder = tempfile::tempdir().expect("folder");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/tiny.yaml");
    let dataset = format!("data.data_groups.default.dataset.path={}", fixture("lerobot-datasets/v30").display());
    let run = |name: &str, options: &[&str]| {
        let output = format!("output={}", folder.path().join(name).display());
        let sets = ["--set", &dataset, "--set", &output, "--set", "steps=2", "--set", "batch_size=2"];
        evo1(&[&["train", "--config", text(&recipe)], &sets[..], options].concat())
    };
    let plain = own_lines(&run("plain", &[]));
    assert!(plain.contains("INFO evo1_cli::progress: plain: steps 0 to 2, 2 samples each on 1 devices"), "{plain}");
    let time = plain.split_whitespace().next().expect("a line");
    assert!(time.ends_with('Z') && time.contains('T'), "a time: {plain}");
    assert_eq!(own_lines(&run("quiet", &["--quiet"])), "");
    let verbose = own_lines(&run("verbose", &["-v"]));
    assert!(verbose.contains("milliseconds of a step: data"), "{verbose}");
    let json = own_lines(&run("json", &["--log-format", "json"]));
    for line in json.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert!(line["message"].as_str().is_some_and(|text| text.starts_with("json: ")), "{line}");
    }
    assert!(!json.is_empty());
    refused(&["--log", "evo1=inffo", "devices"], 2, "--log");
}

#[cfg(all(unix, feature = "train"))]
#[test]
fn an_interrupted_run_is_saved_and_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let (run, recipe) = (folder.path().join("run"), Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/tiny.yaml"));
    let dataset = format!("data.data_groups.default.dataset.path={}", fixture("lerobot-datasets/v30").display());
    let output = format!("output={}", run.display());
    let sets = ["--set", &dataset, "--set", &output, "--set", "steps=100000", "--set", "log_every=1"];
    let mut running = support::command(&[&["train", "--config", text(&recipe)], &sets[..]].concat());
    let mut running = running.stdout(std::process::Stdio::null()).spawn().expect("it starts");
    while std::fs::read_to_string(run.join("metrics.jsonl")).map_or(true, |text| text.is_empty()) {
        assert!(running.try_wait().expect("a state").is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let asked = std::process::Command::new("kill").args(["-TERM", &running.id().to_string()]).status();
    assert!(asked.expect("kill").success());
    assert_eq!(running.wait().expect("it ends").code(), Some(130));
    let saved = std::fs::read_dir(run.join("checkpoints")).expect("checkpoints");
    assert!(
        saved.map(|entry| entry.expect("entry").file_name()).any(|name| name.to_string_lossy().starts_with("step-"))
    );
}

#[cfg(feature = "train")]
#[test]
fn a_run_trains_stops_and_goes_on() {
    let folder = tempfile::tempdir().expect("folder");
    let run = folder.path().join("run");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/tiny.yaml");
    let dataset = format!("data.data_groups.default.dataset.path={}", fixture("lerobot-datasets/v30").display());
    let output = format!("output={}", run.display());
    let train = ["train", "--config", text(&recipe), "--set", &dataset, "--set", &output];
    let result = document(&evo1(&[&train[..], &["--set", "steps=3", "--set", "batch_size=4", "--json"]].concat()));
    let checkpoint = result["checkpoint"].as_str().expect("a path");
    assert!(result["steps"] == 3 && checkpoint.ends_with("step-00000003"), "{result}");

    let more = done(&["train", "--resume", text(&run), "--set", "steps=5"]);
    assert!(more.starts_with("5 steps"), "{more}");
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/image.png");
    let state = ["--state", "0,0,0,0,0,0,0,0", "--prompt", "go", "--json"];
    let images = ["--image", text(&image), "--image", text(&image)];
    done(&[&["infer", "--policy", checkpoint], &images[..], &state[..]].concat());

    // The same command goes on with the run of the same configuration, and with no other.
    let five = [&train[..], &["--set", "steps=5", "--set", "batch_size=4"]].concat();
    assert!(done(&five).starts_with("5 steps"));
    let other = "whose run is another one: configuration.batch_size: was 4, is 8; configuration.steps: was 5, is 9";
    refused(&[&train[..], &["--set", "steps=9"]].concat(), 1, other);
    let resumed = ["train", "--resume", text(&run), "--set", "steps=7", "--set", "seed=3"];
    refused(&resumed, 1, "seed: was 0, is 3 (`--allow-change seed` accepts it)");
    done(&[&resumed[..], &["--allow-change", "seed"]].concat());
    refused(&["train", "--config", text(&recipe), "--set", "optimizer.lr=1"], 1, "unknown field `lr`");
    let other = format!("output={}", folder.path().join("other").display());
    refused(&[&train[..], &["--set", &other, "--set", "batch_size=100000"]].concat(), 1, "`batch_size` must be");
    refused(&["train"], 1, "`--config FILE`");
    let printed = done(&[&train[..], &["--set", "optimizer.learning_rate=0.5", "--print-config"]].concat());
    assert!(printed.contains("learning_rate: 0.5") && printed.contains("prefetch_mb: 2048"), "{printed}");
    let dry = folder.path().join("dry");
    let output = format!("output={}", dry.display());
    let described = done(&[&train[..], &["--set", &output, "--dry-run"]].concat());
    assert!(described.contains("steps 0 to 200 of 8 samples each") && !dry.exists(), "{described}");
    assert!(described.contains("memory of each device: ") && described.contains("of the optimiser's"), "{described}");
    let dry = [&train[..], &["--set", &output, "--dry-run"]].concat();
    let memory = document(&evo1(&[&dry[..], &["--json"]].concat()))["memory"].clone();
    let of = |name: &str| memory[name].as_u64().expect("bytes");
    // Two moments of what has a gradient, which is everything.
    assert!(of("optimizer") == 2 * of("gradients") && of("gradients") == of("weights"), "{memory}");
    assert!(of("activations") > 0 && of("batches") > 0 && of("frozen") == 0, "{memory}");
    refused(&[&dry[..], &["--set", "device_memory_mb=1"]].concat(), 1, "`device_memory_mb` must be at least");
    refused(&["--profile", "paper", "train", "--resume", text(&run)], 1, "leave out `--profile`");

    // What loading a policy has to say is said of one to go on from, too.
    let from = folder.path().join("from");
    let config = std::fs::read_to_string(Path::new(checkpoint).join("config.json")).expect("a configuration");
    std::fs::create_dir(&from).expect("a folder");
    for file in std::fs::read_dir(checkpoint).expect("a checkpoint").map(|entry| entry.expect("an entry").path()) {
        if file.is_file() {
            std::fs::copy(&file, from.join(file.file_name().expect("a name"))).expect("copied");
        }
    }
    std::fs::write(from.join("config.json"), config.replacen('{', "{\"surprise\": 1,", 1)).expect("written");
    let policy = format!("policy={{from: {}}}", from.display());
    let output = format!("output={}", folder.path().join("second").display());
    let again = ["train", "--config", text(&recipe), "--set", &dataset, "--set", &output, "--set", &policy];
    let again = [&again[..], &["--set", "steps=1", "--set", "batch_size=2"]].concat();
    refused(&[&["--strict"], &again[..]].concat(), 1, "surprise");
    let warned = evo1(&again);
    assert!(warned.status.success() && stderr(&warned).contains("surprise"), "{}", stderr(&warned));
    refused(&["train", "--resume", text(folder.path())], 1, "not the folder of a run");

    let arms = "data.data_groups.default.dataset.suite_config=\
                {state_key: observation.state.arms, action_key: action.arms}";
    let output = format!("output={}", folder.path().join("arms").display());
    let other = evo1(&[&again[..], &["--set", arms, "--set", &output]].concat());
    assert!(other.status.success(), "{}", stderr(&other));
    let said =
        "comes from another robot and takes this one's width of states (14, was 8); width of actions (14, was 7)";
    assert!(stderr(&other).contains(said), "{}", stderr(&other));
}

#[test]
fn frames_are_given_by_the_names_of_cameras_or_in_the_order_that_is_printed() {
    let folder = tempfile::tempdir().expect("folder");
    for file in ["model.safetensors", "tokenizer.json", "vlm_config.json", "config.json"] {
        std::fs::copy(fixture("tiny-lerobot").join(file), folder.path().join(file)).expect("copied");
    }
    let (dark, light) = (folder.path().join("dark.png"), folder.path().join("light.png"));
    for (path, level) in [(&dark, 20), (&light, 220)] {
        image::RgbImage::from_pixel(16, 16, image::Rgb([level; 3])).save(path).expect("a picture");
    }
    let image = |camera: &str, file: &Path| format!("{camera}{}", file.display());
    let infer = |images: [String; 2]| {
        let policy = ["infer", "--policy", text(folder.path()), "--state", "0,0,0,0", "--json"];
        evo1(&[&policy[..], &["--image", &images[0], "--image", &images[1]]].concat())
    };
    let actions = |images: [String; 2]| document(&infer(images))["actions"].clone();
    let in_order = actions([image("", &dark), image("", &light)]);
    assert_eq!(actions([image("cam1=", &light), image("observation.images.cam0=", &dark)]), in_order);
    assert_ne!(actions([image("cam0=", &light), image("cam1=", &dark)]), in_order);
    let printed = stderr(&infer([image("", &dark), image("", &light)]));
    assert!(printed.contains(&format!("view 2: observation.images.cam1: {}", light.display())), "{printed}");
    // What is the sample's is said, and not that the state is.
    assert!(printed.contains("instruction of the embedded sample"), "{printed}");
    let message = stderr(&evo1(&["infer", "--policy", text(folder.path()), "--image", &image("", &dark)]));
    assert!(message.contains("one for each of 2 cameras, in their order: the policy's cameras are"), "{message}");
    let message = stderr(&infer([image("top=", &dark), image("cam1=", &light)]));
    assert!(
        message.contains("cam0` is lacking: the policy's cameras are") && message.contains("top, cam1"),
        "{message}"
    );
    let message = stderr(&infer([image("cam0=", &dark), image("", &light)]));
    assert!(message.contains("got 1 with a name and 1 without"), "{message}");

    let inspected = done(&["inspect", text(folder.path())]);
    assert!(
        inspected
            .contains("cameras       observation.images.cam0, 56 × 56\n              observation.images.cam1, 56 × 56"),
        "{inspected}"
    );
    assert!(inspected.contains("execution     4 of 4 steps before the next chunk"), "{inspected}");
    done(&["infer", "--prompt", ""]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn wide_vectors_can_be_left_unused() {
    let bench = ["bench", "--preset", "tiny", "--repeat", "1", "--steps", "1", "--json"];
    let of = |more: &[&str]| document(&evo1(&[&bench[..], more].concat()))["provenance"]["instructions"].to_string();
    let (narrow, wide) = (of(&["--narrow-vectors"]), of(&[]));
    assert!(!narrow.contains("512") && (wide == narrow || wide.contains("512")), "{narrow}");
}

#[test]
fn inspect_names_what_is_unusual() {
    let policy = Copy::of("tiny-lerobot");
    let mut weights = std::fs::read(policy.path("model.safetensors")).expect("weights");
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&1e37_f32.to_le_bytes());
    policy.write("model.safetensors", &weights);
    let config = std::fs::read_to_string(policy.path("config.json")).expect("config");
    policy.write(
        "config.json",
        config.replacen('{', r#"{"new_option": 1,"#, 1).replace("\"hidden_dim\": 40", "\"hidden_dim\": 41").as_bytes(),
    );
    let shown = done(&["inspect", text(policy.0.path())]);
    for expected in ["config.json: new_option", "(1 up to 1.0e37)", "must have shape [41", "fit "] {
        assert!(shown.contains(expected), "`{expected}` is not in {shown}");
    }
    let strict = evo1(&["inspect", text(policy.0.path()), "--strict"]);
    assert_eq!(strict.status.code(), Some(1));
}
