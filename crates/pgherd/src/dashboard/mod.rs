//! The dashboard: a page for browsers, written by hand and carried in the binary.
//!
//! What it is: a few files, sent with headers that let a browser load nothing from elsewhere and run nothing that is not
//! one of them. What it is not: a way into the node of its own; the page asks the same API as everybody. There is
//! no build step: what is in this folder is what is sent.
//! Invariant: a file is fetched again only when its content has changed.

use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

/// Everything is this node's own, nothing is inline, and nobody frames the page.
const POLICY: &str =
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

struct File {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

const PAGE: File = File { name: "index.html", kind: HTML, text: include_str!("index.html") };

const FILES: &[File] = &[
    File { name: "style.css", kind: CSS, text: include_str!("style.css") },
    File { name: "icon.svg", kind: SVG, text: include_str!("icon.svg") },
    File { name: "theme.js", kind: JS, text: include_str!("theme.js") },
    File { name: "app.js", kind: JS, text: include_str!("app.js") },
    File { name: "link.js", kind: JS, text: include_str!("link.js") },
    File { name: "dom.js", kind: JS, text: include_str!("dom.js") },
    File { name: "words.js", kind: JS, text: include_str!("words.js") },
    File { name: "topology.js", kind: JS, text: include_str!("topology.js") },
    File { name: "changes.js", kind: JS, text: include_str!("changes.js") },
    File { name: "events.js", kind: JS, text: include_str!("events.js") },
    File { name: "traffic.js", kind: JS, text: include_str!("traffic.js") },
    File { name: "failovers.js", kind: JS, text: include_str!("failovers.js") },
];

pub async fn page(headers: HeaderMap) -> Response {
    PAGE.answer(&headers)
}

pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => file.answer(&headers),
        None => (StatusCode::NOT_FOUND, "the dashboard has no such file\n").into_response(),
    }
}

impl File {
    /// Of its content: 32 bits and the length tell two versions of a file of ours apart.
    fn tag(&self) -> String {
        format!("\"{:08x}-{:x}\"", crc32c::crc32c(self.text.as_bytes()), self.text.len())
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = self.tag();
        let known = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let is_known = known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag));
        let head = [
            (ETAG, tag.as_str()),
            // Kept, and asked about each time: after an upgrade nobody looks at the old page.
            (CACHE_CONTROL, "no-cache"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_FRAME_OPTIONS, "DENY"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
        ];
        match is_known {
            true => (StatusCode::NOT_MODIFIED, head).into_response(),
            false => (head, [(CONTENT_TYPE, self.kind)], self.text).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is between quotes after each `lead`.
    fn quoted<'a>(text: &'a str, lead: &'a str) -> impl Iterator<Item = &'a str> {
        text.split(lead).skip(1).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn whatever_a_file_asks_for_is_there_and_ours() {
        let is_there = |name: &str| FILES.iter().any(|file| file.name == name);
        for lead in [
            "src=\"",
            "<link rel=\"stylesheet\" href=\"",
            "rel=\"modulepreload\" href=\"",
            "rel=\"icon\" href=\"",
        ] {
            let mut found = quoted(PAGE.text, lead).peekable();
            assert!(found.peek().is_some(), "{lead}");
            for path in found {
                assert!(path.strip_prefix("/dashboard/").is_some_and(is_there), "{path}");
            }
        }
        for file in FILES.iter().filter(|file| file.kind == JS) {
            for name in quoted(file.text, "from \"") {
                assert!(name.strip_prefix("./").is_some_and(is_there), "{}: {name}", file.name);
            }
        }
        for file in FILES.iter().chain([&PAGE]) {
            let addresses = file.text.replace("http://www.w3.org/2000/svg", "").replace("http://${", "");
            for elsewhere in ["http://", "https://", "@import", "url(", "eval(", "innerHTML"] {
                assert!(!addresses.contains(elsewhere), "{}: {elsewhere}", file.name);
            }
        }
    }

    #[test]
    fn nothing_is_inline() {
        for inline in ["<style", " style=", " onclick=", " onload=", "javascript:", "<script>"] {
            assert!(!PAGE.text.contains(inline), "{inline}");
        }
    }

    #[test]
    fn a_tag_changes_with_the_content() {
        let one = File { name: "a", kind: CSS, text: "a" };
        let other = File { name: "a", kind: CSS, text: "b" };
        assert_ne!(one.tag(), other.tag());
        let mut headers = HeaderMap::new();
        assert_eq!(one.answer(&headers).status(), StatusCode::OK);
        headers.insert(IF_NONE_MATCH, format!("\"x\", {}", one.tag()).parse().unwrap());
        assert_eq!(one.answer(&headers).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(other.answer(&headers).status(), StatusCode::OK);
    }
}
