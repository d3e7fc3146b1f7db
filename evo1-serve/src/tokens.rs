//! Who may use a server.

use std::{fmt, path::Path};

use subtle::ConstantTimeEq;

use crate::{Error, Result};

/// Tokens that clients may bring, each with the name of its holder. Without any, nobody needs one.
///
/// Its `Debug` form shows the names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Holder>);

#[derive(Clone, PartialEq, Eq)]
struct Holder {
    name: String,
    token: String,
}

impl Tokens {
    /// Reads a file: a name and its token on each line, separated by blanks. Empty lines, and those that begin with `#`, are
    /// left out.
    ///
    /// # Errors
    /// When it cannot be read, a line has another form or repeats a name or a token, or there is none.
    pub fn read(path: &Path) -> Result<Self> {
        let unusable = |message: String| Error::Tokens { path: path.to_owned(), message };
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let mut tokens = Self::default();
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        for (index, line) in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            // What stands there may be a secret, and is not repeated.
            let added = match words.as_slice() {
                &[name, token] => tokens.add(name, token),
                words => Err(format!("expected a name and its token, got {} words", words.len())),
            };
            added.map_err(|message| unusable(format!("line {}: {message}", index + 1)))?;
        }
        if tokens.is_empty() {
            return Err(unusable("it holds no token".into()));
        }
        Ok(tokens)
    }

    /// Adds a holder's token.
    ///
    /// # Errors
    /// When it is empty, or the name or the token is there already.
    pub fn add(&mut self, name: &str, token: &str) -> Result<(), String> {
        if token.is_empty() {
            return Err("the token is empty".into());
        }
        if let Some(holder) = self.0.iter().find(|holder| holder.name == name || holder.token == token) {
            return Err(format!("the name `{name}` or its token is already that of `{}`", holder.name));
        }
        self.0.push(Holder { name: name.to_owned(), token: token.to_owned() });
        Ok(())
    }

    /// Whether nobody needs a token.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the holders.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|holder| holder.name.as_str())
    }

    /// Who holds a token. The time that it takes does not tell how much of a token is right.
    pub(crate) fn holder(&self, token: &str) -> Option<&str> {
        // All are compared, whichever is right.
        self.0.iter().fold(None, |found, holder| {
            let is_right = bool::from(holder.token.as_bytes().ct_eq(token.as_bytes()));
            if is_right { Some(holder.name.as_str()) } else { found }
        })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Tokens> {
        let file = std::env::temp_dir().join(format!("evo1-tokens-{}-{}", std::process::id(), text.len()));
        std::fs::write(&file, text).expect("written");
        let tokens = Tokens::read(&file);
        std::fs::remove_file(file).expect("removed");
        tokens
    }

    #[test]
    fn tokens_have_holders_and_are_compared_whole() {
        let tokens = read("# robots of the hall\n\narm-1  abc\narm-2\tabd\n").expect("two");
        assert_eq!((tokens.holder("abc"), tokens.holder("abd")), (Some("arm-1"), Some("arm-2")));
        for wrong in ["", "ab", "abcd", "ABC", "arm-1"] {
            assert_eq!(tokens.holder(wrong), None, "{wrong}");
        }
        assert_eq!(Tokens::default().holder(""), None);
        assert_eq!(format!("{tokens:?}"), "{\"arm-1\", \"arm-2\"}", "secrets are not shown");
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_without_its_secrets() {
        for (text, expected) in [
            ("", "holds no token"),
            ("# none\n", "holds no token"),
            ("arm secret\nsecret2\n", "line 2: expected a name and its token, got 1 words"),
            ("arm my secret\n", "line 1: expected a name and its token, got 3 words"),
            ("arm secret1\narm secret2\n", "line 2: the name `arm`"),
            ("arm secret\nleg secret\n", "line 2: the name `leg` or its token is already that of `arm`"),
        ] {
            let message = read(text).expect_err(text).to_string();
            assert!(message.contains(expected) && !message.contains("secret"), "{expected}: {message}");
        }
        assert!(Tokens::read(Path::new("/no/such/file")).expect_err("none").to_string().contains("/no/such/file"));
    }
}
