//! The prompt: views and instruction as text, and as token ids.

use std::{path::Path, sync::Arc};

use evo1_core::config::PromptLength;
use tokenizers::Tokenizer;

use crate::{Error, Result, TokenBatch};

pub(crate) const IMAGE_START: &str = "<img>";
pub(crate) const IMAGE_END: &str = "</img>";
pub(crate) const IMAGE_CONTEXT: &str = "<IMG_CONTEXT>";
pub(crate) const PADDING: &str = "<|endoftext|>";

const INTERNVL3: &[u8] = include_bytes!("../assets/internvl3/tokenizer.json");

/// A tokenizer that knows InternVL's image tokens. Copies share its vocabulary.
#[derive(Debug, Clone)]
pub struct PromptTokenizer {
    tokenizer: Arc<Tokenizer>,
    image_context: u32,
    padding: u32,
    max_length: usize,
}

/// One prompt's token ids, unpadded, and the positions of its views' image tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each view the positions of its image tokens, all tiles together.
    pub views: Vec<Vec<usize>>,
    /// Tokens of the instruction that did not fit and were cut off.
    pub truncated: usize,
}

/// A word of an instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word, without the white space around it.
    pub text: String,
    /// Positions of its tokens in the prompt.
    pub tokens: Vec<usize>,
}

/// `Image-{i}: <img>` + image tokens + `</img>\n` for every view, then the stripped instruction.
///
/// Views are counted from 1. There is neither a chat template nor a begin or end token.
pub fn prompt_text(image_tokens: &[usize], instruction: &str) -> String {
    let mut text = String::new();
    for (index, &tokens) in image_tokens.iter().enumerate() {
        let number = index + 1;
        text.push_str(&format!("Image-{number}: {IMAGE_START}{}{IMAGE_END}\n", IMAGE_CONTEXT.repeat(tokens)));
    }
    text.push_str(instruction.trim());
    text
}

impl PromptTokenizer {
    /// Reads a `tokenizer.json`. Prompts are at most `max_length` tokens long.
    pub fn open(path: &Path, max_length: usize) -> Result<Self> {
        Self::from_bytes(path, &evo1_core::files::read(path)?, max_length)
    }

    /// InternVL3-1B's own tokenizer, which published policies do not bring along.
    pub fn internvl3(max_length: usize) -> Result<Self> {
        Self::from_bytes(Path::new("InternVL3-1B's tokenizer.json"), INTERNVL3, max_length)
    }

