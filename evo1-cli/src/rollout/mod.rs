//! Closed-loop evaluation: a served policy tried by programs that speak its protocol, goal by goal.

mod episodes;
mod evaluator;
mod goals;
mod summary;

pub(crate) use episodes::{Episode, Episodes, Identity};
pub(crate) use evaluator::{Evaluator, Plan, Running, in_words};
pub(crate) use goals::Goals;
pub(crate) use summary::{Rate, Summary, Z, bar};
