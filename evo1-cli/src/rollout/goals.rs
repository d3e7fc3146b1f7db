//! Which goals a policy is tried on: numbers that an evaluator makes a situation of.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most goals that a text may name.
const MOST: u64 = 1_000_000;

/// Numbers of goals, each once, in the order in which they were given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Vec<u64>")]
pub(crate) struct Goals(Vec<u64>);

impl Goals {
    pub(crate) fn numbers(&self) -> &[u64] {
        &self.0
    }

    fn new(numbers: Vec<u64>) -> Result<Self, String> {
        let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
        match (numbers.is_empty(), distinct.len() == numbers.len()) {
            (true, _) => Err("it names no goal".into()),
            (false, false) => Err("it names a goal twice".into()),
            (false, true) => Ok(Self(numbers)),
        }
    }
}

impl FromStr for Goals {
    type Err = String;

    /// Numbers and ranges without their end, separated by commas: `3,10:20`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected goals such as 0:20 (from 0 to 19) or 3,10:20, got `{text}`");
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| wrong());
        let mut numbers = Vec::new();
        for part in text.split(',') {
            match part.split_once(':') {
                None => numbers.push(number(part)?),
                Some((first, end)) => {
                    let (first, end) = (number(first)?, number(end)?);
                    if end.saturating_sub(first) > MOST {
                        return Err(format!("{part} are more than {MOST} goals"));
                    }
                    numbers.extend(first..end);
                }
            }
        }
        Self::new(numbers)
    }
}

impl TryFrom<Value> for Goals {
    type Error = String;

    /// A list of numbers, or a text as [`Self::from_str`] reads it.
    fn try_from(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            Value::Array(numbers) => {
                let number = |value: &Value| value.as_u64().ok_or_else(|| format!("a goal is a number, not {value}"));
                Self::new(numbers.iter().map(number).collect::<Result<_, _>>()?)
            }
            other => Err(format!("expected goals such as \"0:20\" or [0, 1, 2], got {other}")),
        }
    }
}

impl From<Goals> for Vec<u64> {
    fn from(goals: Goals) -> Self {
        goals.0
    }
}

impl fmt::Display for Goals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed(&self.0))
    }
}

/// Numbers with commas between them.
pub(super) fn listed(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_numbers_and_ranges() {
        let goals = |text: &str| text.parse::<Goals>().map(|goals| goals.0);
        assert_eq!(goals("0:3").expect("a range"), [0, 1, 2]);
        assert_eq!(goals("7, 10:12").expect("both"), [7, 10, 11]);
        let again: Goals = goals("4,2").map(Goals).expect("numbers").to_string().parse().expect("as printed");
        assert_eq!(again.0, [4, 2]);
        for wrong in ["", "a", "3:", "1:2:3", "0:2,1", "5:5", "0:99999999"] {
            assert!(goals(wrong).is_err(), "{wrong}");
        }
        let yaml: Goals = serde_json::from_str("[3, 1]").expect("a list");
        assert_eq!(
            (yaml, serde_json::from_str::<Goals>("\"0:2\"").expect("a text").0),
            (Goals(vec![3, 1]), vec![0, 1])
        );
        assert!(serde_json::from_str::<Goals>("[-1]").is_err());
    }
}
