//! The robot's cameras by name, and how frames that come with names find their views.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::check_fields;
use crate::{Error, Result, View};

/// Longest side of a camera's frames in pixels.
const MAX_SIDE: usize = 16_384;

/// Which camera each view of a prompt shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Cameras {
    /// Names of the cameras in the order of the views, as the data that the policy was trained on calls them; empty where
    /// they are unknown, so that frames are views in the order in which they come.
    pub names: Vec<String>,
    /// How many of them an observation may lack: their views are absent then. LeRobot's `empty_cameras`.
    pub optional: usize,
    /// Other names of cameras, each with the name in [`Self::names`] that it stands for. LeRobot's `rename_map`.
    pub aliases: BTreeMap<String, String>,
    /// Width and height of the frames that LeRobot's policy server scales each camera's to, in pixels and in the order of
    /// [`Self::names`]; empty where they are unknown. LeRobot's shapes of `input_features`.
    pub sizes: Vec<[usize; 2]>,
}

impl Cameras {
    /// Cameras with these names, all of which an observation must have.
    pub fn named(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Whether a camera's frames can have this size.
    pub(super) fn is_size(size: &[usize; 2]) -> bool {
        size.iter().all(|side| (1..=MAX_SIDE).contains(side))
    }

    /// Whether nothing is known of them.
    pub fn is_unknown(&self) -> bool {
        self.names.is_empty()
    }

    /// The view of the camera that is called `name`, by its name or by another; its last part, behind a `.` or a `/`, is
    /// enough where only one camera has it.
    pub fn view(&self, name: &str) -> Option<usize> {
        let alias = self.aliases.iter().find(|(alias, _)| *alias == name || last_part(alias) == name);
        let name = alias.map_or(name, |(_, stands_for)| stands_for);
        let exact = self.names.iter().position(|known| known == name);
        exact.or_else(|| {
            let mut alike = (0..self.names.len()).filter(|&view| last_part(&self.names[view]) == last_part(name));
            alike.next().filter(|_| alike.next().is_none())
        })
    }

    /// What came under names, in the order of the views; nothing for a camera that is lacking and may be. Cameras of other
    /// names are left out where none of the policy's is lacking. Where the policy knows no names, everything as it came.
    ///
    /// # Errors
    /// When a camera is lacking that may not be, or one comes twice.
    pub fn arrange<T>(&self, given: Vec<(String, T)>) -> Result<Vec<Option<T>>> {
        if self.is_unknown() {
            return Ok(given.into_iter().map(|(_, item)| Some(item)).collect());
        }
        let names: Vec<String> = given.iter().map(|(name, _)| name.clone()).collect();
        let refused = |problem: String| Error::Cameras { problem, known: self.names.clone(), given: names.clone() };
        let mut views: Vec<Option<T>> = self.names.iter().map(|_| None).collect();
        let mut has_others = false;
        for (name, item) in given {
            match self.view(&name) {
                Some(view) if views[view].is_some() => {
                    return Err(refused(format!("`{}` is given twice", self.names[view])));
                }
                Some(view) => views[view] = Some(item),
                None => has_others = true,
            }
        }
        let lacking: Vec<&str> =
            self.names.iter().zip(&views).filter(|(_, view)| view.is_none()).map(|(name, _)| name.as_str()).collect();
        // A name that is nobody's may be a camera's that is spelt otherwise.
        let most = if has_others { 0 } else { self.optional };
        if lacking.len() > most {
            return Err(refused(format!("`{}` is lacking", lacking.join("`, `"))));
        }
        Ok(views)
    }

    /// Fails unless views that came without names are one for each camera, absent or not, where the cameras are known; those that
    /// may lack may do so at the end.
    ///
    /// # Errors
    /// When there are fewer, or frames of more.
    pub fn ensure_one_each(&self, views: &[View]) -> Result<()> {
        let cameras = self.names.len();
        let has_more = views.iter().skip(cameras).any(View::is_present);
        if self.is_unknown() || (views.len() + self.optional >= cameras && !has_more) {
            return Ok(());
        }
        let given = vec![format!("{} without names", views.len())];
        let problem = format!("frames without names must be one for each of {cameras} cameras, in their order");
        Err(Error::Cameras { problem, known: self.names.clone(), given })
    }

    /// Fails unless every name is another, every alias stands for one of them, and they are no more than the views.
    pub(super) fn validate(&self, max_views: usize, origin: &str) -> Result<()> {
        let Self { names, optional, aliases, sizes } = self;
        let stray = aliases.values().find(|name| !names.contains(name));
        check_fields(
            origin,
            [
                (
                    names.iter().collect::<BTreeSet<_>>().len() == names.len(),
                    ("cameras.names", "names of which each is another", names.join(", ")),
                ),
                (
                    names.len() <= max_views,
                    ("cameras.names", "at most max_views", format!("{} for {max_views}", names.len())),
                ),
                (
                    *optional == 0 || *optional < names.len(),
                    ("empty_cameras", "fewer than the cameras", format!("{optional} of {}", names.len())),
                ),
                (
                    sizes.is_empty() || sizes.len() == names.len(),
                    (
                        "cameras.sizes",
                        "one for each of the names, or none",
                        format!("{} for {}", sizes.len(), names.len()),
                    ),
                ),
                (
                    sizes.iter().all(Self::is_size),
                    ("cameras.sizes", "sides from 1 to 16384 pixels", format!("{sizes:?}")),
                ),
                (
                    stray.is_none(),
                    ("cameras.aliases", "names of the policy's cameras", stray.cloned().unwrap_or_default()),
                ),
            ],
        )
    }
}

/// What a camera is called behind the last `.` or `/` of its name.
fn last_part(name: &str) -> &str {
    name.rsplit(['.', '/']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cameras() -> Cameras {
        Cameras::named(["observation.images.front", "observation.images.wrist"])
    }

    fn arranged(cameras: &Cameras, given: &[&str]) -> Result<Vec<Option<usize>>> {
        cameras.arrange(given.iter().enumerate().map(|(index, name)| ((*name).to_owned(), index)).collect())
    }

    #[test]
    fn frames_find_their_views_by_name_whatever_their_order() {
        let of = |given: &[&str]| arranged(&cameras(), given).expect("arranged");
        assert_eq!(of(&["observation.images.wrist", "observation.images.front"]), [Some(1), Some(0)]);
        assert_eq!(of(&["wrist", "observation/front"]), [Some(1), Some(0)]);
        assert_eq!(of(&["wrist", "depth", "front"]), [Some(2), Some(0)], "cameras that nobody asked for");
        assert_eq!(arranged(&Cameras::default(), &["b", "a"]).expect("as they come"), [Some(0), Some(1)]);
    }

    #[test]
    fn names_that_do_not_match_are_refused_with_both_lists() {
        let message = |given: &[&str]| arranged(&cameras(), given).expect_err("must be refused").to_string();
        let wrong = message(&["top", "wrist"]);
        assert!(wrong.contains("`observation.images.front` is lacking"), "{wrong}");
        assert!(wrong.contains("observation.images.front, observation.images.wrist") && wrong.contains("top, wrist"));
        assert!(message(&["wrist"]).contains("`observation.images.front` is lacking"));
        assert!(message(&["front", "wrist", "a.front"]).contains("`observation.images.front` is given twice"));
    }

    #[test]
    fn optional_cameras_may_be_lacking_but_not_misspelt() {
        let cameras = Cameras { optional: 1, ..cameras() };
        assert_eq!(arranged(&cameras, &["wrist"]).expect("front may be lacking"), [None, Some(0)]);
        arranged(&cameras, &[]).expect_err("two are lacking");
        arranged(&cameras, &["wrist", "fromt"]).expect_err("a misspelt name");
    }

    #[test]
    fn aliases_stand_for_names() {
        let aliases = BTreeMap::from([("observation.images.cam_high".into(), "observation.images.front".into())]);
        let cameras = Cameras { aliases, ..cameras() };
        assert_eq!(arranged(&cameras, &["wrist", "cam_high"]).expect("renamed"), [Some(1), Some(0)]);
        cameras.validate(2, "policy").expect("valid");
        cameras.validate(1, "policy").expect_err("one view");
        let aliases = BTreeMap::from([("a".into(), "b".into())]);
        Cameras { aliases, ..cameras }.validate(2, "policy").expect_err("an alias of nothing");
    }

    #[test]
    fn a_last_part_that_two_cameras_share_names_neither() {
        let cameras = Cameras::named(["left.rgb", "right.rgb"]);
        assert_eq!((cameras.view("rgb"), cameras.view("right.rgb")), (None, Some(1)));
    }
}
