//! The page: three files within the program. They hold nothing of the broker's; what they show they ask the API for.

/// What the page may load and do: its own two files, and the API. No script or style in its markup, nothing of others.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy)]
pub(super) struct File {
    path: &'static str,
    pub(super) content_type: &'static str,
    pub(super) text: &'static str,
}

const FILES: [File; 3] = [
    File { path: "/", content_type: "text/html; charset=utf-8", text: include_str!("index.html") },
    File { path: "/page.css", content_type: "text/css; charset=utf-8", text: include_str!("page.css") },
    File { path: "/page.js", content_type: "text/javascript; charset=utf-8", text: include_str!("page.js") },
];

/// The file at a path.
pub(super) fn find(path: &str) -> Option<File> {
    FILES.into_iter().find(|file| file.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_and_has_no_markup_that_its_policy_refuses() {
        let bytes: usize = FILES.iter().map(|file| file.text.len()).sum();
        assert!(bytes < 250 * 1024, "{bytes} bytes");
        for file in FILES {
            for refused in
                ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", " onclick=", "https://"]
            {
                assert!(!file.text.contains(refused), "{}: {refused}", file.path);
            }
        }
    }
}
