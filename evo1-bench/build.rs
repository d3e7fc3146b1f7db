//! Tells the crate which commit it is built of, for `evo1 --version` and reports: what `EVO1_COMMIT` says, else what git says
//! of a release build. A development build that knew it would compile everything above this crate again after each commit.

use std::{env, path::Path, process::Command};

const VARIABLE: &str = "EVO1_COMMIT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed=build.rs");
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if env::var_os(VARIABLE).is_some() || !is_release {
        return;
    }
    // In a package from a registry, git would find the repository of somebody's home folder.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if !root.join(".git").exists() {
        return;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(&root).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
        Some(text.trim().to_owned())
    };
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env={VARIABLE}={commit}");
    }
    // It grows with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).map(|path| root.join(path))
        && log.exists()
    {
        println!("cargo::rerun-if-changed={}", log.display());
    }
}
