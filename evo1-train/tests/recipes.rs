//! The recipes that the repository ships.

use std::path::{Path, PathBuf};

use evo1_train::{DataSource, PolicySource, TrainConfig};

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let entries = std::fs::read_dir(&folder).expect("recipes").map(|entry| entry.expect("entry").path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect()
}

#[test]
fn every_recipe_is_valid() {
    assert_eq!(recipes().len(), 6);
    for path in recipes() {
        let read = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            TrainConfig::read(&path, &sets).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let config = read(&[]);
        config.validate().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if config.policy.preset.is_some() {
            config.policy.preset_config().expect("overrides").validate("recipe").expect("sizes that fit together");
        }
        match &config.data {
            DataSource::File(path) => {
                let relative = path.strip_prefix(std::env::current_dir().expect("folder")).expect("below");
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(relative);
                evo1_data::DataConfig::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
            DataSource::Inline(data) => {
                evo1_data::DataConfig::parse(&data.to_string()).expect("data");
            }
        }
        // What is written beside the checkpoints is the same configuration.
        let document = serde_json::to_value(&config).expect("JSON");
        let yaml = serde_saphyr::to_string(&document).expect("YAML");
        let again: TrainConfig = evo1_train::parse_config(&path, &yaml, false, &[]).expect("YAML");
        assert_eq!(again, config, "{}", path.display());
    }
}

#[test]
fn unknown_keys_are_named() {
    let path = recipes().into_iter().find(|path| path.ends_with("tiny.yaml")).expect("tiny");
    let message = TrainConfig::read(&path, &["optimizer.lr=1e-3".into()]).expect_err("unknown").to_string();
    assert!(message.contains("optimizer") && message.contains("unknown field `lr`"), "{message}");
    let overrides = serde_json::json!({ "action": { "horizons": 8 } });
    let policy = PolicySource { overrides, preset: Some(evo1_train::Preset::Tiny), ..PolicySource::default() };
    let message = policy.preset_config().expect_err("unknown").to_string();
    assert!(message.contains("`policy.overrides.action`") && message.contains("got horizons"), "{message}");
}
