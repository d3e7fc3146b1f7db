//! The book in `docs/`: its commands are run as a reader would in a fresh clone, and the links of all documents lead somewhere.
//!
//! A block ```` ```sh ```` is run, unless the line before it is `<!-- not run: REASON -->`; then it is only parsed, by the unit
//! tests. A block after `<!-- file: NAME -->` is written to that file.
#![cfg(all(unix, feature = "ablate", feature = "serve", feature = "flex"))]

#[path = "support/markdown.rs"]
mod markdown;
#[path = "support/shell.rs"]
mod shell;

use std::{fs, panic::catch_unwind, path::Path};

use markdown::{ROOT, blocks, dead_links, documents};
use shell::FreshClone;

/// Runs the commands of a document; how many blocks that were.
fn run(document: &str) -> usize {
    let (clone, mut ran) = (FreshClone::new(), 0);
    for block in blocks(document) {
        let note = block.note.as_deref().and_then(|note| note.split_once(": "));
        match note {
            Some(("file", name)) => fs::write(clone.path().join(name), &block.text).expect("a file"),
            Some(("not run", reason)) => assert!(!reason.trim().is_empty(), "no reason: {}", block.text),
            Some((other, _)) => panic!("unknown note `{other}`"),
            None if block.language == "sh" => {
                clone.run(env!("CARGO_BIN_EXE_evo1"), &block.text);
                ran += 1;
            }
            None => {}
        }
    }
    ran
}

#[test]
fn every_command_of_the_book_works() {
    let mut ran = 0;
    for path in documents().iter().filter(|path| path.parent().is_some_and(|folder| folder.ends_with("docs"))) {
        println!("{}", path.display());
        ran += run(&fs::read_to_string(path).expect("a document"));
    }
    assert!(ran >= 12, "{ran} blocks");
}

#[test]
fn a_command_that_is_wrong_is_found() {
    let right = "```sh\nevo1 devices --json > devices.json\n```\n";
    assert_eq!(run(right), 1);
    for wrong in [right.replace("--json", "--jsn"), right.replace("devices --json", "infer --policy nowhere")] {
        assert!(catch_unwind(|| run(&wrong)).is_err(), "{wrong}");
    }
    assert_eq!(run(&format!("<!-- not run: a GPU -->\n{right}")), 0);
}

#[test]
fn links_lead_somewhere() {
    for path in documents() {
        let dead = dead_links(&path, &fs::read_to_string(&path).expect("a document"));
        assert!(dead.is_empty(), "{}: {dead:?}", path.display());
    }
    let path = Path::new(ROOT).join("docs/run.md");
    let document = "[a](none.md) [b](gpus.md#none) [c](gpus.md) [d](https://example.org/none) [e](#memory-and-time) [f](#none)\n\
         <img src=\"none.png\"> <img src=\"frame.png\">\n";
    assert_eq!(dead_links(&path, document), ["none.md", "gpus.md#none", "#none", "none.png"]);
}

#[test]
fn every_chapter_is_in_the_summary() {
    let summary = fs::read_to_string(Path::new(ROOT).join("docs/SUMMARY.md")).expect("a summary");
    for path in documents().iter().filter(|path| path.parent().is_some_and(|folder| folder.ends_with("docs"))) {
        let name = path.file_name().expect("a name").to_string_lossy();
        assert!(name == "SUMMARY.md" || summary.contains(&format!("({name})")), "{name}");
    }
}
