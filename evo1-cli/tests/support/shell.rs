//! Commands in a text, as a reader would type them.
#![allow(dead_code, reason = "each test file uses a part")]

/// The commands of this program in a text: lines that begin with its name, each with those that it goes on in (`\`).
pub(crate) fn commands(text: &str) -> Vec<String> {
    let (mut commands, mut current) = (Vec::new(), None::<String>);
    for line in text.lines().map(str::trim) {
        let command = match current.take() {
            Some(start) => format!("{start} {line}"),
            None if line.starts_with("evo1 ") => line.to_owned(),
            None => continue,
        };
        match command.strip_suffix('\\') {
            Some(start) => current = Some(start.trim_end().to_owned()),
            None => commands.push(command),
        }
    }
    assert!(current.is_none(), "a command goes on past the end: {text}");
    commands
}

/// What a shell would give the program: its name and its arguments, without comment, redirection and what comes after.
pub(crate) fn words(command: &str) -> Vec<String> {
    let words = shlex::split(command).unwrap_or_else(|| panic!("no shell understands: {command}"));
    words.into_iter().take_while(|word| !matches!(word.as_str(), ">" | "|" | "&" | "&&" | ";")).collect()
}

/// A folder in which commands find the repository's files and leave their own.
#[cfg(unix)]
pub(crate) struct FreshClone(tempfile::TempDir);

#[cfg(unix)]
impl FreshClone {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        for entry in std::fs::read_dir(root).expect("the repository").map(|entry| entry.expect("an entry")) {
            let to = folder.path().join(entry.file_name());
            std::os::unix::fs::symlink(entry.path().canonicalize().expect("a path"), to).expect("a link");
        }
        // Not the repository's own: what runs and studies write stays here.
        for own in ["runs", "data"] {
            let _ = std::fs::remove_file(folder.path().join(own));
        }
        Self(folder)
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// Runs a line of shell, which finds the program, and must end well.
    #[track_caller]
    pub(crate) fn run(&self, program: &str, line: &str) -> String {
        let folder = std::path::Path::new(program).parent().expect("a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path))).expect("a PATH");
        let mut command = std::process::Command::new("sh");
        command.args(["-ec", line]).current_dir(self.path()).env("PATH", path).env("EVO1_DEVICE", "flex");
        let output = command.output().expect("a shell");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}`: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
