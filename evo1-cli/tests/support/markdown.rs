//! What the documents say to type, and where they point.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The repository.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A fenced block.
#[derive(Debug, PartialEq)]
pub(crate) struct Block {
    pub(crate) language: String,
    /// What the comment on the line before it says, without its marks.
    pub(crate) note: Option<String>,
    pub(crate) text: String,
}

/// The fenced blocks of a document.
pub(crate) fn blocks(document: &str) -> Vec<Block> {
    let (mut blocks, mut lines, mut before) = (Vec::new(), document.lines(), "");
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let note = before.strip_prefix("<!-- ").and_then(|note| note.strip_suffix(" -->")).map(str::to_owned);
            let text: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            blocks.push(Block { language: language.to_owned(), note, text: text.join("\n") + "\n" });
        }
        before = line;
    }
    blocks
}

/// The repository's Markdown, but for what is built.
pub(crate) fn documents() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::from(ROOT)]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Folders of builds, of runs, of data and of tools lie beside the documents in a clone that is worked in.
            let is_own =
                !name.starts_with('.') && !["target", "runs", "data", "venv", "node_modules"].contains(&&*name);
            if path.is_symlink() {
                continue;
            }
            if path.is_dir() && is_own {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Targets of a document's links and pictures, outside of code.
pub(crate) fn links(document: &str) -> Vec<String> {
    let mut is_code = false;
    let prose = document.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !line.starts_with("    ")
    });
    let targets = |line: &str, before, after| {
        let parts = line.split(before).skip(1).filter_map(|part: &str| part.split_once(after));
        parts.map(|(target, _)| target.to_owned()).collect::<Vec<_>>()
    };
    prose.flat_map(|line| [targets(line, "](", ")"), targets(line, "src=\"", "\"")].concat()).collect()
}

/// The anchors of a document's headings, as GitHub makes them.
pub(crate) fn anchors(document: &str) -> Vec<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// What of a document's links leads nowhere.
pub(crate) fn dead_links(path: &Path, document: &str) -> Vec<String> {
    let leads = |link: &String| {
        let (file, anchor) = link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
        let target = if file.is_empty() { path.to_owned() } else { path.with_file_name("").join(file) };
        let has = |anchor: &str| {
            let text = fs::read_to_string(&target).unwrap_or_default();
            anchors(&text).iter().any(|known| known == anchor)
        };
        target.exists() && anchor.is_none_or(has)
    };
    let is_here = |link: &String| !link.contains("://") && !link.starts_with("mailto:");
    links(document).into_iter().filter(is_here).filter(|link| !leads(link)).collect()
}
