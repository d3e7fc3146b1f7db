//! What came of single goals, in a file that can be gone on with.

use std::{collections::BTreeMap, path::Path};

use evo1_train::record::JsonLines;
use eyre::{Result, bail};
use serde::{Deserialize, Serialize};

/// What came of a goal: a line of an evaluator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Episode {
    pub(crate) task: String,
    /// The number of the goal.
    pub(crate) seed: u64,
    pub(crate) success: bool,
    /// Steps of the environment.
    pub(crate) steps: u64,
    /// What the task belongs to, for example a difficulty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
}

/// What results depend on, by name.
pub(crate) type Identity = BTreeMap<String, String>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Identity { identity: Identity },
    Episode(Episode),
}

/// `episodes.jsonl`: in its first line what the results depend on, then a line for each.
pub(crate) struct Episodes(JsonLines<Line>);

impl Episodes {
    /// The results in a file, of which a last line that was cut off by a crash is none.
    ///
    /// # Errors
    /// When they are of another policy or evaluator, and not to be `dropped`.
    pub(crate) fn open(path: &Path, identity: &Identity, dropped: bool) -> Result<Self> {
        let mut lines: JsonLines<Line> = JsonLines::open(path, |_| !dropped)?;
        if lines.lines().len() == 1 {
            // There are no results yet that could be of something else.
            lines = JsonLines::open(path, |line| matches!(line, Line::Episode(_)))?;
        }
        let before = lines.lines().first().map(|line| match line {
            Line::Identity { identity } => identity.clone(),
            Line::Episode(_) => Identity::new(),
        });
        match before {
            None => lines.push(Line::Identity { identity: identity.clone() })?,
            Some(before) => {
                let names = before.keys().chain(identity.keys());
                if let Some(name) = names.into_iter().find(|&name| before.get(name) != identity.get(name)) {
                    let value = |of: &Identity| of.get(name).map_or_else(|| "not known".into(), Clone::clone);
                    bail!(
                        "{} holds results of something else: `{name}` was {}, is {}; give another folder, or `--fresh` to \
                         drop them",
                        path.display(),
                        value(&before),
                        value(identity)
                    );
                }
            }
        }
        Ok(Self(lines))
    }

    /// Adds a result.
    pub(crate) fn add(&mut self, episode: Episode) -> Result<()> {
        Ok(self.0.push(Line::Episode(episode))?)
    }

    /// The result of a goal.
    pub(crate) fn of(&self, task: &str, seed: u64) -> Option<&Episode> {
        self.0.lines().iter().find_map(|line| match line {
            Line::Episode(episode) if episode.task == task && episode.seed == seed => Some(episode),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(policy: &str) -> Identity {
        Identity::from([("policy".into(), policy.into()), ("command".into(), "try".into())])
    }

    #[test]
    fn results_are_gone_on_with_and_those_of_another_policy_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("episodes.jsonl");
        let episode = |seed| Episode { task: "reach".into(), seed, success: true, steps: 7, group: None };
        let mut episodes = Episodes::open(&path, &identity("a"), false).expect("none yet");
        episodes.add(episode(3)).expect("written");
        episodes.add(episode(4)).expect("written");
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, &text[..text.len() - 5]).expect("cut");
        let again = Episodes::open(&path, &identity("a"), false).expect("again");
        assert_eq!((again.of("reach", 3), again.of("reach", 4)), (Some(&episode(3)), None));
        let message = Episodes::open(&path, &identity("b"), false).err().expect("refused").to_string();
        assert!(message.contains("`policy` was a, is b") && message.contains("--fresh"), "{message}");
        assert_eq!(Episodes::open(&path, &identity("b"), true).expect("anew").of("reach", 3), None);
        std::fs::write(&path, "{\"task\":\"reach\",\"seed\":1,\"success\":true,\"steps\":1}\n").expect("without");
        assert!(Episodes::open(&path, &identity("b"), false).is_err());
        std::fs::write(&path, "").expect("emptied");
        Episodes::open(&path, &identity("a"), false).expect("nothing yet");
        Episodes::open(&path, &identity("b"), false).expect("still nothing");
    }
}
