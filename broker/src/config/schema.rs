//! The configuration file as a JSON Schema (2020-12): editors complete keys with it and show what they mean.

use serde_json::{Map, Value, json};

use super::key::{Form, Key, LeftOut, Plain};
use super::raw::RawConfig;
use super::table::Table;
use super::units;

/// The schema.
#[must_use]
pub fn schema() -> Value {
    let mut schema = table(&RawConfig::keys());
    if let Value::Object(map) = &mut schema {
        map.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        map.insert("title".to_owned(), json!("Configuration of Forebay"));
    }
    schema
}

fn table(keys: &[Key]) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let needed: Vec<&str> = keys.iter().filter(|key| key.about.needed).map(|key| key.name).collect();
    let mut table = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    if let Some(map) = table.as_object_mut().filter(|_| !needed.is_empty()) {
        map.insert("required".to_owned(), json!(needed));
    }
    table
}

fn property(key: &Key) -> Value {
    let mut value = form(&key.form, key);
    let Some(map) = value.as_object_mut() else { return value };
    map.insert("description".to_owned(), json!(key.text));
    if let LeftOut::Value(plain) = key.about.default {
        let default = match (&key.form, plain) {
            (_, Plain::Flag(flag)) => json!(flag),
            (Form::Number, Plain::Number(n)) => json!(n),
            (_, Plain::Text(text)) => json!(text),
            (form, Plain::Number(_) | Plain::Time(_)) => json!(form.write(plain).trim_matches('"')),
        };
        map.insert("default".to_owned(), default);
    }
    value
}

fn form(form_of: &Form, key: &Key) -> Value {
    let (least, most) = (*key.about.bounds.start(), *key.about.bounds.end());
    match form_of {
        Form::Flag => json!({ "type": "boolean" }),
        // What TOML can say.
        Form::Number => json!({ "type": "integer", "minimum": least, "maximum": most.min(i64::MAX.unsigned_abs()) }),
        Form::Text if key.about.words.is_empty() => json!({ "type": "string" }),
        Form::Text => json!({ "type": "string", "enum": key.about.words }),
        Form::Bytes => json!({ "type": "string", "pattern": amount(units::SIZE_UNITS) }),
        Form::Time => json!({ "type": "string", "pattern": amount(units::DURATION_UNITS) }),
        Form::Expiry => {
            json!({ "type": "string", "pattern": format!("^never$|{}", amount(units::DURATION_UNITS)) })
        }
        Form::List(of) => json!({ "type": "array", "items": form(of, key) }),
        Form::Table(keys) => table(&keys()),
    }
}

/// A whole number and a unit, as [`units`] reads it.
fn amount(units: &[(&str, u64)]) -> String {
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    format!("^[0-9]+ *({})$", names.join("|"))
}
