//! InternVL3's real tokenizer gives the ids of the class that Evo-1 loads in Python.

use evo1_vlm::{PromptTokenizer, prompt::prompt_text};

fn tokenizer() -> PromptTokenizer {
    PromptTokenizer::internvl3(1024).expect("the tokenizer")
}

#[test]
fn ids_equal_those_of_transformers() {
    #[derive(serde::Deserialize)]
    struct Golden {
        text: String,
        ids: Vec<u32>,
    }
    let goldens: Vec<Golden> = serde_json::from_str(include_str!("tokenizer_golden.json")).expect("goldens");
    assert!(goldens.len() > 70);
    let tokenizer = tokenizer();
    for Golden { text, ids } in goldens {
        assert_eq!(tokenizer.ids(&text).expect("tokens"), ids, "{text:?}");
    }
}

#[test]
fn a_prompt_of_three_views_has_the_published_length() {
    let tokenizer = tokenizer();
    let prompt = tokenizer.encode(&[256; 3], "pick up the red block").expect("a prompt");
    assert_eq!(prompt.ids.len(), 3 * (256 + 8) + 5);
    assert!(prompt.views.iter().all(|view| view.len() == 256));
    assert_eq!(prompt.ids[..6], [1906, 12, 16, 25, 220, 151_665]);
    assert_eq!((tokenizer.image_context(), tokenizer.padding()), (151_667, 151_643));
    assert!(prompt_text(&[256; 3], "x").len() > 3 * 256 * "<IMG_CONTEXT>".len());
}
