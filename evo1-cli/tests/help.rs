//! The examples of `--help` are run as a reader would in a fresh clone, and the program says what it is.
#![cfg(all(unix, feature = "ablate", feature = "serve", feature = "flex"))]

#[path = "support/shell.rs"]
mod shell;
mod support;

use shell::{FreshClone, commands};
use support::done;

/// Examples that are understood and not run, and why. The unit tests parse them.
const NOT_RUN: [(&str, &str); 4] = [
    ("evo1 serve", "it does not end"),
    ("cuda", "a GPU"),
    ("rollout.py", "a simulator"),
    ("evo1 bench --preset evo1", "minutes"),
];

#[test]
fn the_examples_of_every_command_work_in_a_fresh_clone() {
    let (clone, program) = (FreshClone::new(), env!("CARGO_BIN_EXE_evo1"));
    let help = done(&["--help"]);
    let (_, listed) = help.split_once("Commands:").expect("commands");
    let names = listed.lines().map_while(|line| match line.trim() {
        "" => Some(None),
        text if line.starts_with("  ") => Some(text.split(' ').next()),
        _ => None,
    });
    let mut ran = 0;
    for name in names.flatten().filter(|name| *name != "help") {
        for example in commands(&done(&[name, "--help"])) {
            if NOT_RUN.iter().all(|(what, _)| !example.contains(what)) {
                clone.run(program, &example);
                ran += 1;
            }
        }
    }
    assert!(ran > 20, "{ran} examples");
    for file in ["chunk.png", "attention/attention.png", "now.png", "man/man1/evo1-infer.1", "evo1.1", "evo1.bash"] {
        assert!(clone.path().join(file).metadata().expect(file).len() > 500, "{file}");
    }
}

#[test]
fn the_version_names_what_a_report_of_a_fault_needs() {
    let long = done(&["--version"]);
    assert!(long.starts_with(&format!("evo1 {}\n", env!("CARGO_PKG_VERSION"))), "{long}");
    for line in ["commit", "build", "features", "processor", "instructions"] {
        assert!(long.lines().any(|said| said.starts_with(line)), "{line}: {long}");
    }
    assert!(long.contains(" flex ") && long.contains(" ablate"), "{long}");
    assert_eq!(done(&["-V"]), format!("evo1 {}\n", env!("CARGO_PKG_VERSION")));
}

/// Options that this build lacks may be there.
#[test]
fn the_reference_of_every_key_is_what_the_types_say() {
    let reference = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference.md"));
    let (reference, said) = (reference.expect("it is there"), done(&["schema", "--markdown"]));
    let mut said = said.lines().peekable();
    for line in reference.lines() {
        if said.next_if_eq(&line).is_none() {
            assert!(line.starts_with("| `--"), "evo1 schema --markdown > docs/reference.md: {line}");
        }
    }
    assert_eq!(said.next(), None, "evo1 schema --markdown > docs/reference.md");
}

#[test]
fn shells_and_man_know_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = done(&["completions", shell]);
        assert!(text.contains("attention") && text.contains("prompt"), "{shell}");
    }
    assert!(done(&["man"]).contains("evo1\\-infer(1)"));
}
