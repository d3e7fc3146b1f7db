//! A tokenizer of whole words, for policies that are trained from nothing on few instructions.

use std::collections::BTreeSet;

use serde_json::json;

use crate::prompt::{IMAGE_CONTEXT, IMAGE_END, IMAGE_START, PADDING};

/// Stands for every word that the tokenizer does not know.
const UNKNOWN: &str = "<unk>";

/// More views than any policy has: their `Image-{i}:` are words.
const MAX_VIEWS: usize = 9;

/// The `tokenizer.json` of a tokenizer whose ids are the words of some texts, split at white space.
///
/// Ids 0 to 4 are padding, the unknown word and the image tokens; then come `Image-1:` to `Image-9:` and the words in
/// alphabetical order. Words keep their letters' case.
pub fn word_tokenizer<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let specials = [PADDING, UNKNOWN, IMAGE_START, IMAGE_END, IMAGE_CONTEXT];
    let words: BTreeSet<&str> = texts.into_iter().flat_map(str::split_whitespace).collect();
    let views = (1..=MAX_VIEWS).map(|view| format!("Image-{view}:"));
    let tokens = specials.iter().map(ToString::to_string).chain(views).chain(words.into_iter().map(str::to_owned));
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        tokens.enumerate().map(|(id, token)| (token, id.into())).collect();
    let added: Vec<serde_json::Value> = specials
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let document = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null,
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN },
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::PromptTokenizer;

    #[test]
    fn a_prompt_has_one_id_for_each_word_and_image_token() {
        let json = word_tokenizer(["Open the drawer", "Press the button"]);
        let tokenizer = PromptTokenizer::from_bytes(Path::new("words"), json.as_bytes(), 64).expect("a tokenizer");
        let prompt = tokenizer.encode(&[2], "Press the lever").expect("a prompt");
        // Words in order: Open 14, Press 15, button 16, drawer 17, the 18; an unknown one is 1.
        assert_eq!(prompt.ids, [5, 2, 4, 4, 3, 15, 18, 1]);
        assert_eq!(prompt.views, [[2, 3]]);
        let again = PromptTokenizer::from_bytes(Path::new("again"), tokenizer.to_json().expect("JSON").as_bytes(), 64)
            .expect("again");
        assert_eq!(again.encode(&[2], "Press the lever").expect("a prompt"), prompt);
    }
}
