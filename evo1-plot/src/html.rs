//! Reports as one page of HTML, which needs no script and, unless it shows a picture by its path, no other file.

use base64::{Engine, engine::general_purpose::STANDARD};

/// How pages look.
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}\
    h1{font-size:1.4rem}td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top}\
    pre{background:#f5f5f5;padding:1rem;overflow-x:auto;font-size:.85rem}img{max-width:100%}\
    .warning{background:#fff3dc;border-left:4px solid #e69f00;padding:.5rem 1rem}";

/// A page, made from top to bottom. Texts may hold anything: none of it becomes markup.
///
/// ```
/// use evo1_plot::html::Page;
///
/// let page = Page::new("Report", "A run").text("It went well.").table(&["step", "loss"], [["1", "0.5"]]).finish();
/// assert!(page.contains("<h1>A run</h1>") && page.contains("<td>0.5</td>"));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Page {
    text: String,
}

impl Page {
    /// A page with a title, which the browser shows, and a heading.
    pub fn new(title: &str, heading: &str) -> Self {
        let (title, heading) = (escaped(title), escaped(heading));
        let text = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
             <style>{STYLE}</style></head><body>\n<h1>{heading}</h1>\n"
        );
        Self { text }
    }

    /// Adds the heading of a part of the page.
    pub fn heading(self, heading: &str) -> Self {
        self.with("<h2>", heading, "</h2>")
    }

    /// Adds a paragraph.
    pub fn text(self, text: &str) -> Self {
        self.with("<p>", text, "</p>")
    }

    /// Adds a paragraph that stands out.
    pub fn warning(self, text: &str) -> Self {
        self.with("<p class=\"warning\">", text, "</p>")
    }

    /// Adds a text whose lines stay as they are, for example a file.
    pub fn lines(self, text: &str) -> Self {
        self.with("<pre>", text, "</pre>")
    }

    /// Adds a text whose lines stay as they are and that stands out.
    pub fn warning_lines(self, text: &str) -> Self {
        self.with("<pre class=\"warning\">", text, "</pre>")
    }

    /// Adds a table of things and what is known of each.
    pub fn facts<T: AsRef<str>>(self, facts: impl IntoIterator<Item = (T, T)>) -> Self {
        let row = |(what, value): (T, T)| row(&[cell("th", what), cell("td", value)]);
        self.rows(facts.into_iter().map(row))
    }

    /// Adds a table with a header.
    pub fn table<T, R>(self, header: &[T], rows: impl IntoIterator<Item = R>) -> Self
    where
        T: AsRef<str>,
        R: IntoIterator<Item: AsRef<str>>,
    {
        let header: Vec<String> = header.iter().map(|name| cell("th", name)).collect();
        let body = rows.into_iter().map(|cells| cells.into_iter().map(|text| cell("td", text)).collect::<Vec<_>>());
        self.rows([header].into_iter().chain(body).map(|cells| row(&cells)))
    }

    /// Adds a picture, given as the bytes of a PNG file, which become a part of the page; `name` says what it shows.
    pub fn picture(self, png: &[u8], name: &str) -> Self {
        let source = format!("data:image/png;base64,{}", STANDARD.encode(png));
        self.picture_at(&source, name)
    }

    /// Adds a picture that stays in a file, given by its path from the page's folder; `name` says what it shows.
    pub fn picture_at(mut self, path: &str, name: &str) -> Self {
        let (path, name) = (quoted(path), quoted(name));
        self.text += &format!("<p><img src=\"{path}\" alt=\"{name}\"></p>\n");
        self
    }

    /// The whole page.
    pub fn finish(self) -> String {
        self.text + "</body></html>\n"
    }

    fn with(mut self, before: &str, text: &str, after: &str) -> Self {
        self.text += &format!("{before}{}{after}\n", escaped(text));
        self
    }

    fn rows(mut self, rows: impl Iterator<Item = String>) -> Self {
        self.text += &format!("<table>\n{}</table>\n", rows.collect::<String>());
        self
    }
}

fn row(cells: &[String]) -> String {
    format!("<tr>{}</tr>\n", cells.concat())
}

fn cell(tag: &str, text: impl AsRef<str>) -> String {
    format!("<{tag}>{}</{tag}>", escaped(text.as_ref()))
}

/// Text without what HTML takes for markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// [`escaped`] text for between quotation marks.
fn quoted(text: &str) -> String {
    escaped(text).replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let text = "<b> & \"c\"";
        let page = Page::new(text, text).heading(text).text(text).warning(text).lines(text).warning_lines(text);
        let page = page.facts([(text, text)]).table(&[text], [[text]]).picture_at(text, text).finish();
        assert_eq!(page.matches("&lt;b&gt; &amp; ").count(), 13, "{page}");
        assert!(!page.contains("<b>") && !page.contains("& "), "{page}");
        assert!(page.contains("src=\"&lt;b&gt; &amp; &quot;c&quot;\""), "{page}");
    }

    #[test]
    fn a_page_is_what_was_added_to_it_in_order() {
        let page = Page::new("Title", "Heading").facts([("steps", "3")]).table(&["a", "b"], [["1", "2"]]).finish();
        let (head, body) = page.split_once("<body>\n").expect("a body");
        assert!(head.contains("<title>Title</title>") && head.contains(STYLE), "{head}");
        assert_eq!(
            body,
            "<h1>Heading</h1>\n<table>\n<tr><th>steps</th><td>3</td></tr>\n</table>\n\
             <table>\n<tr><th>a</th><th>b</th></tr>\n<tr><td>1</td><td>2</td></tr>\n</table>\n</body></html>\n"
        );
    }

    #[test]
    fn a_picture_becomes_a_part_of_the_page() {
        let page = Page::new("", "").picture(&[0, 1, 2], "A chart").finish();
        assert!(page.contains("<p><img src=\"data:image/png;base64,AAEC\" alt=\"A chart\"></p>"), "{page}");
    }
}
