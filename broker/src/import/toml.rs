//! Writing TOML: sections, keys, values.

/// A table that is being written; it is left out while nothing is in it.
pub(super) struct Section {
    head: &'static str,
    text: String,
    /// It is written without a key as well.
    always: bool,
}

impl Section {
    /// `[name]`, or `[[name]]` as it is given; "" for the file's own keys.
    pub(super) fn new(head: &'static str) -> Self {
        Self { head, text: String::new(), always: head.starts_with("[[") }
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.raw(key, &quoted(value));
    }

    pub(super) fn raw(&mut self, key: &str, value: &str) {
        self.text.push_str(&format!("{key} = {value}\n"));
    }

    pub(super) fn list<T: AsRef<str>>(&mut self, key: &str, values: &[T]) {
        let values: Vec<String> = values.iter().map(|value| quoted(value.as_ref())).collect();
        self.raw(key, &format!("[{}]", values.join(", ")));
    }

    pub(super) fn write(&self, out: &mut String) {
        if self.text.is_empty() && !self.always {
            return;
        }
        if !self.head.is_empty() {
            out.push('\n');
            out.push_str(self.head);
            out.push('\n');
        }
        out.push_str(&self.text);
    }
}

/// A basic string.
fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_value_holds_it_is_read_back() {
        for value in ["", "a\"b\\c", "tab\tdel\u{7f}end\u{1}", "ä/é/#"] {
            let mut section = Section::new("");
            section.text("key", value);
            let mut text = String::new();
            section.write(&mut text);
            let table: ::toml::Table = text.parse().unwrap_or_default();
            assert_eq!(table.get("key").and_then(|read| read.as_str()), Some(value), "{text}");
        }
    }
}