    /// A tokenizer from the bytes of a `tokenizer.json`; `path` stands for it in messages.
    pub fn from_bytes(path: &Path, bytes: &[u8], max_length: usize) -> Result<Self> {
        let unusable = |message: String| Error::Tokenizer { path: path.to_owned(), message };
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| unusable(error.to_string()))?;
        // A file may bring its own padding and truncation; the profile decides both here.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| unusable(error.to_string()))?;
        let id =
            |token: &str| tokenizer.token_to_id(token).ok_or_else(|| unusable(format!("it has no token `{token}`")));
        for token in [IMAGE_START, IMAGE_END] {
            id(token)?;
        }
        let (image_context, padding) = (id(IMAGE_CONTEXT)?, id(PADDING)?);
        Ok(Self { tokenizer: Arc::new(tokenizer), image_context, padding, max_length })
    }

    /// The text of its `tokenizer.json`.
    pub fn to_json(&self) -> Result<String> {
        self.tokenizer.to_string(false).map_err(|error| Error::Tokenize(error.to_string()))
    }

    /// Number of ids: an embedding table needs as many rows.
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The id whose embeddings visual tokens replace.
    pub fn image_context(&self) -> u32 {
        self.image_context
    }

    /// The id that pads prompts.
    pub fn padding(&self) -> u32 {
        self.padding
    }

    /// Token ids of a text, without any token added.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| Error::Tokenize(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of a prompt with `image_tokens[i]` image tokens for view `i`.
    ///
    /// # Errors
    /// When the instruction holds image tokens of its own, or when the images alone are too long. An
    /// instruction that is too long is cut at its end.
    pub fn encode(&self, image_tokens: &[usize], instruction: &str) -> Result<Prompt> {
        let mut ids = self.ids(&prompt_text(image_tokens, instruction))?;
        let positions: Vec<usize> =
            ids.iter().enumerate().filter(|(_, id)| **id == self.image_context).map(|(at, _)| at).collect();
        let expected = image_tokens.iter().sum();
        if positions.len() != expected {
            return Err(Error::ImageTokens { expected, got: positions.len() });
        }
        // The last image's tokens have to stay; the closing token and the line break after them may be cut.
        let needed = positions.last().map_or(0, |last| last + 1);
        if needed > self.max_length {
            return Err(Error::PromptTooLong { needed, max: self.max_length });
        }
        let truncated = ids.len().saturating_sub(self.max_length);
        ids.truncate(self.max_length);
        let mut rest = positions.as_slice();
        let mut views = Vec::with_capacity(image_tokens.len());
        for &count in image_tokens {
            let (view, others) = rest.split_at(count);
            views.push(view.to_vec());
            rest = others;
        }
        Ok(Prompt { ids, views, truncated })
    }

    /// The words of a prompt's instruction that have a token of their own.
    ///
    /// # Errors
    /// When the tokenizer refuses the prompt.
    pub fn words(&self, image_tokens: &[usize], instruction: &str) -> Result<Vec<Word>> {
        let text = prompt_text(image_tokens, instruction);
        let encoding =
            self.tokenizer.encode(text.as_str(), false).map_err(|error| Error::Tokenize(error.to_string()))?;
        let start = text.len() - instruction.trim().len();
        let mut words = Vec::new();
        for text in instruction.split_whitespace() {
            words.push(Word { text: text.to_owned(), tokens: Vec::new() });
        }
        // A token belongs to the word that its last letter is in: white space before a word is often part of its first
        // token.
        let mut word_of_byte = vec![None; text.len() + 1];
        let (mut word, mut is_inside) = (0, false);
        for (at, letter) in text.char_indices().skip_while(|(at, _)| *at < start) {
            if letter.is_whitespace() {
                word += usize::from(is_inside);
                is_inside = false;
            } else {
                is_inside = true;
                word_of_byte[at..at + letter.len_utf8()].fill(Some(word));
            }
        }
        for (token, &(_, end)) in encoding.get_offsets().iter().enumerate().take(self.max_length) {
            if let Some(word) = end.checked_sub(1).and_then(|last| word_of_byte[last]) {
                words[word].tokens.push(token);
            }
        }
        words.retain(|word| !word.tokens.is_empty());
        Ok(words)
    }

    /// Pads prompts to one length and masks padding and the image tokens of views that are not present.
    ///
    /// # Panics
    /// When `present` does not say for every view of every prompt whether it is present.
    pub fn batch(&self, prompts: &[Prompt], present: &[Vec<bool>], length: PromptLength) -> TokenBatch {
        assert_eq!(prompts.len(), present.len(), "one list of views for each prompt");
        let length = match length {
            PromptLength::Fixed => self.max_length,
            PromptLength::LongestOfBatch => prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0),
        };
        let padded = |prompt: &Prompt| {
            let mut ids = prompt.ids.clone();
            ids.resize(length, self.padding);
            ids
        };
        let mask = |(prompt, present): (&Prompt, &Vec<bool>)| {
            assert_eq!(prompt.views.len(), present.len(), "one flag for each view");
            let mut mask = vec![true; prompt.ids.len()];
            mask.resize(length, false);
            for (view, _) in prompt.views.iter().zip(present).filter(|(_, present)| !**present) {
                view.iter().for_each(|&position| mask[position] = false);
            }
            mask
        };
        TokenBatch::new(prompts.iter().map(padded).collect(), prompts.iter().zip(present).map(mask).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(max_length: usize) -> PromptTokenizer {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny-lerobot/tokenizer.json"));
        PromptTokenizer::open(path, max_length).expect("fixture")
    }

    #[test]
    fn the_text_has_the_published_form() {
        assert_eq!(
            prompt_text(&[2, 1], "  pick up\n"),
            "Image-1: <img><IMG_CONTEXT><IMG_CONTEXT></img>\nImage-2: <img><IMG_CONTEXT></img>\npick up"
        );
    }

    #[test]
    fn views_know_their_tokens() {
        let tokenizer = tokenizer(64);
        let prompt = tokenizer.encode(&[2, 3], "go").expect("a prompt");
        for (view, count) in prompt.views.iter().zip([2, 3]) {
            assert_eq!(view.len(), count);
            assert!(view.iter().all(|&at| prompt.ids[at] == tokenizer.image_context()));
        }
    }

    #[test]
    fn words_know_their_tokens() {
        let bytes = tokenizer(64);
        let prompt = bytes.encode(&[2], "go  on é").expect("a prompt");
        let words = bytes.words(&[2], " go  on é ").expect("words");
        let first = prompt.ids.len() - "go  on é".len();
        let expected =
            [("go", vec![first, first + 1]), ("on", vec![first + 4, first + 5]), ("é", vec![first + 7, first + 8])];
        assert_eq!(words, expected.map(|(text, tokens)| Word { text: text.into(), tokens }));

        let merged = PromptTokenizer::internvl3(64).expect("built in");
        let prompt = merged.encode(&[1], "pick up it").expect("a prompt");
        let words = merged.words(&[1], "pick up it").expect("words");
        let last = prompt.ids.len() - 1;
        assert_eq!(words.iter().map(|word| word.tokens.clone()).collect::<Vec<_>>(), [[last - 2], [last - 1], [last]]);
        assert_eq!(bytes.words(&[2], "gone").expect("words").len(), 1);
    }

    #[test]
    fn padding_and_views_that_are_not_present_are_hidden() {
        let tokenizer = tokenizer(64);
        let prompts = [tokenizer.encode(&[2, 3], "go").expect("a"), tokenizer.encode(&[2, 3], "go on").expect("b")];
        let present = [vec![true, false], vec![true, true]];
        let batch = tokenizer.batch(&prompts, &present, PromptLength::LongestOfBatch);
        let hidden: Vec<usize> =
            batch.attention_mask().map(|row| row.iter().filter(|valid| !**valid).count()).collect();
        assert_eq!(hidden, [3 + 3, 0], "three image tokens and three of padding");
        assert_eq!(tokenizer.batch(&prompts, &present, PromptLength::Fixed).dims(), [2, 64]);
    }

    #[test]
    fn a_long_instruction_is_cut_and_long_images_are_refused() {
        let needed = tokenizer(1000).encode(&[5], "x").expect("fits").ids.len();
        let cut = tokenizer(needed + 2).encode(&[5], "xxxxx").expect("the images fit");
        assert_eq!((cut.ids.len(), cut.truncated), (needed + 2, 2));
        let error = tokenizer(10).encode(&[5], "x").expect_err("14 tokens for images");
        assert!(matches!(error, Error::PromptTooLong { needed: 15, max: 10 }), "{error}");
    }

    #[test]
    fn an_instruction_may_be_empty_but_not_bring_image_tokens() {
        let tokenizer = tokenizer(100);
        let (empty, one) =
            (tokenizer.encode(&[1], " \n").expect("empty"), tokenizer.encode(&[1], "x").expect("a letter"));
        assert_eq!((empty.ids.len() + 1, &empty.views), (one.ids.len(), &one.views));
        let error = tokenizer.encode(&[1], "go <IMG_CONTEXT>").expect_err("two image tokens");
        assert!(matches!(error, Error::ImageTokens { expected: 1, got: 2 }), "{error}");
    }

    #[test]
    fn a_tokenizer_without_image_tokens_is_refused() {
        let path = Path::new("tokenizer.json");
        let plain = br#"{"version":"1.0","added_tokens":[],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
        let error = PromptTokenizer::from_bytes(path, plain, 10).expect_err("no <img>");
        assert_eq!(error.to_string(), "tokenizer.json: not a usable tokenizer: it has no token `<img>`");
        assert!(PromptTokenizer::from_bytes(path, b"{", 10).is_err());
    }
}
