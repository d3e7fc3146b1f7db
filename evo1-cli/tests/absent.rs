//! A command that a build lacks says which feature brings it. Builds with all commands have nothing to test here.

use std::process::{Command, Output};

/// The commands that features bring.
const COMMANDS: [(&str, &str, bool); 6] = [
    ("data", "data", cfg!(feature = "data")),
    ("stats", "data", cfg!(feature = "data")),
    ("train", "train", cfg!(feature = "train")),
    ("evaluate", "train", cfg!(feature = "train")),
    ("serve", "serve", cfg!(feature = "serve")),
    ("ablate", "ablate", cfg!(feature = "ablate")),
];

fn evo1(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evo1"))
        .args(arguments)
        .env_remove("EVO1_DEVICE")
        .output()
        .expect("the binary runs")
}

#[test]
fn a_command_that_is_not_built_names_its_feature() {
    let listed = String::from_utf8(evo1(&["--help"]).stdout).expect("UTF-8");
    for (command, feature, is_built) in COMMANDS {
        assert!(listed.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {listed}");
        if is_built {
            continue;
        }
        for arguments in [&[command][..], &[command, "a", "--config", "b", "-c"], &["--device", "flex", command, "a"]] {
            let output = evo1(arguments);
            let message = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
            let expected = format!("error: this build has no `evo1 {command}`: build with `--features {feature}`\n");
            assert_eq!(message, expected, "{arguments:?}");
        }
    }
    if !cfg!(feature = "train") {
        let output = evo1(&["bench", "--train", "1", "--repeat", "1"]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("`--features train`"), "{message}");
    }
}
