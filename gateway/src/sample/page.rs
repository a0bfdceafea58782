//! The same story for a browser.

use std::fmt::Write as _;

use http::{HeaderMap, Uri, header};
use serde_json::Value;

/// How deep a story is followed.
const DEPTH_MAX: usize = 16;

/// Whether a request wants a page: it says `?format=html`, or it comes from a browser.
pub(super) fn wanted(uri: &Uri, headers: &HeaderMap) -> bool {
    match uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("format="))) {
        Some(format) => format == "html",
        None => headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.starts_with("text/html")),
    }
}

/// The page.
pub(super) fn render(story: &Value) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Bookshop</title>\n\
         <style>body{font:16px system-ui;max-width:46rem;margin:2rem auto}\
         ul{border-left:2px solid #ccc}.error{color:#a00}small{color:#666}</style>\n\
         <h1>Bookshop</h1><p>The Comedy of Errors, and the way that this page took:</p>\n",
    );
    page.push_str("<ul>");
    service("", story, 0, &mut page);
    page.push_str("</ul>\n");
    page
}

fn service(name: &str, story: &Value, depth: usize, page: &mut String) {
    let text = |field: &str| escape(story.get(field).and_then(Value::as_str).unwrap_or("?"));
    if let Some(error) = story.get("error").and_then(Value::as_str) {
        // Writing to a string cannot fail.
        let _ = write!(page, "<li class=\"error\">{}: {}</li>", escape(name), escape(error));
        return;
    }
    let caller = story.get("caller").and_then(Value::as_str).map_or_else(|| "nobody known".to_owned(), escape);
    let (service_name, version, cluster) = (text("service"), text("version"), text("cluster"));
    let _ = write!(page, "<li><b>{service_name}</b> {version} in <b>{cluster}</b> <small>called by {caller}</small>");
    if let Some(calls) = story.get("calls").and_then(Value::as_object).filter(|_| depth < DEPTH_MAX) {
        page.push_str("<ul>");
        for (name, answer) in calls {
            service(name, answer, depth + 1, page);
        }
        page.push_str("</ul>");
    }
    page.push_str("</li>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages_go_to_browsers_and_to_who_asks() {
        let browser = HeaderMap::from_iter([(header::ACCEPT, "text/html,*/*".parse().expect("valid"))]);
        let uri = |text: &'static str| Uri::from_static(text);
        assert!(wanted(&uri("/"), &browser));
        assert!(wanted(&uri("/productpage?format=html"), &HeaderMap::new()));
        assert!(!wanted(&uri("/productpage?format=json"), &browser));
        assert!(!wanted(&uri("/"), &HeaderMap::new()));
    }

    #[test]
    fn what_others_say_is_escaped() {
        let page = render(&json!({ "service": "<script>", "calls": { "<b>": { "error": "\"&" } } }));
        assert!(page.contains("&lt;script&gt;") && page.contains("&lt;b&gt;: &quot;&amp;"), "{page}");
        assert!(!page.contains("<script>"));
    }
}
