//! A command that a build lacks says which feature brings it. Builds with all commands have nothing to test here.

mod support;

use support::{evo1, refusal, stderr, stdout};

/// The commands that features bring.
const COMMANDS: [(&str, &str, bool); 6] = [
    ("data", "data", cfg!(feature = "data")),
    ("stats", "data", cfg!(feature = "data")),
    ("train", "train", cfg!(feature = "train")),
    ("evaluate", "train", cfg!(feature = "train")),
    ("serve", "serve", cfg!(feature = "serve")),
    ("ablate", "ablate", cfg!(feature = "ablate")),
];

#[test]
fn a_command_that_is_not_built_names_its_feature() {
    let listed = stdout(&evo1(&["--help"]));
    for (command, feature, is_built) in COMMANDS {
        assert!(listed.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {listed}");
        if is_built {
            continue;
        }
        for arguments in [&[command][..], &[command, "a", "--config", "b", "-c"], &["--device", "flex", command, "a"]] {
            let output = evo1(arguments);
            refusal(arguments, &output, 1);
            let expected = format!("error: this build has no `evo1 {command}`: build with `--features {feature}`\n");
            assert_eq!(stderr(&output), expected, "{arguments:?}");
        }
    }
    if !cfg!(feature = "train") {
        let message = stderr(&evo1(&["bench", "--train", "1", "--repeat", "1"]));
        assert!(message.contains("`--features train`"), "{message}");
    }
}
